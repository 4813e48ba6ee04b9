"""Wildcards in prompts: of "a {red|blue} tent", the seed of the picture chooses one."""

import hashlib
from itertools import count

_BRACES = "{}|"


def expand(text: str, seed: int) -> str:
    r"""Returns a prompt in which every {a|b|c} is one of its options; options may hold wildcards themselves.

    The choices depend on the seed and on nothing else. A backslash before a brace or a bar makes it an ordinary
    character. Braces without a partner stay as they are, and so do braces without a bar between them.
    """
    return _Expansion(text, seed).run() if "{" in text or "\\" in text else text


class _Expansion:
    """A prompt that is read from the left; every wildcard has a number, in the order of the opening braces."""

    def __init__(self, text: str, seed: int):
        self._text, self._seed, self._numbers = text, seed, count()
        self._partners = _partners(text)

    def run(self) -> str:
        """Returns the text without wildcards."""
        return "".join(self._options(0, len(self._text), split=False))

    def _options(self, start: int, end: int, split: bool) -> list[str]:
        """Returns the expanded options between two places of the text; one where it is not to be split at bars."""
        options, i = [""], start
        while i < end:
            character = self._text[i]
            if character == "\\" and self._text[i + 1 : i + 2] and self._text[i + 1] in _BRACES:
                options[-1] += self._text[i + 1]
                i += 2
            elif i in self._partners:
                options[-1] += self._choice(i + 1, self._partners[i])
                i = self._partners[i] + 1
            elif character == "|" and split:
                options.append("")
                i += 1
            else:
                options[-1] += character
                i += 1
        return options

    def _choice(self, start: int, end: int) -> str:
        number = next(self._numbers)
        options = self._options(start, end, split=True)
        if len(options) == 1:  # no bar: the braces are the prompt's own
            return f"{{{options[0]}}}"
        digest = hashlib.sha256(f"{self._seed}:{number}".encode()).digest()
        return options[int.from_bytes(digest[:8], "big") % len(options)]


def _partners(text: str) -> dict[int, int]:
    """Returns the places of opening braces with those of the braces that close them."""
    partners: dict[int, int] = {}
    opened: list[int] = []
    i = 0
    while i < len(text):
        if text[i] == "\\":
            i += 1
        elif text[i] == "{":
            opened.append(i)
        elif text[i] == "}" and opened:
            partners[opened.pop()] = i
        i += 1
    return partners
