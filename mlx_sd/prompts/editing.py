"""Prompts that change while a picture is made, as in A1111: `[from:to:when]`, `[to:when]`, `[from::when]`, `[a|b]`.

Brackets are read from the right: what opens at one place depends on what opens after it, and on nothing before it.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

_NUMBER = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*")
_STOPS = frozenset("[]():|\\")


class Version(NamedTuple):
    """A text and the last step at which it is used, counted from 1."""

    last: int
    text: str


class _Switch(NamedTuple):
    """`before` up to and with a step, then `after`."""

    before: "_Parts"
    after: "_Parts"
    when: str  # the number as typed: with a point it is a share of the steps


class _Alternation(NamedTuple):
    """One option for each step, in turn."""

    options: tuple["_Parts", ...]


_Part = str | _Switch | _Alternation
_Parts = tuple[_Part, ...]


class _Group(NamedTuple):
    """A pair of brackets that is closed: its parts, and the place after it."""

    parts: _Parts
    end: int


def versions(text: str, steps: int, before: int = 0) -> list[Version]:
    """Returns the texts of a prompt over `steps` steps, in order; the last one's `last` is `steps`.

    before: the steps of an earlier pass (hires fix). Whole numbers then count on from there, and shares go from 1 to 2.

    `when` is a step, or, with a point in it, a share of the steps; up to and with that step stands the first text.
    Brackets that do not fit together are ordinary text. A bar outside of brackets, or a backslash at the end, makes
    everything ordinary text. So it is in A1111 since 1.6.
    """
    parts = _parse(text)
    if parts is None:
        return [Version(steps, text)]
    lasts = sorted({steps, *_lasts(parts, steps, before)})
    return [Version(last, _at(parts, last, steps, before)) for last in lasts]


def switches(text: str, steps: int, before: int = 0) -> set[int]:
    """Returns the steps after which a prompt changes for good: those of its `when`s, not its alternations."""
    changes = (_step(part.when, steps, before) for part in _walk(_parse(text) or ()) if isinstance(part, _Switch))
    return {step for step in changes if 1 <= step < steps}


def _step(when: str, steps: int, before: int) -> int:
    """Returns the last step of the first text; 0 and less mean that it is never used."""
    value = (float(when) - (1 if before else 0)) * steps if "." in when else float(when) - before
    return int(min(value, steps))


def _lasts(parts: _Parts, steps: int, before: int) -> Iterator[int]:
    """Yields the steps after which a text may change."""
    for part in _walk(parts):
        if isinstance(part, _Alternation):
            yield from range(1, steps + 1)
        elif (step := _step(part.when, steps, before)) >= 1:
            yield step


def _walk(parts: _Parts) -> Iterator[_Switch | _Alternation]:
    """Yields all parts that change, also those inside others."""
    pending = [parts]
    while pending:
        for part in pending.pop():
            if isinstance(part, _Switch):
                pending += [part.before, part.after]
                yield part
            elif isinstance(part, _Alternation):
                pending += part.options
                yield part


def _at(parts: _Parts, step: int, steps: int, before: int) -> str:
    """Returns the text at a step, counted from 1."""
    texts: list[str] = []
    pending: list[Iterator[_Part]] = [iter(parts)]
    while pending:
        part = next(pending[-1], None)
        if part is None:
            pending.pop()
        elif isinstance(part, str):
            texts.append(part)
        elif isinstance(part, _Alternation):
            pending.append(iter(part.options[(step - 1) % len(part.options)]))
        else:
            pending.append(iter(part.before if step <= _step(part.when, steps, before) else part.after))
    return "".join(texts)


def _parse(text: str) -> _Parts | None:
    """Returns the parts of a prompt; None where it cannot be read."""
    groups: dict[int, _Group] = {}
    for place in reversed(range(len(text))):
        if text[place] in "[(" and (group := _group(text, place, groups)):
            groups[place] = group
    parts: list[_Part] = []
    place = 0
    while place < len(text):
        run, end = _sequence(text, place, groups)
        parts += run
        if end < len(text):
            if text[end] in "|\\":
                return None
            parts.append(text[end])  # a bracket without a partner, or a colon
        place = end + 1
    return tuple(parts)


def _sequence(text: str, start: int, groups: dict[int, _Group]) -> tuple[_Parts, int]:
    """Returns the parts from a place on, up to a character that ends them, and the place of that character."""
    parts: list[_Part] = []
    place = start
    while place < len(text):
        if place in groups:
            parts += groups[place].parts
            place = groups[place].end
            continue
        end = place
        while end < len(text):
            if text[end] == "\\" and text[end + 1 : end + 2] not in ("", "\n"):
                end += 2  # a character that is meant as it stands
            elif text[end] in _STOPS:
                break
            else:
                end += 1
        if end == place:
            break
        parts.append(text[place:end])
        place = end
    return tuple(parts), place


def _group(text: str, start: int, groups: dict[int, _Group]) -> _Group | None:
    """Returns what the bracket at a place opens; None where it opens nothing that is closed."""
    first, end = _sequence(text, start + 1, groups)
    if text[start] == "(":
        if text[end : end + 1] == ":":
            second, end = _sequence(text, end + 1, groups)
            first = (*first, ":", *second)
        return _Group(("(", *first, ")"), end + 1) if text[end : end + 1] == ")" else None
    separator = text[end : end + 1]
    if separator == "]":
        return _Group(("[", *first, "]"), end + 1)
    if separator == "|":
        return _alternation(text, first, end, groups)
    if separator == ":":
        return _switch(text, first, end, groups)
    return None


def _alternation(text: str, first: _Parts, end: int, groups: dict[int, _Group]) -> _Group | None:
    """Returns `[first|...|...]`, from its first bar on."""
    options = [first]
    while text[end : end + 1] == "|":
        option, end = _sequence(text, end + 1, groups)
        options.append(option)
    return _Group((_Alternation(tuple(options)),), end + 1) if text[end : end + 1] == "]" else None


def _switch(text: str, first: _Parts, colon: int, groups: dict[int, _Group]) -> _Group | None:
    """Returns `[first:when]` or `[first:second:when]`, from its first colon on."""
    if when := _when(text, colon + 1):
        return _Group((_Switch((), first, when[0]),), when[1])
    second, end = _sequence(text, colon + 1, groups)
    if text[end : end + 1] == ":" and (when := _when(text, end + 1)):
        return _Group((_Switch(first, second, when[0]),), when[1])
    return None


def _when(text: str, start: int) -> tuple[str, int] | None:
    """Returns a number that a closing bracket follows, and the place after the bracket."""
    match = _NUMBER.match(text, start)
    if match is None or text[match.end() : match.end() + 1] != "]":
        return None
    return match[1], match.end() + 1
