"""A smaller UNet from a model: it is a checkpoint like any other, learns as one, and the model's own stays as it is."""

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_map

from mlx_sd import StableDiffusion, codec, resolve
from mlx_sd.core.errors import InputError
from mlx_sd.networks.unet import UNet
from mlx_sd.train.kinds.prune import Prune, build, smaller
from mlx_sd.train.kinds.unet import WholeUNet
from mlx_sd.train.learning.examples import Captions, MicroBatch
from mlx_sd.train.learning.kind_settings import PruneSettings
from mlx_sd.train.learning.objective import Objective
from mlx_sd.train.learning.optimizers import GroupedOptimizer
from mlx_sd.train.learning.random_keys import Place
from mlx_sd.train.learning.trainer import Rates, Trainer
from mlx_sd.train.pruning.scores import spread_timesteps
from mlx_sd.train.pruning.slicing import weights_of
from tests.support import families

TEXT = "a red tent"


def micro_batch(objective: Objective, step: int = 0) -> MicroBatch:
    """Two examples of random latents."""
    clean = mx.array(families.numbers(f"clean {step}", 2, 8, 8, 4))
    draws = objective.draw(0, [Place(step, 0), Place(step, 1)], (8, 8, 4))
    return MicroBatch(clean, draws, (TEXT, None), time_ids=((64, 64, 0, 0, 64, 64),) * 2)


def pruned(sd: StableDiffusion, **values) -> tuple[Prune, Objective]:
    """The kind of training, with scores at few timesteps."""
    settings = PruneSettings(**{"score_timesteps": 2, "score_batches": 1} | values)
    objective = Objective.of(sd.model.scheduler)
    captions = Captions(sd.model, [TEXT])
    return build(sd.model, settings, captions, objective, lambda: [micro_batch(objective)]), objective


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sd1", pytest.param("sdxl", marks=pytest.mark.slow)])
def test_a_smaller_unet_is_written_as_a_checkpoint_and_loaded_strictly(name, family, tmp_path):
    sd = family(name)
    before = weights_of(sd.unet)
    kind, _ = pruned(sd, score="random" if name == "sdxl" else "magnitude")
    assert sd.unet is not kind.learned and kind.learned is kind.model.unet
    after = weights_of(sd.unet)
    assert all(mx.array_equal(before[parameter], after[parameter]) for parameter in before)
    out = tmp_path / "smaller"
    resolve.write_trained_model(sd.model.folder, out, mx.float32, {"unet": (kind.config, kind.learned)})
    loaded = StableDiffusion.load(out, dtype="float32")
    assert loaded.unet.config == kind.learned.config != sd.unet.config
    inputs = {k: mx.array(v) for k, v in families.unet_inputs(families.FAMILIES[name]["unet"]).items()}
    assert mx.array_equal(loaded.unet(**inputs)[0], kind.learned(**inputs)[0])
    assert all(mx.array_equal(array, kind.weights[n]) for n, array in weights_of(loaded.unet).items())


@pytest.mark.slow
def test_a_smaller_unet_learns(family):
    kind, objective = pruned(family("sd2v"), score="random")
    batch = micro_batch(objective)
    optimizer = GroupedOptimizer("adamw", 0.01, (0.9, 0.999))
    trainer = Trainer(kind.learned, kind.loss, optimizer, Rates(1e-3, 4))
    first = trainer.measure([batch])
    for _ in range(4):
        trainer.run([batch])
    assert trainer.measure([batch]) < 0.95 * first


@pytest.mark.slow
def test_a_smaller_unet_is_a_function_of_settings_and_pictures(family):
    sd = family("sd2v")
    (first, _), (second, _) = pruned(sd, score_timesteps=1), pruned(sd, score_timesteps=1)
    assert first.config == second.config
    assert all(mx.array_equal(array, second.weights[name]) for name, array in first.weights.items())
    other, _ = pruned(sd, score="random", seed=3)
    assert any(not mx.array_equal(array, other.weights[name]) for name, array in first.weights.items())


