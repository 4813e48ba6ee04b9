r"""Prompts as the library compel reads them.

`word+` and `(some words)++` are 1.1 times as strong for each plus, `word-` 0.9 times, `(some words)1.3` 1.3 times, and
weights multiply. `("a", "b").blend(0.7, 0.3)` mixes prompts, `("a", "b").and()` sets them one after the other.
"""

import re

from ..core.errors import InputError
from .pieces import Blend, Part, Piece, Section, alone, joined

_PLUS, _MINUS = 1.1, 0.9
_DEEPEST = 100  # brackets inside one another
_SPACE = re.compile(r"\s*")
_WORD = re.compile(r"""(?:\\[()",.+\-=]|[-+](?=[^\s()",.+\-=])|-?\d+|[^\s()",.+\-=])+""")
_FREE = re.compile(r"\S+")
_QUOTED = re.compile(r'"((?:\\"|[^"\n\r])*)"')
_REAL = re.compile(r"[+-]?(?:\d+\.\d*|\.\d+)|-?\d+")
_SIGNS = re.compile(r"\++|-+")
_ATTEND = re.compile(r"\s*\.attend\s*\(\s*(\++|-+|[+-]?(?:\d+\.\d*|\.\d+)|-?\d+)\s*\)")
_CALL = re.compile(r"\s*\.(blend|and|add)\s*\(([^()]*)\)\s*")
_UNSUPPORTED = re.compile(r"\.swap\s*\(|\b(?:use|with)Lora\s*\(")
_MARKS = ",."


def parts(text: str) -> tuple[Part, ...]:
    """Returns the parts of a prompt, whose encodings follow one another; InputError for what compel refuses too."""
    if match := _UNSUPPORTED.search(text):
        advice = "make two pictures of one seed" if ".swap" in match[0] else "--lora loads it"
        raise InputError(f"the prompt has {match[0].strip()}...), which is not supported; {advice}")
    text = re.sub(r",(\S)", r", \1", text)
    reader = _Reader(text)
    if call := reader.call():
        name, prompts, weights, normalize, end = call
        if end < len(text):
            raise InputError(f"the prompt goes on after .{name}(...), where compel reads nothing: {text[end:]!r}")
        if len(weights) != len(prompts):
            raise InputError(f".{name}() has {len(weights)} weights for {len(prompts)} prompts")
        if name == "blend":
            texts = tuple((section,) for section in prompts)
            return (Part(Blend(texts, _normalized(weights) if normalize else weights)),)
        return tuple(Part(Blend(((section,),), (1.0,)), w) for section, w in zip(prompts, weights, strict=True))
    return alone((joined(reader.prompt(), " "),))


def _normalized(weights: tuple[float, ...]) -> tuple[float, ...]:
    total = sum(weights)
    if total == 0:
        raise InputError(".blend() has weights that add up to 0; add no_normalize as the last one")
    return tuple(weight / total for weight in weights)


