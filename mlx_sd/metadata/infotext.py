"""The grammar of the text "parameters" of A1111's web UI: prompt, negative prompt, and a line of keys and values."""

import json
import re
from collections.abc import Iterator
from typing import NamedTuple

_NEGATIVE = "Negative prompt:"
_KEY = re.compile(r"(\w[\w \-/]{1,80}):[ \t]*")
_QUOTED = re.compile(r'"(?:\\.|[^\\"])+"(?=\s*(?:,|$))')
_END = re.compile(r"\s*(?:,|$)")
_FEWEST = 3  # pairs that make a line the last one
_LONGEST = 65536  # characters of that line; longer ones are nobody's settings


class Infotext(NamedTuple):
    """The parts of the text; `values` by their keys, quotes taken off."""

    prompt: str
    negative: str
    values: dict[str, str]


def parse(text: str) -> Infotext | None:
    """Reads the text; None where it has no line of settings.

    Lines after the settings, which some programs add, do not count.
    """
    lines = text.strip().split("\n")
    for last in range(len(lines) - 1, -1, -1):
        line = lines[last].strip()
        if last < len(lines) - 1 and not line.startswith("Steps:"):
            continue
        values = dict(_pairs(line)) if len(line) <= _LONGEST else {}
        if len(values) >= _FEWEST:
            return Infotext(*_prompts(lines[:last]), values)
    return None


def _prompts(lines: list[str]) -> tuple[str, str]:
    """Returns the prompt and the negative prompt, which begins at a line of its own."""
    stripped = [line.strip() for line in lines]
    first = next((i for i, line in enumerate(stripped) if line.startswith(_NEGATIVE)), len(stripped))
    negative = [line.removeprefix(_NEGATIVE).strip() for line in stripped[first:]]
    return "\n".join(stripped[:first]).strip(), "\n".join(negative).strip()


def _pairs(line: str) -> Iterator[tuple[str, str]]:
    """Yields the keys and values of a line, which has commas between them."""
    position = 0
    while key := _KEY.search(line, position):
        value, position = _value(line, key.end())
        yield key[1], value


def _value(line: str, start: int) -> tuple[str, int]:
    """Returns the value that begins at `start`, and where the next key may begin.

    It ends at a comma; values with commas are JSON's texts, or objects and lists, as some extensions write them.
    """
    if (quoted := _QUOTED.match(line, start)) and (text := _unquoted(quoted[0])) is not None:
        return text, quoted.end()
    if line[start : start + 1] in ("{", "["):
        try:
            _, end = json.JSONDecoder().raw_decode(line, start)
        except (ValueError, RecursionError):
            end = start
        if end > start and _END.match(line, end):
            return line[start:end], end
    comma = line.find(",", start)
    end = len(line) if comma < 0 else comma
    return line[start:end].strip(), end


def _unquoted(text: str) -> str | None:
    try:
        return str(json.loads(text))
    except ValueError:
        return None
