"""Networks that are not needed leave memory, byte for byte, and come back bit for bit when they are used."""

import gc

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

from mlx_sd.load import load
from mlx_sd.train import session
from mlx_sd.train.idle_networks import IdleNetworks
from mlx_sd.train.learning.kind_settings import EmbeddingSettings, LoraSettings, PruneSettings, UNetSettings
from tests.train.test_session import data, train  # noqa: F401 - fixtures

pytestmark = pytest.mark.filterwarnings("ignore:.*loss.png is not drawn.*:UserWarning")


def size(*networks) -> int:
    return sum(array.nbytes for network in networks for _, array in tree_flatten(network.parameters()))


def active() -> int:
    mx.synchronize()
    return mx.get_active_memory()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_memory_falls_by_the_bytes_of_their_weights_and_they_compute_the_same_again(dtype):
    model = load("tiny", dtype)
    networks = (model.vae, *model.text_encoders)
    ids = mx.array(model.tokenizers[0].chunks("a red tent"))
    latents = mx.random.normal((1, 8, 8, 4), key=mx.random.key(0)).astype(model.dtype)

    def outputs():
        results = model.vae.decode(latents), *(encoder(ids).last for encoder in model.text_encoders)
        mx.eval(results)
        return results

    first, before = outputs(), active()
    idle = IdleNetworks(model, LoraSettings())
    assert idle.networks.keys() == {"vae", "text_encoder"}
    for _ in range(2):
        idle.unload()
        assert before - active() == pytest.approx(size(*networks), rel=0.01)
        assert all(mx.array_equal(a, b).item() for a, b in zip(first, outputs(), strict=True))
        # the encoding half of the autoencoder was not used
        assert before - active() == pytest.approx(size(*model.vae.encoder), rel=0.01)


SETTINGS = {
    "a LoRA": (LoraSettings(), {}, {"vae", "text_encoder"}),
    "a LoRA that needs pictures": (LoraSettings(random_crop=True), {}, {"text_encoder"}),
    "a LoRA of text too": (LoraSettings(text_rate=1e-4), {}, {"vae"}),
    "a word": (EmbeddingSettings(token="zorb", like="red"), {}, {"vae"}),
    "a UNet": (UNetSettings(), {}, {"vae", "text_encoder"}),
    "a smaller UNet": (PruneSettings(), {"replaced": True}, {"vae", "text_encoder", "unet"}),
    "all stays": (LoraSettings(keep_encoders=True), {}, set()),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_which_networks_are_not_needed(name, family):
    settings, options, expected = SETTINGS[name]
    assert IdleNetworks(family("sd1").model, settings, **options).networks.keys() == expected


def test_networks_that_no_file_holds_stay(fresh):
    model = fresh("sd1", quantize="text_encoder=8:32")
    assert IdleNetworks(model, LoraSettings()).networks.keys() == {"vae"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lora", pytest.param("prune", marks=pytest.mark.slow)])
def test_a_training_has_the_memory_that_they_leave_before_its_first_step(kind, train, monkeypatch):  # noqa: F811
    run, unload, events = session.Trainer.run, IdleNetworks.unload, []

    def step(self, batches):
        events.append("step")
        return run(self, batches)

    def freed(self):
        gc.collect()  # else what was made before, and is no longer used, would be freed now by chance
        before = active()
        unload(self)
        events.append((set(self.networks), before - active(), size(*self.networks.values())))

    monkeypatch.setattr(session.Trainer, "run", step)
    monkeypatch.setattr(IdleNetworks, "unload", freed)
    train(kind, "--steps", "2", "--validate-every", "1")
    (parts, difference, expected), *others = events
    assert parts == {"vae", "text_encoder"} | ({"unet"} if kind == "prune" else set())
    # A pruned UNet shares a few arrays with the old one; arrays of other tests may be freed at the same time.
    assert 0.95 * expected < difference < 1.25 * expected
    assert others == ["step", "step"]


@pytest.mark.slow
def test_samples_take_them_back_and_leave_no_trace(train, monkeypatch):  # noqa: F811
    monkeypatch.setattr(session, "SAMPLE_STEPS", 1)
    plain = mx.load(str(train("lora", "--steps", "2")))
    sampled = mx.load(str(train("lora", "--steps", "2", "--sample-every", "1", out="sampled")))
    assert all(mx.array_equal(plain[name], sampled[name]).item() for name in plain)
