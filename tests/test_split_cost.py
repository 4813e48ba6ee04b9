"""What ranks exchange is counted as it is exchanged, and sharing pays above the time that the exchanges take."""

import math

import mlx.core as mx
import pytest

from mlx_sd import Request
from mlx_sd.ranks.deal import Dealt
from mlx_sd.split_cost import ETHERNET, THUNDERBOLT, Exchange, Link, exchange_of, words
from tests.support import splits
from tests.support.effort import slow_but
from tests.support.splits import NEGATIVE, PROMPT

pytestmark = pytest.mark.filterwarnings("ignore")
REQUESTS = {
    "guidance": {},
    "deepcache": {"deepcache": 2},
    "adaptive": {"deepcache": "adaptive:0"},
    "tgate": {"tgate": 2},
    "tgate, self-attention reused": {"tgate": "2,2,2,0"},
    "hires": {"hires": "2:2"},
    "tiles": {"width": 96, "height": 64, "denoise_tile": 12},
    "guidance over tiles": {"width": 96, "height": 64, "denoise_tile": 12},
}


@pytest.fixture(scope="module")
def checkpoints(shapes, tmp_path_factory):
    return splits.Checkpoints(shapes, tmp_path_factory.mktemp("splits"))


class Ranks:
    """Ranks of which all send what rank 0 does; notes how much that is."""

    rank = 0

    def __init__(self, size: int):
        self.size, self.sent = size, []

    def gather(self, array):
        mx.eval(array)
        self.sent.append(array.nbytes)
        return mx.stack([array] * self.size)


@pytest.mark.parametrize("name", slow_but(["tgate", "tiles"], REQUESTS))
def test_bytes_and_exchanges_are_those_that_rank_0_sends(name, checkpoints):
    sd, kind = checkpoints["sdxl"], "tiles" if name == "tiles" else "guidance"
    settings = {"steps": 4, "seed": 1, "sampler": "euler", "guidance": 5.0, "negative": NEGATIVE, **REQUESTS[name]}
    ranks = Ranks(2)
    sd.generate(PROMPT, **settings, output="latent", split=splits.with_deal(kind, Dealt(ranks)))
    counted = exchange_of(sd.model, Request(prompt=PROMPT, **settings), kind, 2)
    assert counted.evaluations == (6 if name == "hires" else 4)
    if name == "adaptive":  # the first evaluation needs none
        assert counted.exchanges == 8 and len(ranks.sent) == 7
        assert counted.bytes == sum(size for size in ranks.sent if size > 8)
    else:
        assert (counted.bytes, counted.exchanges) == (sum(ranks.sent), len(ranks.sent))
    if "tgate" not in name and name != "guidance over tiles":  # which exchange more than once at an evaluation
        assert counted.evaluation_bytes == max(ranks.sent)


@pytest.mark.parametrize("ranks", [2, 3])
def test_a_rank_computes_its_share_of_the_multiplications(ranks, checkpoints):
    sd = checkpoints["sd1"]
    request = Request(prompt="a AND b", negative="c", steps=4, seed=1, guidance=5.0, sampler="ddim")
    counted = exchange_of(sd.model, request, "guidance", ranks)
    assert counted.share == math.ceil(3 / ranks) * counted.macs // 3
    cached = exchange_of(sd.model, request.with_values(deepcache=2), "guidance", ranks)
    assert cached.bytes == counted.bytes and cached.share < counted.share
    assert cached.evaluation_macs == counted.evaluation_macs == counted.macs // 4


def test_it_pays_above_the_time_of_the_exchanges():
    link = Link("a string", 8e6, 1e-3)  # a megabyte a second
    exchange = Exchange("guidance", 2, 10, 10, 100_000, 10_000, 1000, 500, 100)
    assert exchange.seconds(link) == pytest.approx(10 * 2 * 1e-3 + 0.1)
    # Ten evaluations of t seconds become ten of t / 2 and the exchanges.
    assert 10 * exchange.pays_above(link) == pytest.approx(10 * exchange.pays_above(link) / 2 + exchange.seconds(link))
    assert Exchange("guidance", 3, 10, 10, 100_000, 10_000, 1000, 500, 100).seconds(link) == 2 * exchange.seconds(link)
    assert Exchange("guidance", 2, 1, 1, 1, 1, 10, 10, 10).pays_above(link) == math.inf


def test_the_words_have_both_links_and_what_is_assumed(checkpoints):
    exchange = exchange_of(
        checkpoints["sd1"].model, Request(prompt="a", steps=2, seed=0, sampler="ddim"), "guidance", 2
    )
    line = words(exchange)
    assert "2 ranks exchange 1.02 kB at each of 2 evaluations" in line
    assert f"{1000 * exchange.pays_above(THUNDERBOLT):.1f} ms over Thunderbolt" in line
    assert f"{1000 * exchange.pays_above(ETHERNET):.1f} ms over Ethernet" in line
    assert "16 Gbit/s and 0.30 ms a message assumed" in line and "0.936 Gbit/s and 0.30 ms" in line
