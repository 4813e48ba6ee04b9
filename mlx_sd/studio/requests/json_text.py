"""JSON of clients: strict, bounded, and read into plain values only."""

import json
import math
from collections.abc import Mapping
from typing import Any, NoReturn

from starlette.requests import Request

from ...core.errors import InputError

DEPTH = 32  # of objects and lists in each other
VALUES = 100_000  # of objects, lists and entries: each takes memory, however short it is in the text
_DIGITS = 20  # of an integer: more than any setting has


async def read_object(request: Request) -> dict[str, Any]:
    """Reads the JSON object that is a request's body; InputError with one line where it is none.

    The body is not kept by the request, as `Request.json` does: with pictures in it, it is large.
    """
    content = bytearray()
    async for chunk in request.stream():
        content += chunk
    value = loads(content)
    if not isinstance(value, dict):
        raise InputError("the body must be a JSON object, as {...}")
    return value


def loads(content: bytes | bytearray) -> Any:
    """Returns the value of a JSON text in UTF-8.

    InputError for everything that readers of JSON disagree about or that grows: names that are there twice, NaN and
    numbers out of range, half characters, deep nesting, very many values.
    """
    if content.count(b",") + content.count(b"[") + content.count(b"{") > VALUES:
        raise InputError(f"the JSON has more than {VALUES} values")
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        raise InputError("the JSON is not UTF-8") from None
    try:
        value = json.loads(
            text,
            object_pairs_hook=_unique,
            parse_int=_integer,
            parse_float=_number,
            parse_constant=_no_number,
        )
    except InputError:
        raise
    except RecursionError:
        raise InputError(f"the JSON is nested deeper than {DEPTH}") from None
    except ValueError as error:
        raise InputError(f"the body is not JSON: {error}") from None
    _check(value, 0)
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise InputError("the JSON has a name twice in one object")
    return values


def _integer(text: str) -> int:
    if len(text) > _DIGITS:
        raise InputError("the JSON has a number of too many digits")
    return int(text)


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise InputError("the JSON has a number that is too large")
    return value


def _no_number(text: str) -> NoReturn:
    raise InputError(f"the JSON has {text}, which is no number")


def _check(value: Any, depth: int) -> None:
    """Raises InputError for texts that cannot be written, and for deep nesting."""
    if depth > DEPTH:
        raise InputError(f"the JSON is nested deeper than {DEPTH}")
    if isinstance(value, str):
        _check_text(value)
    elif isinstance(value, Mapping):
        for name, entry in value.items():
            _check_text(name)
            _check(entry, depth + 1)
    elif isinstance(value, list):
        for entry in value:
            _check(entry, depth + 1)


def _check_text(text: str) -> None:
    """Raises InputError for NUL, which ends texts in other programs, and for half of a pair of surrogates."""
    if "\0" in text:
        raise InputError("the JSON has a text with a NUL character")
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError:
            raise InputError("the JSON has a text with half a character (a lone surrogate)") from None
