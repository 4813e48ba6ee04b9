"""The command mlx-sd studio: starts the server, says where it is, and ends it in order."""

import argparse
import os
import secrets
import socket
import sys
import threading
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..core import command
from ..core.errors import Failure, InputError
from ..core.parser import Parser, program

NAME = "studio"
PORT = 7860  # where other programs look for such a server
LOOPBACK, EVERYWHERE = "127.0.0.1", "0.0.0.0"
_LIBRARIES = ("starlette", "uvicorn", "multipart")
_TOKEN_VARIABLE = "MLX_SD_STUDIO_TOKEN"
_LORAS_VARIABLE = "MLX_SD_LORAS"
_MODELS = Path("models")  # of converted models, as the guide names it
_SHORTEST_TOKEN = 16
_GRACE = 2  # seconds that answers in progress have at the end
_BOUNDS = 1, 100_000  # of --queue

_EXAMPLES = """examples:
  mlx-sd studio
  mlx-sd studio --port 8000 --no-browser --folder ~/Pictures/drafts
  mlx-sd studio --model models/sd15 --lora-folder ~/loras
  mlx-sd studio --listen
"""


def parser() -> Parser:
    """Returns the parser of the command line."""
    p = Parser(
        prog=program(NAME),
        description="Make pictures in a page in the browser, and give other programs the APIs of OpenAI Images and of "
        "A1111's web UI. The server is for this machine alone, unless --listen opens it.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--port", type=int, default=PORT, help=f"default {PORT}; 0 takes any that is free, and prints it")
    p.add_argument("--no-browser", dest="browser", action="store_false", help="do not open the page in a browser")
    p.add_argument(
        "--listen",
        action="store_true",
        help="answer other machines of the network too; they need the token in the address that is printed",
    )
    p.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help=f"a file with the token, in place of a new one at each start (or the variable {_TOKEN_VARIABLE})",
    )
    p.add_argument("--folder", type=Path, metavar="DIR", help="where pictures are kept (default: mlx-sd in Pictures)")
    p.add_argument("--queue", type=int, default=32, metavar="N", help="jobs that may wait, default 32")
    p.add_argument("--model", metavar="NAME", help="the model that is loaded at the start (default: the embedded one)")
    p.add_argument(
        "--models-folder",
        type=Path,
        action="append",
        metavar="DIR",
        help="a folder of models; may be repeated (default: models, where that is)",
    )
    p.add_argument("--lora-folder", type=Path, metavar="DIR", help=f"LoRAs (default: {_LORAS_VARIABLE})")
    p.add_argument(
        "--low-memory", action="store_true", help="keep each network of the model in memory only while it works"
    )
    p.add_argument("--embeddings-folder", type=Path, metavar="DIR", help="textual inversions that prompts may name")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code."""
    arguments = parser().parse_args(argv)
    return command.run(f"mlx-sd {NAME}", lambda: _serve(arguments))


def _serve(arguments: argparse.Namespace) -> None:
    missing = [name for name in _LIBRARIES if find_spec(name) is None]
    if missing:
        raise InputError("the server's libraries are missing; install them with: pip install 'mlx-sd[studio]'")
    token = _token(arguments)
    folders = _folders(arguments)
    if not _BOUNDS[0] <= arguments.queue <= _BOUNDS[1]:
        raise InputError(f"--queue must be from {_BOUNDS[0]} to {_BOUNDS[1]}, not {arguments.queue}")
    host = EVERYWHERE if arguments.listen else LOOPBACK
    with _bound(host, arguments.port) as listener:
        port = listener.getsockname()[1]
        _run(arguments, token, folders, listener, host, port)


def _run(
    arguments: argparse.Namespace,
    token: str | None,
    folders: dict[str, Any],
    listener: socket.socket,
    host: str,
    port: int,
) -> None:
    """Opens the Studio and answers until a signal ends it."""
    from .server.server import run
    from .work.studio import Settings, Studio

    studio = Studio(
        Settings(
            arguments.folder or _pictures(),
            queue=arguments.queue,
            model=_model(arguments.model),
            token=token,
            host=host,
            port=port,
            low_memory=arguments.low_memory,
            **folders,
        )
    )
    if studio.remark:
        warnings.warn(studio.remark, stacklevel=1)
    if arguments.model is not None:
        _ = studio.default_model  # an unknown one is an error now
    fragment = "" if token is None else f"#token={token}"
    address = f"http://{_shown_host(arguments.listen)}:{port}/{fragment}"

    def started() -> None:
        """Says where the page is, and opens it."""
        print(f"mlx-sd {NAME} is at {address}   (Ctrl-C ends it)", flush=True)
        if arguments.browser:
            local = f"http://{LOOPBACK}:{port}/{fragment}"
            threading.Thread(target=_open_browser, args=(local,), daemon=True).start()

    ended = run(studio, listener, started, grace=_GRACE)
    sys.stdout.flush()
    if not ended:  # an evaluation that takes long cannot be interrupted, and the journal is closed
        sys.stderr.flush()
        os._exit(0)
    if studio.worker.failed:
        raise Failure("the worker ended unexpectedly; what waits goes on at the next start")


def _open_browser(address: str) -> None:
    import webbrowser

    webbrowser.open(address)


def _bound(host: str, port: int) -> socket.socket:
    """Returns a socket bound to an address; InputError where it is in use or may not be taken."""
    if not 0 <= port <= 65535:
        raise InputError(f"--port must be from 0 to 65535, not {port}")
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise InputError(
            f"port {port} of {host} cannot be used: {(error.strerror or str(error)).lower()}; choose another one with "
            "--port, or 0 for any"
        ) from None
    return listener


def _token(arguments: argparse.Namespace) -> str | None:
    """Returns the token that requests need: with --listen a new one, or that of the file or of the environment."""
    source, text = f"the variable {_TOKEN_VARIABLE}", os.environ.get(_TOKEN_VARIABLE, "")
    if arguments.token_file is not None:
        source = f"--token-file {arguments.token_file}"
        try:
            text = arguments.token_file.expanduser().read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{source} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    text = text.strip()
    if text or arguments.token_file is not None:
        if len(text) < _SHORTEST_TOKEN or not text.isascii() or not text.replace("-", "").replace("_", "").isalnum():
            raise InputError(
                f"{source} must hold at least {_SHORTEST_TOKEN} letters, digits, dashes or underscores: the token"
            )
        return text
    return secrets.token_urlsafe(24) if arguments.listen else None


def _folders(arguments: argparse.Namespace) -> dict[str, Any]:
    """Returns the folders of models, LoRAs and embeddings; InputError for one that does not exist."""
    models = arguments.models_folder or [_MODELS] * _MODELS.is_dir()
    loras = arguments.lora_folder
    if loras is None and os.environ.get(_LORAS_VARIABLE):
        loras = Path(os.environ[_LORAS_VARIABLE])
    named = [("--models-folder", path) for path in models]
    named += [("--lora-folder", loras), ("--embeddings-folder", arguments.embeddings_folder)]
    for flag, path in named:
        if path is not None and not path.expanduser().is_dir():
            raise InputError(f"{flag} {path} {'is no folder' if path.exists() else 'does not exist'}; give a folder")

    def absolute(path: Path | None) -> Path | None:
        """Returns a path that means the same wherever it is used."""
        return None if path is None else path.expanduser().absolute()

    return {
        "model_folders": tuple(path.expanduser().absolute() for path in models),
        "lora_folder": absolute(loras),
        "embeddings_folder": absolute(arguments.embeddings_folder),
    }


def _model(name: str | None) -> str | None:
    """Returns the default model: a path that means the same everywhere, or the name of one that is installed."""
    if name is None or not Path(name).expanduser().exists():
        return name
    return str(Path(name).expanduser().absolute())


def _pictures() -> Path:
    import platformdirs

    return platformdirs.user_pictures_path() / "mlx-sd"


def _shown_host(listen: bool) -> str:
    """Returns the address of this machine that others use; without --listen its own."""
    if not listen:
        return LOOPBACK
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing: it only chooses the way out
            name: str = probe.getsockname()[0]
            return name
        except OSError:
            return socket.gethostname()
