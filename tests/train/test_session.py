"""A training by the command line: its result changes pictures, and it goes on bit for bit."""

import json
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from PIL import Image

from mlx_sd import Control, StableDiffusion
from mlx_sd.train import session
from mlx_sd.train.command import main
from mlx_sd.train.kind_table import KINDS
from mlx_sd.train.run import log
from tests.support.effort import slow_but

pytestmark = pytest.mark.filterwarnings("ignore:.*loss.png is not drawn.*:UserWarning")
OPTIONS = {
    "lora": ["--rank", "4", "--rate", "1e-2"],
    "embedding": ["--token", "zorb", "--like", "tent", "--rate", "5e-2"],
    "unet": ["--rate", "1e-3"],
    "control": ["--rate", "1e-2"],
    "control --rank": ["--rank", "4", "--rate", "1e-2"],
    "prune": ["--remove", "0.2", "--score-timesteps", "4", "--score-batches", "2", "--rate", "1e-3"],
    "distill": ["--rank", "4", "--rate", "1e-2", "--guidance", "3"],
}


assert {kind.split()[0] for kind in OPTIONS} == set(KINDS)
FOLDERS = ("unet", "control", "prune")  # kinds whose result is a folder


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Three pictures with captions that have the word zorb, and control images."""
    folder = tmp_path_factory.mktemp("data") / "pictures"
    (folder / "conditioning_images").mkdir(parents=True)
    for i in range(3):
        pixels = np.random.RandomState(i).randint(0, 255, (8, 8, 3), np.uint8)
        image = Image.fromarray(pixels).resize((96, 96))
        image.save(folder / f"{i}.png")
        image.convert("L").convert("RGB").save(folder / "conditioning_images" / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"a red zorb number {i}", encoding="utf-8")
    return folder


@pytest.fixture
def train(checkpoint, data, tmp_path) -> Callable[..., Path]:
    """train("lora", "--steps", "4") runs the command line and returns the result's path; it must succeed."""

    def run(kind: str, *options: str, out: str = "result", code: int = 0) -> Path:
        path = tmp_path / (out if kind in FOLDERS else f"{out}.safetensors")
        common = ["--model", str(checkpoint), "--data", str(data), "--out", str(path), "--resolution", "64"]
        assert main([kind.split()[0], *common, *OPTIONS[kind], *options]) == code
        return path

    return run


def pictures(checkpoint: Path, kind: str, result: Path, data: Path) -> list[mx.array]:
    """Returns the latents of the base, and of the base with what was trained."""
    options = {"steps": 2, "seed": 1, "output": "latent", "prompt_style": "plain", "width": 64, "height": 64}
    base = StableDiffusion.load(checkpoint, dtype="float32")
    before = base.generate("a zorb", **options).latents
    if kind in ("lora", "distill"):
        base = StableDiffusion.load(checkpoint, dtype="float32", loras=[result])
    elif kind == "embedding":
        options["embeddings"] = [(result, "zorb")]
    elif kind in ("unet", "prune"):
        base = StableDiffusion.load(result, dtype="float32")
    else:
        options["controls"] = [Control(result, data / "conditioning_images" / "0.png")]
    return [before, base.generate("a zorb", **options).latents]


@pytest.mark.parametrize("kind", slow_but(["embedding"], ["embedding", "unet", "control --rank"]))
def test_a_result_changes_pictures_at_once(kind, train, checkpoint, data, capfd):
    result = train(kind, "--steps", "4", "--validate-every", "2", "--batch", "2")
    assert capfd.readouterr().out.strip() == str(result)
    before, after = pictures(checkpoint, kind, result, data)
    assert mx.abs(before - after).max().item() > 1e-3
    lines = log.read(result.with_name(f"{result.name}-training") / log.NAME)
    assert [line["step"] for line in lines] == list(range(5))
    assert [line["step"] for line in lines if "validation" in line] == [0, 2, 4]
    if kind not in ("embedding", "distill"):  # of random networks, which words move little
        assert lines[-1]["validation"] < lines[0]["validation"]


