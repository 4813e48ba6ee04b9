"""Parts that are dealt out are all computed, each once, and come back in order, bit for bit."""

import mlx.core as mx
from hypothesis import given
from hypothesis import strategies as st

from mlx_sd.ranks.deal import Deal, Dealt, share_of

COUNT, RANKS = st.integers(1, 12), st.integers(1, 6)
SHAPE = st.tuples(st.integers(0, 3), st.integers(1, 4))
DTYPES = (mx.float32, mx.float16, mx.bfloat16)


class Ranks:
    """A rank whose exchanges are noted, and answered from what was noted of all."""

    def __init__(self, rank: int, size: int, noted: dict[int, mx.array] | None = None):
        self.rank, self.size, self.noted, self.sent = rank, size, noted, None

    def gather(self, array):
        self.sent = array
        return mx.stack([array] * self.size if self.noted is None else [self.noted[r] for r in range(self.size)])


def exchanged(size, call):
    """Returns what call(deal) returns on each rank, after each has sent its own part."""
    noted = {}
    for rank in range(size):
        ranks = Ranks(rank, size)
        call(Dealt(ranks))
        noted[rank] = ranks.sent
    assert len({(array.shape, array.dtype) for array in noted.values()}) == 1  # as MLX's ring needs it
    return [call(Dealt(Ranks(rank, size, noted))) for rank in range(size)]


@given(count=st.integers(0, 40), size=RANKS)
def test_every_part_is_in_one_share_and_shares_are_nearly_equal(count, size):
    shares = [share_of(rank, size, count) for rank in range(size)]
    assert [number for share in shares for number in share] == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert len(shares[0]) == max(map(len, shares))


@given(shapes=st.lists(SHAPE, min_size=1, max_size=9), size=RANKS, dtype=st.sampled_from(DTYPES))
def test_results_of_any_shapes_come_back_in_order_on_every_rank(shapes, size, dtype):
    parts = [mx.random.normal(shape, key=mx.random.key(i)).astype(dtype) for i, shape in enumerate(shapes)]

    def call(deal):
        return deal.collect([parts[i] for i in deal.share(len(parts))], shapes, dtype)

    if not any(part.size for part in parts):
        return
    for collected in (*exchanged(size, call), call(Deal())):
        assert [array.dtype for array in collected] == [dtype] * len(parts)
        assert all(mx.array_equal(a, b) and a.shape == b.shape for a, b in zip(collected, parts, strict=True))


@given(copies=COUNT, count=st.integers(1, 3), size=RANKS)
def test_rows_come_back_in_the_order_of_the_batch(copies, count, size):
    rows = mx.arange(copies * count * 2, dtype=mx.float32).reshape(-1, 2)

    def call(deal):
        share = deal.share(copies)
        return deal.collect_rows(rows[share.start * count : share.stop * count], copies, count)

    for collected in (*exchanged(size, call), call(Deal())):
        assert mx.array_equal(collected, rows)


def test_each_array_is_evaluated_by_one_rank_one_at_a_time(monkeypatch):
    arrays, evaluated = [mx.ones(3) * i for i in range(5)], []
    monkeypatch.setattr(mx, "eval", lambda array: evaluated.append(next(i for i in range(5) if arrays[i] is array)))
    for rank, expected in enumerate([[0, 1], [2, 3], [4]]):
        Dealt(Ranks(rank, 3)).evaluate(arrays)
        assert evaluated == expected
        evaluated.clear()
    Deal().evaluate(arrays)
    assert evaluated == [0, 1, 2, 3, 4]


def test_arrays_that_are_not_evaluated_yet_are_those_of_one_process():
    arrays = [mx.arange(6).reshape(2, 3) * (i + 1.0) for i in range(5)]
    for collected in (*exchanged(3, lambda deal: deal.evaluate(arrays)), Deal().evaluate(arrays)):
        assert all(mx.array_equal(a, b) for a, b in zip(collected, arrays, strict=True))
