"""What is written is what was learned: read again, it computes what the trained networks computed."""

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from mlx_sd import StableDiffusion
from mlx_sd.controls import load_network
from mlx_sd.core.errors import InputError
from mlx_sd.prompts import embeddings
from mlx_sd.prompts.embeddings import Embedding
from mlx_sd.train import results
from mlx_sd.train.files.base_model import BaseModel
from mlx_sd.train.files.training_record import TrainingRecord
from mlx_sd.train.kinds.control import Control
from mlx_sd.train.kinds.embedding import TextualInversion
from mlx_sd.train.kinds.lora import Lora
from mlx_sd.train.kinds.unet import WholeUNet
from mlx_sd.train.learning.examples import Captions
from mlx_sd.train.learning.kind_settings import ControlSettings, EmbeddingSettings, LoraSettings, UNetSettings
from mlx_sd.train.learning.objective import Objective
from mlx_sd.train.results import Result
from tests.support import families
from tests.support.effort import slow_but
from tests.train.conftest import TEXT

KINDS = {
    "lora": (Lora, LoraSettings(rank=4, alpha=2.0, targets="all", text_rate=1e-4)),
    "embedding": (TextualInversion, EmbeddingSettings(token="zorb", like="red", vectors=2)),
    "unet": (WholeUNet, UNetSettings()),
    "control": (Control, ControlSettings()),
}
FAMILIES = ("sd1", "sdxl")


def unet_inputs(family: str) -> dict[str, mx.array]:
    inputs = families.unet_inputs(families.FAMILIES[family]["unet"])
    return {name: mx.array(value) for name, value in inputs.items()}


@pytest.mark.parametrize("kind", slow_but(["lora"], KINDS))
@pytest.mark.parametrize("family", slow_but(["sd1"], FAMILIES))
def test_what_is_written_is_what_was_learned(kind, family, fresh, tmp_path):
    build, settings = KINDS[kind]
    model = fresh(family)
    base = BaseModel.of(model) if kind in ("lora", "embedding") else None
    learner = build(model, settings, Captions(model, [TEXT]), Objective.of(model.scheduler))
    learned = [
        (name, array + 0.02 * mx.random.normal(array.shape, key=mx.random.key(i)))
        for i, (name, array) in enumerate(tree_flatten(learner.learned.trainable_parameters()))
    ]
    learner.learned.load_weights(learned, strict=False)
    out = tmp_path / ("result.safetensors" if base else "result")
    Result(base, model, "float32").write(learner, out, TrainingRecord())
    if kind == "lora":
        live, again = StableDiffusion(model), StableDiffusion.load(model.folder, dtype="float32", loras=[out])
        for prompt in (TEXT, ""):
            a, b = (sd.encode_prompt(prompt)[0] for sd in (live, again))
            assert mx.abs(a - b).max().item() <= 1e-5 * mx.abs(a).max().item()
        inputs = unet_inputs(family)
        a, b = (sd.unet(**inputs)[0] for sd in (live, again))
        assert mx.abs(a - b).max().item() <= 1e-5 * mx.abs(a).max().item()
        plain = StableDiffusion.load(model.folder, dtype="float32").unet(**inputs)[0]
        assert mx.abs(a - plain).max().item() > 1e-2
    elif kind == "embedding":
        widths = [encoder.config.width for encoder in model.text_encoders]
        arrays = embeddings.read(Embedding(str(out), "zorb"), widths).arrays
        assert all(mx.array_equal(a, b) for a, b in zip(arrays, learner.learned.arrays, strict=True))
    else:
        again = StableDiffusion.load(out, dtype="float32").unet if kind == "unet" else load_network(str(out), model)
        weights = dict(tree_flatten(again.parameters()))
        assert weights.keys() == {name for name, _ in learned}
        assert all(mx.array_equal(weights[name], array).item() for name, array in learned)


@pytest.mark.slow
def test_averaged_weights_take_the_places_of_the_own(fresh, tmp_path):
    model = fresh("sd1")
    learner = WholeUNet(model, UNetSettings(), Captions(model, [TEXT]), Objective.of(model.scheduler))
    before = mx.array(model.unet.conv.bias)
    averages = {"conv": {"bias": before + 1}}
    Result(None, model, "float32").write(learner, tmp_path / "out", TrainingRecord(), averages)
    assert mx.array_equal(model.unet.conv.bias, before)
    assert mx.array_equal(StableDiffusion.load(tmp_path / "out", dtype="float32").unet.conv.bias, before + 1)


def test_a_result_is_not_put_over_a_file_of_the_user(tmp_path):
    (tmp_path / "there.safetensors").write_bytes(b"mine")
    (tmp_path / "folder").mkdir()
    results.check_out(tmp_path / "new.safetensors", folder=False, force=False)
    results.check_out(tmp_path / "there.safetensors", folder=False, force=True)
    for name, folder, force in (
        ("there.safetensors", False, False),
        ("there.safetensors", True, True),
        ("folder", True, False),
        ("folder", False, True),
        ("result.bin", False, True),
    ):
        with pytest.raises(InputError):
            results.check_out(tmp_path / name, folder=folder, force=force)
