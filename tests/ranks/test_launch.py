"""Real processes of MLX's launcher: what they exchange is right, and however one of them ends, all end well."""

import signal
import textwrap
import time
from collections.abc import Callable, Iterator

import pytest

from tests.support import launcher
from tests.support.launcher import Ended, Launch, needs_launcher, needs_proc, wait_for

pytestmark = [needs_launcher, needs_proc]

PROGRAM = """
import os, signal, sys, time
import mlx.core as mx
import numpy as np
from mlx_sd.core import command
from mlx_sd.core.errors import InputError
from mlx_sd.ranks import beats, launch, members, watch
members.SILENCE = {silence}
watch.LIMIT, watch.LEAVE, launch.PATIENCE = 8.0, 3.0, 4.0
def say(*words):
    print(*words, file=sys.__stderr__, flush=True)
def together(ranks, seconds):  # exchanges all the time
    end = time.monotonic() + seconds
    while ranks.all(time.monotonic() < end):
        time.sleep(0.05)
def work(ranks):
{body}
try:
    sys.exit(command.run("program", lambda: launch.run(work, keep_going={keep_going})))
except KeyboardInterrupt:
    say("a traceback")
"""
SILENCE = 4.0  # seconds after which a rank that is not heard counts as lost, instead of 20
ENDED = "has ended without a word: it was killed, or has crashed"
SILENT = "it is stopped, asleep or cut off"


@pytest.fixture
def begin(tmp_path) -> Iterator[Callable[..., Launch]]:
    """begin(3, "...") starts a program by three ranks, whose work is `body`; silence: seconds, see SILENCE."""
    with launcher.Launches(tmp_path) as launches:

        def start(ranks: int, body: str, keep_going: bool = False, silence: float = SILENCE) -> Launch:
            text = textwrap.indent(textwrap.dedent(body), "    ")
            program = PROGRAM.format(body=text, keep_going=keep_going, silence=silence)
            return launches.start(ranks, "-c", program)

        yield start


@pytest.fixture
def run(begin) -> Callable[..., Ended]:
    """run(3, "...") is a program that came to its end."""
    return lambda ranks, body, keep_going=False: begin(ranks, body, keep_going).wait()


def gone(launch: Launch) -> float:
    """Waits until all ranks have ended, and returns the seconds; the launcher may be late on a machine that is busy."""
    return wait_for(lambda: not launch.members(), 60)


def begun(launch: Launch, lines: int) -> None:
    """Waits until so many ranks have printed that they work."""
    wait_for(lambda: launch.printed().count("works") == lines or not launch.running(), 60)


def words(ended: Ended) -> list[str]:
    """Returns what was printed after the ranks had begun."""
    return [line for line in ended.lines if line != "works"]


EXCHANGES = """
number = ranks.rank + 1
tree = {"a": [mx.array([1.0, 2.0]) * number, mx.ones((2, 3), mx.bfloat16) * number], "b": mx.array(3.0) * number}
mean = ranks.average((tree, mx.array(2.0 * number)))
assert mean[0]["a"][1].dtype == mx.bfloat16 and mean[0]["a"][1].shape == (2, 3)
assert mean[0]["a"][0].tolist() == [1.5, 3.0] and mean[0]["b"].item() == 4.5 and mean[1].item() == 3.0
assert ranks.mean([1.0, 2.0] if ranks.rank else []) == 1.5
assert ranks.all(True) and not ranks.all(ranks.rank == 0)
assert ranks.share_text("zörb" if ranks.rank else "", 1) == "zörb" and ranks.share_text("") == ""
assert ranks.share_sets({"a", str(number)}) == {"a"}
dtypes = [mx.bool_, mx.uint8, mx.int32, mx.uint64, mx.float16, mx.bfloat16, mx.float32]
arrays = {str(i): mx.array([[-0.0, 1, 3]]).T.astype(dtype) for i, dtype in enumerate(dtypes)}
arrays |= {"scalar": mx.array(float("nan")), "empty": mx.zeros((0, 2))}
shared = ranks.share(arrays if ranks.rank == 1 else {}, 1)
assert shared.keys() == arrays.keys()
for name, array in arrays.items():
    assert shared[name].dtype == array.dtype and shared[name].shape == array.shape
    bits = [np.array(a.reshape(-1).view(mx.uint8)) for a in (array, shared[name])]
    assert (bits[0] == bits[1]).all(), name
ranks.check_same({"another model": "x"})
assert ranks.beats.active and ranks.beats.silent() == []
print("fine", file=sys.stderr)
"""


def test_exchanges_keep_shapes_dtypes_and_bits(run):
    ended = run(2, EXCHANGES)
    assert ended.lines == ["fine"] and ended.launcher == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "ranks, line",
    [("ranks.rank == 1", "program: rank 1: a picture has changed"), ("True", "program: a picture has changed")],
)
def test_an_error_ends_all_with_one_line(ranks, line, run):
    ended = run(3, f"if {ranks}: raise InputError('a picture has changed')\ntogether(ranks, 60)")
    assert ended.lines == [line] and ended.codes() == {0: 2, 1: 2, 2: 2}


