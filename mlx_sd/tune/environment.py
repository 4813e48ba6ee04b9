"""Choices that MLX reads from the environment: a child process has the value, this one has not, and both take turns."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from ..networks.tuning import Tuning
from ..tuning.choices import Variable
from ..tuning.measure import Finding, Progress, Samples, faster, measure
from .meter import UNetMeter

UNSET = "unset"
_MODULE = "mlx_sd.tune.child"


def finding_of(findings: list[Finding], variable: Variable, tuning: Tuning) -> Finding:
    """Returns what was measured of a variable beside a tuning, which is added where there is nothing yet."""
    for finding in findings:
        if (finding.choice, finding.beside) == (variable.name, str(tuning)):
            return finding
    findings[:] = [finding for finding in findings if finding.choice != variable.name]
    findings.append(Finding(variable.name, str(tuning), {UNSET: Samples(), variable.value: Samples()}))
    return findings[-1]


def measure_variable(
    finding: Finding,
    variable: Variable,
    meter: UNetMeter,
    tuning: Tuning,
    settings: Mapping[str, Any],
    ended: Callable[[int], bool],
    save: Callable[[], None],
    progress: Progress,
) -> None:
    """Measures a variable of the environment, and compares the picture where it is faster.

    settings: of `mlx_sd.tune.child`. ended, save, progress: as of `measure`.
    """
    with _child({variable.name: variable.value}, settings) as ask:

        def step(text: str) -> tuple[float, float]:
            """Returns the seconds of a full and of a cached evaluation, here or in the child."""
            if text == UNSET:
                return meter.step(tuning)
            full, cached = ask("step")
            return full, cached

        measure(finding, lambda text: sum(step(text)), step, ended, save, progress)
        samples = finding.values[variable.value]
        if faster(finding) and samples.exact is None:
            samples.exact = ask("digest") == meter.digest(tuning)
            save()


@contextmanager
def _child(environment: Mapping[str, str], settings: Mapping[str, Any]) -> Iterator[Callable[[str], Any]]:
    """Yields what asks a child process; RuntimeError where it does not answer."""
    process = subprocess.Popen(
        [sys.executable, "-m", _MODULE, json.dumps(settings)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ | environment,
        text=True,
        start_new_session=True,  # Ctrl-C is this process's
    )
    assert process.stdin is not None and process.stdout is not None
    questions, answers = process.stdin, process.stdout

    def ask(question: str) -> Any:
        """Returns the child's answer."""
        try:
            print(question, file=questions, flush=True)
            return json.loads(answers.readline())
        except (OSError, ValueError):
            raise RuntimeError("the process that measures with another environment has ended") from None

    try:
        yield ask
    finally:
        process.kill()
        process.wait()
        answers.close()
        with suppress(OSError):  # what was not read by then
            questions.close()
