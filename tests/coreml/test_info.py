"""info.json says everything that an app needs to run the packages."""

from coreml import info
from coreml.mil import package


def test_info_has_roles_schedule_and_sizes(exported):
    folder = exported("sd1 float16")
    content = info.read(folder)
    assert content["roles"]["64x64"]["unet_deep"] == [["UnetChunk1", "main"]]
    assert len(content["alphas_cumprod"]) == 1000 and content["prediction"] == "epsilon"
    macs = content["deepcache"]["macs"]
    assert macs["unet_shallow"] < macs["unet"] < macs["unet_deep"] + macs["unet_shallow"] < 1.01 * macs["unet"]
    for name, description in content["packages"].items():
        assert description["bytes"] == package.size(folder / f"{name}.mlpackage")
