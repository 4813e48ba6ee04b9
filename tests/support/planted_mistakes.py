"""Mistakes that are planted into the Swift package one after the other, each of which must make a test fail.

The table is tests/swift/mistakes.json: {"name", "file", "old", "new", "filter"}. `file` is relative to coreml/swift,
`old` must be in it exactly once, `filter` is what `swift test --filter` takes: the suite or test that must notice.

`python -m tests.support.planted_mistakes [NAME ...]` runs all or some and prints what noticed.
"""

import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.swift_toolchain import GOLDENS, PACKAGE, ROOT, Toolchain, find

TABLE = ROOT / "tests/swift/mistakes.json"
_COPY = ROOT / "build/swift-mistakes"
_SECONDS = 120  # that a test may take before it counts as hanging


@dataclass(frozen=True)
class Mistake:
    """One change of a file, and the tests that must notice it."""

    name: str
    file: str
    old: str
    new: str
    filter: str


class Unusable(Exception):
    """A mistake cannot be planted, does not compile, or its tests fail without it."""


def table() -> list[Mistake]:
    """Reads the table; Unusable where a name is there twice or an entry does not fit the sources."""
    mistakes = [Mistake(**entry) for entry in json.loads(TABLE.read_text(encoding="utf-8"))]
    names = [mistake.name for mistake in mistakes]
    if len({*names}) < len(names):
        raise Unusable(f"{TABLE} has a name twice: {max(names, key=names.count)}")
    for mistake in mistakes:
        planted((ROOT / PACKAGE / mistake.file).read_text(encoding="utf-8"), mistake)
    return mistakes


def planted(text: str, mistake: Mistake) -> str:
    """Returns a file's text with a mistake; Unusable where its place is not there exactly once."""
    count = text.count(mistake.old)
    if count != 1 or mistake.old == mistake.new:
        raise Unusable(f"{mistake.name}: {mistake.file} has the text {mistake.old!r} {count} times, not once")
    return text.replace(mistake.old, mistake.new)


def run(mistakes: Sequence[Mistake], report: Callable[[str], None] = print) -> list[str]:
    """Plants each mistake into a copy, builds it and runs its tests; returns the names of those that no test noticed.

    Raises Unusable, and NoToolchain where there is no Swift.
    """
    toolchain = find()
    shutil.rmtree(_COPY, ignore_errors=True)
    shutil.copytree(ROOT / PACKAGE, _COPY / PACKAGE, ignore=shutil.ignore_patterns(".build"))
    (_COPY / GOLDENS).parent.mkdir(parents=True)
    shutil.copytree(ROOT / GOLDENS, _COPY / GOLDENS, copy_function=_link)
    try:
        builder = _Builder(toolchain)
        if problem := builder.build():
            raise Unusable(f"the package does not compile without mistakes: {problem}")
        suites = sorted({suite for mistake in mistakes for suite in mistake.filter.split("|")})
        if not builder.passes("|".join(suites)):
            raise Unusable(f"without any mistake {', '.join(suites)} do not pass:\n{builder.printed[-3000:]}")
        return list(_unnoticed(builder, mistakes, report))
    finally:
        shutil.rmtree(_COPY, ignore_errors=True)


def _unnoticed(builder: "_Builder", mistakes: Iterable[Mistake], report: Callable[[str], None]) -> Iterator[str]:
    for mistake in mistakes:
        start = time.monotonic()
        with _in(_COPY / PACKAGE / mistake.file, mistake):
            if problem := builder.build():
                raise Unusable(f"{mistake.name} does not compile: {problem}")
            passed = builder.passes(mistake.filter)
        report(f"{'NOT NOTICED' if passed else 'noticed'}: {mistake.name}; {time.monotonic() - start:.0f} s")
        if passed:
            yield mistake.name


@contextmanager
def _in(path: Path, mistake: Mistake) -> Iterator[None]:
    before = path.read_text(encoding="utf-8")
    path.write_text(planted(before, mistake), encoding="utf-8")
    try:
        yield
    finally:
        path.write_text(before, encoding="utf-8")


class _Builder:
    """Builds the copy in one scratch folder, so that only what a mistake changes is compiled again."""

    def __init__(self, toolchain: Toolchain):
        self.toolchain = toolchain
        self.scratch = f"{toolchain.scratch}-mistakes"
        self.printed = ""  # by the last command
        place = str(_COPY) if toolchain.root is None else toolchain.project
        self.environment = {"MLXSD_GOLDENS": f"{place}/{GOLDENS}"}

    def build(self) -> str:
        """Compiles package and tests; returns the first error, nothing where there is none."""
        code = self._swift("build --build-tests")
        lines = [line for line in self.printed.splitlines() if "error:" in line] or [self.printed[-500:]]
        return lines[0] if code else ""

    def passes(self, text: str) -> bool:
        """Runs the tests of a filter; returns whether there are some and all pass. Those that hang do not."""
        try:
            code = self._swift(f"test --skip-build --disable-xctest --filter '{text}'", timeout=_SECONDS)
        except subprocess.TimeoutExpired:
            self.printed = f"the tests did not end within {_SECONDS} s"
            return False
        counted = re.search(r"Test run with (\d+) test", self.printed)
        return code == 0 and not (counted and counted[1] == "0")

    def _swift(self, words: str, timeout: float | None = None) -> int:
        """Runs a command, whose lines go into `printed`, and returns its exit code."""
        with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as out:  # processes may outlive a pipe
            options = {"stdout": out, "stderr": subprocess.STDOUT, "timeout": timeout, "check": False}
            done = self.toolchain.swift(
                words, scratch=self.scratch, project=_COPY, environment=self.environment, **options
            )
            out.seek(0)
            self.printed = out.read()
        return int(done.returncode)


def _link(source: str, destination: str) -> None:
    Path(destination).hardlink_to(source)


def main(names: Sequence[str]) -> int:
    """Runs the mistakes of these names, or all; returns 1 where one was not noticed."""
    mistakes = [mistake for mistake in table() if not names or mistake.name in names]
    unnoticed = run(mistakes)
    print(f"{len(mistakes) - len(unnoticed)} of {len(mistakes)} mistakes were noticed")
    return 1 if unnoticed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
