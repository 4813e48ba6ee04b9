"""Simulated clusters: closed forms where there are some, limits, and bounds where there are none."""

import heapq
import json
import math

import mlx.core as mx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import results
from bench.speed import cluster
from bench.speed.cluster import Assumptions, simulate
from bench.speed.cluster_costs import Picture, count, measured, predicted
from bench.speed.cluster_events import MESSAGES, batch, lengths, share
from bench.speed.loops import Loop
from bench.speed.networks import NETWORKS, Network
from mlx_sd import StableDiffusion
from mlx_sd.core.errors import InputError
from mlx_sd.request import Request
from mlx_sd.split_cost import exchange_of

SECONDS = st.integers(1, 40).map(lambda n: n / 4)  # exact in binary, so that closed forms hold exactly
WORKERS = st.lists(SECONDS, min_size=1, max_size=8)
JOBS = st.integers(0, 60)
NOTHING = Network(0.0, math.inf, "", "")
FREE = (1.0,) * 4


def picture(alone=(2.0,) * 4, row=FREE, sent=(100,) * 4, exchanges=(1,) * 4, gate=4):
    return Picture(alone, row, sent, exchanges, gate)


# ------------------------------------------------------------------------------------------------ batches


@pytest.mark.parametrize("stealing", [False, True])
@given(st.integers(1, 12), JOBS, SECONDS, SECONDS)
def test_equal_macs_and_jobs_take_rounds(stealing, workers, jobs, seconds, start):
    done = batch([seconds] * workers, [1.0] * jobs, stealing, start)
    assert done.seconds == (start + math.ceil(jobs / workers) * seconds if jobs else 0)
    assert sum(done.jobs) == jobs and max(done.jobs) - min(done.jobs) <= 1


@given(WORKERS, JOBS)
def test_stealing_is_never_slower_than_dealing_where_jobs_are_equal(workers, jobs):
    factors = [1.0] * jobs
    assert batch(workers, factors, True).seconds <= batch(workers, factors, False).seconds


@given(WORKERS, st.lists(SECONDS, max_size=40))
def test_dealt_out_each_mac_does_every_nth_job(workers, factors):
    done = batch(workers, factors, False)
    shares = [factors[rank :: len(workers)] for rank in range(len(workers))]
    assert done.jobs == tuple(map(len, shares))
    assert done.busy == tuple(seconds * sum(share) for seconds, share in zip(workers, shares, strict=True))
    assert done.seconds == max(done.busy)


@given(WORKERS, st.lists(SECONDS, min_size=1, max_size=40))
def test_stealing_is_near_the_best_there_could_be(workers, factors):
    """No Mac waits while there are jobs: at the end, all others are busy until at most one job before it."""
    done = batch(workers, factors, True)
    longest = max(workers) * max(factors)
    assert max(done.busy) == done.seconds and sum(done.jobs) == len(factors)
    assert all(busy >= done.seconds - longest for busy in done.busy)
    assert done.seconds >= sum(factors) / sum(1 / seconds for seconds in workers) - 1e-9


@given(WORKERS, st.lists(SECONDS, max_size=30))
def test_stealing_is_what_a_simple_loop_over_jobs_gives(workers, factors):
    """The next job goes to whoever is free first; of several, to the lowest rank."""
    free = [(0.0, rank) for rank in range(len(workers))]
    for factor in factors:
        time, rank = heapq.heappop(free)
        heapq.heappush(free, (time + workers[rank] * factor, rank))
    assert batch(workers, factors, True).seconds == max(time for time, _ in free)


@pytest.mark.parametrize("stealing", [False, True])
@given(SECONDS, st.lists(SECONDS, max_size=20))
def test_one_mac_is_no_cluster(stealing, seconds, factors):
    assert batch([seconds], factors, stealing).seconds == seconds * sum(factors)


def test_lengths_are_those_of_the_seed():
    assert lengths(5, 0.1, 3) == lengths(5, 0.1, 3) != lengths(5, 0.1, 4)
    assert lengths(3, 0.0, 1) == [1.0] * 3
    drawn = lengths(4000, 0.1, 0)
    assert sum(drawn) / 4000 == pytest.approx(1, abs=0.02)
    assert math.sqrt(sum((d - 1) ** 2 for d in drawn) / 4000) == pytest.approx(0.1, rel=0.1)


# ------------------------------------------------------------------------------------------------ shared pictures

