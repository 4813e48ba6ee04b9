"""Each rank of a split computes what one process computes, bit for bit, where it is sent what one process computes."""

import mlx.core as mx
import pytest

from tests.support import splits
from tests.support.effort import SAMPLERS, slow_but
from tests.support.splits import CASES, Case

pytestmark = pytest.mark.filterwarnings("ignore")
QUICK = ("tgate and deepcache adaptive", "control, guess mode", "sdxl", "tiles, 4 ranks")


@pytest.fixture(scope="module")
def checkpoints(shapes, tmp_path_factory):
    return splits.Checkpoints(shapes, tmp_path_factory.mktemp("splits"))


def check(case: Case, checkpoints: splits.Checkpoints) -> None:
    """Records one process, and replays every rank."""
    recording = splits.Recording()
    alone = case.generate(checkpoints, split=splits.with_deal(case.kind, recording))
    assert len(recording.records) >= alone.evaluations
    full = []
    for rank in range(case.ranks):
        replaying = splits.Replaying(rank, case.ranks, recording.records)
        result = case.generate(checkpoints, split=splits.with_deal(case.kind, replaying))
        replaying.end()
        assert splits.same(result.latents, alone.latents)
        full.append(result.full)
    assert max(full) == alone.full
    assert case.kind == "tiles" or full == [alone.full] * case.ranks


@pytest.mark.parametrize("name", slow_but(QUICK, CASES))
def test_each_rank_computes_what_one_process_does(name, checkpoints):
    check(CASES[name], checkpoints)


@pytest.mark.parametrize("sampler", slow_but(["heun", "unipc"], SAMPLERS))
def test_each_rank_computes_what_one_process_does_under_every_sampler(sampler, checkpoints):
    check(Case(options={"sampler": sampler, "deepcache": 2, "steps": 4}), checkpoints)


@pytest.mark.parametrize("name", slow_but(["guidance"], ["guidance", "tiles of the second pass"]))
def test_a_recording_changes_nothing(name, checkpoints):
    case = CASES[name]
    alone = case.generate(checkpoints)
    recorded = case.generate(checkpoints, split=splits.with_deal(case.kind, splits.Recording()))
    assert mx.array_equal(alone.latents, recorded.latents)


@pytest.mark.slow
def test_each_rank_runs_its_rows_alone_and_from_the_gate_on_one_rank_runs_all(checkpoints, monkeypatch):
    sd, rows = checkpoints["sd1"], []
    call = type(sd.unet).__call__

    def noted(unet, x, *arrays, **keywords):
        rows.append(x.shape[0])
        return call(unet, x, *arrays, **keywords)

    monkeypatch.setattr(type(sd.unet), "__call__", noted)
    case, recording = CASES["tgate, batch of 2"], splits.Recording()
    case.generate(checkpoints, split=splits.with_deal("guidance", recording))
    assert rows == [4, 4, 2, 2]
    for rank, expected in enumerate([[2, 2, 2, 2], [2, 2]]):
        rows.clear()
        replaying = splits.Replaying(rank, 2, recording.records)
        case.generate(checkpoints, split=splits.with_deal("guidance", replaying))
        assert rows == expected
