"""Training by several processes that MLX's launcher starts: it is the training of one process, and it ends as one."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_unflatten
from PIL import Image

from mlx_sd.core.errors import InputError
from mlx_sd.train import checks
from mlx_sd.train.learning.kind_settings import LoraSettings
from mlx_sd.train.run import checkpoint as checkpoints
from mlx_sd.train.run import log
from tests.support import launcher
from tests.support.launcher import Ended, Launch, needs_launcher, needs_proc, wait_for

pytestmark = needs_launcher
OPTIONS = {"lora": ["--rank", "4", "--rate", "1e-3"], "unet": ["--rate", "1e-4", "--average", "0.9"]}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Four pictures with captions."""
    folder = tmp_path_factory.mktemp("data") / "pictures"
    folder.mkdir()
    for i in range(4):
        pixels = np.random.RandomState(i).randint(0, 255, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).resize((96, 96)).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text(f"a red zorb number {i}", encoding="utf-8")
    return folder


def beside_plan(ended: Ended) -> list[str]:
    """Returns the lines that a training has printed, without the two of its memory plan."""
    first, second, *lines = ended.lines
    assert first.startswith("a step needs about ") and second.startswith("gradients "), ended
    return lines


class Run(NamedTuple):
    """A training: the place of its result."""

    out: Path

    @property
    def folder(self) -> Path:
        return self.out.with_name(f"{self.out.name}-training")

    @property
    def log(self) -> list[dict]:
        return log.read(self.folder / log.NAME)

    def newest(self) -> int | None:
        """Returns the newest step with a whole checkpoint."""
        return checkpoints.newest(self.folder / "checkpoints")

    def weights(self, part: str = "weights") -> dict[str, mx.array]:
        """Returns arrays of the newest checkpoint, in float32."""
        return checkpoints.read(self.folder / "checkpoints" / checkpoints.name(self.newest())).arrays[part]


@pytest.fixture
def begin(checkpoint, data, tmp_path) -> Iterator[Callable[..., tuple[Run, Launch]]]:
    """begin(2, "lora", "--steps", "2") starts a training by two ranks."""
    with launcher.Launches(tmp_path) as launches:

        def start(ranks: int, kind: str, *options: str, out: str = "result", script: str = "") -> tuple[Run, Launch]:
            path = tmp_path / (f"{out}.safetensors" if kind == "lora" else out)
            words = ["-c", script] if script else ["-m", "mlx_sd.train"]
            words += [kind, "--model", str(checkpoint), "--data", str(data), "--out", str(path), "--resolution", "64"]
            return Run(path), launches.start(ranks, *words, *OPTIONS[kind], *options)

        yield start


@pytest.fixture
def train(begin) -> Callable[..., tuple[Run, Ended]]:
    """train(2, "lora", "--steps", "2") is a training that came to its end."""

    def run(*arguments: object, **named: str) -> tuple[Run, Ended]:
        started, launch = begin(*arguments, **named)
        return started, launch.wait()

    return run


def difference(first: Run, second: Run, part: str = "weights") -> float:
    """Returns the largest difference of the arrays of two runs."""
    a, b = first.weights(part), second.weights(part)
    assert a.keys() == b.keys()
    return max(mx.abs(a[name].astype(mx.float32) - b[name].astype(mx.float32)).max().item() for name in a)


def assert_same_training(first: Run, second: Run) -> None:
    """Compares losses, norms, validation and weights."""
    assert [entry.keys() for entry in first.log] == [entry.keys() for entry in second.log]
    for a, b in zip(first.log, second.log, strict=True):
        for name in a.keys() - {"step", "seconds"}:
            assert abs(a[name] - b[name]) <= 1e-5 * max(1, abs(a[name])), name
    assert difference(first, second) <= 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("kind", OPTIONS)
