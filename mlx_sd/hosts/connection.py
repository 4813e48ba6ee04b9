"""The process on one host that answers questions (mlx_sd/hosts/answers.py), started as MLX's launcher starts ranks."""

import contextlib
import json
import os
import re
import select
import shlex
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from typing import Any

from ..core.errors import InputError
from .answers import GREETING, INSTALL, PROTOCOL
from .hostfile import LOCAL, Host

_MODULE = "mlx_sd.hosts.answers"
_SSH = ("ssh", "-T", "-o", "BatchMode=yes", "-o", "LogLevel=ERROR")  # it asks nothing, and gives its reasons
_BLOCK = 1 << 16

# What ssh, the shell and Python print -> the problem and the way out. The first that matches counts.
_PROBLEMS = (
    ("REMOTE HOST IDENTIFICATION HAS CHANGED", "its host key has changed; if that is right, ssh-keygen -R {name}"),
    ("Host key verification failed", "its host key is unknown here; run ssh {name} once and confirm it"),
    (
        r"Permission denied( \(|, please)|Too many authentication failures",
        "ssh asks for a password; put your key there with ssh-copy-id {name}",
    ),
    ("Could not resolve hostname", "there is no host of this name, in the network or in ~/.ssh/config"),
    ("Connection refused", "it refuses ssh; on a Mac, switch on Remote Login in System Settings, General, Sharing"),
    (
        "timed out|No route to host|Network is unreachable|Host is down",
        "it does not answer; it is off, asleep, or in another network",
    ),
    (r"No module named '?mlx_sd'?\)?$", "mlx-sd is not installed for {python}; " + INSTALL),
    (r"No module named '?mlx_sd\.hosts", "its mlx-sd is too old to be checked; " + INSTALL),
    (r"No module named '?(mlx|numpy|safetensors)\b", "a part of mlx-sd is missing for {python}; " + INSTALL),
    (
        "(?i)not found|no such file|cannot execute|permission denied",
        "there is no {python} that runs; --python names the interpreter, by the path that it has on all hosts",
    ),
)


class HostError(Exception):
    """A host does not answer, or not as it should. The message says why, without the host's name."""


class Connection:
    """A process on one host. It ends with `close`, and by itself when this process does.

    Every method but `close` raises HostError where the host does not answer in time.
    """

    def __init__(self, host: Host, python: str, folder: str, variables: Sequence[str], patience: float):
        """Starts the process. folder: where it runs, if the host has it. patience: seconds that ssh may take.

        Raises InputError where this machine has no ssh.
        """
        self.host, self._python, self._patience = host, python, patience
        script = _script(python, folder, variables)
        limit = ("-o", f"ConnectTimeout={max(1, int(patience / 2))}")
        words = ["/bin/bash", "-c", script] if host.name == LOCAL else [*_SSH, *limit, host.name, script]
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - `close` closes it
        self._buffer = b""
        try:
            self._process = subprocess.Popen(
                words,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                start_new_session=True,  # without a terminal of which ssh could ask something
            )
        except FileNotFoundError as error:
            self._errors.close()
            raise InputError(f"{error.filename} is not installed on this machine; ranks are started with it") from None

    def greet(self) -> tuple[str, list[str]]:
        """Waits for the greeting; returns the version of mlx-sd there, and lines that its shell printed before."""
        end = time.monotonic() + self._patience
        noise: list[str] = []
        while True:
            line = self._line(end, self._patience)
            if (greeting := _greeting(line)) is not None:
                if greeting[GREETING] != PROTOCOL:
                    install = INSTALL.format(python=shlex.quote(self._python))
                    raise HostError(f"its mlx-sd is {greeting.get('version')} and answers otherwise; {install}")
                return str(greeting.get("version")), noise
            noise.append(line)

    def ask(self, question: str, patience: float, **details: Any) -> dict[str, Any]:
        """Returns the answer to a question; patience: seconds it may take."""
        pipe: Any = self._process.stdin
        try:
            pipe.write(json.dumps({"ask": question, **details}).encode() + b"\n")
            pipe.flush()
        except OSError:  # it has ended; _line says why
            pass
        line = self._line(time.monotonic() + patience, patience)
        try:
            answer: dict[str, Any] = json.loads(line)
        except ValueError:
            raise HostError(f"it answers {line[:60]!r}, which is no answer") from None
        return answer

    def stop(self) -> None:
        """Ends the process here, and with it the one on the host; whoever waits for an answer gets HostError."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def close(self) -> None:
        """Ends the process, and closes what it was read by."""
        self.stop()
        streams: Any = (self._process.stdin, self._process.stdout, self._errors)
        for stream in streams:
            with contextlib.suppress(BrokenPipeError):
                stream.close()

    def _line(self, end: float, patience: float) -> str:
        """Returns the next line of the process; HostError where none comes before `end`, `patience` seconds later."""
        output: Any = self._process.stdout
        while b"\n" not in self._buffer:
            left = end - time.monotonic()
            if left <= 0 or not select.select([output], [], [], left)[0]:
                raise HostError(f"it does not answer in {patience:g} s")
            block = os.read(output.fileno(), _BLOCK)
            if not block:
                raise HostError(self._reason())
            self._buffer += block
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode(errors="replace").rstrip("\r")

    def _reason(self) -> str:
        """Why the process has ended, from what it printed on its standard error."""
        code = self._process.wait()
        self._errors.seek(0)
        printed = self._errors.read().decode(errors="replace").strip()
        for pattern, problem in _PROBLEMS:
            if re.search(pattern, printed, re.MULTILINE):
                return problem.format(name=self.host.name, python=shlex.quote(self._python))
        last = printed.splitlines()[-1] if printed else f"it ended with code {code} and printed nothing"
        return f"the check failed there: {last}"


def _script(python: str, folder: str, variables: Sequence[str]) -> str:
    """The command for the host's shell, in the words of the launcher's own: what fails there fails here."""
    quoted = shlex.quote(folder)
    script = f"if [[ -d {quoted} ]]; then cd {quoted}; fi; "
    for variable in variables:
        name, _, value = variable.partition("=")
        script += f"export {name}={shlex.quote(value)}; "
    words = " ".join(map(shlex.quote, (python, "-m", _MODULE)))
    return f'{script}cmd=({words}); exec "${{cmd[@]}}"'


def _greeting(line: str) -> dict[str, Any] | None:
    """Returns the greeting that a line is, or None: shells print lines of their own before."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) and GREETING in value else None
