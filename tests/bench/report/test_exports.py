"""What was measured of exports, of assets and of mixed bits stays within the limits that they were built for."""

import pytest

from bench import results
from bench.report import exports

GIGABYTE = 10**9
PEAKS = {exports.EXPORTS[0]: 2.7 * GIGABYTE, exports.EXPORTS[1]: 6.5 * GIGABYTE}


@pytest.mark.parametrize("name", exports.EXPORTS)
def test_an_export_to_core_ai_takes_little_memory(name):
    runs = results.read(results.FOLDER / name)["runs"]["coreai"]
    assert max(run["peak_bytes"] for run in runs) <= PEAKS[name]


def test_an_export_to_core_ai_takes_little_longer_than_one_to_core_ml():
    ratios = results.read(results.FOLDER / exports.EXPORTS[0])["coreai_over"]
    assert ratios.keys() == {"coreml", "coreml:chunks"}
    assert max(ratios.values()) <= 1.3


def test_a_unet_of_full_size_is_that_of_mlx():
    check = results.read(results.FOLDER / exports.ASSETS)["check"]
    assert (check["side"], check["dtype"]) == (512, "float32")
    assert {name.split(".")[1] for name in check["errors"]} == {"main", "full", "shallow"}
    assert 0 < check["largest"] <= 2e-5


def test_mixed_bits_are_better_than_uniform_ones_of_the_same_bytes():
    values = results.read(results.FOLDER / exports.BITS)
    forms = {(setting["bits"], setting["form"]): setting for setting in values["settings"]}
    assert values["inputs"] >= 64 and {bits for bits, _ in forms} == {3, 4, 6}
    for bits in (3, 4, 6):
        uniform, mixed = forms[bits, "uniform"], forms[bits, "mixed"]
        assert mixed["bytes"] <= uniform["bytes"]
        assert mixed["noise_pred_psnr"] >= uniform["noise_pred_psnr"] + 1


def test_a_search_of_mixed_bits_at_full_size_takes_half_an_hour_at_most():
    values = results.read(results.FOLDER / exports.SEARCH)
    assert values["search_seconds"] <= 1800
    selected = values["sizes"][str(values["written"]["bits"])]["bytes"]
    assert selected <= values["written"]["bytes"] <= 1.05 * selected
