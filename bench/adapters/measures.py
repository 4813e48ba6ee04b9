"""What each adapter changes, by rules on pixels: the same captions and seeds with it and without it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import mlx.core as mx
import numpy as np
from PIL import Image

from mlx_sd import Control
from mlx_sd.request import Request
from mlx_sd.tasks.edges import canny

from ..quality import landscapes, scores
from ..quality.landscapes import FIRST_OTHER, FIRST_TRUE
from ..quality.truth_judge import judge
from ..tiny.claims import claims
from ..tiny.scenes import render
from . import figures
from .drawing import PALETTE, SUNSET, evening_claims, true_examples, word_claims
from .edge_overlap import intersection_over_union
from .figures import Figure
from .subject import WITH, WITHOUT, Subject

TIMES = 2.0  # as much as without control the edges must agree
STEPS = 4  # of a student, and of the sampler that it is compared with
SET = 256  # pictures of a Frechet distance, at most
TRUE = 4  # times as many true pictures as captions are what distances are to


class Measured(NamedTuple):
    """The figures of an adapter by name, each with it and without it, and whether it does what it is for."""

    figures: dict[str, dict[str, Figure]]
    works: bool


Measure = Callable[[Subject], Measured]


def evening(subject: Subject) -> Measured:
    """Measures how often the sky is the sunset's although the caption names another, and whether things stay true.

    It works where the interval of the share with the LoRA lies above that without.
    """
    selection = evening_claims()[: subject.captions]
    requests = _requests([claim.caption for claim in selection], steps=subject.steps)
    measured: dict[str, dict[str, Figure]] = {"sunset": {}, "things": {}}
    for label in (WITH, WITHOUT):
        pictures = subject.pictures(label, requests, lora=label == WITH)
        # Things are judged in the light of the picture's own sky.
        verdicts = [judge(p, replace(claim, sky=SUNSET)) for p, claim in zip(pictures, selection, strict=True)]
        measured["sunset"][label] = figures.share(verdict.sky for verdict in verdicts)
        measured["things"][label] = figures.share(all(verdict.things) for verdict in verdicts if verdict.things)
    return Measured(measured, figures.above(measured["sunset"][WITH], measured["sunset"][WITHOUT]))


def new_colour(subject: Subject) -> Measured:
    """Measures how often a thing that the caption calls by the new word has its kind and that colour.

    Without the embedding the word is what its letters are to the checkpoint. It works where the interval with the
    embedding lies above that without. True pictures through the autoencoder are the most that any word can reach: an
    autoencoder that was trained on few colours turns others into these.
    """
    selection = word_claims()[: subject.captions]
    texts, measured = [claim.caption for claim in selection], {}
    for label in (WITH, WITHOUT):
        embeddings = [str(subject.adapter)] if label == WITH else []
        pictures = subject.pictures(label, _requests(texts, steps=subject.steps, embeddings=embeddings))
        verdicts = [judge(p, claim, PALETTE) for p, claim in zip(pictures, selection, strict=True)]
        measured[label] = figures.share(all(verdict.things) for verdict in verdicts)
    true = subject.through_autoencoder([render(c.scene, subject.side, colors=PALETTE) for c in selection])
    verdicts = [judge(p, claim, PALETTE) for p, claim in zip(true, selection, strict=True)]
    measured["true pictures, decoded"] = figures.share(all(verdict.things) for verdict in verdicts)
    return Measured({"things": measured}, figures.above(measured[WITH], measured[WITHOUT]))


def edges(subject: Subject) -> Measured:
    """Measures how far the edges of pictures agree with those that the control network was shown.

    The edges are of true pictures that no training has seen, and the prompts describe them; without control the prompts
    are the same. It works where the median is at least twice that without.
    """
    examples, measured = true_examples(subject.captions, subject.side), {}
    for label in (WITH, WITHOUT):
        requests = [
            Request(
                prompt=example.caption,
                seed=seed,
                steps=subject.steps,
                controls=(Control(str(subject.adapter), example.control),) if label == WITH else (),
            )
            for seed, example in enumerate(examples)
            if example.control is not None
        ]
        pictures = subject.pictures(label, requests)
        measured[label] = figures.median(
            [
                intersection_over_union(np.asarray(example.control)[..., 0] > 0, canny(np.asarray(picture)) > 0)
                for example, picture in zip(examples, pictures, strict=True)
            ]
        )
    return Measured({"edges": measured}, measured[WITH]["median"] >= TIMES * measured[WITHOUT]["median"])


def four_steps(subject: Subject) -> Measured:
    """Measures truth and Frechet distance of four steps of the student, beside four guided ones of DPM++ 2M.

    Without guidance the student's cost half. It works where its captions are not less often true, by their intervals,
    and its median Frechet distance to true pictures is smaller.
    """
    selection = claims()[: subject.captions]
    captions, seeds = [claim.caption for claim in selection], range(subject.captions)
    measured: dict[str, dict[str, Figure]] = {"truth": {}, "frechet": {}}
    clip = landscapes.TinyClip()
    reference = scores.statistics(_true(subject, clip, FIRST_TRUE, TRUE * subject.captions))
    for label in (WITH, WITHOUT):
        sampling = _STUDENT if label == WITH else _SAMPLER
        pictures = subject.pictures(f"claims {label}", _requests(captions, **sampling), lora=label == WITH)
        verdicts = [judge(p, claim) for p, claim in zip(pictures, selection, strict=True)]
        measured["truth"][label] = figures.share(verdict.true for verdict in verdicts)
        requests = _requests(landscapes.captions(seeds), **sampling)
        features = _features(clip, subject.pictures(f"scenes {label}", requests, lora=label == WITH))
        measured["frechet"][label] = _distances(features, reference)
    others = _true(subject, clip, FIRST_OTHER, subject.captions)
    measured["frechet"]["of other true pictures"] = _distances(others, reference)
    truth, frechet = measured["truth"], measured["frechet"]
    nearer = frechet[WITH]["median"] < frechet[WITHOUT]["median"]
    return Measured(measured, nearer and not figures.above(truth[WITHOUT], truth[WITH]))


_STUDENT: dict[str, Any] = {"steps": STEPS, "guidance": 1.0, "sampler": "tcd"}
_SAMPLER: dict[str, Any] = {"steps": STEPS, "sampler": "dpmpp_2m"}


def _requests(captions: list[str], **settings: Any) -> list[Request]:
    """Returns requests of captions, whose seeds are their numbers."""
    return [Request(prompt=caption, seed=seed, **settings) for seed, caption in enumerate(captions)]


def _features(clip: landscapes.TinyClip, pictures: list[Image.Image]) -> scores.Features:
    parts = [np.stack([np.asarray(p, np.float32) for p in pictures[i : i + 16]]) for i in range(0, len(pictures), 16)]
    return np.concatenate([clip.images(mx.array(part) / 127.5 - 1) for part in parts])


def _true(subject: Subject, clip: landscapes.TinyClip, first: int, count: int) -> scores.Features:
    """Returns features of true pictures, as `bench curves` paints them."""
    seeds = range(first, first + count)
    features: scores.Features = subject.features(
        f"true-{first}-{count}", lambda: landscapes.true_features(clip, seeds, subject.side)
    )
    return features


def _distances(features: scores.Features, reference: scores.Statistics) -> Figure:
    """Returns the median Frechet distance of sets of the same size, of which two are the fewest."""
    size = min(SET, len(features) // 2)
    sets = [features[i : i + size] for i in range(0, len(features) - size + 1, size)]
    return figures.median([scores.frechet(scores.statistics(part), reference) for part in sets])