@pytest.mark.slow
def test_an_error_ends_ranks_that_do_not_listen(run):
    body = """
    if ranks.rank == 1: raise InputError("a picture has changed")
    end = time.monotonic() + 60
    while time.monotonic() < end: pass
    """
    ended = run(2, body)
    [line] = ended.lines
    assert line.startswith("rank 1 (host ") and line.endswith("has failed: a picture has changed")
    assert ended.codes() == {0: 1, 1: 2}


@pytest.mark.slow
def test_other_values_on_one_rank_are_named(run):
    ended = run(2, 'ranks.check_same({"a version": "x", "another model": str(ranks.rank)})')
    assert ended.lines == ["program: rank 1 has another model than rank 0; all ranks need the same"]
    assert ended.codes() == {0: 2, 1: 2}


@pytest.mark.slow
@pytest.mark.parametrize("rank, keep_going", [(0, False), (1, True)])
def test_a_killed_rank_is_named_by_one_that_lives(rank, keep_going, begin):
    """The others cannot go on where they wait for it."""
    launch = begin(3, "say('works')\ntogether(ranks, 60)", keep_going)
    begun(launch, 3)
    launch.signal_rank(rank, signal.SIGKILL)
    assert gone(launch) < 15
    ended = launch.wait()
    [line] = words(ended)
    assert f"rank {rank} (host " in line and ENDED in line
    assert ended.codes()[rank] == -9 and launch.members() == []


@pytest.mark.slow
def test_a_stopped_rank_ends_those_that_never_exchange(begin):
    """The main thread is busy, and does not look: its process ends all the same, and the one that is stopped too."""
    launch = begin(2, "say('works')\nwhile True: pass")
    begun(launch, 2)
    launch.signal_rank(0, signal.SIGSTOP)
    assert 4 <= gone(launch) < 15
    ended = launch.wait()
    [line] = words(ended)
    assert line.startswith("rank 0 (host ") and SILENT in line


@pytest.mark.slow
def test_a_run_that_is_stopped_as_a_whole_goes_on(begin):
    """As by Ctrl-Z and fg, or a laptop that sleeps."""
    launch = begin(2, "say('works')\ntogether(ranks, 3)\nsay('done')")
    begun(launch, 2)
    launch.signal_all(signal.SIGSTOP)
    time.sleep(8)
    launch.signal_all(signal.SIGCONT)
    ended = launch.wait()
    assert words(ended) == ["done", "done"] and ended.codes() == {}


GO_ON = """
say("works")
end = time.monotonic() + 60
while ranks.rank != 1 and not ranks.beats.silent() and time.monotonic() < end:
    print("x" * 1000, flush=True)  # far more than a pipe holds, which the launcher does not read any more
    time.sleep(0.001)
if ranks.rank == 1: time.sleep(60)
for _ in range(1000): print("x" * 1000, flush=True)
time.sleep(3)
say("done")
"""


@pytest.mark.slow
@pytest.mark.parametrize("number, reason", [(signal.SIGKILL, ENDED), (signal.SIGSTOP, SILENT)])
def test_the_others_go_on(number, reason, begin):
    launch = begin(3, GO_ON, keep_going=True)
    begun(launch, 3)
    launch.signal_rank(1, number)
    ended = launch.wait()
    line, *rest = words(ended)
    assert line.startswith("rank 1 (host ") and line.endswith("; the others go on without it") and reason in line
    assert rest == ["done", "done"] and ended.codes() == {1: -9} and launch.members() == []


@pytest.mark.slow
def test_the_others_go_on_where_one_fails(run):
    body = """
    if ranks.rank == 0: raise InputError("the disk is full")
    time.sleep(10)
    say("done")
    """
    ended = run(3, body, keep_going=True)
    line, *rest = ended.lines
    assert line.startswith("rank 0 (host ") and "has failed: the disk is full; the others go on" in line
    assert rest == ["done", "done"] and ended.codes() == {0: 2}


@pytest.mark.slow
@pytest.mark.parametrize("whom, keep_going", [("all", False), ("ranks", True), ("launcher", True)])
def test_ctrl_c_ends_all(whom, keep_going, begin, tmp_path, interruptible):
    """whom: of a terminal's Ctrl-C, of the end of ssh, and the launcher alone, which is killed."""
    body = """
    try:
        say("works")
        together(ranks, 60) if ranks.rank else time.sleep(60)
    except KeyboardInterrupt:
        open(f"whole-{ranks.rank}", "w").close()
        raise
    """
    # On a busy machine a rank may be starved for as long as SILENCE, and with keep_going the others would go on.
    launch = begin(3, body, keep_going, silence=20.0)
    begun(launch, 3)
    if whom == "all":
        launch.signal_all(signal.SIGINT)
    elif whom == "launcher":
        launch.process.kill()
    else:
        for rank in range(3):
            launch.signal_rank(rank, signal.SIGHUP)
    gone(launch)
    assert sorted(path.name for path in tmp_path.glob("whole-*")) == ["whole-0", "whole-1", "whole-2"]
    lines = words(launch.wait())
    assert whom != "ranks" or lines == ["program: interrupted"]  # the launcher that ends prints nothing of them
