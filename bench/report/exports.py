"""Sections about exports: time and memory of both formats, errors in Apple's runtime, and mixed bits."""

import statistics
from pathlib import Path

from .. import results
from ..markdown import table
from .cells import machine

EXPORTS = ("exports-sd15-cpu.json", "exports-sdxl-cpu.json")
ASSETS, BITS, SEARCH = "assets-sd15-cpu.json", "bits-tiny-cpu.json", "bits-sdxl-cpu.json"
_FORMS = {
    "coreml": "Core ML, as by default: the UNet whole and in chunks",
    "coreml:chunks": "Core ML, `--unet chunks`",
    "coreai": "Core AI",
}


def exports(folder: Path) -> str:
    """Returns the table of exports of all networks: a row for each model and form."""
    rows, measurements = [], [results.read(folder / name) for name in EXPORTS]
    for values in measurements:
        attention = values["settings"]["attention"]
        for i, (form, runs) in enumerate(values["runs"].items()):
            seconds = [run["seconds"] for run in runs]
            rows.append(
                [
                    values["settings"]["model"] if i == 0 else "",
                    _FORMS[form],
                    f"`{attention[form.partition(':')[0]]}`",
                    _range(seconds),
                    f"{values['coreai_over'][form]:.2f}" if form in values.get("coreai_over", {}) else "",
                    f"{max(run['peak_bytes'] for run in runs) / 1e9:.1f} GB",
                    f"{runs[0]['bytes'] / 1e9:.2f} GB",
                ]
            )
    head = ["", "form", "attention", "time", "time of Core AI / this", "peak memory", "written"]
    versions = measurements[0]["machine"]
    note = f"coremltools {versions['coremltools']}, coreai-core {versions['coreai-core']}. "
    return f"{table(head, rows)}\n\n{note}{machine(measurements[0])}"


def _range(seconds: list[float]) -> str:
    low, high = f"{min(seconds):.0f}", f"{max(seconds):.0f}"
    return f"{low} s" if low == high else f"{low} to {high} s"


def assets(folder: Path) -> str:
    """Returns the table of the errors of a full-size UNet in Apple's CPU runtime, relative to the largest number."""
    values = results.read(folder / ASSETS)
    check = values["check"]
    rows = [[*(f"`{word}`" for word in output.split(".")), f"{error:.1e}"] for output, error in check["errors"].items()]
    side, minutes = check["side"], check["seconds"] / 60
    setting = (
        f"{values['settings']['model']} with random weights, {check['dtype']}, {side} x {side} pixels, a batch of "
        f"{check['batch']}, attention `{check['attention']}`. MLX and the runtime took {minutes:.0f} minutes."
    )
    return f"{table(['asset', 'function', 'output', 'largest error'], rows)}\n\n{setting}"


def mixed(folder: Path) -> str:
    """Returns the table of mixed bits beside uniform ones: a row for each size."""
    values = results.read(folder / BITS)
    forms = {(setting["bits"], setting["form"]): setting for setting in values["settings"]}
    rows = []
    for bits in sorted({bits for bits, _ in forms}):
        uniform, mixed_bits = forms[bits, "uniform"], forms[bits, "mixed"]
        rows.append(
            [
                str(bits),
                *(f"{form['bytes'] / 1e6:.2f} MB" for form in (uniform, mixed_bits)),
                *(f"{form['noise_pred_psnr']:.1f} dB" for form in (uniform, mixed_bits)),
                f"{mixed_bits['noise_pred_psnr'] - uniform['noise_pred_psnr']:+.1f} dB",
                *(f"{statistics.median(form['picture_psnr']):.1f} dB" for form in (uniform, mixed_bits)),
            ]
        )
    head = ["bits", "uniform", "mixed", "UNet's output: uniform", "mixed", "gain", "pictures: uniform", "mixed"]
    return table(head, rows)


def search(folder: Path) -> str:
    """Returns the table of what a search takes on shapes of full size."""
    values = results.read(folder / SEARCH)
    seconds, evaluations = values["seconds"], values["evaluations"]
    allocation = sum(time for step, time in seconds.items() if step.startswith("allocate"))
    written = values["written"]
    selected = values["sizes"][str(written["bits"])]["bytes"]
    measured = f"sensitivity of {values['layers']} weights, {evaluations['measured']} evaluations"
    rows = [
        ["reading the UNet, float32", f"{seconds['load']:.0f} s"],
        [f"generations before the search: {evaluations['generations']} evaluations", _time(seconds["generations"])],
        [measured, _time(seconds["measure"])],
        ["palettes of 1, 2, 3, 4, 6 and 8 bits", _time(seconds["palettes"])],
        ["bits of each layer, for three sizes", _time(allocation)],
        ["**all of it**", f"**{values['search_seconds'] / 60:.1f} minutes**"],
        ["peak memory", f"{values['peak_bytes'] / 1e9:.1f} GB"],
        [f"weights at the bytes of {written['bits']} bits", f"{selected / 1e6:,.0f} MB"],
        ["`Unet.aimodel` written with them, `main` alone", f"{written['bytes'] / 1e6:,.0f} MB"],
        ["time and peak memory of writing it", f"{_time(written['seconds'])}, {written['peak_bytes'] / 1e9:.1f} GB"],
    ]
    side = 8 * values["latents"]
    head = [f"{values['model']}, {side} x {side} pixels", ""]
    return f"{table(head, rows)}\n\n{machine(values)}"


def _time(seconds: float) -> str:
    if seconds < 1:
        return "less than 1 s"
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.1f} minutes"
