"""Which value is faster, decided on machines whose clock is told how long everything takes."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_sd.networks.tuning import DEFAULT, Tuning
from mlx_sd.tuning import measure
from mlx_sd.tuning.choices import CHOICES, Shapes, applicable, named
from tests.support.tuned import Machine

COMPILE, CHANNELS = named(["compile_step"])[0], named(["conv_in_channels"])[0]
PIECE = named(["piece"])[0]


def tune(machine, choices=(COMPILE,), findings=None, seconds=1e9, measured=None, save=lambda: None):
    """Returns what is found, and whether it is all."""
    findings = [] if findings is None else findings
    done = measure.tune(
        findings,
        choices,
        machine,
        measured=[choice.name for choice in choices] if measured is None else measured,
        clock=machine.clock,
        seconds=seconds,
        save=save,
    )
    return findings, done


def cost(**speeds):
    """A second for a full evaluation, times the factor of every field that is not the default."""

    def seconds(tuning: Tuning) -> float:
        product = 1.0
        for name, value in tuning.changes().items():
            factor = speeds.get(name, 1.0)
            product *= factor.get(value, 1.0) if isinstance(factor, dict) else factor
        return product

    return seconds


@given(st.floats(0.3, 0.9), st.floats(0, 0.05))
def test_the_faster_is_picked(factor, noise):
    machine = Machine(cost(compile_step=factor), noise, exact=lambda tuning: True)
    findings, done = tune(machine)
    assert done and measure.tunings(findings, CHOICES) == (Tuning(compile_step=True),) * 2


@given(st.floats(1.0, 3.0), st.floats(0, 0.5))
def test_the_slower_is_never_picked(factor, noise):
    machine = Machine(cost(compile_step=factor), noise, exact=lambda tuning: True)
    findings, done = tune(machine)
    if factor > 1.5 or noise == 0:
        assert done and measure.tunings(findings, CHOICES) == (DEFAULT, DEFAULT) and machine.compared == []


@pytest.mark.parametrize("factor", [0.97, 1.0])
def test_nothing_is_picked_within_the_spread(factor):
    """... although the median is below that of the default on about half of the machines, or on most."""
    for seed in range(40):
        machine = Machine(cost(compile_step=factor), 0.4, lambda tuning: True, seed)
        findings, done = tune(machine)
        assert done and measure.tunings(findings, CHOICES) == (DEFAULT, DEFAULT)


def test_the_fastest_of_several_values_is_picked():
    machine = Machine(cost(piece={1 << 16: 0.8, 1 << 20: 0.6}), exact=lambda tuning: True)
    assert measure.tunings(tune(machine, [PIECE])[0], CHOICES)[0] == Tuning(piece=1 << 20)


def test_values_are_run_in_turn_and_the_order_moves_on():
    machine = Machine(cost())
    tune(machine, [PIECE])
    rounds = [machine.order[i : i + 3] for i in range(0, len(machine.order), 3)]
    assert all({tuning.piece for tuning in turn} == set(PIECE.values) for turn in rounds)
    assert {turn[0].piece for turn in rounds} == set(PIECE.values)


def test_load_of_the_machine_that_comes_and_goes_decides_nothing():
    """All values of a round meet the same load, so that their ratios stay, whatever the seconds are."""
    machine = Machine(lambda tuning: (0.8 if tuning.compile_step else 1.0) * (1 + (len(machine.order) - 1) // 2 % 5))
    machine._exact = lambda tuning: True
    assert measure.tunings(tune(machine)[0], CHOICES)[0] == Tuning(compile_step=True)


@pytest.mark.parametrize(("first", "picked"), [(1.0, True), (50.0, False)])
def test_what_the_first_call_costs_is_earned_within_a_picture_or_it_is_not_picked(first, picked):
    machine = Machine(cost(compile_step=0.9), exact=lambda tuning: True)
    machine.first_cost = lambda tuning: first * tuning.compile_step
    assert (measure.tunings(tune(machine)[0], CHOICES)[0] == Tuning(compile_step=True)) == picked


def test_what_changes_a_bit_is_in_the_fastest_alone():
    machine = Machine(cost(compile_step=0.7, conv_in_channels=0.8), exact=lambda tuning: not tuning.compile_step)
    findings, _ = tune(machine, [COMPILE, CHANNELS])
    exact, fastest = measure.tunings(findings, CHOICES)
    assert exact == Tuning(conv_in_channels=16)
    assert fastest == Tuning(compile_step=True, conv_in_channels=16)


def test_where_the_fastest_changes_a_bit_the_next_that_does_not_is_used():
    machine = Machine(cost(piece={1 << 16: 0.8, 1 << 20: 0.6}), exact=lambda tuning: tuning.piece < 1 << 20)
    exact, fastest = measure.tunings(tune(machine, [PIECE])[0], CHOICES)
    assert (exact.piece, fastest.piece) == (1 << 16, 1 << 20)


def test_each_choice_is_measured_and_compared_beside_those_that_won():
    machine = Machine(cost(compile_step=0.7, conv_in_channels=0.8), exact=lambda tuning: True)
    findings, _ = tune(machine, [COMPILE, CHANNELS])
    both = Tuning(compile_step=True, conv_in_channels=16)
    assert machine.compared == [Tuning(compile_step=True), both]
    assert [finding.beside for finding in findings] == ["", "compile_step=true"]
    assert measure.tunings(findings, CHOICES) == (both, both)


def test_a_finding_beside_another_winner_does_not_count():
    machine = Machine(cost(compile_step=0.7, conv_in_channels=0.8), exact=lambda tuning: True)
    findings, _ = tune(machine, [COMPILE, CHANNELS])
    findings[0].values["true"].exact = False
    assert measure.tunings(findings, CHOICES)[0] == DEFAULT


def test_no_round_begins_after_the_time_and_the_next_run_goes_on():
    machine = Machine(cost(compile_step=0.7), exact=lambda tuning: True)
    findings, done = tune(machine, seconds=6.0)
    assert not done and 0 < findings[0].rounds < measure.FEWEST and machine.now < 6 + 2.2
    assert measure.tunings(findings, CHOICES) == (DEFAULT, DEFAULT)
    before = findings[0].values["true"].full.copy()
    _, done = tune(machine, findings=findings)
    assert done and findings[0].values["true"].full[: len(before)] == before
    assert measure.tunings(findings, CHOICES)[0] == Tuning(compile_step=True)
    steps = len(machine.order)
    assert tune(machine, findings=findings)[1] and len(machine.order) == steps


def test_what_is_decided_waits_for_what_is_not():
    """The next run goes on with the rest, and does not compile once more what is decided."""
    machine = Machine(cost())
    findings, _ = tune(machine, [COMPILE], seconds=18.0)
    before = findings[0].rounds
    assert measure.FEWEST <= before < measure.MOST
    tune(machine, [COMPILE, CHANNELS], findings)
    assert [finding.rounds for finding in findings] == [before, measure.MOST]
    assert tune(machine, [COMPILE, CHANNELS], findings)[1]
    assert [finding.rounds for finding in findings] == [measure.MOST] * 2


def test_an_interruption_keeps_whole_rounds_alone():
    machine, saved = Machine(cost()), []
    machine.interrupt_after, findings = 5, []
    with pytest.raises(KeyboardInterrupt):
        tune(machine, findings=findings, save=lambda: saved.append(findings[0].rounds))
    assert saved == [1, 2] and {len(s.full) for s in findings[0].values.values()} == {2}
    machine.interrupt_after = None
    assert tune(machine, findings=findings)[1] and findings[0].rounds == measure.MOST


def test_choices_that_are_not_measured_stand_as_they_are_known():
    machine = Machine(cost(compile_step=0.7, conv_in_channels=0.8), exact=lambda tuning: True)
    findings, _ = tune(machine, [COMPILE, CHANNELS])
    machine.order.clear()
    findings = findings[:1]
    tune(machine, [COMPILE, CHANNELS], findings, measured=["conv_in_channels"])
    assert machine.order and all(tuning.compile_step for tuning in machine.order)


def test_what_mlx_cannot_compute_is_left_out():
    machine = Machine(cost(piece={1 << 20: 0.5}), exact=lambda tuning: True)
    first = machine.first

    def refuses(tuning):
        if tuning.piece == 1 << 16:
            raise RuntimeError("no compiler")
        return first(tuning)

    machine.first = refuses
    findings, done = tune(machine, [PIECE])
    assert done and findings[0].values[str(1 << 16)].fails
    assert measure.tunings(findings, CHOICES)[0] == Tuning(piece=1 << 20)
    machine.first = lambda tuning: refuses(replace(tuning, piece=1 << 16)) if tuning != DEFAULT else 1.0
    assert tune(machine, [PIECE])[1]


def test_choices_that_change_nothing_are_not_measured():
    small, large = Shapes(100, 100, (40,), 16), Shapes(1 << 25, 1 << 25, (40, 80, 160), 4)
    names = [choice.name for choice in CHOICES]
    assert [choice.name for choice in applicable(CHOICES, "cpu", small)] == ["compile_step"]
    assert [choice.name for choice in applicable(CHOICES, "cpu", large)] == [n for n in names if "heads" not in n]
    on_gpu = applicable(CHOICES, "gpu", large)
    assert [choice.name for choice in on_gpu] == ["compile_step", "conv_in_channels", "attention_heads"]
    assert on_gpu[-1].values == ("kernels", "none", "all")
    assert applicable(CHOICES, "gpu", small)[-1].values == ("kernels", "none")
