"""The command line with a model whose pictures are tokens: what it says, records and refuses."""

import json

import pytest
from PIL import Image

from mlx_sd import metadata
from tests.support import tokens
from tests.support.effort import slow_but


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tokens.write_folder(tmp_path_factory.mktemp("tokens") / "model")


@pytest.fixture
def make(run, model, tmp_path):
    """make("a.png", *options) runs the command with this model and returns the file and what it says."""

    def call(name, *options, prompt="a red tent"):
        words = [] if prompt is None else [prompt, "--model", model]
        code, _, err = run(*words, "--output", name, "--dtype", "float32", *options)
        assert code == 0, err
        return tmp_path / name, err

    return call


def test_a_picture_says_its_calls_and_is_made_again_byte_for_byte(make):
    first, said = make("a.png", "--seed", 3, "--sampler", "dndm", "--steps", 30, "--deepcache", 2)
    record = metadata.read(first)
    assert f"dndm calls the network {record['network_calls']} times for the picture" in said
    assert (record["sampler"], record["schedule"], record["steps"]) == ("dndm", "linear", 30)
    again, _ = make("b.png", "--from-image", first, prompt=None)
    assert again.read_bytes() == first.read_bytes()
    with Image.open(first) as image:
        assert "Sampler: dndm, Schedule type: linear" in image.info["parameters"]


@pytest.mark.slow
def test_a_batch_says_from_how_few_to_how_many_calls_there_are(make, run, model):
    words = ("a red tent", "--model", model, "--json", "--seed", 1, "--guidance", 1)
    _, out, err = run(*words, "--count", 3, "--batch", 3, "--output", "c/", "--steps", 2)
    assert "maskgit calls the network 2 times for each picture" in err
    assert [entry["network_calls"] for entry in json.loads(out)] == [2, 2, 2]
    _, out, err = run(*words, "--count", 4, "--output", "d/", "--sampler", "dndm", "--steps", 30)
    counts = sorted(entry["network_calls"] for entry in json.loads(out))
    assert counts[0] < counts[-1] and f"dndm calls the network {counts[0]} to {counts[-1]} times for each" in err


@pytest.mark.slow
def test_another_sampler_of_a_replayed_picture_takes_its_own_schedule_and_steps(make):
    first, _ = make("a.png", "--seed", 3, "--sampler", "dndm_c", "--schedule", "beta:3,2")
    second, said = make("b.png", "--from-image", first, "--sampler", "MaskGIT", prompt=None)
    assert "maskgit calls the network 12 times" in said and metadata.read(second)["schedule"] is None


@pytest.mark.slow
def test_images_masks_and_animations_go_the_same_way(make, tmp_path):
    first, _ = make("a.png", "--seed", 3)
    mask = Image.new("L", (24, 24), 0)
    mask.paste(255, (0, 0, 12, 12))
    mask.save(tmp_path / "mask.png")
    second, _ = make(
        "b.png", "--init-image", first, "--mask", "mask.png", "--strength", 0.7, "--animate", "b.gif", "--seed", 4
    )
    again, _ = make("c.png", "--from-image", second, prompt=None)
    assert again.read_bytes() == second.read_bytes()
    with Image.open(tmp_path / "b.gif") as animation:
        assert animation.n_frames > 2


TOKENS = {
    "--sampler euler": "the sampler euler is of latents, and the pictures of",
    "--sampler maskgit --schedule cosine": "maskgit has a schedule of its own; leave --schedule out",
    "--schedule karras": "it takes linear, cosine, beta:A,B",
    "--schedule beta": "it takes linear, cosine, beta:A,B",
    "--sampler dndm --schedule beta:0,1": "A and B must be above 0",
    "--sampler dndm --schedule karras": "the sampler dndm takes the schedules linear, cosine, beta:A,B, not karras",
    "--sampler dndm_c --steps 9": "dndm_c has no steps",
    "--steps 0": "steps must be",
    "--sampler dndm --steps 100001": "steps must be from 1 to 100000",
    "--temperature 0": "temperature must be above 0",
    "--temperature=-1": "temperature must be above 0",
    "--width 30": "width must be a positive multiple of 4, not 30",
    "--deepcache 2:9": "there is no DeepCache branch 9",
    "--deepcache sada:4": "follows the path of latents",
    "--vae taesd": "which no other decodes; leave --vae out",
    "--tgate 3": "--tgate has no meaning for a model whose pictures are tokens",
    "--freeu": "--freeu has no meaning",
    "--hires 2": "--hires has no meaning",
    "--pag 3": "--pag has no meaning",
    "--speed fast": "--speed has no meaning",
    "--eta 0": "--eta has no meaning",
    "--rng torch": "--rng has no meaning",
    "--tuning off": "--tuning has no meaning",
    "--guidance-interval 0-0.6": "--guidance-interval has no meaning",
    "--token-downsampling 2": "--token-downsampling has no meaning",
    "--guidance-rescale 0.5": "--guidance-rescale has no meaning",
    "--denoise-tile 4": "--denoise-tile has no meaning",
    "--noise-level 4": "--noise-level has no meaning",
    "--lora lora.safetensors": "lora.safetensors",
    "--lora-mode runtime": "which no LoRA is for",
    "--adapter x:y.png": "y.png",
    "--strength 0.5": "strength says how much of an image changes",
    "--init-image photo.png --strength 0.001": "strength 0.001 leaves none of 12 calls; give",
    "--init-image photo.png --mask black.png": "black all over",
    "--steps-preview taesd": "steps-preview",
}
LATENTS = {
    "--sampler maskgit": "the sampler maskgit is of models whose pictures are tokens; tiny takes euler",
    "--schedule cosine": "the schedule cosine is of models whose pictures are tokens; tiny takes normal",
    "--schedule beta:2,2": "the schedule beta:2,2 is of models whose pictures are tokens",
    "--temperature 0.9": "--temperature is of models whose pictures are tokens, not of tiny",
}


def _refused(run, tmp_path, message, *words):
    Image.new("RGB", (24, 24), "red").save(tmp_path / "photo.png")
    Image.new("L", (24, 24), 0).save(tmp_path / "black.png")
    before = sorted(tmp_path.iterdir())
    code, out, err = run("a red tent", "--seed", 1, *words)
    assert (code, out) == (2, "") and err.count("\n") == 1 and message in err, err
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("options", slow_but([*TOKENS][::5], TOKENS))
def test_a_wrong_turn_with_a_model_of_tokens_is_one_line(run, model, tmp_path, options):
    _refused(run, tmp_path, TOKENS[options], "--model", model, *options.split())


@pytest.mark.parametrize("options", slow_but([*LATENTS][:1], LATENTS))
def test_settings_of_tokens_with_a_model_of_latents_are_one_line(run, tmp_path, options, tiny_once):
    _refused(run, tmp_path, LATENTS[options], *options.split())