def test_a_run_that_is_resumed_has_the_shape_without_scores(family):
    sd = family("sd2v")
    first, objective = pruned(sd, score="magnitude")
    again = build(sd.model, PruneSettings(), Captions(sd.model, [TEXT]), objective, _none, resumed=True)
    assert again.config == first.config
    assert {n: a.shape for n, a in again.weights.items()} == {n: a.shape for n, a in first.weights.items()}


def test_weights_learn_in_float32_whatever_the_model_has(family):
    sd = family("sd2v")
    unet = UNet(sd.unet.config)
    unet.update(tree_map(lambda array: array.astype(mx.bfloat16), sd.unet.parameters()))
    half = StableDiffusion(replace(sd.model, unet=unet, dtype=mx.bfloat16))
    assert {array.dtype for array in pruned(half, score="magnitude")[0].weights.values()} == {mx.float32}
    assert unet.dtype == mx.bfloat16


def test_a_shape_needs_no_scores(family):
    sd = family("sd1")
    settings = PruneSettings(shape="small", score="taylor")
    result = smaller(sd.model, settings, Captions(sd.model, [TEXT]), Objective.of(sd.model.scheduler), _none)
    assert result.config["layers_per_block"] == 1 and result.config["mid_block_type"] is None
    assert result.unet.middle.layers == [] and result.cost_after < result.cost_before
    scratch = smaller(sd.model, settings.with_values(scratch=True), None, None, _none)
    assert scratch.config == result.config and scratch.weights == {}


def _none() -> Sequence[MicroBatch]:
    raise AssertionError("no pictures are needed")


def test_a_model_without_a_folder_is_refused(family):
    sd = family("sd1")
    with pytest.raises(InputError, match="no model folder"):
        smaller(replace(sd.model, folder=None), PruneSettings(), None, None, _none)


@pytest.mark.parametrize("values", [{"remove": 0.0}, {"remove": 1.0}, {"shape": "large"}, {"score": "luck"}])
def test_settings_out_of_range_are_refused(values):
    with pytest.raises(InputError):
        PruneSettings(**values).check()


@pytest.mark.slow
def test_by_taylor_the_embedded_checkpoint_loses_less_than_at_random(tmp_path: Path):
    """The loss at fixed noise without 30% of the multiplications, before anything is learned again."""
    from bench.tiny.scenes import caption, render, sample_scene

    sd = StableDiffusion.load("tiny", dtype="float32")
    objective = Objective.of(sd.model.scheduler)
    draw, latents, texts = random.Random(0), [], []
    for number in range(12):
        scene = sample_scene(draw)
        render(scene, 128).save(tmp_path / f"{number}.png")
        latents.append(codec.encode(sd.model, tmp_path / f"{number}.png"))
        texts.append(caption(scene, draw))
    captions = Captions(sd.model, texts)

    def batch(numbers: range) -> MicroBatch:
        """The examples of some pictures."""
        clean = mx.concatenate([latents[i] for i in numbers])
        draws = objective.draw(0, [Place(0, i) for i in numbers], clean.shape[1:])
        return MicroBatch(clean, draws, tuple(texts[i] for i in numbers))

    def loss(kind: WholeUNet) -> float:
        """The mean loss of pictures that no score was measured on."""
        test = batch(range(8, 12))
        at = [test.draws._replace(timesteps=mx.full((4,), t)) for t in spread_timesteps(1000, 5)]
        return float(np.mean([kind.loss(replace(test, draws=draws)).item() for draws in at]))

    losses = {}
    for score, seed in (("taylor", 0), ("random", 0), ("random", 1), ("random", 2)):
        settings = PruneSettings(score=score, score_timesteps=8, seed=seed)
        result = smaller(sd.model, settings, captions, objective, lambda: [batch(range(8))])
        assert abs(result.cost_after / result.cost_before - 0.7) < 0.014
        losses[score, seed] = loss(Prune(sd.model, settings, captions, objective, result))
    assert losses["taylor", 0] == min(losses.values())