ROWS = st.lists(SECONDS, min_size=4, max_size=4).map(tuple)
NETWORK = st.builds(Network, SECONDS, st.sampled_from([50.0, 100.0, 400.0]), st.just(""), st.just(""))


@given(ROWS, ROWS, NETWORK, st.integers(1, 4))
def test_a_shared_picture_takes_the_slower_row_and_the_exchange(first, second, network, gate):
    """From the gate on, the first Mac is alone with the row that is left."""
    a, b = picture(row=first, gate=gate), picture(row=second, gate=gate)
    exchange = MESSAGES * network.latency + 100 / network.bandwidth
    expected = sum(max(first[i], second[i]) if i < gate else first[i] for i in range(4)) + 4 * exchange
    assert share(a, b, network).seconds == pytest.approx(expected, rel=1e-12)
    assert share(a, b, network).exchanging == pytest.approx(4 * exchange, rel=1e-12)


def test_each_exchange_waits_for_its_messages():
    p = picture(exchanges=(1, 5, 1, 1))
    assert share(p, p, Network(0.25, math.inf, "", "")).exchanging == 8 * MESSAGES * 0.25


@given(ROWS)
def test_without_any_exchange_two_equal_macs_take_the_time_of_the_rows(row):
    assert share(picture(row=row), picture(row=row), NOTHING).seconds == sum(row)


def test_sharing_over_no_connection_never_ends():
    dead = Network(math.inf, 1e9, "", "")
    assert share(picture(), picture(), dead).seconds == math.inf
    assert share(picture(), picture(), Network(0.0, 1e-12, "", "")).seconds > 1e12


def test_slower_macs_with_spread_wait_for_each_other():
    """The slower of two draws counts: sharing with spread takes longer than without, and as long for one seed."""
    p = picture((2.0,) * 200, (1.0,) * 200, (0,) * 200, (1,) * 200, 200)
    shared = [share(p, p, NOTHING, 0.2, seed).seconds for seed in (0, 0, 1)]
    assert shared[0] == shared[1] != shared[2] and min(shared) > 1.05 * 200


# ------------------------------------------------------------------------------------------------ costs


@pytest.mark.parametrize("text", ["full", "3", "tgate:3", "2/tgate:3"])
def test_a_row_costs_half_the_multiplications_up_to_the_gate_and_all_of_them_after_it(text):
    counts = count("tiny", Loop.parse(text), 6, mx.float32)
    assert counts.gate == (3 if "tgate" in text else 6)
    for i, (guided, row) in enumerate(zip(counts.guided, counts.row, strict=True)):
        assert guided.macs == (2 * row.macs if i < counts.gate else row.macs)
        assert row.bytes < guided.bytes if i < counts.gate else row.bytes == guided.bytes
        assert row.operations == guided.operations


@pytest.mark.parametrize("text", ["full", "3", "tgate:3", "2/tgate:3"])
def test_what_is_sent_is_what_split_guidance_sends(text):
    """The simulation's counts are those that --split prints before it starts."""
    model, loop = StableDiffusion.load("tiny", dtype="float32").model, Loop.parse(text)
    request = Request(
        prompt="a tent", steps=12, sampler="ddim", guidance=7.5, deepcache=loop.deepcache, tgate=loop.tgate
    )
    counts, real = count("tiny", loop, 12, mx.float32), exchange_of(model, request, "guidance", 2)
    assert (sum(counts.sent), sum(counts.exchanges)) == (real.bytes, real.exchanges)
    assert sum(cost.macs for cost in counts.guided) == real.macs
    assert sum(cost.macs for cost in counts.row) == real.share
    assert min(counts.sent) == real.evaluation_bytes == 2 * min(count("tiny", loop, 12, mx.float16).sent)


@pytest.mark.slow
def test_a_prediction_is_the_one_of_bench_predict():
    from bench.speed import predict

    told = predict.predict(["M1"], ["sd15"], [Loop.parse("3")], 6)["predictions"][0]
    shared = predicted("M1", "sd15", Loop.parse("3"), 6)
    assert sum(shared.alone) == pytest.approx(told["seconds"], abs=1e-3)
    assert all(alone / 2 < row < alone for alone, row in zip(shared.alone, shared.row, strict=True))


GUIDED, UNGUIDED = (results.FOLDER / f"latency-tiny-{name}cpu.json" for name in ("guided-", ""))


