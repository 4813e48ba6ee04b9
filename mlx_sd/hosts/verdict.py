"""What a survey's findings mean for a run: problems, which it would end with, and notes, with which it can start."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from ..core.terminal import size
from .hostfile import RING
from .survey import Finding

_CLOCK = 5.0  # seconds between two hosts' clocks
_SPACE = 1_000_000_000  # bytes, below which a disk is nearly full
_SLOW = 20_000_000  # bytes a second, of a ring that is no cable
_LISTENING = {
    "EADDRINUSE": "port {port} at {ip} is taken by another program, or an earlier run; choose another --starting-port",
    "EADDRNOTAVAIL": "{ip} is no address of it; the hostfile has others, or the cable is out",
}
_CONNECTING = {
    "ETIMEDOUT": "{before} cannot reach it at {ip}, port {port}: no answer; a firewall, or another network",
    "EHOSTUNREACH": "{before} cannot reach it at {ip}: there is no way there; look at the cable and the addresses",
    "ENETUNREACH": "{before} cannot reach it at {ip}: there is no way there; look at the cable and the addresses",
}


class Verdict(NamedTuple):
    """One host: whether a run can start on it, and the one line about it."""

    finding: Finding
    problems: list[str]
    notes: list[str]

    @property
    def fit(self) -> bool:
        """Returns whether a run can start on the host."""
        return not self.problems

    def line(self, width: int) -> str:
        """Returns the line about the host, with its name in `width` columns."""
        texts = [*_details(self.finding), *(f"note: {note}" for note in self.notes)] if self.fit else self.problems
        return f"{self.finding.name:{width}}  {'ready ' if self.fit else 'NOT FIT'}  {'; '.join(texts)}"

    def to_json(self) -> dict[str, Any]:
        """Returns the host as a JSON object."""
        finding = self.finding
        return {
            "host": finding.name,
            "rank": finding.rank,
            "fit": self.fit,
            "problems": self.problems,
            "notes": self.notes,
            **({"clock": finding.clock, "clock_error": finding.clock_error} if finding.facts else {}),
            **({"ssh_latency": finding.latency} if finding.facts else {}),
            **({"reached_from": finding.reached_from} if finding.reached_from else {}),
            "links": [link._asdict() for link in finding.links],
            **finding.facts,
        }


def judge(findings: Sequence[Finding], backend: str = RING) -> list[Verdict]:
    """Compares each host with the first that answers; returns a verdict for each."""
    reference = next((finding for finding in findings if finding.facts), None)
    return [
        Verdict(finding, [*_problems(finding, reference, backend)], [*_notes(finding, reference)])
        for finding in findings
    ]


def _problems(finding: Finding, reference: Finding | None, backend: str) -> Iterator[str]:
    """Yields what a run would end with on a host."""
    if finding.problem:
        yield finding.problem
    if not finding.facts or reference is None:
        return
    facts = finding.facts
    if "problem" in facts:
        yield str(facts["problem"])
    for key, name in (("mlx_sd", "mlx-sd"), ("mlx", "MLX")):
        if facts[key] != reference.facts[key]:
            yield f"it has {name} {facts[key]}, and {reference.name} {reference.facts[key]}; install the same on both"
    if backend == RING and facts.get("ring") is False:
        yield "its MLX has no ring; install MLX again there"
    for part in ("model", "output"):
        if "problem" in facts.get(part, {}):
            yield str(facts[part]["problem"])
    digest, expected = _hash(finding), _hash(reference)
    if digest and expected and digest != expected:
        yield (
            f"its model is another: {facts['model']['folder']} has hash {digest}, {reference.name}'s {expected}; copy "
            "one of the two"
        )
    ahead, error = finding.clock - reference.clock, finding.clock_error + reference.clock_error
    if abs(ahead) > _CLOCK + error:
        direction = "ahead of" if ahead > 0 else "behind"
        yield f"its clock is {abs(ahead):.0f} s {direction} {reference.name}'s; set both by network time"
    for ip, port, problem in finding.listening:
        if problem:
            text = _LISTENING.get(problem, "it cannot listen at {ip}, port {port}: " + problem)
            yield text.format(ip=ip, port=port)
    reached = [(ip, port) for ip, port, problem in finding.listening if not problem]
    for (ip, port), link in zip(reached, finding.links, strict=False):
        if link.problem:
            text = _CONNECTING.get(link.problem, "{before} cannot reach it at {ip}, port {port}: " + link.problem)
            yield text.format(before=finding.reached_from, ip=ip, port=port)


def _notes(finding: Finding, reference: Finding | None) -> Iterator[str]:
    """Yields what a user should know of a host on which a run can start."""
    if not finding.facts or reference is None:
        return
    facts = finding.facts
    if not facts["in_folder"]:
        yield f"it has not this folder, so that its rank starts in {facts['folder']}: give full paths, or --cwd"
    if finding.noise:
        yield f"its shell prints {finding.noise[0]!r} at login, which MLX's launcher mixes into the output"
    if facts.get("model", {}).get("converted") is False:
        yield "the model is not converted there yet; a run does that first"
    if facts.get("device") != reference.facts.get("device"):
        yield f"its device is not {reference.name}'s: pictures of the two may differ in their last bits"
    if facts.get("output", {}).get("free", _SPACE) < _SPACE:
        yield "its disk is nearly full"
    if any(0 < link.rate < _SLOW for link in finding.links):
        yield "its link is slow: is it Wi-Fi?"
    if any(not link.problem and not link.heartbeats for link in finding.links):
        yield "no datagrams (UDP) reach it, so that a rank that stops is not noticed: is it a firewall?"


def _details(finding: Finding) -> Iterator[str]:
    """Yields what a line tells of a host that is fit."""
    facts = finding.facts
    yield f"{facts['device']}, {size(facts['memory'])}"
    yield f"mlx-sd {facts['mlx_sd']}, MLX {facts['mlx']}, Python {facts['python']}"
    if digest := _hash(finding):
        yield f"model {digest}"
    yield f"clock {finding.clock:+.3f} s (within {finding.clock_error:.3f})"
    if "output" in facts:
        yield f"{size(facts['output']['free'])} free"
    if finding.links:
        slowest = max(finding.links, key=lambda link: link.latency)
        rate = size(int(min(link.rate for link in finding.links)))
        yield f"{1000 * slowest.latency:.2f} ms and {rate}/s from {finding.reached_from}"
    else:
        yield f"answers in {1000 * finding.latency:.1f} ms"


def _hash(finding: Finding) -> str | None:
    digest: str | None = finding.facts.get("model", {}).get("hash")
    return digest
