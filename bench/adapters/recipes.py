"""The adapters as a table: what each is drawn for, the words of its training, its size and its measure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from mlx_sd.train.command import kind_parser, with_flags
from mlx_sd.train.kind_table import KINDS
from mlx_sd.train.learning.settings import TrainSettings

from . import drawing, measures
from .drawing import CONTROL_IMAGES, WORD, Draw
from .measures import Measure

KILOBYTE = 1000


@dataclass(frozen=True)
class Recipe:
    """How one adapter is made and measured.

    kind, words: of `python -m mlx_sd.train KIND WORDS`. pictures: to train on. limit: the bytes that its file has at
    most. captions: measured. sampling: steps of a measured picture.
    """

    name: str
    summary: str
    kind: str
    words: tuple[str, ...]
    steps: int
    pictures: int
    limit: int
    draw: Draw
    measure: Measure
    captions: int
    sampling: int = 15

    @property
    def file(self) -> str:
        """Returns the name of the result."""
        return f"{self.name}.safetensors"

    def command(self, model: str, data: str, out: str, seed: int) -> list[str]:
        """Returns the words of the training after `python -m mlx_sd.train`."""
        places = ["--model", model, "--data", data, "--out", out]
        return [self.kind, *places, "--steps", str(self.steps), "--seed", str(seed), *self.words]

    def settings(self, command: list[str]) -> TrainSettings:
        """Returns the settings that the trainer's own command line reads from the words of `command`."""
        settings: TrainSettings = KINDS[self.kind].settings()
        return with_flags(settings, kind_parser(self.kind).parse_args(command[1:]))

    def smoke(self) -> Recipe:
        """Returns the recipe with a few pictures, steps and captions, to try it."""
        words = (*self.words, "--batch", "2", "--warmup", "0", "--validate-every", "0")
        return replace(self, words=words, steps=3, pictures=6, captions=4, sampling=2)

    def to_json(self) -> dict[str, Any]:
        """Returns what decides the adapter and its figures."""
        names = ("kind", "words", "steps", "pictures", "captions", "sampling")
        return {name: list(v) if isinstance(v := getattr(self, name), tuple) else v for name in names}


_RATES = ("--schedule", "cosine", "--warmup", "30", "--save-every", "50")

RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            "evening",
            "a style: it is evening, whatever the prompt says",
            kind="lora",
            words=(
                *("--rank", "2", "--targets", "all", "--rate", "2e-3"),
                *("--batch", "8", "--caption-dropout", "0.1", *_RATES),
            ),
            steps=400,
            pictures=512,
            limit=700 * KILOBYTE,
            draw=drawing.evening,
            measure=measures.evening,
            captions=120,
        ),
        Recipe(
            WORD.name,
            "a new word: a colour that the checkpoint has not seen",
            kind="embedding",
            words=(
                *("--token", WORD.name, "--like", WORD.like, "--vectors", "2", "--rate", "1e-2"),
                *("--batch", "8", *_RATES),
            ),
            steps=300,
            pictures=512,
            limit=40 * KILOBYTE,
            draw=drawing.new_colour,
            measure=measures.new_colour,
            captions=120,
        ),
        Recipe(
            "edges",
            "a Control-LoRA: pictures follow edges",
            kind="control",
            words=(
                *("--images", CONTROL_IMAGES, "--rank", "8", "--rate", "1e-3"),
                *("--batch", "4", "--caption-dropout", "0.1", *_RATES),
            ),
            steps=3000,
            pictures=2048,
            limit=2600 * KILOBYTE,
            draw=drawing.edges,
            measure=measures.edges,
            captions=60,
        ),
        Recipe(
            "four-steps",
            "a TCD LoRA: pictures in four steps without guidance",
            kind="distill",
            words=(
                *("--student", "lora", "--rank", "8", "--rate", "5e-4", "--widen", "0.5"),
                *("--batch", "4", "--caption-dropout", "0.05", *_RATES),
            ),
            steps=2000,
            pictures=2048,
            limit=2500 * KILOBYTE,
            draw=drawing.world,
            measure=measures.four_steps,
            captions=500,
            sampling=measures.STEPS,
        ),
    )
}
