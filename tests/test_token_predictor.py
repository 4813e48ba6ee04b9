"""A network over tokens makes a picture by the samplers of tokens, with guidance, and keeps deep features exactly."""

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from mlx_sd import DeepCache, InputError
from mlx_sd.discrete import calls
from mlx_sd.discrete.calls import calls_of
from mlx_sd.discrete.corruption import Corruption
from mlx_sd.discrete.samplers import Run
from mlx_sd.networks.configs import VAEConfig
from mlx_sd.networks.tokens import TokenUNet
from mlx_sd.networks.unet_config import UNetConfig
from mlx_sd.networks.vae import Autoencoder
from mlx_sd.token_predictor import TokenPredictor
from tests.support import families, unprompted
from tests.support.effort import slow_but

TOKENS, SIZE = 40, (4, 6)
COUNT = SIZE[0] * SIZE[1]
UNET = families.FAMILIES["sd1"]["unet"] | {"in_channels": 16, "out_channels": TOKENS}
CORRUPTION = Corruption("absorbing", TOKENS)


def with_weights(network):
    """The network with random weights, the same ones for the same name."""
    flat = tree_flatten(network.parameters())
    network.load_weights([(name, mx.array(families.numbers(name, *array.shape) * 0.3)) for name, array in flat])
    return network


@pytest.fixture(scope="module")
def network():
    return with_weights(TokenUNet(UNetConfig.from_hf(UNET | {"token_states": CORRUPTION.states})))


def context(rows=2):
    return mx.array(families.numbers("context", rows, 7, UNET["cross_attention_dim"]))


def tokens_of(network, name="dndm", steps=8, seed=0, **settings):
    rng = np.random.default_rng(seed)
    told = calls_of(name, "linear", steps, COUNT, rng)
    predictor = TokenPredictor(network, SIZE, told, **{"context": context(1)} | settings)
    *_, tokens = Run(name, CORRUPTION, told, rng).steps(predictor)
    return tokens, predictor


def test_probabilities_are_of_each_token_and_add_up_to_one(network):
    x = mx.array(np.random.default_rng(0).integers(TOKENS + 1, size=(2, *SIZE)).astype(np.int32))
    logs, _ = network(x, mx.array([0.2, 0.9]), context())
    assert logs.shape == (2, *SIZE, TOKENS)
    assert np.abs(np.exp(np.array(logs)).sum(axis=-1) - 1).max() < 1e-5


@pytest.mark.slow
def test_a_cached_call_is_a_full_one_bit_for_bit(network):
    x = mx.zeros((1, *SIZE), mx.int32)
    for branch in network.unet.branches:
        full, deep = network(x, mx.array(0.5), context(1), depth=branch + 1)
        assert mx.array_equal(network(x, mx.array(0.5), context(1), deep=deep, depth=branch + 1)[0], full)


def test_the_networks_layers_have_names_in_a_checkpoint(network):
    layers = {name.rpartition(".")[0] for name, _ in tree_flatten(network.parameters())}
    assert {
        f"{layer}." for layer in layers if not f"{layer}.".startswith(tuple(f"{n}." for n in network.names))
    } == set()


@pytest.mark.parametrize("name", slow_but(["dndm"], calls.NAMES))
def test_every_sampler_makes_tokens_that_decode_to_a_picture(network, name):
    vae = with_weights(Autoencoder(VAEConfig.from_hf(unprompted.VQ | {"num_vq_embeddings": TOKENS})))
    tokens, _ = tokens_of(network, name, steps=4)
    assert tokens.max() < TOKENS
    grid = mx.array(tokens.astype(np.int32)).reshape(1, *SIZE)
    factor = vae.config.downsampling
    assert vae.decode_tokens(grid).shape == (1, SIZE[0] * factor, SIZE[1] * factor, 3)
    assert mx.array_equal(vae.tokens(vae.codebook(grid)), grid)


@pytest.mark.slow
def test_deepcache_of_every_call_is_none_and_of_others_counts_its_full_calls(network):
    plain, _ = tokens_of(network)
    every, predictor = tokens_of(network, policy=DeepCache(1))
    assert (plain == every).all()
    assert predictor.deepcache.full == predictor.deepcache.evaluations
    _, cached = tokens_of(network, policy=DeepCache(3))
    assert cached.deepcache.evaluations == predictor.deepcache.evaluations
    assert cached.deepcache.full == -(-predictor.deepcache.evaluations // 3)


def test_guidance_pushes_away_from_the_prediction_without_the_prompt(network):
    told = calls_of("dndm", "linear", 4, COUNT, np.random.default_rng(1))
    x = np.full(COUNT, TOKENS)
    rows = context()
    alone = [TokenPredictor(network, SIZE, told, rows[i : i + 1])(x, 0.7) for i in range(2)]
    both = TokenPredictor(network, SIZE, told, rows, guidance=3.0)(x, 0.7)
    mixed = alone[0] + 3 * (alone[1] - alone[0])
    expected = mixed - np.log(np.exp(mixed).sum(axis=-1, keepdims=True))
    assert np.abs(both - expected).max() < 1e-4


def test_what_does_not_fit_is_refused(network):
    told = calls_of("dndm", "linear", 4, COUNT, np.random.default_rng(2))
    with pytest.raises(InputError, match="24 tokens, and there are 30 to be sampled"):
        TokenPredictor(network, (5, 6), told, context(1))
    with pytest.raises(InputError, match="guidance 2 takes 2 contexts, not 1"):
        TokenPredictor(network, SIZE, told, context(1), guidance=2.0)
    with pytest.raises(InputError, match="the UNet scores 40 tokens"):
        TokenUNet(UNetConfig.from_hf(UNET | {"token_states": TOKENS + 2}))
