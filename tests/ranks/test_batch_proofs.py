"""Five hundred pictures by any number of ranks, and by ranks that are killed again and again: `make proof`."""

import json
import random
import signal
import time

import pytest

from tests.support.batches import COMMAND, NOTED, contents, program, saved
from tests.support.launcher import Launch, Launches, needs_launcher, needs_proc, wait_for

pytestmark = [needs_launcher, needs_proc, pytest.mark.proof]

PICTURES, KILLS, RANKS = 500, 20, (1, 2, 3, 4)
_PROMPTS = 25
PATIENCE = 3600.0  # seconds that a run may take on a machine that is busy


@pytest.fixture
def launches(tmp_path):
    """Starts programs in a folder with a list of prompts."""
    lines = [
        f"a tent number {i}" if i % 5 else f'{{"prompt": "a house", "output": "in/{i}.png"}}' for i in range(_PROMPTS)
    ]
    (tmp_path / "prompts.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    with Launches(tmp_path) as started:
        yield started


def words_for(pictures: int) -> tuple[str, ...]:
    return "--prompts", "prompts.txt", "--count", str(max(1, pictures // _PROMPTS))


def test_pictures_names_and_index_are_the_same_for_any_number_of_ranks(launches, tmp_path, proof):
    words = (*words_for(proof.count(PICTURES)), "--json")
    alone = launches.start(1, *COMMAND, *words, "--index", "--output", "alone/").wait(PATIENCE)
    records, files = json.loads(alone.out), contents(tmp_path / "alone")
    assert len(files) == len(records) + 2
    names = [json.loads(line)["name"] for line in (tmp_path / "alone/index.jsonl").read_text().splitlines()]
    assert [f"alone/{name}" for name in names] == [record["output"] for record in records]
    shares = {}
    for ranks in RANKS:
        folder = f"by-{ranks}"
        environment = {"MLX_RANK": "0"} if ranks == 1 else {}
        ended = launches.start(ranks, *COMMAND, *words, "--output", f"{folder}/", environment=environment).wait(
            PATIENCE
        )
        together = json.loads(ended.out)
        assert contents(tmp_path / folder) == files, ranks
        assert [record["output"].replace(folder, "alone") for record in together] == [r["output"] for r in records]
        assert sum(record["evaluations"] for record in together) == sum(record["evaluations"] for record in records)
        shares[ranks] = [sum(record["rank"] == rank for record in together) for rank in range(ranks)]
        assert all(shares[ranks]) and ended.lines == []
    proof.record(pictures=len(records), ranks=list(RANKS), files_alike=len(files), pictures_of_each_rank=shares)


def test_ranks_that_are_killed_lose_no_picture_and_make_none_twice(launches, tmp_path, proof, interruptible):
    kills, rng = proof.count(KILLS), random.Random(21)
    words = words_for(proof.count(PICTURES))
    launches.start(1, *COMMAND, *words, "--index", "--output", "alone/").wait(PATIENCE)
    files = contents(tmp_path / "alone")
    pictures = len(files) - 2
    notes, folder = tmp_path / "saved.txt", tmp_path / "p"
    notes.touch()
    kinds: dict[str, int] = {}
    written: dict[str, int] = {}  # pictures that were there after a kill, and their inodes
    for left in range(kills, -1, -1):
        ranks = rng.choice((2, 3))
        launch = launches.start(ranks, *program(NOTED), *words, "--output", "p/", environment={"SAVED": str(notes)})
        if left:
            kind = rng.choice(("one rank", "all", "Ctrl-C"))
            kinds[kind] = kinds.get(kind, 0) + 1
            before = len(saved(notes))
            more = rng.randint(0, (pictures - before) // (left + 1))
            wait_for(lambda: len(launch.pids()) == ranks)  # noqa: B023 - called here
            wait_for(lambda: len(saved(notes)) >= before + more)  # noqa: B023
            time.sleep(rng.uniform(0, 0.3 if more else 4))
            end(launch, kind, rng.randrange(ranks))
        launch.wait(60 if left else PATIENCE)
        wait_for(lambda: not launch.members(), 30)  # noqa: B023
        inodes = {str(path): path.stat().st_ino for path in folder.rglob("*.png") if path.name != "contact-sheet.png"}
        assert written.items() <= inodes.items(), "a picture was lost, or made twice"
        written = inodes
    left_there, names = contents(folder), [name for _, name in saved(notes)]
    lost, broken = files.keys() - left_there.keys(), files.items() - left_there.items()
    twice = len(names) - len({*names})
    assert (left_there, twice) == (files, 0)
    counts = {"lost": len(lost), "twice": twice, "broken": len(broken), "noted": len(names)}
    proof.record(kills=kills, kinds=kinds, pictures=pictures, **counts)


def end(launch: Launch, kind: str, rank: int) -> None:
    """Ends a run in one of three ways."""
    if kind == "one rank":
        launch.signal_rank(rank, signal.SIGKILL)
    else:
        launch.signal_all(signal.SIGKILL if kind == "all" else signal.SIGINT)
