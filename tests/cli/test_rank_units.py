"""What ranks deal out and claim, without processes: other ranks are stand-ins that answer as they would."""

from pathlib import Path
from types import SimpleNamespace

import hypothesis.strategies as st
import pytest
from hypothesis import given

from mlx_sd import Request, jobs
from mlx_sd.cli import rank_start
from mlx_sd.cli.plan import Draft
from mlx_sd.cli.prompt_list import STDIN, Template
from mlx_sd.cli.rank_claims import Claims
from mlx_sd.cli.rank_folder import Group, RunFolder
from mlx_sd.cli.rank_units import Units
from mlx_sd.cli.targets import Picture
from mlx_sd.core.errors import InputError
from mlx_sd.core.version import VERSION
from mlx_sd.jobs import State

TEMPLATE = Template(Request(prompt="a tent"), 1, False)


def drafts_in(folder: Path, count: int) -> list[Draft]:
    """Returns pictures that are decided and not there."""
    picture = Picture(TEMPLATE.request, None, "a tent", 0, 0, 1)
    return [Draft(TEMPLATE, picture._replace(seed=i, number=i + 1), folder / f"{i}.png") for i in range(count)]


class Ranks:
    """A rank among others that say nothing, some of which are silent."""

    def __init__(self, rank=0, size=1, silent=(), told=None):
        self.rank, self.size, self._told = rank, size, told or {}
        self.beats = SimpleNamespace(silent=lambda: list(silent))

    def agree(self):
        """Everybody is there."""

    def share_text(self, text, owner=0):
        """Returns what another rank would tell."""
        return text if owner == self.rank else self._told[owner]


@given(sizes=st.lists(st.integers(1, 4), min_size=1, max_size=30), ranks=st.integers(1, 5))
def test_batches_are_dealt_out_in_turn_and_each_is_somebodys(sizes, ranks):
    drafts = drafts_in(Path("/nowhere"), sum(sizes))
    indices = iter(range(sum(sizes)))
    batches = [[next(indices) for _ in range(size)] for size in sizes]
    units = Units(drafts, [batches[:7], *([batches[7:]] if batches[7:] else [])], ranks)
    owned = [units.of([rank]) for rank in range(ranks)]
    assert max(map(len, owned)) - min(map(len, owned)) <= 1
    order = [unit for i in range(len(owned[0])) for own in owned if i < len(own) for unit in (own[i],)]
    assert [draft for unit in order for draft in unit.drafts] == drafts
    assert [*units.to_help(range(ranks), (), loaded=None)] == units.left
    helped = [*units.to_help(range(ranks), range(ranks), units.chunks[0].model)]
    assert sorted(map(id, helped)) == sorted(map(id, units.left))
    first = owned[helped[0].owner]
    assert len(first) == len(owned[0]) and helped[0] is first[-1]  # rank 0 has as many as any


def test_a_model_is_not_loaded_for_the_last_batch_of_a_rank_that_works(tmp_path):
    units = Units(drafts_in(tmp_path, 3), [[[0], [1], [2]]], 2)
    assert [unit.owner for unit in units.to_help([0, 1], [0, 1], loaded=None)] == [0, 0]
    assert [unit.owner for unit in units.to_help([0, 1], [0], loaded=None)] == [1, 0, 0]
    assert len([*units.to_help([0, 1], [0, 1], units.chunks[0].model)]) == 3


@pytest.mark.parametrize("replaces", [False, True])
def test_a_picture_is_made_once_another_file_is_there(replaces, tmp_path):
    (draft,) = drafts_in(tmp_path, 1)
    if replaces:
        draft.target.write_bytes(b"before")
        draft.replaces = True
    units = Units([draft], [[[0]]], 1)
    assert not units.is_made(draft) and units.left
    draft.target.unlink(missing_ok=True)
    assert not units.is_made(draft)
    draft.target.touch()
    assert not units.is_made(draft)  # of a disk that is full
    new = tmp_path / "new"
    new.write_bytes(b"after")
    new.replace(draft.target)
    assert units.is_made(draft)
    units.forget()
    assert not units.left


def test_what_is_there_is_dealt_out_to_nobody(tmp_path):
    drafts = drafts_in(tmp_path, 4)
    drafts[1].state = drafts[3].state = State.DONE
    units = Units(drafts, [[[0, 1], [2], [3]]], 2)
    assert [[draft.picture.seed for draft in unit.drafts] for unit in units.left] == [[0], [2]]
    assert len(units.chunks[0].drafts) == 4 and units.chunks[0].unit_of[1] is units.left[0]


@pytest.fixture
def batch(tmp_path):
    """A batch of two pictures, and the claims of two ranks."""
    drafts = drafts_in(tmp_path, 2)

    def claims_of(rank, silent=()):
        """Returns batches as a rank sees them, and its claims."""
        units = Units(drafts, [[[0, 1]]], 2)
        ranks = Ranks(rank, 2, silent)
        folder = SimpleNamespace(
            owner=lambda number: f"run {number}",
            rank_of=lambda text: int(text[4:]) if (text or "").startswith("run ") else None,
        )
        return units, Claims(units, folder, ranks, lambda path: path.mkdir(exist_ok=True))

    return claims_of


