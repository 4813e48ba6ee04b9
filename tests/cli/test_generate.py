"""The command line: pictures that can be made again, and one clear line for everything a user gets wrong."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from PIL import Image

from mlx_sd import StableDiffusion, metadata
from mlx_sd.core.errors import Failure
from tests.support.effort import slow_but

TENT = "a red tent in the center on green grass, under a clear day sky"
SMALL = ("--width", 64, "--height", 64)


def _pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"), np.int16)


def test_a_red_tent_is_red_and_stands_on_green_under_blue(run, tmp_path):
    """The embedded checkpoint shows what the prompt says, with DeepCache, at its defaults."""
    code, out, _ = run(TENT, "--seed", 0, "--deepcache", 3, "--output", "tent.png")
    assert (code, out) == (0, "tent.png\n")
    red, green, blue = np.moveaxis(_pixels("tent.png"), -1, 0)
    side = len(red)
    tent = (red > 150) & (green < 110) & (blue < 110)
    assert tent.mean() > 0.01
    assert np.abs(np.argwhere(tent).mean(axis=0) / side - [0.7, 0.5]).max() < 0.19  # row, column: low, in the center
    top, bottom = slice(side // 4), slice(-side // 6, None)
    assert blue[top].mean() > red[top].mean() + 30
    assert green[bottom].mean() > max(red[bottom].mean(), blue[bottom].mean()) + 40


def test_a_picture_replays_to_the_same_pixels(run, tmp_path):
    flags = ("--steps", 3, "--seed", 5, "--sampler", "euler_ancestral", "--schedule", "trailing", "--guidance", 3.5)
    flags += (
        "--negative",
        "a tent",
        "--deepcache",
        "2:1",
        "--tgate",
        "2,1",
        "--width",
        96,
        "--clip-skip",
        1,
        "--guidance-rescale",
        0.5,
    )
    assert run("a house", *flags, "--output", "a.png")[0] == 0
    assert run("--from-image", "a.png", "--output", "b.png")[0] == 0
    assert (_pixels("a.png") == _pixels("b.png")).all()
    assert metadata.read(tmp_path / "a.png") == metadata.read(tmp_path / "b.png")
    assert run("--from-image", "a.png", "--seed", 6, "--output", "c.png")[0] == 0
    assert (_pixels("a.png") != _pixels("c.png")).any()
    about = metadata.read(tmp_path / "c.png")
    assert (about["prompt"], about["seed"], about["sampler"]) == ("a house", 6, "euler_ancestral")
    with Image.open("a.png") as image:
        assert image.text["parameters"].startswith("a house\nNegative prompt: a tent\nSteps: 3, Sampler: Euler a")


@pytest.mark.parametrize("factors", slow_but([("1.2,1.3,0.9,0.5",)], [(), ("1.2,1.3,0.9,0.5",), ("constant:",)]))
def test_freeu_is_replayed(run, factors):
    assert run("a tent", "--steps", 3, *SMALL, "--seed", 0, "--output", "a.png", "--freeu", *factors)[0] == 0
    assert run("a tent", "--steps", 3, *SMALL, "--seed", 0, "--output", "plain.png")[0] == 0
    assert run("--from-image", "a.png", "--output", "b.png")[0] == 0
    assert (_pixels("a.png") == _pixels("b.png")).all() and (_pixels("a.png") != _pixels("plain.png")).any()
    assert metadata.read(Path("a.png")) == metadata.read(Path("b.png"))


@pytest.mark.parametrize(
    "policy", slow_but(["at=0,2:1", "2:3+forecast2"], ["nonuniform:3,1", "at=0,2:1", "adaptive:0.3", "2:3+forecast2"])
)
def test_every_policy_of_deepcache_is_replayed_from_a_batch(run, policy):
    flags = (*SMALL, "--steps", 5, "--deepcache", policy, "--count", 2, "--batch", 1, "--seed", 0)
    assert run("a tent", *flags, "--output", "a.png")[0] == 0
    assert run("--from-image", "a-1.png", "--output", "b.png")[0] == 0
    assert (_pixels("a-1.png") == _pixels("b.png")).all()
    assert metadata.read(Path("a-1.png")) == metadata.read(Path("b.png"))


SOLVER_OPTIONS = {  # flags -> what they are recorded as
    "--sampler ddim --eta 0.5": {"eta": 0.5},
    "--sampler edm --order 1 --s-churn 3 --s-noise 1.1": {"s_churn": 3.0, "order": 1},
    "--sampler deis --order 3 --corrector": {"order": 3, "corrector": True},
    "--sampler euler --schedule karras --rho 3": {"rho": 3.0},
    "--sampler tcd --gamma 0.2": {"gamma": 0.2, "schedule": "trailing"},
    "--timesteps 900,500,20": {"schedule": "timesteps=900,500,20", "steps": 3},
    "--sampler heun --sigmas 9,3,1,0": {"schedule": "sigmas=9,3,1,0", "steps": 3},
}


@pytest.mark.parametrize("options", slow_but(list(SOLVER_OPTIONS)[1:3], SOLVER_OPTIONS))
def test_solver_options_are_recorded_and_replayed(run, tmp_path, options):
    said = SOLVER_OPTIONS[options]
    flags = (*options.split(), *SMALL, *(() if "steps" in said else ("--steps", 3)))
    assert run("a tent", *flags, "--output", "a.png")[0] == 0
    assert run("--from-image", "a.png", "--output", "b.png")[0] == 0
    assert (_pixels("a.png") == _pixels("b.png")).all()
    about = metadata.read(tmp_path / "a.png")
    assert said.items() <= about.items() and about == metadata.read(tmp_path / "b.png")
    assert run("--from-image", "a.png", "--sampler", "dpmpp_2m", "--timesteps", "800,90", "--output", "c.png")[0] == 0


def test_a_schedule_file_is_taken(run, tmp_path):
    (tmp_path / "s.json").write_text('{"timesteps": [900, 400]}')
    assert run("a tent", "--schedule", "s.json", "--output", "a.png")[0] == 0
    assert metadata.read(tmp_path / "a.png")["steps"] == 2


@pytest.mark.parametrize("sampler", slow_but(["dpmpp_2m_sde"], ["dpmpp_2m", "euler_ancestral", "dpmpp_2m_sde"]))
def test_a_seed_is_the_same_picture_whatever_the_count(run, sampler):
    flags = ("a tent", "--steps", 3, *SMALL, "--sampler", sampler)
    assert run(*flags, "--seed", 2, "--output", "one.png")[0] == 0
    assert run(*flags, "--seed", 1, "--count", 3, "--output", "many.png")[0] == 0
    assert run(*flags, "--seed", 1, "--count", 3, "--batch", 3, "--output", "batch.png")[0] == 0
    assert (_pixels("one.png") == _pixels("many-2.png")).all()
    assert np.abs(_pixels("one.png") - _pixels("batch-2.png")).max() <= 1  # other matrix shapes, other rounding


def test_json_says_what_was_made_and_what_it_took(run, tmp_path):
    code, out, err = run("a tent", "--steps", 9, "--seed", 0, "--deepcache", 2, "--json", "--output", "pictures/")
    (made,) = json.loads(out)
    assert (code, err) == (0, "")  # no progress bar in a pipe
    assert made["output"] == "pictures/a-tent-0.png" and (tmp_path / made["output"]).is_file()
    assert (made["evaluations"], made["full_evaluations"]) == (9, 5)
    assert made["seconds"] > 0 and made["model"] == "tiny" and made["sampler"] == "dpmpp_2m_sde"


def test_names_we_choose_never_overwrite(run):
    assert [run("A tent!", "--steps", 1, "--seed", 0)[1] for _ in range(2)] == ["a-tent-0.png\n", "a-tent-0.2.png\n"]


@pytest.mark.slow
def test_a_file_of_prompts_is_one_picture_a_line(run, tmp_path):
    (tmp_path / "prompts.txt").write_text("a tent\n" + "a very long prompt " * 30 + "\nein Zelt über dem Meer\n")
    code, out, _ = run("--prompts", "prompts.txt", "--seed", 0, "--steps", 1, "--batch", 3, "--output", "p.png")
    assert (code, out.split()) == (0, ["p-1-0.png", "p-2-0.png", "p-3-0.png"])


@pytest.mark.parametrize("size", [(8, 8), (72, 136), (200, 40)])
def test_any_size_divisible_by_8(run, size):
    assert run("a tent", "--steps", 1, "--width", size[0], "--height", size[1], "--output", "s.png")[0] == 0
    assert _pixels("s.png").shape == (size[1], size[0], 3)


def test_guidance_at_most_1_is_one_batch(run):
    widths = []
    sd = StableDiffusion.load("tiny", dtype="float32")
    inner = sd.unet.down.stages[0][0]
    call = type(inner).__call__
    try:
        type(inner).__call__ = lambda self, x, *others: (
            widths.append(x.shape[0]) if self is inner else None,
            call(self, x, *others),
        )[1]
        for guidance in (0.0, 1.0, 1.5):
            sd.generate("a tent", steps=1, guidance=guidance, output="latent", seed=0)
    finally:
        type(inner).__call__ = call
    assert widths == [1, 1, 2]


MISTAKES = {
    "unknown sampler": (("x", "--sampler", "magic"), "unknown sampler 'magic'; there are euler, euler_ancestral, heun"),
    "unknown schedule": (("x", "--schedule", "magic"), "unknown schedule 'magic'; there are normal, karras"),
    "pair": (
        ("x", "--sampler", "plms", "--schedule", "karras"),
        "plms does not go with karras; it takes sgm_uniform, leading",
    ),
    "timesteps": (("x", "--timesteps", "1,2"), "timesteps must be whole numbers from 999 down to 0"),
    "sigmas": (("x", "--sigmas", "1,2"), "sigmas must be at least two numbers, each below the one before"),
    "both": (("x", "--sigmas", "2,1", "--schedule", "ays"), "argument --schedule: not allowed with argument --sigmas"),
    "steps given": (("x", "--timesteps", "9,5", "--steps", 3), "the schedule given is of 2 steps, not 3"),
    "eta": (("x", "--sampler", "ddim", "--eta", 2), "eta must be from 0 to 1, not 2"),
    "gamma": (("x", "--sampler", "euler", "--gamma", 0.1), "euler takes no gamma; tcd does"),
    "corrector": (("x", "--sampler", "heun", "--corrector"), "heun takes no corrector"),
    "width": (("x", "--width", 100), "width must be a positive multiple of 8, not 100"),
    "no width": (("x", "--width", 0), "width must be a number of pixels from 8, not 0"),
    "folder": (("x", "--sampler", "magic", "--output", "new/folder/"), "unknown sampler"),
    "folder in a file": (("x", "--output", "file.txt/folder/"), "cannot be written (Not a directory)"),
    "height": (("x", "--height", -8), "height must be a number of pixels from 8, not -8"),
    "steps 0": (("x", "--steps", 0), "steps must be from 1 up, not 0"),
    "steps 2000": (("x", "--steps", 2000), "steps must be from 1 to 1000, not 2000"),
    "steps coincide": (("x", "--steps", 1000, "--schedule", "linspace"), "1000 steps are too many for dpmpp_2m"),
    "guidance nan": (("x", "--guidance", "nan"), "guidance must be a finite number, not nan"),
    "guidance inf": (("x", "--guidance", "inf"), "guidance must be a finite number, not inf"),
    "rescale": (("x", "--guidance-rescale", 2), "guidance rescale must be from 0 to 1"),
    "seed": (("x", "--seed", -2), "seed must be from 0 to 4294967295, or -1 for a random one, not -2"),
    "count": (("x", "--count", 0), "count and batch must be at least 1"),
    "clip skip": (("x", "--clip-skip", 9), "clip skip must be from 0 to 3, not 9"),
    "interval": (("x", "--deepcache", 0), "the DeepCache interval must be at least 1, not 0"),
    "branch": (("x", "--deepcache", "3:40"), "there is no DeepCache branch 40 in this UNet; it has 0 to "),
    "deepcache": (("x", "--deepcache", "often"), "--deepcache takes N or N:BRANCH"),
    "gate": (("x", "--tgate", 25), "the gate is at evaluation 25, but there are only 25, from 0 to 24"),
    "gates": (("x", "--tgate", "early"), "--tgate takes GATE"),
    "freeu": (("x", "--freeu", "y"), "unexpected 'y': the prompt is 'x' already, and --freeu takes B1,B2,S1,S2"),
    "centre": (("x", "--steps", 9, "--deepcache", "nonuniform:2,9"), "there is no evaluation 9 of 9 to be"),
    "power": (("x", "--deepcache", "nonuniform:2,3,0.5"), "the power of a nonuniform DeepCache must be above 1"),
    "spread": (("x", "--deepcache", "nonuniform:1"), "no 25 of 25 evaluations are spread around 7 by a power"),
    "listed": (("x", "--deepcache", "at=3,9"), "full evaluations must begin with 0 and go up, not 3,9"),
    "threshold": (("x", "--deepcache", "adaptive:nan"), "threshold of an adaptive DeepCache must be at least 0"),
    "forecast": (("x", "--deepcache", "3+forecast3"), "DeepCache forecasts of degree 0, 1 or 2, not 3"),
    "dtype": (("x", "--dtype", "int4"), "invalid choice: 'int4'"),
    "no prompt": ((), "give a prompt, --prompts FILE or --from-image PNG"),
    "two prompts": (("x", "--prompts", "prompts.txt"), "give a prompt or --prompts, not both"),
    "no such file": (("--prompts", "none.txt"), "none.txt: No such file"),
    "output type": (
        ("x", "--output", "a.gif"),
        "pictures are written as .png, .jpg, .jpeg, .webp; give a name that ends in one of",
    ),
    "output folder": (("x", "--output", "none/a.png"), "--output none: cannot be written (No such file"),
    "output is a file": (("x", "--output", "file.txt/a.png"), "cannot be written (Not a directory)"),
    "replay what": (("--from-image", "none.png"), "none.png does not exist"),
    "replay a text": (("--from-image", "file.txt"), "file.txt is not a picture"),
    "model": (("x", "--model", "no-such-folder"), "no-such-folder does not exist"),
    "model is a file": (("x", "--model", "file.txt"), "file.txt is a file; give a diffusers folder"),
    "flag": (("x", "--stepps", 3), "unknown option --stepps; did you mean --steps?"),
    "not a number": (("x", "--steps", "many"), "argument --steps: must be a whole number, not 'many'"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2(run, tmp_path, name):
    """... and leaves nothing behind, for it is noticed before the first step."""
    (tmp_path / "file.txt").write_text("text")
    arguments, message = MISTAKES[name]
    before = sorted(tmp_path.rglob("*"))
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert message in err and err.count("\n") == 1 and "Traceback" not in err, err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b'a tent\n{"seeed": 3}\n',
            "prompts.txt, line 2: it has a setting 'seeed', unknown to this version; did you mean",
        ),
        (b"a tent\n\xff\xfe\n", "prompts.txt, line 2: not UTF-8"),
        (b"", "prompts.txt is empty"),
    ],
)
def test_a_bad_file_of_prompts_is_named_with_its_line(run, tmp_path, content, message):
    (tmp_path / "prompts.txt").write_bytes(content)
    code, _, err = run("--prompts", "prompts.txt")
    assert code == 2 and message in err and err.count("\n") == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes anywhere")
def test_an_output_folder_without_permission_is_noticed_first(run, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o555)
    code, _, err = run("x", "--output", "locked/a.png")
    assert code == 2 and "cannot be written (Permission denied)" in err


def test_a_picture_without_its_making_is_refused(run, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "plain.png")
    code, _, err = run("--from-image", "plain.png")
    assert code == 2 and "does not say how it was made" in err


def test_a_picture_that_says_nonsense_is_refused(run, tmp_path):
    about = {"prompt": "x", "steps": "many", "sampler": "ddim", "schedule": "leading", "guidance": 1, "seed": 0}
    about |= {"width": 8, "height": 8, "model": "tiny", "model_hash": ""}
    metadata.save(Image.new("RGB", (8, 8)), tmp_path / "odd.png", about)
    code, _, err = run("--from-image", "odd.png")
    assert code == 2 and "odd.png: it says steps = 'many'" in err


@pytest.mark.slow
@pytest.mark.parametrize("dtype", slow_but(["float16"], ["float16", "bfloat16"]))
def test_half_precision_makes_nearly_the_same_picture(run, dtype):
    for kind in (dtype, "float32"):
        assert run("a tent", "--steps", 4, *SMALL, "--dtype", kind, "--seed", 0, "--output", f"{kind}.png")[0] == 0
    assert np.abs(_pixels(f"{dtype}.png") - _pixels("float32.png")).mean() < 4
    assert metadata.read(Path(f"{dtype}.png"))["dtype"] == dtype


def test_nan_in_the_latents_is_a_failure_not_a_picture(run, tmp_path, monkeypatch):
    from mlx_sd.networks.unet import UNet

    call = UNet.__call__
    monkeypatch.setattr(
        UNet, "__call__", lambda self, *a, **k: tuple(y * mx.array(float("nan")) for y in call(self, *a, **k))
    )
    code, out, err = run("a tent", "--steps", 3, "--output", "a.png")
    assert (code, out) == (1, "") and "not finite after evaluation 1 of 3" in err
    assert list(tmp_path.iterdir()) == []


def test_nan_from_the_vae_is_a_failure_too(monkeypatch):
    sd = StableDiffusion.load("tiny", dtype="float32")
    with pytest.raises(Failure, match="VAE"):
        sd.decode(mx.full((1, 4, 4, 4), float("nan")))


@pytest.mark.slow
def test_ctrl_c_is_clean(tmp_path, interruptible):
    """The pictures that were done stay, the one in work leaves nothing, and the exit code is 130."""
    command = [sys.executable, "-m", "mlx_sd.generate", "a tent", "--steps", "40", "--count", "50", "--output", "out/"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("out/*.png")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and ": interrupted; " in err and "Traceback" not in err
    assert sorted(f"out/{p.name}" for p in (tmp_path / "out").iterdir()) == sorted(out.split())
    for path in out.split():
        _pixels(tmp_path / path)


def test_prompts_beyond_77_tokens_count_to_the_end():
    """A word in the second chunk changes the picture; the first chunk alone is what a short prompt gives."""
    sd = StableDiffusion.load("tiny", dtype="float32")
    short, _ = sd.encode_prompt("tent " * 75)
    long, _ = sd.encode_prompt("tent " * 75 + "moon")
    other, _ = sd.encode_prompt("tent " * 75 + "sun")
    assert short.shape[1:] == (77, 192) and long.shape[1:] == (154, 192)
    assert mx.array_equal(long[:, :77], short)
    assert not mx.array_equal(long, other)
