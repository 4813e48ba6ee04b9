"""Saved assets run by Apple's CPU runtime, each in a process of its own (`child`); each failure is one clear line.

The runtime ends its process where an asset is damaged, and never compares an asset with its hash. So files are checked
here before a process is started, and a process that crashes or hangs is an error that names the asset.
"""

import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import numpy as np

from mlx_sd.core.errors import Failure, InputError
from mlx_sd.core.files import read_json, sha256

from . import availability, child
from .asset_files import BYTECODE, HASH, KEY, METADATA, SUFFIX

PLACE = "Apple's CPU runtime on Linux" if sys.platform == "linux" else "Apple's CPU runtime"
_DIGEST_BYTES = 32  # of a SHA-256
_AGAIN = "export it again"
_LOAD_RATE = 20e6  # bytes that are surely lowered in a second
_PATIENCE = 300.0  # seconds that anything may take, however small


def check(path: Path, digest: str | None = None) -> dict[str, Any]:
    """Checks the files of an asset and returns the content of info.json that its metadata holds.

    digest: SHA-256 of the bytecode where it has just been read; None reads it here. Raises InputError with the way out
    for a folder that is no asset, files that are missing, bytes whose SHA-256 is not the one that was saved with them,
    and an asset that `python -m coreml` did not write.
    """
    if path.suffix != SUFFIX or not path.is_dir():
        raise InputError(f"{path} is no .aimodel folder; give one that python -m coreml --format coreai has written")
    for name in (BYTECODE, HASH, METADATA):
        if not (path / name).is_file():
            raise InputError(f"{path} is incomplete: {name} is missing; {_AGAIN}")
    saved = (path / HASH).read_bytes()
    if len(saved) != _DIGEST_BYTES:
        raise InputError(f"{path / HASH} is damaged: it has {len(saved)} bytes, not {_DIGEST_BYTES}; {_AGAIN}")
    if (digest or sha256(path / BYTECODE)) != saved.hex():
        raise InputError(f"{path / BYTECODE} is damaged: its SHA-256 is not the one in {HASH}; {_AGAIN}")
    content = read_json(path / METADATA).get("creatorDefinedMetadata", {})
    if not isinstance(content, dict) or not isinstance(content.get(KEY), dict):
        raise InputError(f"{path} was not written by python -m coreml: its metadata has no entry {KEY}")
    entry: dict[str, Any] = content[KEY]
    return entry


class Runtime:
    """One asset that is loaded in a process of its own until `close`, or until this object is gone."""

    def __init__(self, path: Path, patience: float = _PATIENCE):
        """Loads an asset whose files are in order (`check`); InputError where the runtime does not take it.

        patience: seconds that loading and each run may take beside what their size asks for. Raises Failure where the
        folder for temporary files (TMPDIR) has no space for the runtime's own form of the weights.
        """
        availability.check()
        self.path, self._patience = path, patience
        self._check_space()
        self._log: Any = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._scratch = tempfile.TemporaryDirectory(prefix="mlx-sd-", ignore_cleanup_errors=True)
        # The runtime's own form of the weights lies there, which a crash would leave behind.
        environment = os.environ | {"TMPDIR": self._scratch.name}
        # As a file: as a module it would import coreml and mlx_sd first. -P: nothing of this folder hides a library.
        parent, alive = os.pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-P", child.__file__, str(path.resolve()), str(parent), self._scratch.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=environment,
            pass_fds=(parent,),
        )
        os.close(parent)
        self._answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        assert self._process.stdout
        threading.Thread(target=_listen, args=(self._process.stdout, self._answers), daemon=True).start()
        self.close = weakref.finalize(self, _end, self._process, self._log, self._scratch, alive)
        self.functions: dict[str, Any] = {}
        self.functions = self._answer("load it", (path / BYTECODE).stat().st_size / _LOAD_RATE)[0]["functions"]

    def run(
        self, function: str, inputs: Mapping[str, np.ndarray], states: Sequence[str] = (), seconds: float = 0.0
    ) -> dict[str, np.ndarray]:
        """Runs a function and returns its outputs by name, and the arrays of its states as it has left them.

        states: names of `inputs` that are states of the function. seconds: how long it should take; twenty times as
        long and the patience of this object is a failure. Raises InputError for inputs that the function does not have.
        """
        assert self._process.stdin
        with suppress(OSError):  # it has ended: the answer says how
            child.send(self._process.stdin, {"function": function, "states": list(states)}, inputs)
        return self._answer(f"run {function}", 20 * seconds)[1]

    def _answer(self, work: str, seconds: float) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Waits for an answer; work: a verb and its object, for the message of what goes wrong."""
        try:
            answer = self._answers.get(timeout=self._patience + seconds)
        except queue.Empty:
            self.close()
            raise Failure(
                f"{self.path}: {PLACE} did not {work} within {(self._patience + seconds) / 60:.0f} minutes; "
                "a smaller size takes less time"
            ) from None
        if answer is None:
            reason = self._reason()
            self.close()
            self._check_space(full=self._process.returncode == -signal.SIGBUS)
            raise InputError(
                f"{self.path} is damaged, or of another version: {PLACE} stopped {reason} before it could {work}; "
                f"{_AGAIN}"
            )
        message: dict[str, Any] = answer[0]
        if "error" in message:
            error = " ".join(str(message["error"]).split())
            raise InputError(f"{self.path}: {PLACE} could not {work}: {error}")
        return answer[0], answer[1]

    def _check_space(self, full: bool = False) -> None:
        """Raises Failure where there is no space for the runtime's own form of the weights, which is a little larger.

        full: the process has ended by SIGBUS, as it does where the disk behind mapped memory is full.
        """
        folder, size = tempfile.gettempdir(), (self.path / BYTECODE).stat().st_size
        if (free := shutil.disk_usage(folder).free) < size or full:
            raise Failure(
                f"{self.path}: {PLACE} writes its own form of the weights into {folder}; that takes more than "
                f"{size / 1e6:.1f} MB, and {free / 1e6:.1f} MB are free there; set TMPDIR to another folder"
            )

    def _reason(self) -> str:
        """Returns how the process ended, and the last words of native code."""
        code = self._process.wait(10)
        end = f"with {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").splitlines()
        words = next((line.partition("error:")[2].strip() for line in lines if "error:" in line), "")
        return f"{end} ({words[:200]})" if words else end


def _listen(stream: IO[bytes], answers: "queue.SimpleQueue[Any]") -> None:
    """Puts every answer of a process into a queue, and None when it has ended."""
    with suppress(OSError, ValueError):  # closed while it was read
        while answer := child.receive(stream):
            answers.put(answer)
    answers.put(None)


def _end(
    process: "subprocess.Popen[bytes]", log: IO[bytes], scratch: "tempfile.TemporaryDirectory[str]", alive: int
) -> None:
    process.kill()
    process.wait()
    os.close(alive)
    for stream in (process.stdin, process.stdout):
        if stream:
            with suppress(OSError):  # of what was not sent any more
                stream.close()
    log.close()
    scratch.cleanup()
