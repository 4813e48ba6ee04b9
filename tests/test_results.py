"""A number stands in the README only if bench/results holds the measurement behind it."""

import json
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def _results(name):
    return json.loads((ROOT / "bench" / "results" / f"{name}.json").read_text(encoding="utf-8"))


def test_the_readmes_speed_ups_are_the_measured_ones():
    for loop in _results("latency-sd15-cpu")["loops"]:
        interval = loop["deepcache"].split(":")[0]
        label = "every step full" if interval == "1" else f"`--deepcache {interval}`"
        assert (
            f"| {label} | {loop['seconds']:.0f} s | {loop['speedup']:.2f} | {loop['speedup_by_medians']:.2f} |"
            in README
        )


def test_the_readmes_distances_of_policies_are_the_measured_ones():
    rows: dict[str, list[str]] = {}
    for run in _results("policies-tiny")["runs"]:
        policy, _, forecast = run["policy"].partition("+")
        name = policy.split(":")[0] if policy[0].isalpha() else "every N-th"
        rms = sum(run["rms"]) / len(run["rms"])
        rows.setdefault(f"{name}+{forecast}".rstrip("+"), []).append(f"{rms:.3f} ({run['full']:.1f})")
    for name, cells in rows.items():
        assert f"| {name} | {' | '.join(cells)} |" in README


def test_the_readmes_memory_is_the_measured_one():
    stages = _results("footprint-sd15-cpu")["stages"]
    assert f"{stages['load and step']['peak_over_weights']:.2f} times its weights" in README
    assert f"{stages['convert']['peak_bytes'] / 1e9:.1f} GB" in README


def test_every_result_says_on_what_it_was_measured():
    for path in (ROOT / "bench" / "results").glob("*.json"):
        machine = json.loads(path.read_text(encoding="utf-8"))["machine"]
        assert {"processor", "cores", "system", "device", "python", "mlx", "blas"} <= machine.keys()