def same(first: Path, second: Path) -> bool:
    """Returns whether two results hold the same numbers, bit for bit; their names are in their metadata."""
    names = [file.relative_to(first) for file in sorted(first.rglob("*.safetensors"))] if first.is_dir() else [Path()]
    for name in names:
        a, b = (mx.load(str(path / name)) for path in (first, second))
        assert a.keys() == b.keys()
        if not all(mx.array_equal(a[key], b[key]) for key in a):
            return False
    return True


@pytest.mark.parametrize("kind", slow_but(["lora"], ["lora", "control", "distill"]))
def test_a_run_that_was_ended_is_gone_on_with_bit_for_bit(kind, train, monkeypatch):
    options = ["--steps", "4", "--save-every", "2", "--flip", "--caption-dropout", "0.3", "--schedule", "cosine"]
    whole = train(kind, *options)
    run, steps = session.Trainer.run, []

    def cut(self, batches):
        steps.append(self.step)
        if len(steps) == 3:
            raise KeyboardInterrupt
        return run(self, batches)

    monkeypatch.setattr(session.Trainer, "run", cut)
    path = train(kind, *options, out="again", code=130)
    assert not path.exists()
    again = train(kind, "--resume", out="again")
    assert steps == [0, 1, 2, 2, 3]
    assert same(again, whole)


@pytest.mark.slow
def test_a_run_that_was_killed_before_its_first_checkpoint_begins_again(train, monkeypatch):
    whole = train("lora", "--steps", "2")
    run = session.Trainer.run

    def killed(self, batches):
        raise SystemExit(9)  # nothing is saved, as with kill -9

    monkeypatch.setattr(session.Trainer, "run", killed)
    with suppress(SystemExit):
        train("lora", "--steps", "2", out="again", code=9)
    monkeypatch.setattr(session.Trainer, "run", run)
    again = train("lora", "--resume", out="again")
    assert same(again, whole)
    log = again.with_name(f"{again.name}-training") / "log.jsonl"
    assert [json.loads(line)["step"] for line in log.read_text().splitlines()] == [0, 1, 2]


@pytest.mark.slow
def test_a_file_tells_how_it_was_trained(train, data):
    out = train("lora", "--steps", "2", "--snr-gamma", "5", "--text-rate", "1e-3", "--warmup", "1")
    metadata = mx.load(str(out), return_metadata=True)[1]
    expected = {
        "ss_steps": "2",
        "ss_learning_rate": "0.01",
        "ss_text_encoder_lr": "0.001",
        "ss_min_snr_gamma": "5.0",
        "ss_num_train_images": "3",
        "ss_optimizer": "adamw",
        "ss_network_dim": "4",
        "ss_output_name": "result",
    }
    assert expected.items() <= metadata.items()
    tags = {f"a red zorb number {i}": 1 for i in range(3)}
    assert json.loads(metadata["ss_tag_frequency"]) == {"pictures": tags}
    assert json.loads(metadata["ss_bucket_info"]) == {"buckets": {"0": {"resolution": [64, 64], "count": 3}}}