def test_a_batch_is_claimed_whole_or_not_at_all(batch, tmp_path):
    units, claims = batch(0)
    others, other = batch(1)
    taken = claims.take(units.left[0])
    assert [draft.picture.seed for draft, _ in taken] == [0, 1] and other.take(others.left[0]) == []
    taken[0][0].target.write_bytes(b"picture")
    taken[0][1].release()  # saved, and the second is in work
    assert other.take(others.left[0]) == []
    taken[1][1].release()  # as after a crash
    assert [draft.picture.seed for draft, _ in other.take(others.left[0])] == [1]


def test_claims_of_a_silent_rank_are_taken_over_and_those_of_another_run_are_not(batch, tmp_path):
    units, claims = batch(0)
    taken = claims.take(units.left[0])
    others, other = batch(1, silent=[0])
    again = other.take(others.left[0])
    assert len(again) == 2 and not any(claim.holds() for _, claim in taken) and all(claim.holds() for _, claim in again)
    for _, claim in [*taken, *again]:
        claim.release()
    foreign = jobs.claim(tmp_path / "1.png", "another 0")
    assert other.take(others.left[0]) == [] and foreign.holds()
    assert other.foreign(others.left) == []  # not for long yet
    other._foreign[others.left[0]] -= 60
    assert other.foreign(others.left) == others.left
    foreign.release()
    assert len(other.take(others.left[0])) == 2 and other.foreign(others.left) == []


TOLD = {
    "one folder": (["[[0, 1, 2], true]"] * 3, [Group((0, 1, 2), True)]),
    "a host of its own": (
        ["[[0, 1], true]", "[[0, 1], true]", "[[2], true]"],
        [Group((0, 1), True), Group((2,), True)],
    ),
    "no locks": (["[[0, 1, 2], true]", "[[0, 1, 2], false]", "[[0, 1, 2], true]"], [Group((0, 1, 2), False)]),
    "late": (
        ["[[0, 1], true]", "[[0, 1, 2], true]", "[[1, 2], true]"],
        [Group((0,), True), Group((1,), True), Group((2,), True)],
    ),
}


@pytest.mark.parametrize("case", TOLD)
def test_ranks_that_see_each_other_are_a_group(case, tmp_path):
    told, groups = TOLD[case]

    class Sees(Ranks):
        def share_text(self, text, owner=0):
            return text if len(text) == 16 else told[owner]  # the first is the name of the run

    folder = RunFolder(tmp_path / "p", Sees(0, 3))
    assert folder.groups == groups
    folder.add(3, {"output": "ü"})
    assert folder.records() == {3: {"output": "ü"}}
    with next((tmp_path / "p").glob(".mlx-sd-run-*/*.jsonl")).open("a", encoding="utf-8") as journal:
        journal.write('[4, {"outp')
    assert folder.records().keys() == {3}  # the line of a rank that was killed
    folder.remove()
    folder.close()
    assert not (tmp_path / "p").exists()


def test_what_a_killed_run_has_left_is_removed_and_another_run_s_folder_is_not(tmp_path):
    left, other = tmp_path / ".mlx-sd-run-1", tmp_path / ".mlx-sd-run-2"
    for folder in (left, other):
        folder.mkdir()
        (folder / "rank-0.jsonl").touch()
    jobs.claim_path(left / "rank-0").touch()
    claim = jobs.claim(other / "rank-0")
    folder = RunFolder(tmp_path, Ranks())
    folder.remove()
    folder.close()
    assert [path.name for path in tmp_path.iterdir()] == [".mlx-sd-run-2"]
    claim.release()


def test_ranks_compare_versions_prompts_and_settings():
    told = []
    ranks = SimpleNamespace(check_same=told.append)
    for prompt, steps, quiet in (("a tent", 1, False), ("a hut", 1, False), ("a tent", 2, False), ("a tent", 1, True)):
        templates = [TEMPLATE._replace(request=Request(prompt=prompt, steps=steps))]
        arguments = SimpleNamespace(prompts=Path("prompts.txt"), quiet=quiet)
        rank_start.check_command(SimpleNamespace(arguments=arguments, templates=templates), ranks)
    first, *others = told
    assert [[part for part in first if part_of[part] != first[part]] for part_of in others] == [
        ["another file of prompts"],
        ["other settings"],
        ["other settings"],
    ]
    assert first["another version of mlx-sd"] == VERSION and first["another version of MLX"]


def test_prompts_of_the_standard_input_are_refused():
    rank_start.check_input(SimpleNamespace(prompts=Path("prompts.txt")))
    with pytest.raises(InputError, match="never ends the standard input"):
        rank_start.check_input(SimpleNamespace(prompts=STDIN))
