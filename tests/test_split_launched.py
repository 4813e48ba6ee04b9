"""Pictures that processes of MLX's launcher share: they are those of one process, bit for bit."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.effort import SAMPLERS
from tests.support.launcher import Launches, needs_launcher
from tests.support.splits import CASES

pytestmark = needs_launcher
LAUNCHES = {
    2: [*SAMPLERS, *(name for name, case in CASES.items() if case.ranks == 2)],
    3: [name for name, case in CASES.items() if case.ranks == 3],
    4: [name for name, case in CASES.items() if case.ranks == 4],
}
QUICK = ["tgate and deepcache adaptive", "tiles, decoded in tiles"]


def compared(folder: Path, ranks: int, names: list[str]) -> list[dict[str, Any]]:
    """Returns what was printed of each case."""
    with Launches(folder) as launches:
        ended = launches.start(ranks, "-m", "tests.support.split_ranks", str(folder), *names).wait(3000)
    assert ended.lines == [] and ended.launcher == []
    records = [json.loads(line) for line in ended.out.splitlines()]
    assert [record["name"] for record in records] == names
    return records


def check(record: dict[str, Any]) -> None:
    """Checks one case."""
    assert record["same"], record
    assert len(set(record["full"])) == 1 == len(set(record["evaluations"])), record
    assert record["requests"] and record["pixels"], record
    assert record["images"][1:] == [0] * (len(record["images"]) - 1), record
    assert record["rows"][0] == record["rows"][1] > record["most"], record


@pytest.mark.slow
def test_ranks_make_what_one_process_makes_and_compute_no_more(tmp_path):
    for record in compared(tmp_path, 2, QUICK):
        check(record)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", LAUNCHES)
def test_all_that_goes_with_a_split_is_what_one_process_makes(ranks, tmp_path):
    records = compared(tmp_path, ranks, LAUNCHES[ranks])
    failed = []
    for record in records:
        try:
            check(record)
        except AssertionError as error:
            failed.append(str(error))
    assert failed == []
