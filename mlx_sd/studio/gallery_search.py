"""What is typed into the gallery's search -> whether a picture matches."""

import re

from ..request import SETTINGS
from .picture_record import Record, folded, written

_WORD = re.compile(r'(?:(?P<key>[A-Za-z][\w-]*):)?(?:"(?P<phrase>[^"]*)"|(?P<text>\S+))')
_LONGEST = 1000  # characters of a search that count
# Settings whose values are long: a part of them is enough. Others are compared as a whole.
_LONG = {
    *("prompt", "negative", "prompt_2", "negative_2", "name", "model", "refiner", "vae", "init_image", "mask"),
    *("lora", "embedding", "control", "adapter", "ip_adapter", "hires_mode"),
}


class Search:
    """A search: words and settings, all of which must match, whatever their case.

    `tent "red sky" sampler:euler seed:7 size:512x512 model:dream`: words and phrases stand anywhere in prompts, names
    and settings; `setting:value` is that setting, under any name that the command line takes.
    """

    def __init__(self, text: str):
        self._words: list[str] = []
        self._terms: list[re.Pattern[str]] = []
        for match in _WORD.finditer(text[:_LONGEST]):
            value = match["text"] if match["phrase"] is None else match["phrase"]
            key = _KEYS.get((match["key"] or "").lower().replace("-", "_"))
            if key is not None and value:
                self._terms.append(_pattern(key, value))
            elif match["key"] and match["phrase"] is not None:  # a word that is no setting, before a phrase
                self._words.append(folded(f"{match['key']}:{value}"))
            elif value:
                self._words.append(folded(match[0].strip('"')))

    def matches(self, record: Record) -> bool:
        """Returns whether all words and settings are those of a picture."""
        return all(word in record.text for word in self._words) and all(
            term.search(record.terms) for term in self._terms
        )


def _pattern(key: str, value: str) -> re.Pattern[str]:
    """Returns the pattern of a setting's line: from its begin to the end of a word, or anywhere in a long value."""
    if key in _LONG:
        return re.compile(rf"\n{key}:[^\n]*{re.escape(folded(value))}")
    try:
        number: int | float = int(value)
    except ValueError:
        try:
            number = float(value)
        except ValueError:
            return re.compile(rf"\n{key}:{re.escape(folded(value))}(?![\w.])")
    return re.compile(rf"\n{key}:{re.escape(written(number))}(?![\w.])")


def _keys() -> dict[str, str]:
    """Returns the settings by all names that the command line takes for them, with underscores."""
    keys: dict[str, str] = {}
    for name, setting in SETTINGS.items():
        for alias in (*setting.aliases.split(), (setting.flag or "").lstrip("-")):
            if len(alias) > 1:
                keys[alias.lower().replace("-", "_")] = setting.key or name
    keys |= {setting.key or name: setting.key or name for name, setting in SETTINGS.items()}
    return keys | {name: name for name in ("size", *_LONG)}


_KEYS = _keys()
