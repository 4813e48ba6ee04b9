"""What runs on each host while mlx-sd hosts checks it: answers about the host, one line of JSON for each question.

The first line is a greeting. Questions come as lines on the standard input, {"ask": NAME, ...}, and the process ends
with them. Nothing is downloaded, and no file is changed; the embedded checkpoints alone are converted into the cache.
"""

import contextlib
import json
import os
import platform
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from ..core.version import VERSION
from . import links

GREETING = "mlx_sd_hosts"  # in the first line, with the number of this protocol
PROTOCOL = 1
INSTALL = "in a checkout of this version there: {python} -m pip install -e ."  # the way out, with {python}
_LIFETIME = 180  # seconds after which the process ends, whoever has forgotten it

Answer = dict[str, Any]


def main() -> int:
    """Greets, and answers questions until there are no more."""
    os.environ["HF_HUB_OFFLINE"] = "1"  # before the hub's client is imported: nothing is downloaded here
    if hasattr(signal, "alarm"):
        signal.alarm(_LIFETIME)
    with _own_output() as write:
        write({GREETING: PROTOCOL, "version": VERSION})
        listener = links.Listener()
        answers: dict[str, Callable[..., Answer]] = {
            "facts": facts,
            "time": lambda: {"time": time.time()},
            "listen": lambda addresses: {"problems": listener.listen([(ip, port) for ip, port in addresses])},
            "connect": lambda addresses: {
                "links": [link._asdict() for link in links.connect([(ip, port) for ip, port in addresses])]
            },
        }
        for line in sys.stdin:
            question = json.loads(line)
            write(answers[question.pop("ask")](**question))
        listener.close()
    return 0


def facts(folder: str, model: str | None = None, output: str | None = None) -> Answer:
    """Returns versions, system, device and folder of this host.

    folder: in which it should run. model: as of --model, whose folder and hash are looked up. output: as of --output,
    whose disk is looked at.
    """
    answer: Answer = {
        "mlx_sd": VERSION,
        "mlx": _version("mlx"),
        "python": platform.python_version(),
        "executable": sys.executable,
        "system": f"macOS {platform.mac_ver()[0]}" if sys.platform == "darwin" else platform.system(),
        "folder": str(Path.cwd()),
        "in_folder": Path(folder).exists() and Path(folder).samefile(Path.cwd()),
        **_device(),
    }
    if "problem" in answer:  # without MLX, the modules that know models and files cannot be imported
        return answer
    if model is not None:
        answer["model"] = _model(model)
    if output is not None:
        answer["output"] = _output(Path(output))
    return answer


@contextlib.contextmanager
def _own_output() -> Iterator[Callable[[Answer], None]]:
    """Yields the function that prints an answer; whatever else is printed goes to the standard error."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as output:
        os.dup2(2, 1)

        def write(answer: Answer) -> None:
            """Prints an answer as one line of JSON."""
            print(json.dumps(answer), file=output, flush=True)

        yield write


def _version(library: str) -> str:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return "missing"


def _device() -> Answer:
    """The device, its memory, and whether MLX can join ranks here; "problem" where MLX does not work."""
    try:
        import mlx.core as mx

        from ..core import device

        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return {"device": device.describe(), "memory": memory, "ring": mx.distributed.is_available("ring")}
    except ModuleNotFoundError as error:
        install = INSTALL.format(python=shlex.quote(sys.executable))
        return {"problem": f"a part of mlx-sd is missing for {sys.executable} ({error}); {install}"}
    except Exception as error:  # whatever is wrong with MLX is a fact to report
        lines = str(error).splitlines()
        return {"problem": f"MLX does not work there: {lines[0] if lines else type(error).__name__}"}


def _model(name: str) -> Answer:
    """The folder and the hash of a model; "missing" or "problem" says why there is none."""
    from .. import resolve
    from ..checkpoint.model_folder import model_hash, read_model_json
    from ..core.embedded import EMBEDDED
    from ..core.errors import Failure, InputError

    try:
        folder = resolve.model_folder(name) if name in EMBEDDED else resolve.converted_here(name)
        if folder is None:
            return {"converted": False}
        return {"converted": True, "folder": str(folder), "hash": model_hash(read_model_json(folder))}
    except (InputError, Failure) as error:
        return {"problem": str(error)}


def _output(folder: Path) -> Answer:
    """The free bytes where a folder is or will be; "problem" where nothing can be written there."""
    from ..core.errors import InputError
    from ..core.files import check_writable
    from ..core.places import free_space

    try:
        check_writable(folder, "--output")
        return {"free": free_space(folder)}
    except InputError as error:
        return {"problem": str(error)}


if __name__ == "__main__":
    sys.exit(main())
