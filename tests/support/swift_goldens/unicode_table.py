"""Writes the table of Unicode's canonical decompositions that the Swift package composes characters (NFC) with.

Run `python -m tests.support.swift_goldens.unicode_table FILE` where FILE is Text/Decompositions.swift of MLXSDCore.
"""

import sys
import unicodedata
from itertools import pairwise
from pathlib import Path

_WIDTH = 108
_HANGUL = range(0xAC00, 0xD7A4)  # composed by arithmetic
# Characters newer than Unicode 14, which a newer Python would add.
_NEW = (range(0x105C0, 0x10600), range(0x11380, 0x11400), range(0x16100, 0x16140), range(0x16D40, 0x16D80))
_HEAD = """\
/// Unicode's canonical decompositions (UnicodeData.txt, without Hangul), which are stable: new versions only add.
///
/// `python -m tests.support.swift_goldens.unicode_table` writes this file. "@C0" says the scalar of the next entry, and
/// each entry counts one on: "41+300" is a decomposition, "41+300!" one that is never composed again, "4B" another
/// single scalar.
enum Decompositions {
    static let entries = \"\"\"
"""


def table() -> str:
    """Returns the content of the Swift file."""
    scalars = [
        scalar
        for scalar in range(sys.maxunicode + 1)
        if scalar not in _HANGUL
        and not any(scalar in block for block in _NEW)
        and unicodedata.decomposition(chr(scalar)).strip()
        and not unicodedata.decomposition(chr(scalar)).startswith("<")
    ]
    entries = []
    for before, scalar in pairwise([-2, *scalars]):
        parts = [f"{int(part, 16):X}" for part in unicodedata.decomposition(chr(scalar)).split()]
        excluded = len(parts) == 2 and unicodedata.normalize("NFC", chr(scalar)) != chr(scalar)
        entries += [f"@{scalar:X}"] * (scalar != before + 1) + ["+".join(parts) + "!" * excluded]
    lines, line = [], ""
    for entry in entries:
        if len(line) + 1 + len(entry) > _WIDTH:
            lines.append(line)
            line = ""
        line += f" {entry}" if line else entry
    lines.append(line)
    return _HEAD + "".join(f"        {line}\n" for line in lines) + '        """\n}\n'


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(table(), encoding="utf-8")
