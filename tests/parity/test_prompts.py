"""Weighted prompts against compel itself: the trees that it reads, and the rows that its text encoders give."""

import random

import numpy as np
import pytest
from compel import Compel, ReturnedEmbeddingsType
from compel.prompt_parser import Blend, PromptParser
from transformers import CLIPTokenizer

from mlx_sd.core.errors import InputError
from mlx_sd.prompts import compel
from tests.support import families
from tests.support.families import distance

LIMIT = 1e-6
PROMPTS = (
    "a red tent",
    "a (red tent)++ on grass",
    "a (red)1.6 tent- on green grass",
    "a red-- tent, on (green)0.3 grass",
    '("a red tent", "a dark stormy sky").blend(0.7, 0.3)',
    '("a red++ tent", "a moon").blend(1, -0.5, no_normalize)',
    '("a red tent", "a moon-").and(1, 0.6)',
    "a red tent on green grass. " * 5 + "a dark (stormy)++ sky, and (a moon)-.",
)
ATOMS = ("a", "b ", "tent", "+", "-", "++", "(", ")", '"', ", ", ".", " ", "1.3", ".attend(", "\\(", '\\"', "=", "c+ ")


@pytest.fixture
def encoders(modules, shapes, tmp_path_factory):
    """encoders(name) -> compel's encoder for each text encoder of a family."""

    def make(name: str) -> list[Compel]:
        folder = families.write_folder(name, shapes[name], tmp_path_factory.mktemp("compel") / name)
        kind = "PENULTIMATE_HIDDEN_STATES_NON_NORMALIZED" if name == "sdxl" else "LAST_HIDDEN_STATES_NORMALIZED"
        return [
            Compel(
                CLIPTokenizer.from_pretrained(folder / part.replace("text_encoder", "tokenizer")),
                modules(name)[part],
                truncate_long_prompts=False,
                returned_embeddings_type=ReturnedEmbeddingsType[kind],
            )
            for part in modules(name)
            if part.startswith("text_encoder")
        ]

    return make


@pytest.mark.parametrize("name", ["sd1", "sd2v", "sdxl"])
def test_rows_are_those_of_compel(name, encoders, family, measure):
    theirs = encoders(name)
    for prompt in PROMPTS:
        rows = [encoder(prompt).detach().numpy() for encoder in theirs]
        context, _ = family(name).encode_prompt(prompt, prompt_style="compel")
        measure("compel's weights", distance(context, np.concatenate(rows, axis=-1)), LIMIT)


def test_trees_are_those_of_compel():
    """On random texts: what compel reads is read alike, and what it refuses is refused."""
    parser, rng = PromptParser(), random.Random(0)
    for _ in range(300):
        text = "".join(rng.choice(ATOMS) for _ in range(rng.randrange(1, 10)))
        try:
            tree = parser.parse_conjunction(text)
            expected = [_part(prompt) for prompt in tree.prompts]
        except Exception:  # compel raises errors of its parser, of Python, and its own
            expected = None
        try:
            actual = [
                [[(piece.text, pytest.approx(piece.weight)) for piece in section] for (section,) in part.blend.texts]
                for part in compel.parts(text)
            ]
        except InputError:
            actual = None
        assert expected in (actual, []), text  # compel reads nothing in "()", where we read an empty text


def _part(prompt):
    texts = prompt.prompts if isinstance(prompt, Blend) else [prompt]
    return [[(fragment.text, fragment.weight) for fragment in text.children] for text in texts]
