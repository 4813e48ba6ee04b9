"""The rows of a guided batch: what each is shown, which of them a rank computes, and guidance of what comes out."""

from typing import Any, NamedTuple

import mlx.core as mx

from .sampling.denoise import guide


class Conditions(NamedTuple):
    """The UNet's inputs for a batch of N pictures; where `guided`, the unconditional rows come first.

    Then follow N rows for each of the K prompts that AND joins: N + K N rows in all. Where `imageless`, N more come
    before them all, without a prompt and without the image of a checkpoint that edits by instruction.
    """

    context: mx.array | None  # (rows, tokens, C); None in models without a prompt
    keywords: dict[str, Any]  # arrays (rows, ...), by the names of the UNet's arguments
    guided: bool
    weights: tuple[float, ...] = (1.0,)  # of the guidance of each of the K prompts
    perturbed: bool = False  # whether N more rows follow, with the prompt, for perturbed-attention guidance
    imageless: bool = False  # whether N more rows come first, for the guidance of an image

    @property
    def copies(self) -> int:
        """Returns how many rows each picture has."""
        return len(self.weights) + self.promptless + self.perturbed

    @property
    def promptless(self) -> int:
        """Returns how many of them have no prompt; these come first."""
        return self.guided + self.imageless

    def beside(self, channels: mx.array) -> mx.array:
        """Returns channels (N, ...) for all rows: zeros for those without an image."""
        shown = [channels] * (self.copies - self.imageless)
        return mx.concatenate([mx.zeros_like(channels), *shown] if self.imageless else shown)

    def guide(
        self, output: mx.array, scale: float, rescale: float, perturbed_scale: float = 0.0, image_scale: float = 1.0
    ) -> mx.array:
        """Returns the guided prediction (N, ...) of the UNet's output (rows, ...); see `denoise.guide`.

        perturbed_scale: of the difference between the rows with the prompt and the perturbed ones. image_scale: of the
        difference that the image makes without a prompt (Brooks et al. 2023, eq. 3).
        """
        if not (self.perturbed or self.imageless):
            return guide(output, scale, rescale, self.weights) if self.guided else output
        parts = list(mx.split(output, self.copies))
        if self.perturbed:
            *parts, perturbed = parts
            away = perturbed_scale * (parts[-1] - perturbed)
        else:  # n + i (u - n) + s (c - u) is u + s (c - u) + (i - 1) (u - n)
            nothing, *parts = parts
            away = (image_scale - 1) * (parts[0] - nothing)
        output = mx.concatenate(parts)
        return guide(output, scale, rescale, self.weights, away) if self.guided else output + away

    def unconditional(self) -> "Conditions":
        """Returns the unconditional rows alone, unguided, or everything where there are none."""
        if not self.guided:
            return self
        first = int(self.imageless)
        return self.part(range(first, first + 1))._replace(guided=False, weights=(1.0,))

    def conditional(self) -> "Conditions":
        """Returns the rows with the prompts, or everything where there are no others."""
        return self.part(range(self.promptless, self.copies))

    def part(self, copies: range) -> "Conditions":
        """Returns some of the rows that each picture has, by their numbers: those that a rank computes."""
        if len(copies) == self.copies:
            return self

        def cut(array: mx.array) -> mx.array:
            """Returns these rows of an array (rows, ...)."""
            count = array.shape[0] // self.copies
            return array[copies.start * count : copies.stop * count]

        first = self.promptless
        return Conditions(
            None if self.context is None else cut(self.context),
            {name: cut(array) for name, array in self.keywords.items()},
            self.guided and int(self.imageless) in copies,
            self.weights[max(0, copies.start - first) : max(0, copies.stop - first)],
            self.perturbed and self.copies - 1 in copies,
            self.imageless and 0 in copies,
        )
