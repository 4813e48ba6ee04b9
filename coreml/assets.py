"""Writing the .aimodel assets of an export, each in a process of its own: python -m coreml.assets, started by `write`.

coreai-core ends its process where a file cannot be written, and keeps the memory of weights after an asset is saved.
The request comes as JSON on the standard input, and the answer goes to the standard output.
"""

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from errno import ENOSPC
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_sd.checkpoint import model_folder
from mlx_sd.core.errors import Failure, InputError

from . import control_networks, info
from .compression import schemes
from .control_networks import ControlSource
from .coreai.asset_files import SUFFIX
from .coreai.child import end_with
from .lowering.graph import record
from .plan import Item, Options, plan

_FULL = "No space left on device"  # as native code says it


def write(
    item: Item, folder: Path, options: Options, home: Path, model: str, controls: Sequence[ControlSource] = ()
) -> dict[str, Any]:
    """Writes one asset of an export into the folder `home` and returns its description for info.json.

    folder: of the model, with the weights. model: its name for messages. controls: of the export.
    Raises InputError and Failure as the process does, OSError where the disk is full, and Failure where it ends in
    native code.
    """
    request = {
        "item": item.name,
        "folder": str(folder.resolve()),
        "options": asdict(options),
        "home": str(home.resolve()),
        "model": model,
        "controls": [source.to_request() for source in controls],
    }
    root = str(Path(__file__).resolve().parent.parent)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))}
    parent, alive = os.pipe()  # the process ends where this one does, even by SIGKILL
    try:
        process = subprocess.run(
            [sys.executable, "-m", "coreml.assets", str(parent)],
            input=json.dumps(request).encode(),
            capture_output=True,
            env=environment,
            check=False,
            pass_fds=(parent,),
        )
    finally:
        os.close(parent)
        os.close(alive)
    log = process.stderr.decode(errors="replace").strip()
    if process.returncode or not process.stdout:
        if _FULL in log:
            raise OSError(ENOSPC, _FULL, str(home))
        reason = log.splitlines()[-1][:300] if log else f"exit code {process.returncode}"
        raise Failure(f"{item.name}{SUFFIX} could not be written: coreai-core stopped ({reason})")
    answer: dict[str, Any] = json.loads(process.stdout)
    if "input_error" in answer:
        raise InputError(answer["input_error"])
    if "failure" in answer:
        raise Failure(answer["failure"])
    return answer


def write_here(request: dict[str, Any]) -> dict[str, Any]:
    """Writes the asset of a request in this process and returns its description for info.json."""
    from .coreai import asset, constants  # coreai-core, an extra

    folder, options = Path(request["folder"]), _options(request["options"])
    about = model_folder.read_model_json(folder)
    networks = {part: model_folder.build(part, config, part) for part, config in about["networks"].items()}
    sources = [control_networks.of_request(source, networks["unet"].config) for source in request["controls"]]
    item = next(i for i in plan(networks, options, request["model"], sources) if i.name == request["item"])
    stored: Mapping[str, Any]
    if source := next((source for source in sources if source.part == item.part), None):
        networks[item.part] = source.network()
        stored = source.tensors(model_folder.network_tensors(folder, "unet", about["version"]))
    else:
        stored = model_folder.network_tensors(folder, item.part, about["version"])
    specs = {name: entry.spec for name, entry in item.functions.items()}
    dtype: mx.Dtype = next(iter(specs.values())).weights

    def read(name: str) -> np.ndarray:
        """Reads a parameter in the dtype that was recorded."""
        return np.array(stored[name].read().astype(dtype))

    graphs = {name: record(spec, networks[item.part]) for name, spec in specs.items()}
    functions = {
        name: asset.Function(specs[name], graphs[name], entry.states) for name, entry in item.functions.items()
    }
    path = Path(request["home"]) / f"{item.name}{SUFFIX}"
    path.parent.mkdir(parents=True, exist_ok=True)  # of control networks
    compress = constants.compress(schemes.compressor(options.compress, item.part))
    saved = asset.write(functions, read, options.attention, path, compress, specs["main"].description)
    return {
        "bytes": saved.bytes,
        "sha256": saved.sha256,
        "functions": {
            name: info.describe_function(
                entry.role,
                entry.size,
                entry.spec,
                graphs[name],
                dict(Counter(node.op for node in graphs[name].nodes).most_common()),
                entry.states,
            )
            | {
                "piece": [1, 1],
                "states": list(entry.states),
                "macs_by_operation": graphs[name].macs_by_operation(),
            }
            for name, entry in item.functions.items()
        },
    }


def _options(content: dict[str, Any]) -> Options:
    """Returns the options that JSON has made lists of."""
    tuples = {name: tuple(content[name]) for name in ("unets", "control")}
    sizes = tuple((width, height) for width, height in content["sizes"])
    return Options(**{**content, **tuples, "sizes": sizes})


def main() -> None:
    """Answers the request on the standard input; the argument is that of `child.end_with`."""
    end_with(int(sys.argv[1]))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what native code prints
    try:
        answer = write_here(json.loads(sys.stdin.buffer.read()))
    except InputError as error:
        answer = {"input_error": str(error)}
    except Failure as error:
        answer = {"failure": str(error)}
    json.dump(answer, answers)
    answers.close()


if __name__ == "__main__":
    main()
