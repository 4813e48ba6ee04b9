"""The search for full evaluations: it ends in a local minimum, goes on where it was interrupted, and repeats itself."""

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import results
from bench.schedules import search
from mlx_sd import At
from mlx_sd.core.errors import InputError
from mlx_sd.reuse.deepcache import parse
from tests.support import families

pytestmark = pytest.mark.filterwarnings("ignore:in . evaluations little repeats itself")
SIZES = st.integers(1, 30).flatmap(lambda count: st.tuples(st.just(count), st.integers(1, count)))


def ages(count, weights):
    """A distance of lists: how old the features of each evaluation are, weighted."""

    def distance(evaluations):
        age = [min(i - full for full in evaluations if full <= i) for i in range(count)]
        return float(sum(weight * a * a for weight, a in zip(weights, age, strict=True)))

    return distance


@given(SIZES)
def test_beginnings_are_lists_of_the_budget(sizes):
    count, full = sizes
    lists = search.starts(count, full)
    assert lists and len(set(lists)) == len(lists)
    for listed in lists:
        assert len(listed) == full and listed[0] == 0 and listed[-1] < count
        assert all(a < b for a, b in itertools.pairwise(listed))
        At(listed)


@given(SIZES, st.integers(1, 4), st.integers(0, 99))
def test_a_search_ends_in_a_local_minimum_of_its_budget(sizes, reach, seed):
    count, full = sizes
    distance = ages(count, np.random.RandomState(seed).random_sample(count))
    sweeps = search.search(search.starts(count, full), count, distance, reach, 99)
    evaluations, least = sweeps[-1]
    assert sweeps[-1] == sweeps[-2] and len(evaluations) == full and distance(evaluations) == least
    assert all(b.distance <= a.distance for a, b in itertools.pairwise(sweeps))
    assert sweeps[0].distance == min(map(distance, search.starts(count, full)))
    for index in range(1, full):
        assert all(distance(moved) >= least for moved in search.moves(evaluations, index, count, reach))


@given(st.integers(0, 99))
def test_of_few_evaluations_far_moves_find_the_least_of_two(seed):
    """With two full evaluations there is one to move, so that the local minimum is the global one."""
    distance = ages(9, np.random.RandomState(seed).random_sample(9))
    sweeps = search.search(search.starts(9, 2), 9, distance, reach=9)
    assert sweeps[-1].distance == min(distance((0, i)) for i in range(1, 9))


def test_moves_stay_between_the_neighbours():
    assert [*search.moves((0, 3, 5), 1, 9, 2)] == [(0, 1, 5), (0, 2, 5), (0, 4, 5)]
    assert [*search.moves((0, 3, 7), 2, 9, 3)] == [(0, 3, 4), (0, 3, 5), (0, 3, 6), (0, 3, 8)]


def test_an_interrupted_search_measures_nothing_twice(tmp_path):
    path, about, distance = tmp_path / "search.json", {"model": "m", "full": 4}, ages(12, np.linspace(2, 1, 12))
    calls = []

    def counted(evaluations):
        calls.append(evaluations)
        if len(calls) == 7:
            raise KeyboardInterrupt
        return distance(evaluations)

    def run(measure):
        return search.search(search.starts(12, 4), 12, search.Journal(path, about).measured(measure))

    with pytest.raises(KeyboardInterrupt):
        run(counted)
    assert len(results.read(path)["distances"]) == 6
    resumed = run(counted)
    assert len(calls) == len(set(calls)) + 1  # the one that was interrupted
    path.unlink()
    assert run(distance) == resumed


def test_the_file_of_another_search_is_refused(tmp_path):
    path = tmp_path / "search.json"
    search.Journal(path, {"model": "m", "full": 4}).measured(lambda evaluations: 1.0)((0, 1))
    with pytest.raises(InputError, match="is of a search with another full; name another file by --json"):
        search.Journal(path, {"model": "m", "full": 5})


@pytest.mark.slow
def test_the_distance_is_that_of_the_latents(family):
    sd = family("sd1")
    latents = search.Latents(sd, [families.PROMPT, "a red tent"], 5, {"steps": 4, "guidance": 4.0})
    assert latents.distance(At((0, 1, 2, 3, 4, 5, 6, 7))) == 0
    plain, cached = (
        [
            np.array(sd.generate(text, seed=5 + i, steps=4, guidance=4.0, deepcache=policy, output="latent").latents)
            for i, text in enumerate((families.PROMPT, "a red tent"))
        ]
        for policy in (None, At((0, 2)))
    )
    expected = np.mean([math.sqrt(np.square(a - b).mean()) for a, b in zip(plain, cached, strict=True)])
    assert latents.distance(At((0, 2))) == pytest.approx(expected, rel=1e-3)


def arguments(path, *more):
    return ["--steps", "4", "--full", "2", "--pictures", "1", "--sampler", "ddim", "--json", str(path), *more]


@pytest.mark.slow
def test_the_command_finds_the_same_list_again_and_deepcache_takes_it(tmp_path, capsys):
    texts = []
    for name in ("first.json", "second.json"):
        assert search.main(arguments(tmp_path / name)) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]
    policy = parse(texts[0].split()[1])
    values = json.loads((tmp_path / "first.json").read_text())
    assert values["policy"] == str(policy) and len(policy.evaluations) == 2 == values["full"]
    assert min(values["distances"].values()) == values["distance"]
    assert {"model", "model_hash", "sampler", "schedule", "steps", "evaluations", "seed", "machine"} <= values.keys()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--full", "5"), "--full must be from 1 to 4, the evaluations that there are, not 5"),
        (("--pictures", "0"), "--pictures, --reach and --sweeps must be at least 1"),
        (("--prompts", "nowhere.txt"), "nowhere.txt: No such file"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(more, message, tmp_path, capsys):
    assert search.main(arguments(tmp_path / "search.json", *more)) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not (tmp_path / "search.json").exists()
