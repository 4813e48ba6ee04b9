"""What was measured, as JSON and in words."""

import statistics
from collections.abc import Iterator
from typing import Any

from .apply import tuned_of
from .choices import BY_NAME
from .measure import Finding, Samples, faster, gain
from .record import Entry


def describe(entry: Entry) -> dict[str, Any]:
    """Returns an entry as a JSON object: its key, each value of each choice, and what follows."""
    tuned = tuned_of(entry)
    return {
        **entry.key,
        "choices": [_choice(finding) for finding in entry.findings],
        "exact": str(tuned.exact),
        "fastest": str(tuned.fastest),
    }


def lines_of(entry: Entry) -> Iterator[str]:
    """Yields a line for each value that was measured, and one about what is used from now on."""
    for finding in entry.findings:
        if not finding.decided:
            yield f"{finding.choice}: {finding.rounds} rounds, not decided yet"
            continue
        quick = faster(finding)
        for value in list(finding.values)[1:]:
            yield f"{finding.choice}={value}: {_verdict(finding, value, quick)}"
            if value in quick and finding.choice not in BY_NAME:
                yield f"  to use it, begin commands with it: export {finding.choice}={value}"
    tuned, (width, height) = tuned_of(entry), entry.size
    yield f"pictures of {width} x {height} use from now on: {str(tuned.exact) or 'what they always did'}"
    if tuned.fastest != tuned.exact:
        yield f"with --tuning measured, which changes last digits: {tuned.fastest}"


def _verdict(finding: Finding, value: str, quick: list[str]) -> str:
    samples, compared = finding.values[value], gain(finding, value)
    if compared is None:
        return "MLX cannot compute so here"
    spread = f"{100 * compared.ratio:.1f}% of the time, spread {100 * compared.spread:.1f}%"
    if value not in quick:
        return f"{spread}: not faster beyond the spread, or its first call costs more than a picture saves"
    if samples.exact is None:
        return f"{spread}: faster, but not the fastest"
    if samples.exact:
        return f"{spread}: faster, and no bit changes"
    by = "" if samples.difference is None else f" by {samples.difference:.1e} at most"
    return f"{spread}: faster, and changes the picture{by}"


def _choice(finding: Finding) -> dict[str, Any]:
    quick = faster(finding)
    values = []
    for value, samples in finding.values.items():
        compared = gain(finding, value)
        numbers = {
            "full": statistics.median(samples.full) if samples.full else None,
            "cached": statistics.median(samples.cached) if samples.cached else None,
            "ratio": compared and compared.ratio,
            "spread": compared and compared.spread,
            "difference": samples.difference,
        }
        values.append(
            {
                "value": value,
                "rounds": len(samples.full),
                "outcome": _outcome(samples, value in quick),
                "first": round(samples.first, 5),
                **{name: float(f"{number:.5g}") for name, number in numbers.items() if number is not None},
            }
        )
    return {"choice": finding.choice, "beside": finding.beside, "values": values}


def _outcome(samples: Samples, quick: bool) -> str:
    """Returns a word for a value: "not faster", "fails", or "faster" with what it does to the picture."""
    if not quick:
        return "fails" if samples.fails else "not faster"
    return {None: "faster", True: "faster, exact", False: "faster, not exact"}[samples.exact]
