"""Which value of a choice is faster: rounds in turn, medians, and a decision only beyond the spread.

A round runs every value once, so that all meet the same load of the machine; the order moves on from round to round.
Values are compared by the ratio of their seconds to those of the default in the same round. A value is faster where the
median of its ratios is below 1 by more than the ratios are spread, and by one in a hundred at least; and where what its
first call costs, such as compilation, is earned within one picture.
"""

import statistics
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple, Protocol

from ..networks.tuning import DEFAULT, Tuning
from .choices import Choice, text_of

FEWEST, MOST = 7, 15  # rounds after which a choice is decided, and after which it is measured to the end
_LEAST = 0.01  # of a gain
_EVALUATIONS = 25  # of a picture, within which a first call must pay


@dataclass
class Samples:
    """What was measured of one value: seconds of each round, and whether the picture stays the same."""

    full: list[float] = field(default_factory=list)  # of full evaluations
    cached: list[float] = field(default_factory=list)  # of those that reuse deep features
    first: float = 0.0  # of the first two evaluations together
    exact: bool | None = None  # whether no bit changes; None where it was not compared
    difference: float | None = None  # the largest, over the largest number there is
    fails: bool = False  # MLX cannot compute so on this machine

    @property
    def rounds(self) -> list[float]:
        """The seconds of both evaluations of each round."""
        return [sum(pair) for pair in zip(self.full, self.cached, strict=True)]


@dataclass
class Finding:
    """What was measured of one choice, with the others as `beside` says."""

    choice: str
    beside: str
    values: dict[str, Samples]  # by their texts, the default first

    @property
    def rounds(self) -> int:
        """How many rounds were measured."""
        return len(next(iter(self.values.values())).full)

    @property
    def decided(self) -> bool:
        """Whether there are enough rounds, or MLX can compute in the default's way alone."""
        return self.rounds >= FEWEST or all(samples.fails for samples in list(self.values.values())[1:])


class Gain(NamedTuple):
    """How a value compares with the default."""

    ratio: float  # the median of the ratios of their seconds
    spread: float  # the distance between the quartiles of these ratios


class Check(NamedTuple):
    """What a tuning does to the picture."""

    exact: bool
    difference: float


class Meter(Protocol):
    """What runs the evaluations that are measured."""

    def first(self, tuning: Tuning) -> float:
        """Returns the seconds of the first full and the first cached evaluation; RuntimeError where MLX cannot."""
        ...

    def step(self, tuning: Tuning) -> tuple[float, float]:
        """Returns the seconds of a full and of a cached evaluation."""
        ...

    def compare(self, tuning: Tuning) -> Check:
        """Compares what a tuning computes with what the default computes."""
        ...


Progress = Callable[[str, int], None]  # (name of the choice, rounds that are measured)


