"""The order of batches is a function of seed and epoch, and honours buckets and repeats."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_sd.core.errors import InputError
from mlx_sd.train.data.batches import Batch, batches

BUCKETS = ((64, 64), (64, 128), (128, 64), (192, 64))
# (bucket, repeats, whether it is of the class) of each example; the first is an instance.
ROWS = st.lists(st.tuples(st.sampled_from(BUCKETS), st.integers(1, 3), st.booleans()), min_size=1, max_size=12).map(
    lambda rows: [(*rows[0][:2], False), *rows[1:]]
)


def epoch_of(rows, batch: int, seed: int = 0, epoch: int = 0) -> list[Batch]:
    """Returns the batches of rows."""
    sizes, repeats, prior = zip(*rows, strict=True)
    return batches(sizes, batch, seed=seed, epoch=epoch, repeats=repeats, prior=prior)


@given(ROWS, st.integers(1, 5), st.integers(0, 99), st.integers(0, 99))
def test_the_order_is_a_function_of_seed_and_epoch(rows, batch, seed, epoch):
    assert epoch_of(rows, batch, seed, epoch) == epoch_of(rows, batch, seed, epoch)
    assert len(epoch_of(rows, batch, seed, epoch)) == len(epoch_of(rows, batch, seed + 1, epoch + 1))


@given(ROWS, st.integers(1, 5))
def test_batches_are_full_and_of_one_bucket(rows, batch):
    for entry in epoch_of(rows, batch):
        assert len(entry.instances) == batch
        assert all(rows[i][0] == entry.size and not rows[i][2] for i in entry.instances)


@given(ROWS, st.integers(1, 5))
def test_each_example_occurs_as_often_as_it_is_repeated_and_less_than_a_batch_more_in_a_bucket(rows, batch):
    occurrences = Counter(i for entry in epoch_of(rows, batch) for i in entry.instances)
    surplus = Counter()
    for i, (size, repeats, prior) in enumerate(rows):
        assert occurrences[i] == 0 if prior else occurrences[i] >= repeats
        surplus[size] += 0 if prior else occurrences[i] - repeats
    assert all(0 <= count < batch for count in surplus.values())


@given(ROWS, st.integers(1, 5))
def test_each_batch_has_as_many_priors_as_instances_of_its_bucket_where_there_are_any(rows, batch):
    sizes = {size for size, _, prior in rows if prior}
    for entry in epoch_of(rows, batch):
        assert len(entry.priors) == (batch if sizes else 0)
        assert all(rows[i][2] for i in entry.priors)
        assert entry.indices == entry.instances + entry.priors
        if entry.size in sizes:
            assert all(rows[i][0] == entry.size for i in entry.priors)


def test_priors_are_taken_in_turn_and_else_from_the_nearest_aspect_ratio():
    rows = [((64, 64), 6, False), *[((64, 64), 1, True)] * 3, ((128, 64), 1, True), ((192, 64), 2, False)]
    entries = epoch_of(rows, 2)
    square = Counter(i for entry in entries if entry.size == (64, 64) for i in entry.priors)
    assert square == {1: 2, 2: 2, 3: 2}
    assert [entry.priors for entry in entries if entry.size == (192, 64)] == [(4, 4)]
    rows = [((128, 128), 1, False), ((64, 64), 1, True), ((128, 128), 1, True)]
    assert epoch_of(rows, 1)[0].priors == (2,)


def test_orders_differ_between_epochs_and_seeds_and_buckets_are_mixed():
    sizes = [(64, 64)] * 20 + [(64, 128)] * 20
    first = batches(sizes, 4, seed=0, epoch=0)
    assert first != batches(sizes, 4, seed=0, epoch=1) != batches(sizes, 4, seed=1, epoch=0) != first
    shapes = [entry.size for entry in first]
    assert shapes != sorted(shapes) and shapes != sorted(shapes, reverse=True)


def test_a_last_batch_is_filled_up_with_examples_that_are_not_in_it():
    for epoch in range(10):
        for entry in batches([(64, 64)] * 7, 4, seed=0, epoch=epoch):
            assert len({*entry.instances}) == 4
    assert batches([(64, 64)], 3, seed=0, epoch=0) == [Batch((64, 64), (0, 0, 0))]


def test_the_order_is_the_same_in_every_version_of_every_library():
    assert [entry.instances for entry in batches([(64, 64)] * 6, 2, seed=7, epoch=3)] == [
        (0, 5),
        (3, 1),
        (2, 4),
    ]


def test_an_epoch_without_instances_and_a_batch_without_pictures_are_refused():
    with pytest.raises(InputError, match="no picture is left"):
        batches([(64, 64)], 1, seed=0, epoch=0, prior=[True])
    with pytest.raises(InputError, match="no picture is left"):
        batches([(64, 64)], 1, seed=0, epoch=0, repeats=[0])
    with pytest.raises(InputError, match="at least 1 picture, not 0"):
        batches([(64, 64)], 0, seed=0, epoch=0)
