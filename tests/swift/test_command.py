"""`mlxsd-swift`, built and run: Python's pictures out of recorded networks, and one line for each mistake."""

import json

import numpy as np
import pytest
from PIL import Image

from coreml.__main__ import main
from tests.support import swift_toolchain
from tests.swift.conftest import RECORDINGS, expected

pytestmark = [
    pytest.mark.swift,
    pytest.mark.filterwarnings("ignore:in . evaluations little repeats itself:UserWarning"),
]
ROOT = swift_toolchain.ROOT
DEEPCACHE, IMAGE = (("--recorded", RECORDINGS / name) for name in ("deepcache", "image_to_image"))
CASES = ("text_to_image", "deepcache", "image_to_image", "inpainting", "sdxl", "controls_deepcache", "core_ai")


def pixels(path):
    with Image.open(ROOT / path) as image:
        image.load()
        return np.asarray(image.convert("RGB"), np.int16), image.info


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("suffix", ("png", "ppm"))
def test_a_recording_gives_pythons_picture(case, suffix, mlxsd, goldens, out):
    if not (goldens / "recordings" / case).is_dir():
        pytest.skip("coreai-core is not installed: there are no recordings of Core AI")
    content, record = expected(goldens, case)
    done = mlxsd("--recorded", RECORDINGS / case, "--output", out / f"a.{suffix}", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    picture, info = pixels(out / f"a.{suffix}")
    golden = np.frombuffer(content, np.uint8).reshape(picture.shape)
    assert np.abs(picture - golden).max() <= 1
    report = json.loads(done.stdout)
    assert (report["evaluations"], report["full"]) == (record["evaluations"], record["full"])
    assert report["seed"] == record["request"]["seed"]
    if suffix == "png":
        assert json.loads(info["mlx-sd-swift"]) == report["request"]


def test_the_request_in_a_png_makes_the_same_picture_again(mlxsd, out):
    done = mlxsd(*DEEPCACHE, "--output", out / "a.png", "--json")
    (ROOT / out / "request.json").write_text(json.dumps(json.loads(done.stdout)["request"]))
    again = mlxsd(*DEEPCACHE, "--request", out / "request.json", "--output", out / "b.png")
    assert again.returncode == 0, again.stderr
    assert (ROOT / out / "a.png").read_bytes() == (ROOT / out / "b.png").read_bytes()


def test_a_ppm_is_the_image_to_begin_with(mlxsd, goldens, out):
    folder = goldens / "recordings/image_to_image"
    raw = np.frombuffer((folder / "init_image.u8").read_bytes(), np.uint8).reshape(64, 64, 3)
    Image.fromarray(raw).save(ROOT / out / "init.ppm")
    done = mlxsd(*IMAGE, "--init-image", out / "init.ppm", "--output", out / "a.png")
    assert done.returncode == 0, done.stderr
    other = Image.fromarray(raw[::-1].copy())
    other.save(ROOT / out / "other.ppm")
    done = mlxsd(*IMAGE, "--init-image", out / "other.ppm", "--output", out / "b.png")
    assert done.returncode == 1 and "vae_encoder" in done.stderr


@pytest.mark.parametrize(
    ("words", "code", "says"),
    (
        ([*DEEPCACHE, "--seed", "43", "--output", "build/x.png"], 1, "sample"),
        (["--recorded", "nowhere"], 2, "nowhere"),
        (["a", "--folder", "nowhere"], 2, "nowhere"),
        (["a", "--folder", "docs"], 2, "docs"),
        ([*DEEPCACHE, "--output", "nowhere/x.png"], 2, "does not exist"),
        ([*DEEPCACHE, "--output", "x.jpg"], 2, "NAME.png or NAME.ppm"),
        ([*DEEPCACHE, "--steps", "0"], 2, "steps"),
        ([*DEEPCACHE, "--sampler", "eular"], 2, "euler"),
        ([*DEEPCACHE, "--deepcache", "x"], 2, "x"),
        ([*DEEPCACHE, "--deepcache", "3:1"], 2, "branch"),
        ([*DEEPCACHE, "--width", "640"], 2, "640"),
        ([*DEEPCACHE, "--request", "README.md"], 2, "not a JSON object"),
        ([*DEEPCACHE, "--init-image", "README.md"], 2, "PPM"),
        ([*DEEPCACHE, "--control", "canny"], 2, "NAME:FILE"),
        ([*DEEPCACHE, "--stpes", "3"], 2, "did you mean --steps"),
        ([], 2, "--folder DIR is missing"),
    ),
)
def test_a_mistake_is_one_line_and_an_exit_code(words, code, says, mlxsd):
    done = mlxsd(*words)
    assert done.returncode == code, done.stderr
    assert done.stdout == "" and done.stderr.startswith("mlxsd-swift: ") and done.stderr.count("\n") == 1, done.stderr
    assert says in done.stderr, done.stderr
    assert not (ROOT / "build/x.png").exists()


def test_a_model_set_checks_itself(mlxsd, goldens):
    """On Linux stand-ins of Core ML replay the recording."""
    folder = RECORDINGS / "self_check"
    done = mlxsd("--folder", folder, "--self-check", "--units", "cpu-and-gpu")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("passed") == 2 and done.stdout.count("ok   image") == 2
    done = mlxsd("--folder", folder, "--self-check", "--json")
    assert all(part["distance"] <= part["tolerance"] for part in json.loads(done.stdout)["cpu"]["parts"])
    done = mlxsd("--folder", RECORDINGS / "deepcache", "--self-check")
    assert done.returncode == 2 and "kit" in done.stderr and done.stderr.count("\n") == 1


def test_the_help_ends_well(mlxsd):
    done = mlxsd("--help")
    assert (done.returncode, done.stderr) == (0, "") and "examples:" in done.stdout


def test_a_written_app_builds_with_no_network(toolchain, tmp_path):
    """Sample, package and a real model set, as SwiftPM sees them; on Linux the app has no screen."""
    assert main(["--model", "tiny", "--steps", "2", "--swift", str(tmp_path / "A.swiftpm")]) == 0
    scratch = f"{toolchain.scratch}-app"
    options = {"folder": ".", "scratch": scratch, "project": tmp_path / "A.swiftpm"}
    options |= {"capture_output": True, "text": True, "check": False}
    done = toolchain.swift("build --disable-automatic-resolution", **options)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "warning" not in done.stdout + done.stderr
    printed = toolchain.run(f"{scratch}/debug/Sample", capture_output=True, text=True).stdout
    assert printed == "The sample app needs iOS, iPadOS or macOS.\n"
    bundle = toolchain.run(
        f"ls {scratch}/debug/Sample_Sample.resources/ModelSet", capture_output=True, text=True
    ).stdout
    assert {"info.json", "kit", "UnetChunk1.mlpackage"} <= set(bundle.split())