def test_measured_seconds_are_the_medians_of_their_kinds():
    loop = Loop.parse("3:0")
    p = measured(GUIDED, UNGUIDED, loop)
    medians = {kind["median"] for kind in results.read(GUIDED)["kinds"]}
    rows = {kind["median"] for kind in results.read(UNGUIDED)["kinds"]}
    assert set(p.alone) <= medians and set(p.row) <= rows and p.gate == len(p.alone) == 30
    assert measured(GUIDED, None, loop).row == tuple(seconds / 2 for seconds in p.alone)


@pytest.mark.parametrize(
    ("guided", "unguided", "loop", "message"),
    [
        (UNGUIDED, None, "3:0", "is not of one guided picture; measure with bench latency --guided"),
        (GUIDED, None, "7", r"has no loop 7:0; it has full, 3:0"),
        (GUIDED, GUIDED, "3:0", "is of guided pictures; measure without --guided"),
        (GUIDED, results.FOLDER / "latency-sd15-cpu.json", "3:0", "has the model sd15, and .* tiny"),
    ],
)
def test_results_that_do_not_fit_are_one_line(guided, unguided, loop, message):
    with pytest.raises(InputError, match=message):
        measured(guided, unguided, Loop.parse(loop))


# ------------------------------------------------------------------------------------------------ the command


def test_equal_arguments_give_equal_results_and_all_say_that_they_are_simulated():
    cases = {("a + b", "tiny", Loop()): [picture(), picture(alone=(8.0,) * 4, row=(4.0,) * 4)]}
    assumptions = Assumptions(macs=(1, 2, 5), jobs=20, start=0.0, spread=0.0)
    values = simulate(cases, NETWORKS, assumptions)
    assert values == simulate(cases, NETWORKS, assumptions)
    rows = [*values["batches"], *values["shared"]]
    assert values["simulation"] is True and all(row["simulation"] is True for row in rows)
    one, two, five = values["batches"]
    assert [row["ideal"] for row in (one, two, five)] == [1, 1.25, 3.5]
    assert one["stealing"] == one["dealing"] == one["pairs"] and one["stealing"]["speedup"] == 1
    assert two["dealing"]["seconds"] == 10 * 32 and two["stealing"]["seconds"] == 16 * 8 == 4 * 32
    for row in (one, two, five):
        assert row["dealing"]["seconds"] >= row["stealing"]["seconds"]
        assert row["stealing"]["speedup"] <= row["ideal"]


def test_the_command_prints_and_writes_a_simulation(tmp_path, capsys):
    file = tmp_path / "c.json"
    words = ["--latency", str(GUIDED), "--loop", "3:0", "--network", "ethernet", "--macs", "1", "4", "--jobs", "40"]
    assert cluster.main([*words, "--json", str(file)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 2 and all(line.startswith("simulation: ") for line in printed)
    values = json.loads(file.read_text())
    assert values["simulation"] is True and values["assumptions"]["jobs"] == 40
    assert list(values["assumptions"]["networks"]) == ["ethernet"] and [r["macs"] for r in values["batches"]] == [1, 4]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["M9"], "there is no chip 'M9' here"),
        (["M1+M9"], "there is no chip 'M9' here"),
        (["--jobs", "0"], "there must be at least 1 Mac and 1 job, not 1 and 0"),
        (["--macs", "0", "4"], "there must be at least 1 Mac and 1 job, not 0 and 500"),
        (["--spread", "nan"], "--spread must be at least 0, not nan"),
        (["--start", "-1"], "--start must be at least 0, not -1"),
        (["--row", "x.json"], "--row goes with --latency"),
        (["M1", "--latency", "x.json"], "--latency has its own machine and model"),
        (["--latency", "x.json"], "x.json is missing"),
    ],
)
def test_wrong_options_are_one_line_before_any_work(words, message, capsys):
    assert cluster.main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"bench cluster: {message}") and error.count("\n") == 1


@pytest.mark.slow
def test_the_results_of_this_repository_are_those_of_this_version():
    """The JSON behind the plot is what the command would write, as far as the quick part of it goes."""
    values = results.read(results.FOLDER / "cluster.json")
    p = predicted("M2 Pro", "sd15", Loop.parse("3"), 25)
    cases = {("M2 Pro", "sd15", Loop.parse("3")): [p]}
    again = simulate(cases, NETWORKS, Assumptions())
    for kind in ("batches", "shared"):
        assert all(row in values[kind] for row in again[kind])
    assert json.loads(json.dumps(again["assumptions"])) == values["assumptions"]
