"""What is known of ranks follows from the heartbeats that were heard and the time that this process was awake."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_sd.ranks import members
from mlx_sd.ranks.members import LIMIT, SILENCE, START, Members


class Clock:
    """A clock that stands until it is put forward."""

    def __init__(self) -> None:
        self.seconds = 1e6

    def __call__(self) -> float:
        return self.seconds


class Rank(Members):
    """A rank with a clock of its own."""

    def __init__(self, rank: int, size: int = 3, run: str = "run") -> None:
        self.clock = Clock()
        super().__init__(rank, [f"10.0.0.{i}" for i in range(size)], run, self.clock)

    def wait(self, seconds: float, step: float = 1.0) -> None:
        """Lets time pass while the process is awake."""
        for _ in range(round(seconds / step)):
            self.clock.seconds += step
            self.tick()


def heartbeat(**changes: object) -> bytes:
    """Returns a heartbeat of rank 1 with other values."""
    message = json.loads(Rank(1).beat()) | {"number": 7} | changes
    return json.dumps({name: value for name, value in message.items() if value is not None}).encode()


def test_a_rank_is_silent_20_seconds_after_its_last_heartbeat():
    here, other = Rank(0, 2), Rank(1, 2)
    here.hear(other.beat())
    here.wait(SILENCE - 1)
    assert here.silent() == [] and here.reason(1) == ""
    here.wait(1)
    assert here.silent() == [1] and here.departed(1) and not here.gone(1)
    assert here.reason(1) == "has not answered for 20 s: it is stopped, asleep or cut off"
    here.hear(other.beat())
    assert here.silent() == [] and here.reason(1) == ""


def test_a_rank_that_never_speaks_has_time_to_start():
    here = Rank(0, 2)
    here.wait(START - 1)
    assert here.silent() == []
    here.wait(1)
    assert here.silent() == [1] and "since the start" in here.reason(1)


@pytest.mark.parametrize("step", [1.0, 2.0])
def test_clocks_that_are_apart_do_not_matter(step):
    here, other = Rank(0, 2), Rank(1, 2)
    other.clock.seconds = -5e9
    for _ in range(100):
        here.hear(other.beat())
        other.wait(100)
        here.wait(step * 5, step)
    assert here.silent() == []


def test_a_machine_that_has_slept_accuses_nobody():
    here, other = Rank(0, 2), Rank(1, 2)
    here.hear(other.beat())
    here.wait(3600, step=3600)
    assert here.silent() == []
    here.clock.seconds -= 7200  # a clock that is put back counts for nothing
    here.tick()
    assert here.silent() == []
    here.wait(SILENCE)
    assert here.silent() == [1]


def test_refusals_tell_that_a_process_is_gone():
    here, other = Rank(0, 2), Rank(1, 2)
    here.wait(5)
    here.refuse(1)  # it has not begun to listen
    assert not here.gone(1) and here.silent() == []
    here.hear(other.beat())
    here.refuse(1)  # what comes another way counts more
    assert not here.gone(1)
    here.wait(members.GONE)
    assert not here.gone(1)  # it may be busy
    here.refuse(1)
    assert here.gone(1) and here.silent() == [1] and "killed" in here.reason(1)
    here.hear(other.beat())
    assert not here.gone(1)


@pytest.mark.parametrize(
    "state, reason, silent",
    [("ended", "has ended", []), ("failed", "disk", [1]), ("interrupted", "was interrupted", [])],
)
def test_a_rank_tells_how_it_ends(state, reason, silent):
    here, other = Rank(0, 2), Rank(1, 2)
    other.end(state, "disk" if state == "failed" else "")
    other.end("failed", "something that follows from it")
    here.hear(other.beat())
    here.refuse(1)
    assert here.silent() == silent and here.reason(1) == reason and here.state(1) == state
    assert not here.departed(1)
    here.wait(members.DEPARTURE)
    assert here.departed(1) and here.silent() == silent


def test_facts_are_put_over_those_before():
    here, other = Rank(0, 2), Rank(1, 2)
    other.tell({"pictures": 3, "title": "x" * 1000})
    other.tell({"pictures": 4, "rate": 0.5})
    here.hear(other.beat())
    assert here.facts(1) == other.facts(1) == {"pictures": 4, "title": "x" * 200, "rate": 0.5}
    assert here.facts(0) == {}


@pytest.mark.parametrize("facts", [{"a": [1]}, {"a": None}, {str(i): "x" * 200 for i in range(9)}])
def test_facts_that_do_not_fit_are_refused(facts):
    here = Rank(0)
    here.tell({"pictures": 3})
    with pytest.raises(ValueError, match=r"heartbeat|no number"):
        here.tell(facts)
    assert here.facts(0) == {"pictures": 3}


def test_the_longest_heartbeat_is_heard():
    here, other = Rank(0, 2), Rank(1, 2)
    other.tell({str(i): "ö" * 150 for i in range(2)})
    other.end("failed", "ö " * 5000)
    content = other.beat()
    assert len(content) <= LIMIT and here.hear(content)
    assert here.reason(1).startswith("ö ö") and here.name(1).startswith("rank 1 (host ")


CHANGES = [
    {"run": "another"},
    {"run": None},
    {"rank": 0},
    {"rank": 3},
    {"rank": -1},
    {"rank": True},
    {"rank": "1"},
    {"by": 3},
    {"number": 0},
    {"number": 1.5},
    {"state": "well"},
    {"state": ["ended"]},
    {"reason": 5},
    {"facts": [1]},
    {"facts": {"a": {}}},
    {"host": None},
    {"host": "x" * LIMIT},
]


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_what_is_no_heartbeat_of_this_run_is_ignored(change):
    here = Rank(0)
    assert here.hear(heartbeat()) is not None
    assert Rank(0).hear(heartbeat(**change)) is None


@given(
    st.binary(max_size=60) | st.text(max_size=60).map(str.encode) | st.integers(1, 2 * LIMIT).map(lambda n: b"[" * n)
)
def test_damaged_datagrams_are_ignored(content):
    here = Rank(0)
    assert here.hear(content) is None and not here.heard()


@given(st.data())
def test_a_heartbeat_with_bits_turned_never_raises(data):
    content = bytearray(heartbeat())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    here = Rank(0)
    here.hear(bytes(content))
    here.tick()
    assert [*map(here.reason, range(3))] and [*map(here.name, range(3))]


def test_heartbeats_are_passed_on_once():
    """What comes twice or late is not passed on, or it would go round for ever."""
    ranks = [Rank(i, 4) for i in range(4)]
    first, second = ranks[1].beat(), ranks[1].beat()
    sender, onward = ranks[2].hear(second)
    assert sender == 1 and ranks[2].hear(second) is None and ranks[2].hear(first) is None
    sender, onward = ranks[3].hear(onward)
    assert sender == 2 and ranks[1].hear(onward) is None
    assert ranks[0].hear(onward)[0] == 3
    assert [ranks[i].unheard(1) for i in (0, 2, 3)] == [0, 0, 0]
