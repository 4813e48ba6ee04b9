"""A prompt over the steps of a picture: which texts guide it when, and how strongly."""

from typing import NamedTuple

from ..core.errors import InputError
from . import composition, editing
from .styles import STYLES


class Script(NamedTuple):
    """The texts of a prompt, one for each AND-ed direction, and the steps at which they change."""

    weights: tuple[float, ...]
    versions: tuple[tuple[editing.Version, ...], ...]  # of each direction
    switches: frozenset[int]  # steps after which a text changes for good

    def at(self, step: int) -> tuple[str, ...]:
        """Returns the texts at a step, counted from 1."""
        return tuple(next(v.text for v in versions if step <= v.last) for versions in self.versions)

    @property
    def texts(self) -> set[str]:
        """Returns all texts, of whatever step."""
        return {version.text for versions in self.versions for version in versions}


def read(text: str, style: str, steps: int, *, composes: bool = True, before: int = 0) -> Script:
    """Returns the script of a prompt over `steps` steps; only A1111's style has more than one text.

    before: steps of an earlier pass, see `editing.versions`. composes: AND joins prompts, as it does in prompts and not
    in negative ones.
    """
    if not STYLES[style].edits or text == "":
        return Script((1.0,), ((editing.Version(steps, text),),), frozenset())
    directions = composition.directions(text) if composes else (composition.Direction(text),)
    return Script(
        tuple(direction.weight for direction in directions),
        tuple(tuple(editing.versions(direction.text, steps, before)) for direction in directions),
        frozenset().union(*(editing.switches(direction.text, steps, before) for direction in directions)),
    )


# The texts of both text encoders at a step; None is the first one's.
Texts = tuple[str, str | None]


class Pair(NamedTuple):
    """The script of a prompt, and the one of the prompt for SDXL's second text encoder, where it has its own."""

    first: Script
    second: Script | None

    def at(self, step: int) -> tuple[Texts, ...]:
        """Returns the texts of each direction at a step, counted from 1."""
        return tuple((text, self.second.at(step)[0] if self.second else None) for text in self.first.at(step))

    @property
    def texts(self) -> set[Texts]:
        """Returns all texts, of whatever step."""
        lasts = {version.last for entry in self if entry for versions in entry.versions for version in versions}
        return {texts for last in lasts for texts in self.at(last)}

    @property
    def switches(self) -> frozenset[int]:
        """Returns the steps after which a text changes for good."""
        return self.first.switches | (self.second.switches if self.second else frozenset())


def read_pair(text: str, second: str | None, style: str, steps: int, *, composes: bool = True, before: int = 0) -> Pair:
    """Returns the scripts of a prompt and of the one for the second text encoder; None is the same one.

    InputError where AND joins prompts and the second text encoder has its own.
    """
    first = read(text, style, steps, composes=composes, before=before)
    if second is None:
        return Pair(first, None)
    if len(first.weights) > 1:
        raise InputError("AND joins prompts, and there is one --prompt-2; leave one of them out")
    return Pair(first, read(second, style, steps, composes=False, before=before))