@pytest.mark.slow
def test_more_steps_may_follow(train):
    train("lora", "--steps", "2")
    longer = train("lora", "--steps", "4", "--resume")
    assert same(longer, train("lora", "--steps", "4", out="whole"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*one picture alone.*:UserWarning")
def test_accumulated_micro_batches_are_one_batch(train, data, tmp_path):
    """Of one picture, so that the order of pictures is one."""
    single = tmp_path / "single"
    single.mkdir()
    for name in ("0.png", "0.txt"):
        shutil.copy(data / name, single / name)
    # Adam would turn rounding into signs.
    common = ["--data", str(single), "--steps", "2", "--optimizer", "sgd", "--rate", "1", "--clip", "0"]
    first, second = (
        mx.load(str(train("lora", *common, "--batch", batch, "--accumulate", accumulate, out=batch)))
        for batch, accumulate in (("3", "1"), ("1", "3"))
    )
    assert max(mx.abs(array).max().item() for name, array in first.items() if "up" in name) > 1e-2
    assert all(mx.allclose(array, second[name], atol=1e-4).item() for name, array in first.items())


@pytest.mark.slow
def test_without_any_caption_the_words_do_not_matter(train, data):
    plain = train("lora", "--steps", "2", "--caption-dropout", "1")
    texts = {file: file.read_text() for file in data.glob("*.txt")}
    try:
        for file in texts:
            file.write_text("something else, about a zorb")
        other = train("lora", "--steps", "2", "--caption-dropout", "1", out="other")
    finally:
        for file, text in texts.items():
            file.write_text(text)
    first, second = (mx.load(str(path)) for path in (plain, other))
    assert all(mx.array_equal(array, second[name]).item() for name, array in first.items())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["embedding", "lora", "prune"])
def test_sample_pictures_are_made_on_the_way(kind, train, monkeypatch):
    monkeypatch.setattr(session, "SAMPLE_STEPS", 2)
    out = train(kind, "--steps", "2", "--sample-every", "2", "--sample-prompt", "a zorb")
    samples = out.with_name(f"{out.name}-training") / "samples"
    names = sorted(path.name for path in samples.iterdir())
    assert names == ["step-000000-0.png", "step-000002-0.png"]
    first, last = (np.asarray(Image.open(samples / name), int) for name in names)
    assert np.abs(first - last).max() > 0


@pytest.mark.slow
def test_settings_are_written_and_compared(train, tmp_path, capfd):
    out = train("lora", "--steps", "1")
    stored = json.loads((tmp_path / f"{out.name}-training" / "settings.json").read_text())["settings"]
    assert stored["rank"] == 4 and stored["resolution"] == [64, 64]
    train("lora", "--resume", "--rank", "8", code=2)
    assert "rank" in capfd.readouterr().err


WRONG = {
    "a folder that is not there": (["--data", "nowhere"], "nowhere"),
    "no word": (["embedding", "--token", ""], "token"),
    "a word that exists": (["embedding", "--token", "red"], "word already"),
    "a word in no caption": (["embedding", "--token", "quux"], "no caption has the word"),
    "a result that is no file of weights": (["--out", "result.png"], ".safetensors"),
    "a rank of 0": (["--rank", "0"], "rank"),
    "targets": (["--targets", "everything"], "targets"),
    "a resolution": (["--resolution", "big"], "resolution"),
    "nothing to go on with": (["--resume"], "no run to go on with"),
    "no control images": (["control", "--images", "nowhere"], "no control image"),
    "a rank of 0 of a control network": (["control", "--rank", "0"], "rank"),
    "a folder for a Control-LoRA": (["control", "--rank", "4"], ".safetensors"),
    "half a UNet": (["unet", "--dtype", "float16"], "float16"),
    "an unknown kind": (["lorra"], "lora"),
    "a misspelled option": (["--step", "3"], "--steps"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_turn_is_one_line_and_leaves_nothing(name, checkpoint, data, tmp_path, capfd, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words, expected = WRONG[name]
    kind = words[0] if not words[0].startswith("-") else "lora"
    options = words[words[0] == kind :]
    out = [] if "--out" in options else ["--out", "result" if kind in FOLDERS else "result.safetensors"]
    common = ["--model", str(checkpoint), "--data", str(data), "--steps", "1", *out]
    try:
        code = main([kind, *common, *OPTIONS.get(kind, []), *options])
    except SystemExit as end:
        code = end.code
    error = capfd.readouterr().err
    assert code == 2 and expected in error and "Traceback" not in error
    assert len(error.strip().splitlines()) == 1, error
    assert list(tmp_path.iterdir()) == []
