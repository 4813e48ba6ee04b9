"""Token downsampling: queries are all there, keys and values are those of a coarser grid, and nothing else changes."""

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_sd import DeepCache, TokenDownsampling
from mlx_sd.core.errors import InputError
from mlx_sd.cost import cost_of
from mlx_sd.predictor import predictor_of
from mlx_sd.request import Request
from mlx_sd.reuse.token_downsampling import coarse_tokens, parse
from tests.support import families, loops
from tests.support.effort import slow_but

pytestmark = pytest.mark.filterwarnings("ignore:in . evaluations little repeats itself")

STEPS = 4
FAMILIES = slow_but(["sd1"], ["sd1", "sd2v", "sdxl"])


def completed(sd, **settings):
    return loops.completed(sd, **{"steps": STEPS} | settings)


def latents_of(sd, **settings) -> mx.array:
    return loops.latents_of(sd, completed(sd, **settings), (16, 24))


def nearest_exact(x: np.ndarray, size, factor) -> np.ndarray:
    """Chooses the tokens as PyTorch's interpolate(mode="nearest-exact") defines it, one by one."""
    height, width = size
    new = [max(1, side // factor) for side in size]
    rows = [int(np.floor((i + 0.5) * height / new[0])) for i in range(new[0])]
    columns = [int(np.floor((i + 0.5) * width / new[1])) for i in range(new[1])]
    return np.stack([x[:, row * width + column] for row in rows for column in columns], axis=1)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(2, 4))
def test_tokens_are_those_of_nearest_exact(height, width, factor):
    x = np.arange(2 * height * width * 3, dtype=np.float32).reshape(2, height * width, 3)
    assert np.array_equal(
        coarse_tokens(mx.array(x), (height, width), factor), nearest_exact(x, (height, width), factor)
    )


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("depth", [1, 2])
def test_an_evaluation_is_the_unet_with_these_keys_and_values(name, depth, family):
    """Written by hand: a hook by the name of each layer, which knows the size of its level."""
    sd, size = family(name), (16, 24)
    attending = [i for i, block in enumerate(sd.unet.config.down) if block.transformers]
    sizes = {(size[0] >> i) * (size[1] >> i): (size[0] >> i, size[1] >> i) for i in attending[:depth]}
    calls = []

    def attend(layer, x, context):
        if context is x and x.shape[1] in sizes:
            calls.append(x.shape[1])
            context = mx.array(nearest_exact(np.array(x), sizes[x.shape[1]], 2))
        return layer(x, context)

    plain, request = completed(sd), completed(sd, token_downsampling=TokenDownsampling(2, depth))
    x = mx.array(families.noise(size))
    original = type(sd.unet).__call__

    class ByHand:
        config, dtype, branches, middle = sd.unet.config, sd.unet.dtype, sd.unet.branches, sd.unet.middle

        def __call__(self, *arguments, **inputs):
            return original(sd.unet, *arguments, **inputs | {"attend": attend})

    predictor = predictor_of(sd.model, [plain])
    predictor._run_unet = ByHand()
    expected, actual = predictor(x, 900.0), predictor_of(sd.model, [request])(x, 900.0)
    assert set(calls) == set(sizes)
    assert mx.array_equal(actual, expected)
    assert not mx.array_equal(actual, predictor_of(sd.model, [plain])(x, 900.0))


@pytest.mark.slow
def test_steps_behind_the_end_are_plain(family):
    sd = family("sd1")
    request = completed(sd, token_downsampling="2:1:0.5")
    predictor, plain = predictor_of(sd.model, [request]), predictor_of(sd.model, [completed(sd)])
    x = mx.array(families.noise((16, 24)))
    same = [bool(mx.array_equal(predictor(x, 900.0), plain(x, 900.0))) for _ in range(STEPS)]
    assert same == [False, False, True, True]


def test_a_cached_pass_equals_a_full_one_at_interval_1(family):
    sd = family("sd1")
    plain, cached = (latents_of(sd, token_downsampling="2:2", deepcache=c) for c in (None, DeepCache(1)))
    assert mx.array_equal(plain, cached)


@pytest.mark.slow
def test_a_batch_makes_the_pictures_that_each_makes_alone(family):
    sd, prompts = family("sd1"), ["a red tent", "a blue house"]
    options = {"steps": 2, "seed": 2, "size": None, "width": 128, "height": 192, "output": "latent"}
    options = {name: value for name, value in options.items() if value is not None}
    together = np.array(sd.generate(prompts, batch=2, token_downsampling=2, **options).latents)
    for i, prompt in enumerate(prompts):
        alone = np.array(sd.generate(prompt, token_downsampling=2, **options).latents)[0]
        assert np.abs(together[i] - alone).max() <= 1e-4 * np.abs(alone).max()


@pytest.mark.slow
def test_it_goes_with_all_that_changes_attention(family):
    sd = family("sd1")
    for other in ({"tgate": 2}, {"pag": 2.0}, {"guidance_interval": "0-0.5"}, {"freeu": True}):
        assert not mx.array_equal(latents_of(sd, **other), latents_of(sd, **other, token_downsampling="2:2"))


def test_the_count_is_smaller_by_keys_and_values_alone(family):
    model, size = family("sd1").model, (16, 32)
    request = Request(prompt="a", steps=2, width=256, height=128, sampler="ddim", guidance=1.0)
    plain, less = (
        cost_of(model, request.with_values(token_downsampling=value)).macs for value in (None, TokenDownsampling(2))
    )
    level = next(i for i, block in enumerate(model.unet.config.down) if block.transformers)
    tokens, channels = (size[0] >> level) * (size[1] >> level), []

    def attend(layer, x, context):
        channels.extend([x.shape[2]] if context is x and x.shape[1] == tokens else [])
        return layer(x, context)

    width = model.text_encoders[0].config.width
    model.unet(mx.zeros((1, *size, 4)), mx.array(1.0), mx.zeros((1, 77, width)), attend=attend)
    # Of 3/4 of the tokens: a key and a value, and their products with all queries.
    saved = sum(tokens * 3 // 4 * (2 * c * c + 2 * tokens * c) for c in channels)
    assert channels and plain - less == 2 * saved


@given(st.integers(2, 9), st.integers(1, 4), st.floats(0, 1, exclude_min=True))
def test_it_is_read_as_it_is_written(factor, depth, end):
    settings = TokenDownsampling(factor, depth, end)
    assert parse(str(settings)) == settings


@pytest.mark.parametrize("value", ["", "1", "2:0", "2:1:0", "2:1:1.5", "a", "2,1", True, 1.5, (2, 1)])
def test_what_is_no_factor_is_refused_by_name(value):
    with pytest.raises(InputError, match="--token-downsampling"):
        parse(value)
