"""What findings mean: hosts that are alike are fit, and each difference from the first that answers is one problem."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_sd.hosts.links import Link
from mlx_sd.hosts.survey import Finding
from mlx_sd.hosts.verdict import judge

FACTS = {
    "mlx_sd": "1.0",
    "mlx": "0.32",
    "python": "3.12.1",
    "device": "Apple M2 Pro (gpu)",
    "memory": 32_000_000_000,
    "ring": True,
    "folder": "/Users/me",
    "in_folder": True,
    "model": {"converted": True, "folder": "m", "hash": "0123456789ab"},
    "output": {"free": 50_000_000_000},
}
LISTENING = [("10.0.0.1", 32323, "")]


def finding(name, facts=FACTS, **values):
    """Returns what is seen of a host on which all is well, but for `values`."""
    return Finding(
        name,
        0,
        facts=facts,
        **({"listening": LISTENING, "links": [Link(0.001, 1e9, True)], "reached_from": "a"} | values),
    )


FAULTS = {
    "mlx-sd": (finding("b", FACTS | {"mlx_sd": "0.9"}), "it has mlx-sd 0.9, and a 1.0"),
    "MLX": (finding("b", FACTS | {"mlx": "0.31"}), "it has MLX 0.31, and a 0.32"),
    "ring": (finding("b", FACTS | {"ring": False}), "its MLX has no ring"),
    "model": (
        finding("b", FACTS | {"model": {"converted": True, "folder": "m", "hash": "ba"}}),
        "its model is another: m has hash ba, a's 0123456789ab",
    ),
    "no model": (finding("b", FACTS | {"model": {"problem": "m does not exist"}}), "m does not exist"),
    "disk": (finding("b", FACTS | {"output": {"problem": "o cannot be written"}}), "o cannot be written"),
    "ahead": (finding("b", clock=61.0, clock_error=1.0), "its clock is 61 s ahead of a's"),
    "behind": (finding("b", clock=-61.0, clock_error=1.0), "its clock is 61 s behind a's"),
    "taken": (finding("b", listening=[("10.0.0.1", 7, "EADDRINUSE")], links=[]), "port 7 at 10.0.0.1 is taken"),
    "foreign": (finding("b", listening=[("10.0.0.1", 7, "EADDRNOTAVAIL")], links=[]), "10.0.0.1 is no address of it"),
    "odd": (
        finding("b", listening=[("10.0.0.1", 7, "EACCES")], links=[]),
        "it cannot listen at 10.0.0.1, port 7: EACC",
    ),
    "wall": (finding("b", links=[Link(problem="ETIMEDOUT")]), "a cannot reach it at 10.0.0.1, port 32323: no answer"),
    "way": (finding("b", links=[Link(problem="EHOSTUNREACH")]), "a cannot reach it at 10.0.0.1: there is no way"),
    "closed": (finding("b", links=[Link(problem="EPIPE")]), "a cannot reach it at 10.0.0.1, port 32323: EPIPE"),
    "silent": (Finding("b", 1, problem="it does not answer in 10 s"), "it does not answer in 10 s"),
}
NOTES = {
    "device": (finding("b", FACTS | {"device": "Apple M1 (gpu)"}), "its device is not a's"),
    "folder": (
        finding("b", FACTS | {"in_folder": False}),
        "it has not this folder, so that its rank starts in /Users/me",
    ),
    "conversion": (finding("b", FACTS | {"model": {"converted": False}}), "the model is not converted there yet"),
    "disk": (finding("b", FACTS | {"output": {"free": 999_999_999}}), "its disk is nearly full"),
    "noise": (finding("b", noise=["Hi"]), "its shell prints 'Hi' at login"),
    "link": (finding("b", links=[Link(0.003, 5e6, True)]), "its link is slow"),
    "heartbeats": (finding("b", links=[Link(0.003, 5e8)]), "no datagrams (UDP) reach it"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_problem_of_its_host_alone(fault):
    wrong, text = FAULTS[fault]
    first, second, third = judge([finding("a"), wrong, finding("c")])
    assert first.fit and third.fit and not second.fit
    [problem] = second.problems
    assert problem.startswith(text) and problem in second.line(1) and "NOT FIT" in second.line(1)


@pytest.mark.parametrize("note", NOTES)
def test_a_note_leaves_a_host_fit(note):
    odd, text = NOTES[note]
    verdict = judge([finding("a"), odd])[1]
    assert verdict.fit and [n for n in verdict.notes if n.startswith(text)] == verdict.notes
    assert f"note: {verdict.notes[0]}" in verdict.line(1)


def test_the_first_host_that_answers_is_the_measure():
    verdicts = judge([Finding("a", 0, problem="gone"), finding("b", FACTS | {"mlx_sd": "2.0"}), finding("c")])
    assert [v.fit for v in verdicts] == [False, True, False] and "and b 2.0" in verdicts[2].problems[0]


@given(st.lists(st.tuples(st.floats(-10, 10), st.floats(0, 3)), min_size=2, max_size=5))
def test_a_clock_is_wrong_only_where_it_is_wrong_beyond_what_the_round_trip_hides(clocks):
    """A round trip that hides a second cannot show a difference of one; further apart than that, it is a problem."""
    verdicts = judge([finding(str(i), clock=clock, clock_error=error) for i, (clock, error) in enumerate(clocks)])
    (first, least), *_ = clocks
    for verdict, (clock, error) in zip(verdicts, clocks, strict=True):
        assert verdict.fit == (abs(clock - first) <= 5 + error + least)


@given(st.lists(st.sampled_from(sorted(FAULTS)), max_size=4))
def test_every_host_is_judged_by_itself(faults):
    hosts = [finding("a"), *(replace(FAULTS[name][0], rank=i) for i, name in enumerate(faults, 1))]
    verdicts = judge(hosts)
    assert [v.fit for v in verdicts] == [True, *(False for _ in faults)]
    assert [v.problems for v in verdicts[1:]] == [judge([hosts[0], host])[1].problems for host in hosts[1:]]


def test_what_the_round_trip_hides_is_no_difference():
    assert judge([finding("a"), finding("b", clock=6.0, clock_error=1.5)])[1].fit
    assert not judge([finding("a"), finding("b", clock=6.0, clock_error=0.5)])[1].fit


def test_without_a_ring_it_is_not_asked_for():
    assert judge([finding("a", FACTS | {"ring": False})], "mpi")[0].fit
