"""A refiner goes on where its base stops: one schedule, shared."""

import mlx.core as mx
import numpy as np
import pytest
from PIL import Image

from mlx_sd import DeepCache, StableDiffusion, TGate, metadata
from mlx_sd.core.errors import InputError
from tests.support import singles
from tests.support.effort import slow_but

PROMPT = "a lighthouse"
MEMORY = {"deis", "dpm_2m", "dpmpp_2m", "dpmpp_2m_sde", "dpmpp_2s", "dpmpp_3m", "lms", "plms", "unipc"}


@pytest.fixture(scope="module")
def folder(shapes, tmp_path_factory):
    return singles.refiner_folder(shapes, tmp_path_factory.mktemp("refiner") / "refiner")


@pytest.fixture(scope="module")
def refiner(folder):
    return StableDiffusion.load(folder, dtype="float32")


def _picture():
    return Image.fromarray(np.random.RandomState(0).randint(0, 256, (32, 32, 3), np.uint8))


# One of each kind: fresh noise, and a step, multistep, two evaluations a step, singlestep.
@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    slow_but(["euler_ancestral"], ["euler_ancestral", "dpmpp_2m", "plms", "heun"]),
)
def test_a_model_that_refines_itself_is_the_model_alone(name, family):
    """... exactly, where the sampler has no memory that the hand-over loses; and always as many steps."""
    sd, given = family("sd1"), {"steps": 10, "sampler": name, "width": 32, "height": 32, "output": "latent"}
    whole = sd.generate(PROMPT, **given, seed=0)
    for at in (0.3, 0.85):
        shared = sd.generate(PROMPT, refiner=sd, refine_at=at, **given, seed=0)
        assert shared.evaluations - whole.evaluations == (name == "plms")  # which starts anew with one more
        assert name in MEMORY or mx.array_equal(shared.latents, whole.latents)
        assert mx.abs(shared.latents).max() < 10 * mx.abs(whole.latents).max()


@pytest.mark.slow
def test_churn_is_shared_too(family):
    sd, given = family("sd1"), {"steps": 10, "width": 32, "height": 32, "output": "latent", "sampler": "edm"}
    given["s_churn"] = 4.0
    whole, shared = (
        sd.generate(PROMPT, **given, seed=0),
        sd.generate(PROMPT, refiner=sd, refine_at=0.6, **given, seed=0),
    )
    assert mx.array_equal(whole.latents, shared.latents)


@pytest.mark.slow
def test_each_network_runs_its_share_with_its_own_reuse(family, refiner):
    counts = []
    given = {"steps": 10, "sampler": "euler", "output": "latent", "width": 32, "height": 32}
    result = family("sdxl").generate(
        PROMPT,
        refiner=refiner,
        **given,
        deepcache=DeepCache(3),
        callback=lambda i, total, _: counts.append((i, total)),
        seed=0,
    )
    assert counts == [(i, 10) for i in range(1, 11)]
    assert result.full == 3 + 1  # of 8: 0, 3 and 6; of 2: 0


def test_what_is_kept_is_kept_to_the_end(family, refiner):
    whole, mask = _picture(), Image.new("L", (32, 32))
    mask.paste(255, (0, 0, 32, 16))
    sd = family("sdxl")
    given = {"image": whole, "mask": mask, "steps": 5, "seed": 1}
    refined, plain = sd.generate(PROMPT, refiner=refiner, **given), sd.generate(PROMPT, **given)
    assert mx.array_equal(refined.latents[:, 4:], plain.latents[:, 4:])  # the image's own
    assert not mx.array_equal(refined.latents[:, :4], plain.latents[:, :4])
    changed = np.asarray(refined.images[0], int) != np.asarray(whole, int)
    assert not changed[16:].any() and changed[:16].any()


@pytest.mark.slow
def test_the_command_line_records_and_replays(run, folder, original, tmp_path):
    flags = (
        "--model",
        original,
        "--refiner",
        original,
        "--refine-at",
        0.5,
        "--steps",
        4,
        "--width",
        32,
        "--height",
        32,
    )
    assert run("a tent", *flags, "--output", "a.png")[0] == 0
    assert run("--from-image", "a.png", "--output", "b.png")[::2] == (0, "")
    about = metadata.read(tmp_path / "a.png")
    assert about == metadata.read(tmp_path / "b.png")
    assert (about["refiner"], about["refine_at"]) == (str(original), 0.5)
    code, _, err = run("--from-image", "a.png", "--refiner", folder, "--output", "c.png")
    assert code == 2 and "the refiner's latents are of another VAE" in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"refine_at": 1.0}, "refine at must be above 0, below 1, not 1.0"),
        ({"refine_at": 0.999}, "the refiner has none of 10 steps where it begins at 0.999"),
        (
            {"refine_at": 0.001},
            "the refiner begins at 0.001 and leaves the model none of the steps; let it begin later",
        ),
        ({"image": True, "strength": 0.2}, "leaves the model none of the steps of strength 0.2"),
        ({"tgate": TGate(3)}, "T-GATE's gate is of one network; leave out T-GATE or the refiner"),
        ({"refiner": None, "refine_at": 0.5}, "there is no refiner to begin anywhere; give --refiner too"),
        ({"refiner": "inpaint9"}, "the refiner's UNet takes 9 channels, not the 4 of latents alone"),
    ],
)
def test_what_cannot_be_shared_is_said(settings, message, family):
    sd = family("sd1")
    given = {"steps": 10, "refiner": sd, "width": 32, "height": 32} | settings
    if "image" in given:
        given["image"] = _picture()
    if isinstance(given["refiner"], str):
        given["refiner"] = family(given["refiner"])
    with pytest.raises(InputError, match=message) as error:
        sd.generate(PROMPT, **given, seed=0)
    assert "\n" not in str(error.value)
