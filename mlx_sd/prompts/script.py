"""A prompt over the steps of a picture: which texts guide it when, and how strongly."""

from typing import NamedTuple

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


def read(text: str, style: str, steps: int, *, composes: bool = True) -> Script:
    """Returns the script of a prompt over `steps` steps; only A1111's style has more than one text.

    composes: AND joins prompts, as it does in prompts and not in negative ones.
    """
    if not STYLES[style].edits:
        return Script((1.0,), ((editing.Version(steps, text),),), frozenset())
    directions = composition.directions(text) if composes else (composition.Direction(text),)
    return Script(
        tuple(direction.weight for direction in directions),
        tuple(tuple(editing.versions(direction.text, steps)) for direction in directions),
        frozenset().union(*(editing.switches(direction.text, steps) for direction in directions)),
    )
