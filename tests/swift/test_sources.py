"""The Swift files, as far as one can tell without a compiler: they parse, are short, and use nothing forbidden."""

import re

import pytest

from tests.support import swift_reference
from tests.support.swift_files import PACKAGE, faults, swift_files

FILES = swift_files()
LIBRARIES = [path for path in FILES if path.relative_to(PACKAGE).parts[0] == "Sources"]
LINES = 320
# The parser takes these for faulty, and the compiler does not.
BEYOND_THE_PARSER = {
    "Sources/MLXSDCore/Pipeline/Turns.swift",
    "Sources/MLXSDCore/Requests/RequestFields.swift",
    "Sources/MLXSDKit/Blocking.swift",
    "StandIns/Replay/Replay.swift",
}

FORBIDDEN = {  # what libraries do not use, and why
    r"\btry!": "an app would crash",
    r"\bas! ": "an app would crash",
    r"\bFloat16\b": "it does not exist on Intel's macOS",
    r"\bfatalError\(": "an app would crash",
    r"@unchecked Sendable": "the compiler then finds no data race; a lock's wrapper says why it may",
}


def code(text):
    """A Swift file without its comments and the content of its texts."""
    text = re.sub(r'"""(.*?)"""', '""', text, flags=re.DOTALL)
    text = re.sub(r'"(?:[^"\\\n]|\\.)*"', '""', text)
    return re.sub(r"//.*", "", text)


def test_the_parser_finds_what_is_no_swift():
    assert faults("let x = [1, 2].map { $0 + 1 }\n") == []
    assert faults("guard x >= 1 els { return }\n")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_every_file_is_swift(path):
    if path.relative_to(PACKAGE).as_posix() in BEYOND_THE_PARSER:
        pytest.skip("the compiler has to tell")
    assert faults(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_every_file_is_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LINES


@pytest.mark.parametrize("path", LIBRARIES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_libraries_use_nothing_that_crashes_or_is_missing_somewhere(path):
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines):
        for pattern, reason in FORBIDDEN.items():
            if pattern == "@unchecked Sendable" and "//" in "".join(lines[max(0, number - 3) : number + 1]):
                continue
            assert not re.search(pattern, code(line)), f"{path.name}:{number + 1}: {pattern}: {reason}"
    if path.relative_to(PACKAGE).parts[1] not in ("MLXSDCommand", "mlxsd-swift"):
        assert not re.search(r"\bprint\(", code("\n".join(lines))), path


def test_every_public_declaration_says_what_it_is():
    assert swift_reference.undocumented() == []


def test_the_reference_is_that_of_the_sources():
    """`python -m tests.support.swift_reference` writes it again."""
    assert swift_reference.PAGE.read_text(encoding="utf-8") == swift_reference.page()