class _Reader:
    """Reads a prompt from the left; a method returns what it has read with the place after it, or None."""

    def __init__(self, text: str, depth: int = 0):
        self._text, self._depth = text, depth
        self._brackets: dict[int, tuple[list[Piece], int] | None] = {}  # by place

    def call(self) -> tuple[str, tuple[Section, ...], tuple[float, ...], bool, int] | None:
        """Reads ("...", "...").name(options) at the start: name, prompts, weights, whether they are normalized."""
        place = self._skip(0)
        if not self._text.startswith("(", place):
            return None
        prompts: list[Section] = []
        while not prompts or self._text.startswith(",", place):
            target = self._target(self._skip(place + 1))
            if target is None:
                return None
            pieces, place = target
            prompts.append(joined(pieces, " "))
            place = self._skip(place)
        match = _CALL.match(self._text, place + 1) if self._text.startswith(")", place) else None
        if match is None:
            return None
        options = [option.strip() for option in match[2].split(",")] if match[2].strip() else []
        normalize = options[-1:] != ["no_normalize"]
        if not normalize:
            options.pop()
        try:
            weights = tuple(map(float, options))
        except ValueError:
            raise InputError(f".{match[1]}({match[2]}): its options are numbers, one for each prompt") from None
        return match[1], tuple(prompts), weights or (1.0,) * len(prompts), normalize, match.end()

    def prompt(self) -> list[Piece]:
        """Reads the whole text: what is no weighted word or brackets is text up to the next space."""
        pieces: list[Piece] = []
        place = self._skip(0)
        while place < len(self._text):
            fragment = self._attention(place) or self._quoted(place) or self._bracket(place)
            if fragment is None:
                match = _FREE.match(self._text, place)
                assert match is not None  # no space, and not the end
                fragment = [Piece(_plain(match[0]))], match.end()
            pieces += fragment[0]
            place = self._skip(fragment[1])
        return pieces

    def _skip(self, place: int) -> int:
        match = _SPACE.match(self._text, place)
        return match.end() if match else place

    def _target(self, place: int) -> tuple[list[Piece], int] | None:
        return self._quoted(place) or self._bracket(place) or self._word(place)

    def _word(self, place: int) -> tuple[list[Piece], int] | None:
        match = _WORD.match(self._text, place)
        return None if match is None else ([Piece(_plain(match[0]))], match.end())

    def _attention(self, place: int) -> tuple[list[Piece], int] | None:
        """Reads a word, brackets or quotes with a weight behind."""
        if (target := self._target(place)) and (match := _ATTEND.match(self._text, target[1])):
            return _scaled(target[0], match[1]), match.end()
        if target := self._quoted(place) or self._bracket(place):
            match = _SIGNS.match(self._text, target[1]) or _REAL.match(self._text, target[1])
        elif target := self._word(place):
            match = _SIGNS.match(self._text, target[1])
        else:
            return None
        return None if match is None else (_scaled(target[0], match[0]), match.end())

    def _quoted(self, place: int) -> tuple[list[Piece], int] | None:
        """Reads text in quotes, in which everything must be words, brackets, commas and points."""
        match = _QUOTED.match(self._text, place)
        if match is None:
            return None
        inside = match[1]
        if not inside.strip():
            return [Piece("")], match.end()
        reader = _Reader(inside, self._deeper())
        pieces, end = reader._fragment(0)
        return (pieces, match.end()) if end == len(inside) else None

    def _bracket(self, place: int) -> tuple[list[Piece], int] | None:
        if place not in self._brackets:
            self._brackets[place] = self._read_bracket(place)
        return self._brackets[place]

    def _read_bracket(self, place: int) -> tuple[list[Piece], int] | None:
        if not self._text.startswith("(", place):
            return None
        self._depth = self._deeper()
        pieces, end = self._fragment(place + 1)
        self._depth -= 1
        return (pieces, end + 1) if self._text.startswith(")", end) else None

    def _fragment(self, place: int) -> tuple[list[Piece], int]:
        """Reads words, brackets, commas and points as far as it goes."""
        pieces: list[Piece] = []
        place = self._skip(place)
        while place < len(self._text):
            fragment = self._attention(place) or self._bracket(place) or self._quoted(place) or self._word(place)
            if fragment is None and self._text[place] in _MARKS:
                fragment = [Piece(self._text[place])], place + 1
            if fragment is None:
                break
            pieces += fragment[0]
            place = self._skip(fragment[1])
        return pieces, place

    def _deeper(self) -> int:
        if self._depth >= _DEEPEST:
            raise InputError(f"the prompt has more than {_DEEPEST} brackets inside one another")
        return self._depth + 1


def _scaled(pieces: list[Piece], operator: str) -> list[Piece]:
    """Returns pieces as an operator weighs them: +, ++, -, or a number."""
    if operator[0] in "+-" and set(operator) <= {operator[0]}:
        weight = (_PLUS if operator[0] == "+" else _MINUS) ** len(operator)
    else:
        weight = float(operator)
    return [Piece(piece.text, piece.weight * weight) for piece in pieces]


def _plain(text: str) -> str:
    return text.replace("\\(", "(").replace("\\)", ")").replace('\\"', '"')
