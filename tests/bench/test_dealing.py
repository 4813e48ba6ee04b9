"""Measurements over ranks report what one process reports, and make nothing twice."""

import json
import re
import textwrap
from functools import partial
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from bench import dealing, results
from bench.__main__ import main
from bench.quality import blocks
from mlx_sd.ranks.exchange import Ranks
from tests.support import launcher
from tests.support.launcher import needs_launcher

TIMES = re.compile(r'"seconds": \{[^}]*\}')


@pytest.fixture
def launches(tmp_path):
    with launcher.Launches(tmp_path) as started:
        yield started


def test_one_process_does_everything_in_order_and_when_it_is_asked_for():
    computed = []

    def compute(unit):
        computed.append(unit)
        return {"square": np.array([unit * unit], np.int32)}

    dealt = dealing.deal(Ranks(), range(5), compute)
    assert computed == [] and next(dealt)["square"].tolist() == [0] and computed == [0]
    assert [arrays["square"].item() for arrays in dealt] == [1, 4, 9, 16] and computed == [0, 1, 2, 3, 4]


def test_numbers_that_would_lose_digits_are_refused():
    with pytest.raises(ValueError, match="float64"):
        next(dealing.deal(Ranks(), [1], lambda unit: {"a": np.array([0.1])}))


def test_blocks_that_exist_are_not_computed_again(tmp_path):
    computed = []

    def compute(number):
        computed.append(number)
        return {"features": np.full((2, 3), number, np.float32), "latents": mx.array([number])}

    jobs = {tmp_path / f"{i}.npz": partial(compute, i) for i in range(4)}
    assert [*blocks.make(Ranks(), dict([*jobs.items()][:2]))] == [0, 1, 1]
    assert [*blocks.make(Ranks(), jobs)] == [2, 1, 1] and computed == [0, 1, 2, 3]
    assert [blocks.load(path, pytest.fail)["latents"].item() for path in jobs] == [0, 1, 2, 3]


PROGRAM = """
    import sys
    import numpy as np
    from bench import dealing
    def work(ranks):
        for count in (0, 1, 2, 7):
            computed = []
            def compute(unit):
                computed.append(unit)
                return {"a": np.full((2, unit), unit / 3, np.float32), "b": np.array([unit], np.uint8)}
            dealt = [*dealing.deal(ranks, range(count), compute)]
            assert [arrays["b"].item() for arrays in dealt] == [*range(count)]
            assert all((arrays["a"] == np.full((2, i), i / 3, np.float32)).all() for i, arrays in enumerate(dealt))
            assert computed == [*range(ranks.rank, count, 3)]
        assert dealing.agree(ranks, [ranks.rank, "ö"]) == [0, "ö"]
        print("fine", file=sys.__stderr__)
    sys.exit(dealing.run("test", work))
"""


@needs_launcher
@pytest.mark.slow
def test_each_rank_computes_its_share_and_all_get_everything(launches):
    ended = launches.run(3, "-c", textwrap.dedent(PROGRAM))
    assert ended.lines == ["fine"] * 3 and ended.codes() == {}


@needs_launcher
@pytest.mark.slow
def test_features_and_scores_are_those_of_one_process(launches, tmp_path):
    (tmp_path / "prompts.txt").write_text("a red tent\na snowman at night\na blue tent\na cactus\na moon\n")
    flags = [
        "--prompts",
        "prompts.txt",
        "--steps",
        "4",
        "--width",
        "64",
        "--height",
        "64",
        "--batch",
        "2",
        "--loop",
        "2",
    ]
    for ranks in (1, 2):
        command = ["-m", "bench", "quality", *flags, "--work", f"work-{ranks}", "--json", f"{ranks}.json"]
        assert launches.run(ranks, *command).codes() == {}
    one, two = (results.read(tmp_path / f"{ranks}.json") for ranks in (1, 2))
    machines = two.pop("ranks")
    assert len(machines) == 2 and {json.dumps(machine) for machine in machines} == {json.dumps(one["machine"])}
    assert TIMES.sub("", json.dumps(one)) == TIMES.sub("", json.dumps(two)) and one["pictures"] == 5
    assert {"frechet_to_full", "clip_score", "psnr"} <= one["loops"][1].keys()
    latents, others = (sorted((tmp_path / f"work-{ranks}").glob("*/*/*.npy")) for ranks in (1, 2))
    assert [path.name for path in latents] == [path.name for path in others] and len(latents) == 10
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(latents, others, strict=True))
    features, others = (sorted(map(read, tmp_path.glob(f"work-{ranks}/features/*.npy"))) for ranks in (1, 2))
    assert features == others and len(features) == 2


def read(path: Path) -> bytes:
    return np.load(path).tobytes()


@needs_launcher
@pytest.mark.slow
def test_the_same_captions_are_true(launches, tmp_path):
    flags = ["--captions", "5", "--batch", "2", "--steps", "3", "--width", "64", "--height", "64"]
    for ranks in (1, 2):
        launches.run(ranks, "-m", "bench", "truth", *flags, "--json", f"{ranks}.json", "--sheet", f"{ranks}.png")
    one, two = (results.read(tmp_path / f"{ranks}.json") for ranks in (1, 2))
    assert len(two.pop("ranks")) == 2 and one == two and len(one["true"]) == 5
    assert (tmp_path / "1.png").read_bytes() == (tmp_path / "2.png").read_bytes()


@pytest.mark.parametrize("rank, lines", [("1", 1), ("2", 0)])
def test_what_is_not_dealt_out_is_done_by_the_first_rank_alone(rank, lines, monkeypatch, capsys):
    monkeypatch.setenv("MLX_RANK", rank)
    monkeypatch.setattr("bench.__main__.import_module", lambda name: pytest.fail("began"))
    assert main(["latency", "--model", "tiny"]) == 0
    assert len(capsys.readouterr().err.splitlines()) == lines