def test_two_ranks_learn_what_one_learns(kind, train):
    options = [kind, "--steps", "2", "--accumulate", "2", "--batch", "2", "--validate-every", "2", "--flip"]
    (together, ended), (alone, _) = train(2, *options), train(1, *options, out="alone")
    [line] = beside_plan(ended)
    assert "step 2/2" in line and ended.launcher == [], ended
    assert_same_training(together, alone)
    if kind == "unet":
        assert difference(together, alone, "averages") <= 1e-5
    assert together.out.exists()


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_ranks(train):
    options = ["lora", "--accumulate", "6", "--warmup", "3", "--validate-every", "1", "--caption-dropout", "0.5"]
    _, ended = train(3, *options, "--steps", "1")
    assert [line.partition("  ")[0] for line in beside_plan(ended)] == ["step 1/1"]
    resumed, _ = train(2, "lora", "--steps", "2", "--resume")
    whole, _ = train(1, *options, "--steps", "2", out="whole")
    assert_same_training(resumed, whole)
    assert difference(resumed, whole, "optimizer") <= 1e-5


def test_micro_batches_that_cannot_be_dealt_out_are_refused():
    settings = LoraSettings(data="photos", accumulate=3)
    checks.check_settings(settings, 3)
    with pytest.raises(InputError, match=r"--accumulate 3 .* multiple of 2"):
        checks.check_settings(settings, 2)


OTHER_DATA = """
import os, sys
from pathlib import Path
from mlx_sd.train import command
if os.environ["MLX_RANK"] == "1":
    picture = Path(sys.argv[sys.argv.index("--data") + 1]) / "0.txt"
    other = Path("other"); other.mkdir()
    for file in picture.parent.iterdir(): (other / file.name).write_bytes(file.read_bytes())
    (other / "0.txt").write_text("a blue zorb")
    share = command.Ranks.share_text
    def other_data(self, text, owner=0):
        return share(self, text, owner).replace(str(picture.parent), str(other))
    command.Ranks.share_text = other_data
sys.exit(command.main())
"""


@pytest.mark.slow
def test_a_rank_that_would_learn_something_else_is_named(train):
    run, ended = train(2, "lora", "--steps", "2", "--accumulate", "2", script=OTHER_DATA)
    [line] = beside_plan(ended)
    assert "rank 1 has other pictures or captions than rank 0" in line
    assert ended.codes() == {0: 2, 1: 2} and not run.folder.exists()


class OneRank:
    """Notes what is compared with the other ranks."""

    size = 2

    def check_same(self, parts: dict[str, str]) -> None:
        self.parts = parts


def test_data_model_and_version_are_compared(fresh, tmp_path, monkeypatch):
    hint = tmp_path / "hint.png"

    model = fresh("sd1")

    def parts(fingerprint: str = "a", hints: bytes = b"a") -> dict[str, str]:
        ranks = OneRank()
        hint.write_bytes(hints)
        checks.check_same(ranks, SimpleNamespace(fingerprint=fingerprint), [hint], model)
        return ranks.parts

    first = parts()
    assert parts() == first
    changed = {"other pictures or captions": parts("b"), "other control images": parts(hints=b"b")}
    with monkeypatch.context() as patch:
        patch.setattr(checks, "VERSION", "0.0.1")
        changed["another version of mlx-sd"] = parts()
    (name, array), *_ = tree_flatten(model.vae.parameters())
    model.vae.update(tree_unflatten([(name, array + 1)]))
    changed["another model"] = parts()
    assert changed.keys() == first.keys()
    for name, values in changed.items():
        assert {part for part in first if values[part] != first[part]} == {name}


@needs_proc
@pytest.mark.slow
@pytest.mark.parametrize(
    "number, seconds, reason",
    [(signal.SIGKILL, 15, "has ended without a word"), (signal.SIGSTOP, 30, "stopped, asleep or cut off")],
)
def test_a_rank_that_is_killed_or_stopped_ends_the_run(number, seconds, reason, begin):
    options = ["--steps", "5000", "--accumulate", "2", "--save-every", "1000", "--validate-every", "0"]
    run, launch = begin(2, "lora", *options)
    wait_for(lambda: ((run.folder / log.NAME).exists() and len(run.log) > 2) or not launch.running())
    launch.signal_rank(1, number)
    assert wait_for(lambda: not launch.members(), 60) < seconds  # the launcher may end later on a machine that is busy
    ended = launch.wait()
    [line] = [line for line in beside_plan(ended) if "steps an hour" not in line]
    assert "rank 1 (host " in line and reason in line and "go on with --resume" in line
    assert run.newest() == run.log[-1]["step"] and run.weights() and launch.members() == []
