"""Pictures of tokens: what a request decides, which calls there are, and what of an image stays."""

import mlx.core as mx
import numpy as np
import pytest
from PIL import Image

from mlx_sd import DeepCache, InputError, StableDiffusion, cost
from mlx_sd.discrete import calls
from mlx_sd.networks.family import Family
from mlx_sd.networks.tokens import TokenUNet
from mlx_sd.preview import Preview
from mlx_sd.request import Request
from tests.support import tokens
from tests.support.effort import slow_but
from tests.support.tokens import FACTOR, SIDE

PROMPT, COUNT = "a red tent", SIDE * SIDE
SETTINGS = {
    name: {"sampler": name} | ({} if name == calls.DNDM_C else {"steps": 4}) for name in calls.NAMES
}  # of one picture of each sampler
SAMPLERS = slow_but([calls.MASKGIT, calls.DNDM], calls.NAMES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tokens.write_folder(tmp_path_factory.mktemp("tokens") / "model")


@pytest.fixture(scope="module")
def sd(folder):
    return StableDiffusion.load(folder, "float32")


@pytest.fixture(scope="module")
def picture():
    """A picture of many colours, of the model's size."""
    noise = np.random.default_rng(0).integers(256, size=(SIDE, SIDE, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((SIDE * FACTOR,) * 2, Image.Resampling.NEAREST)


def tokens_of(sd, result):
    """The tokens (N, h, w) of the pictures of a result."""
    return np.array(sd.vae.tokens(sd.vae.unscale(result.latents)))


def made(sd, **settings):
    return sd.generate(PROMPT, **{"seed": 3, "steps": 4} | settings)


def same(a, b):
    return mx.array_equal(a.latents, b.latents).item() and all(
        one.tobytes() == other.tobytes() for one, other in zip(a.images, b.images, strict=True)
    )


def calls_to(sd, monkeypatch):
    """A list that grows by the rows and the time of each call of the network."""
    seen = []
    original = TokenUNet.__call__

    def call(self, x, time, *arguments, **keywords):
        seen.append((x, time.item()))
        return original(self, x, time, *arguments, **keywords)

    monkeypatch.setattr(TokenUNet, "__call__", call)
    return seen


def test_the_model_is_a_family_of_its_own(sd):
    assert sd.model.family is Family.TOKENS and sd.model.tokens.corruption.mask == tokens.TOKENS
    completed = sd.complete(Request(prompt=PROMPT))
    assert (completed.sampler, completed.steps, completed.guidance, completed.temperature) == ("maskgit", 12, 2.0, 1.0)
    assert (completed.width, completed.height) == (SIDE * FACTOR,) * 2
    assert sd.complete(completed) == completed and sd.complete(Request.from_json(completed.to_json(), "x")) == completed


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_completed_request_makes_the_same_picture_again(sd, name):
    first = sd.generate(PROMPT, seed=3, **SETTINGS[name])
    (again,) = sd.stream([Request.from_json(first.requests[0].to_json(), "here")])
    assert same(first, again)
    assert not same(first, sd.generate(PROMPT, seed=4, **SETTINGS[name]))


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_picture_of_a_batch_is_that_of_its_seed_alone(sd, name):
    together = sd.generate(PROMPT, seed=3, count=3, batch=3, **SETTINGS[name])
    alone = [sd.generate(PROMPT, seed=3 + i, **SETTINGS[name]) for i in range(3)]
    for i, result in enumerate(alone):
        assert together.images[i].tobytes() == result.images[0].tobytes()
    assert together.calls == tuple(result.calls[0] for result in alone)
    assert together.evaluations == max(together.calls)


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_network_is_called_as_often_as_there_are_distinct_times(sd, name, monkeypatch):
    seen = calls_to(sd, monkeypatch)
    result = sd.generate(PROMPT, seed=5, **SETTINGS[name])
    times = [time for _, time in seen]
    assert len(set(times)) == len(times) == result.calls[0] == result.evaluations
    assert times == sorted(times, reverse=True) and all(0 < time <= 1 for time in times)
    assert cost.cost_of(sd.model, result.requests[0]).evaluations == len(times)


def test_of_many_steps_dndm_calls_the_network_at_few(sd):
    result = made(sd, sampler="dndm", steps=1000)
    assert result.calls[0] <= COUNT < 1000 / 10


def test_another_schedule_is_told_as_the_share_of_changed_tokens(sd, monkeypatch):
    """Linear is the schedule of this model's training, where time is the share of tokens that have changed."""
    seen = calls_to(sd, monkeypatch)
    made(sd, sampler="d3pm", schedule="cosine", steps=4)
    assert np.allclose([time for _, time in seen], [1 - np.cos(np.pi / 2 * t / 4) ** 2 for t in (4, 3, 2, 1)])


def test_deepcache_is_exact_when_every_call_is_full_and_saves_otherwise(sd):
    plain, every, second = (made(sd, steps=9, deepcache=policy) for policy in (None, DeepCache(1), DeepCache(2)))
    assert same(plain, every)
    assert (plain.full, second.full, second.evaluations) == (9, 5, 9)
    counted = [cost.cost_of(sd.model, result.requests[0]) for result in (plain, second)]
    assert counted[1].full == 5 and counted[1].macs < counted[0].macs


@pytest.mark.parametrize("name", SAMPLERS)
def test_of_an_image_at_strength_one_nothing_is_left(sd, name, picture):
    assert same(
        sd.generate(PROMPT, seed=3, **SETTINGS[name]),
        sd.generate(PROMPT, seed=3, image=picture, strength=1.0, **SETTINGS[name]),
    )


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_weaker_a_change_the_more_tokens_of_the_image_stay(sd, name, picture):
    image = np.array(sd.vae.tokens(sd.vae.unscale(sd.encode(picture))))
    settings = SETTINGS[name] if name == calls.DNDM_C else SETTINGS[name] | {"steps": 20}
    results = [sd.generate(PROMPT, seed=3, image=picture, strength=s, **settings) for s in (0.3, 0.9)]
    weak, strong = ((tokens_of(sd, result) == image).mean() for result in results)
    assert weak > strong
    assert results[0].calls[0] < results[1].calls[0]


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("strength", [None, 0.6])
def test_tokens_outside_a_mask_stay_and_so_do_its_pixels(sd, name, picture, strength, monkeypatch):
    mask = Image.new("L", picture.size, 0)
    mask.paste(255, (2, 0, 7, 24))  # reaches into the first two of six columns of tokens
    image = np.array(sd.vae.tokens(sd.vae.unscale(sd.encode(picture))))
    seen = calls_to(sd, monkeypatch)
    result = sd.generate(PROMPT, seed=3, image=picture, mask=mask, strength=strength, **SETTINGS[name])
    assert (tokens_of(sd, result)[:, :, 2:] == image[:, :, 2:]).all()
    assert all((np.array(x)[:, :, 2:] == image[:, :, 2:]).all() for x, _ in seen)
    assert seen[0][1] <= (strength or 1) / 3 + 1e-6  # the share of changed tokens is that of a third of a picture
    if strength is None:
        assert (np.array(seen[0][0])[:, :, :2] == tokens.TOKENS).all()  # all of the two columns are masked at first
    original, painted = np.asarray(picture), np.asarray(result.images[0])
    assert (painted[:, 7:] == original[:, 7:]).all() and (painted[:, :2] == original[:, :2]).all()
    assert (painted[:, 2:7] != original[:, 2:7]).any()


def test_a_picture_may_be_of_any_multiple_of_a_token(sd):
    result = made(sd, width=SIDE * FACTOR + FACTOR, height=2 * FACTOR)
    assert result.images[0].size == (28, 8) and result.latents.shape[1:3] == (2, 7)


def test_guidance_negative_prompt_and_temperature_change_the_picture(sd):
    plain = made(sd)
    for settings in ({"guidance": 1.0}, {"guidance": 8.0}, {"negative": "a dark stormy sky"}, {"temperature": 0.2}):
        assert not same(plain, made(sd, **settings)), settings
    assert same(made(sd, guidance=1.0), made(sd, guidance=0.0))


def test_a_prompt_that_changes_on_the_way_is_read_at_each_call(sd):
    settings = {"seed": 3, "steps": 4, "guidance": 5.0}  # so much that the words of random weights decide tokens
    plain = sd.generate("a red tent", **settings)
    assert not same(sd.generate("a red [tent:moon:0.5]", **settings), plain)
    assert same(sd.generate("a red [tent:moon:99]", **settings), plain)


def test_deep_features_of_another_prompt_are_dropped(sd):
    results = [sd.generate(prompt, seed=3, steps=9, deepcache=9) for prompt in ("a tent", "a [tent:moon:4]")]
    assert [result.full for result in results] == [1, 2]


def test_previews_are_of_the_tokens_of_now_and_the_last_is_the_picture(sd):
    preview, shown = Preview(sd), []
    result = made(sd, callback=lambda call, count, estimate: shown.append((call, count, preview(estimate)[0])))
    assert [(call, count) for call, count, _ in shown] == [(i, 4) for i in range(1, 5)]
    assert shown[-1][2].tobytes() == result.images[0].tobytes() != shown[0][2].tobytes()


@pytest.mark.slow
def test_low_memory_and_quantized_weights_make_pictures(folder, sd):
    low = StableDiffusion.load(folder, "float32", low_memory=True)
    assert same(made(low), made(sd))
    assert made(StableDiffusion.load(folder, "float32", quantize="8:32")).images[0].size == (24, 24)
    assert made(StableDiffusion.load(folder, "float16")).images[0].size == (24, 24)


@pytest.fixture(scope="module")
def multinomial(tmp_path_factory):
    path = tokens.write_folder(tmp_path_factory.mktemp("tokens") / "multinomial", tokens.MULTINOMIAL)
    return StableDiffusion.load(path, "float32")


def test_a_model_without_a_mask_has_its_own_default_and_refuses_samplers_that_mask(multinomial):
    result = made(multinomial)
    assert result.requests[0].sampler == "dndm_k" and result.requests[0].schedule == "linear"
    with pytest.raises(InputError, match=r"maskgit masks tokens, and .* knows no mask; dndm_k decides as many"):
        made(multinomial, sampler="maskgit")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vqvae": {"num_vq_embeddings": 23}}, "its UNet scores 24 tokens, and its codebook has 23"),
        ({"text_encoder": {"hidden_size": 48}}, "its UNet looks at text of width 32, and its text encoder's is 48"),
        ({"scheduler": {"corruption": "multinomial"}}, "corruption of 24 tokens has 24 states, and the UNet's are 25"),
        ({"scheduler": {"corruption": "gaussian"}}, "corruption = 'gaussian' is not supported"),
        ({"scheduler": {"schedule": "karras"}}, "there is no schedule 'karras' of tokens"),
        ({"scheduler": {"num_train_timesteps": 0}}, "steps must be from 1"),
        ({"scheduler": {"beta_start": 0.1}}, "unknown field(s) beta_start"),
        ({"scheduler": {"_class_name": "DDIMScheduler"}}, "its scheduler is no TokenDiffusion"),
        ({"unet": {"token_states": 26}}, "there are as many states or one more, not 26"),
        ({"unet": {"token_states": None, "in_channels": 4}}, "its UNet's config has no token_states"),
    ],
)
def test_parts_that_do_not_fit_together_are_one_line(tmp_path, changes, message):
    states = changes.get("unet", {}).get("token_states", 25)
    path = tmp_path / "model"
    if states == 26:  # no network has so many, so none can be written
        tokens.write_folder(path)
        config = path / "unet" / "config.json"
        config.write_text(config.read_text().replace('"token_states": 25', '"token_states": 26'))
    else:
        tokens.write_folder(path, changes)
    with pytest.raises(InputError) as error:
        StableDiffusion.load(path, "float32")
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_weight_that_is_missing_is_named(tmp_path, folder):
    path = tokens.write_folder(tmp_path / "model")
    file = path / "unet" / "diffusion_pytorch_model.safetensors"
    weights = mx.load(str(file))
    weights.pop("token_embedding.weight")
    mx.save_safetensors(str(file), weights)
    with pytest.raises(InputError, match=r"1 missing \(token_embedding.weight\)"):
        StableDiffusion.load(path, "float32")


def test_arrays_of_latents_are_refused(sd):
    with pytest.raises(InputError, match="are for latents; this model's pictures are tokens"):
        sd.generate(PROMPT, latents=mx.zeros((1, SIDE, SIDE, 4)))
