"""A number stands in the README only if bench/results holds the measurement behind it."""

import statistics
from pathlib import Path

import pytest

from bench import results
from mlx_sd.core.errors import InputError
from mlx_sd.reuse import deepcache as reuse

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
README = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)


def _results(name):
    return results.read(ROOT / "bench" / "results" / f"{name}.json")


def test_the_readme_says_of_forecasts_what_was_measured():
    rms: dict[tuple[int, int, str], dict[int, float]] = {}
    for run in _results("policies-tiny")["runs"]:
        policy = reuse.parse(run["policy"])
        kind = rms.setdefault((run["steps"], run["interval"], type(policy).__name__), {})
        kind[policy.forecast] = statistics.mean(run["rms"])
    said = (
        "`+forecast1` has the least error everywhere, `+forecast2` never; `adaptive` has less than fixed lists, except "
        "at 25 steps with one in three full"
    )
    assert said in " ".join(README.split())
    for (steps, interval, kind), by_degree in rms.items():
        best = min(min(rms[steps, interval, other].values()) for other in ("DeepCache", "NonUniform"))
        assert kind != "Adaptive" or (min(by_degree.values()) < best) == ((steps, interval) != (25, 3))
        assert by_degree[1] < min(by_degree[0], by_degree[2])


def test_the_guide_says_of_spectrum_and_sada_what_was_measured():
    said = (
        "at 25 steps `spectrum:2` and `sada:4` have less error than all of them; at 50 steps less than held lists, and "
        "more than lists with a forecast"
    )
    assert said in " ".join(README.split())
    errors = {
        (row["steps"], row["policy"].split(",")[0]): [statistics.mean(run["rms"]) for run in (row, *row["even"])]
        for row in _results("policies-tiny")["rules"]
    }
    for policy in ("spectrum:2", "sada:4"):
        error, held, forecast = errors[25, policy]
        assert error < min(held, forecast)
        error, held, forecast = errors[50, policy]
        assert forecast < error < held


def test_the_readmes_memory_is_the_measured_one():
    stages = _results("footprint-sd15-cpu")["stages"]
    assert f"{stages['load and step']['peak_over_weights']:.2f} times its weights" in README
    assert f"{stages['convert']['peak_bytes'] / 1e9:.1f} GB" in README


def test_the_readmes_lowering_is_the_measured_one():
    for name, case in _results("lowering")["cases"].items():
        model, route, attention = name.split()
        runs, full = case["runs"], case["packages"]["full"]
        cells = [
            {"sd15": "SD 1.5", "sdxl": "SDXL"}[model],
            "PyTorch" if route == "torch" else f"ours, `{attention}`",
            _spread(run["seconds"]["full"] for run in runs),
            _spread(run["processor_seconds"]["full"] for run in runs),
            f"{max(run['peak_bytes'] for run in runs) / 1e9:.1f} GB",
            *(str(full[key]) for key in ("operations", "transposes", "reshapes", "rank")),
            f"{full['bytes'] / 1e9:.2f} GB",
        ]
        assert f"| {' | '.join(cells)} |" in README


def test_what_the_readme_says_beside_its_table_of_lowering_follows_from_the_measurement():
    found = _results("lowering")
    cases, parameters = found["cases"], {name: model["parameters"] for name, model in found["models"].items()}
    peak = max(run["peak_bytes"] for run in cases["sd15 torch diffusers"]["runs"])
    assert f"it would take {peak * parameters['sdxl'] / parameters['sd15'] / 1e9:.0f} GB" in " ".join(README.split())
    runs = [run for name, case in cases.items() if name.startswith("sd15 ours") for run in case["runs"]]
    assert f"which takes {_spread(run['seconds']['shallow'] for run in runs)} more" in " ".join(README.split())


def _spread(values):
    low, *_, high = sorted([f"{value:.0f}" for value in values] * 2, key=int)
    return f"{low} s" if low == high else f"{low} to {high} s"


def test_the_readmes_quantization_is_the_measured_one():
    for setting in _results("quantization-tiny-cpu")["settings"]:
        unet, text = (setting["bytes"][part] / 1e6 for part in ("unet", "text_encoder"))
        decibels = setting["picture_psnr"]
        sizes = f"| `{setting['quantize']}` | {unet:.1f} MB | {text:.1f} MB |"
        assert f"{sizes} {statistics.median(decibels):.1f} dB | {min(decibels):.1f} dB |" in README


def test_the_readmes_conversion_is_the_measured_one():
    found = _results("conversion-sd15-cpu")
    assert f"peaks at {found['peak_bytes'] / 1e9:.2f} GB" in README
    assert f"takes {found['convert_over_copy']:.1f} times as long as copying" in README


def test_every_result_says_on_what_it_was_measured():
    for path in (ROOT / "bench" / "results").glob("*.json"):
        machine = results.read(path)["machine"]
        assert {"processor", "cores", "system", "device", "python", "mlx", "blas"} <= machine.keys()


def test_results_are_read_back_as_written_and_only_those_of_this_version(tmp_path):
    path = tmp_path / "r.json"
    results.write(path, {"seconds": 1.5})
    assert results.read(path) == {"version": results.VERSION, "seconds": 1.5}
    for text, why in (('{"version": 0}', "are of version 0"), ('{"seconds": 1}', "have no version")):
        path.write_text(text)
        with pytest.raises(InputError, match=f"{why}, this mlx-sd reads version {results.VERSION}; measure again"):
            results.read(path)
    path.unlink()
    with pytest.raises(TypeError):
        results.write(path, {"seconds": object()})
    assert not list(tmp_path.iterdir())