def gain(finding: Finding, value: str) -> Gain | None:
    """Returns how a value compares with the default, None where there are too few rounds."""
    default, *_ = finding.values.values()
    samples = finding.values[value]
    if samples.fails or len(samples.full) < 2:
        return None
    ratios = [seconds / usual for seconds, usual in zip(samples.rounds, default.rounds, strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return Gain(statistics.median(ratios), high - low)


def faster(finding: Finding) -> list[str]:
    """Returns the values that are faster than the default, the fastest first; none before there are enough rounds."""
    if finding.rounds < FEWEST:
        return []
    default, *_ = finding.values.values()
    gains = {value: compared for value in list(finding.values)[1:] if (compared := gain(finding, value)) is not None}
    usual = statistics.median(default.rounds)

    def pays(value: str) -> bool:
        """Tells whether a value is faster beyond the spread, and earns its first call."""
        saved = 1 - gains[value].ratio
        earned = saved * usual * _EVALUATIONS >= finding.values[value].first - default.first
        return saved > max(gains[value].spread, _LEAST) and earned

    return sorted(filter(pays, gains), key=lambda value: gains[value].ratio)


def exact_winner(finding: Finding) -> str | None:
    """Returns the fastest value that is faster than the default and changes no bit."""
    return next((value for value in faster(finding) if finding.values[value].exact), None)


def with_value(tuning: Tuning, choice: Choice, text: str | None) -> Tuning:
    """Returns a tuning with another value of a choice, which is named by its text; None changes nothing."""
    values: dict[str, Any] = {text_of(value): value for value in choice.values}
    return tuning if text is None or text not in values else replace(tuning, **{choice.name: values[text]})


def finding_of(findings: Sequence[Finding], choice: Choice, beside: Tuning) -> Finding | None:
    """Returns what was measured of a choice with the others as they are now."""
    return next((f for f in findings if (f.choice, f.beside) == (choice.name, str(beside))), None)


def tunings(findings: Sequence[Finding], choices: Sequence[Choice]) -> tuple[Tuning, Tuning]:
    """Returns the fastest tuning that changes no bit, and the fastest."""
    exact, changes = DEFAULT, {}
    for choice in choices:
        if (finding := finding_of(findings, choice, exact)) is None:
            continue
        if fastest := faster(finding):
            changes[choice] = fastest[0]
        exact = with_value(exact, choice, exact_winner(finding))
    fastest_tuning = exact
    for choice, value in changes.items():
        fastest_tuning = with_value(fastest_tuning, choice, value)
    return exact, fastest_tuning


def tune(
    findings: list[Finding],
    choices: Sequence[Choice],
    meter: Meter,
    *,
    measured: Collection[str],
    clock: Callable[[], float],
    seconds: float,
    save: Callable[[], None],
    progress: Progress = lambda name, rounds: None,
) -> bool:
    """Measures choices one after the other, each beside those that won before it; returns whether all are decided.

    findings: what was measured before, to which this adds; save: called after every round, so that none is lost.
    measured: names of the choices that are measured now; of the others, what is known is used. seconds: after which no
    round begins. What was decided before gets more rounds only where all choices were.
    """
    end, exact = clock() + seconds, DEFAULT
    again = _all_decided(findings, [choice for choice in choices if choice.name in measured], choices)
    remaining = sum(choice.name in measured for choice in choices)
    for choice in choices:
        finding = finding_of(findings, choice, exact)
        if choice.name in measured:
            values = [text_of(value) for value in choice.values]
            if finding is None or list(finding.values) != values:
                findings[:] = [f for f in findings if f.choice != choice.name]  # beside other values: of no use now
                finding = Finding(choice.name, str(exact), {value: Samples() for value in values})
                findings.append(finding)
            share = clock() + (end - clock()) / remaining
            remaining -= 1
            if again or not finding.decided:
                first, step = _by_text(meter, exact, choice)
                measure(finding, first, step, partial(_ended, clock, share, end), save, progress)
            if not finding.decided:
                return False
            _compare(finding, choice, exact, meter, save)
        if finding is not None:
            exact = with_value(exact, choice, exact_winner(finding))
    return True


def _all_decided(findings: Sequence[Finding], measured: Sequence[Choice], choices: Sequence[Choice]) -> bool:
    """Tells whether each choice that is measured is decided already, beside those that won before it."""
    exact = DEFAULT
    for choice in choices:
        finding = finding_of(findings, choice, exact)
        if choice in measured and not (finding and finding.decided):
            return False
        if finding is not None:
            exact = with_value(exact, choice, exact_winner(finding))
    return True


def _by_text(
    meter: Meter, beside: Tuning, choice: Choice
) -> tuple[Callable[[str], float], Callable[[str], tuple[float, float]]]:
    """Returns what runs the values of a choice, by their texts."""
    return (
        lambda text: meter.first(with_value(beside, choice, text)),
        lambda text: meter.step(with_value(beside, choice, text)),
    )


def _ended(clock: Callable[[], float], share: float, end: float, rounds: int) -> bool:
    """Tells whether the time of a choice has ended: its share, or all of it where it is not decided yet."""
    return clock() >= (share if rounds >= FEWEST else end)


def _compare(finding: Finding, choice: Choice, beside: Tuning, meter: Meter, save: Callable[[], None]) -> None:
    """Compares the pictures of faster values with the default's, up to the first that changes no bit."""
    for value in faster(finding):
        samples = finding.values[value]
        if samples.exact is None:
            samples.exact, samples.difference = meter.compare(with_value(beside, choice, value))
            save()
        if samples.exact:
            return


def measure(
    finding: Finding,
    first: Callable[[str], float],
    step: Callable[[str], tuple[float, float]],
    ended: Callable[[int], bool],
    save: Callable[[], None],
    progress: Progress = lambda name, rounds: None,
) -> None:
    """Adds rounds to a choice until it has the most of them, or the time has ended.

    first, step: as of a `Meter`, of a value by its text. ended: of the number of rounds. save: called after each.
    """
    if finding.rounds >= MOST or ended(finding.rounds):
        return
    for text, samples in finding.values.items():
        if samples.fails:
            continue
        try:
            samples.first = max(samples.first, first(text))
        except RuntimeError:
            if text == next(iter(finding.values)):
                raise
            samples.fails = True
    running = [text for text, samples in finding.values.items() if not samples.fails]
    while len(running) > 1 and finding.rounds < MOST and not ended(finding.rounds):
        progress(finding.choice, finding.rounds)
        start = finding.rounds % len(running)
        seconds = {text: step(text) for text in (*running[start:], *running[:start])}
        for text, (full, cached) in seconds.items():  # a round counts as a whole
            finding.values[text].full.append(full)
            finding.values[text].cached.append(cached)
        save()
