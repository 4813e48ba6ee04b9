"""Every kind begins as the base, bit for bit, learns one picture, and learns nothing else."""

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from mlx_sd.train.kinds.control import Control
from mlx_sd.train.kinds.embedding import TextualInversion
from mlx_sd.train.kinds.lora import Lora
from mlx_sd.train.kinds.unet import WholeUNet
from mlx_sd.train.learning.examples import Captions
from mlx_sd.train.learning.kind_settings import ControlSettings, EmbeddingSettings, LoraSettings, UNetSettings
from mlx_sd.train.learning.objective import Objective
from mlx_sd.train.learning.optimizers import GroupedOptimizer
from mlx_sd.train.learning.trainer import Rates, Trainer
from tests.support.effort import slow_but
from tests.train.conftest import TEXT

# Kind -> what builds it, its settings, a learning rate, and the share of the loss that it loses.
KINDS = {
    "lora": (Lora, LoraSettings(rank=4), 5e-3, 0.1),
    "lora of all, with text": (Lora, LoraSettings(rank=4, targets="all", text_rate=5e-3), 5e-3, 0.2),
    "embedding": (TextualInversion, EmbeddingSettings(token="zorb", like="red tent", vectors=2), 5e-2, 0.001),
    "unet": (WholeUNet, UNetSettings(), 5e-4, 0.2),
    "control": (Control, ControlSettings(), 5e-3, 0.1),
    "control of low rank": (Control, ControlSettings(rank=4), 5e-3, 0.1),
}
CASES = [
    *((kind, "sd1") for kind in KINDS),
    ("unet", "sd2v"),
    ("lora of all, with text", "sdxl"),
    ("embedding", "sdxl"),
]
QUICK = [(kind, "sd1") for kind in ("lora", "embedding")]


@pytest.mark.parametrize("case", slow_but(QUICK, CASES), ids=" ".join)
def test_one_picture_is_learned_from_the_base_on(case, fresh, micro_batch):
    name, family = case
    build, settings, rate, share = KINDS[name]
    model = fresh(family)
    objective = Objective.of(model.scheduler)
    plain = WholeUNet(model, UNetSettings(), Captions(model, [TEXT]), objective)
    batch = micro_batch(model, objective, 999, 4)
    base = plain.loss(batch).item()
    networks = {"unet": model.unet, "vae": model.vae} | dict(enumerate(model.text_encoders))
    before = {part: [mx.array(a) for _, a in tree_flatten(n.parameters())] for part, n in networks.items()}
    learner = build(model, settings, Captions(model, [TEXT]), objective)
    trainer = Trainer(learner.learned, learner.loss, GroupedOptimizer("adamw", 0.0, (0.9, 0.999)), Rates(rate, 100))
    first = trainer.measure([batch])
    if name != "embedding":
        assert first == base
    for step in range(6):
        trainer.run([micro_batch(model, objective, step, 4)])
    assert trainer.measure([batch]) < (1 - share) * first
    for part, network in networks.items():
        after = [array for _, array in tree_flatten(network.parameters())]
        same = all(mx.array_equal(a, b).item() for a, b in zip(before[part], after, strict=True))
        assert same == (name != "unet" or part != "unet"), part


@pytest.mark.slow
def test_without_captions_every_caption_is_the_same(fresh, micro_batch):
    model = fresh("sdxl")
    objective = Objective.of(model.scheduler)
    learner = WholeUNet(model, UNetSettings(), Captions(model, [TEXT, "another"]), objective)
    batch = micro_batch(model, objective)
    losses = set()
    for captions in ((TEXT, TEXT), ("another", TEXT), (None, None)):
        object.__setattr__(batch, "captions", captions)
        losses.add(learner.loss(batch).item())
    assert len(losses) == 3  # SDXL takes zeros for no caption, which are no caption's encoding
    assert Captions(model, [TEXT]).inputs(batch)["context"].max().item() == 0
