"""Training by several processes that MLX's launcher starts: it is the training of one process, and it ends as one."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import mlx.core as mx
import numpy as np
import pytest
from PIL import Image

from mlx_sd.train.run import checkpoint as checkpoints
from mlx_sd.train.run import log
from tests.support.effort import slow_but

ROOT = Path(__file__).parents[2]
LAUNCHER = Path(sys.executable).with_name("mlx.launch")
SECONDS = 240  # that a run may take on a machine that is busy

pytestmark = pytest.mark.skipif(
    not (mx.distributed.is_available("ring") and LAUNCHER.exists()),
    reason="this MLX has no ring back end, or its launcher is not installed",
)
OPTIONS = {"lora": ["--rank", "4", "--rate", "1e-3"], "unet": ["--rate", "1e-4", "--average", "0.9"]}
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


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


class Run(NamedTuple):
    """A training that has ended."""

    out: Path
    code: int  # of the launcher: 0, whatever its ranks do; of one process, its own
    lines: list[str]  # printed by ranks, without those of the launcher and of MLX's ring
    launcher: list[str]

    @property
    def folder(self) -> Path:
        return self.out.with_name(f"{self.out.name}-training")

    @property
    def log(self) -> list[dict]:
        return log.read(self.folder / log.NAME)

    def weights(self, part: str = "weights") -> dict[str, mx.array]:
        """Returns arrays of the newest checkpoint, in float32."""
        folder = self.folder / "checkpoints"
        return checkpoints.read(folder / checkpoints.name(checkpoints.newest(folder))).arrays[part]


@pytest.fixture
def begin(checkpoint, data, tmp_path) -> Iterator[Callable[..., subprocess.Popen]]:
    """begin(ranks, "lora", "--steps", "2") starts a training in a process group of its own, as a terminal does."""
    started = []

    def start(ranks: int, kind: str, *options: str, out: str = "result", script: str = "") -> subprocess.Popen:
        path = tmp_path / (f"{out}.safetensors" if kind == "lora" else out)
        common = ["--model", str(checkpoint), "--data", str(data), "--out", str(path), "--resolution", "64"]
        separator = ["--"] if script else []  # before a program with options that the launcher has too
        program = ["-c", script] if script else ["-m", "mlx_sd.train"]
        command = [sys.executable, *program, kind, *common, *OPTIONS[kind], *options]
        if ranks > 1:
            command = [str(LAUNCHER), "-n", str(ranks), "--starting-port", str(ports(ranks)), *separator, *command]
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env=ENVIRONMENT,
            start_new_session=True,
        )
        process.out = path
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.fixture
def train(begin) -> Callable[..., Run]:
    """train(2, "lora", "--steps", "2") is a training that came to its end."""
    return lambda *arguments, **named: ended(begin(*arguments, **named))


def ended(process: subprocess.Popen) -> Run:
    """Waits for a training and reads what it printed."""
    _, errors = process.communicate(timeout=SECONDS)
    lines = [line for line in errors.splitlines() if line.strip()]
    others = ("[ring]", "[WARN]", "loss.png is not drawn")
    ours = [line for line in lines if not any(text in line for text in others)]
    return Run(process.out, process.returncode, ours, [line for line in lines if "[WARN]" in line])


def ports(count: int) -> int:
    """Returns the first of some ports in a row that nobody listens to."""
    while True:
        with socket.socket() as first:
            first.bind(("127.0.0.1", 0))
            start = first.getsockname()[1]
        try:
            for port in range(start, start + count):
                with socket.socket() as other:
                    other.bind(("127.0.0.1", port))
        except (OSError, OverflowError):
            continue
        return start


def members(process: subprocess.Popen) -> list[int]:
    """Returns the processes of a launcher's group, the launcher aside."""
    listing = subprocess.run(["ps", "-eo", "pid=,pgid=,stat="], capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in listing.splitlines()]
    return [int(pid) for pid, group, state in rows if int(group) == process.pid != int(pid) and state[0] != "Z"]


def wait_for(condition: Callable[[], object], seconds: float = SECONDS) -> float:
    """Waits until a condition holds, and returns the seconds that it took."""
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < seconds, "it takes too long"
        time.sleep(0.05)
    return time.monotonic() - start


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


@pytest.mark.parametrize("kind", slow_but(["lora"], OPTIONS))
def test_two_ranks_learn_what_one_learns(kind, train):
    options = [kind, "--steps", "2", "--accumulate", "2", "--batch", "2", "--validate-every", "2", "--flip"]
    together, alone = train(2, *options), train(1, *options, out="alone")
    assert len(together.lines) == 1 and "step 2/2" in together.lines[0] and together.launcher == [], together
    assert alone.lines == []
    assert_same_training(together, alone)
    if kind == "unet":
        assert difference(together, alone, "averages") <= 1e-5
    assert together.out.exists()


@pytest.mark.slow
def test_three_ranks_learn_what_one_learns(train):
    options = ["lora", "--steps", "2", "--accumulate", "6", "--validate-every", "1", "--caption-dropout", "0.5"]
    together = train(3, *options)
    assert [line.partition("  ")[0] for line in together.lines] == ["step 1/2", "step 2/2"]
    assert_same_training(together, train(1, *options, out="alone"))


@pytest.mark.slow
@pytest.mark.parametrize("first, second", [(2, 1), (1, 2)])
def test_a_run_goes_on_with_another_number_of_ranks(first, second, train):
    options = ["lora", "--accumulate", "2", "--warmup", "3", "--validate-every", "2"]
    train(first, *options, "--steps", "2")
    resumed = train(second, "lora", "--steps", "4", "--resume")
    whole = train(1, *options, "--steps", "4", out="whole")
    assert_same_training(resumed, whole)
    assert difference(resumed, whole, "optimizer") <= 1e-5


def test_micro_batches_that_cannot_be_dealt_out_are_refused(train):
    run = train(2, "lora", "--steps", "2", "--accumulate", "3")
    [line] = run.lines
    assert "--accumulate 3" in line and "multiple of 2" in line
    assert sorted(line.split("rank ")[1].split("\x1b")[0].strip() for line in run.launcher) == [
        "0 exited with code 2",
        "1 exited with code 2",
    ]
    assert not run.folder.exists() and not run.out.exists()


COMMAND = """
import os, sys
from pathlib import Path
from mlx_sd.train import command, session
if os.environ["MLX_RANK"] == "1":
{change}
sys.exit(command.main())
"""
OTHERS = {
    "other pictures or captions": """
    picture = Path(sys.argv[sys.argv.index("--data") + 1]) / "0.txt"
    other = Path("other"); other.mkdir()
    for file in picture.parent.iterdir(): (other / file.name).write_bytes(file.read_bytes())
    (other / "0.txt").write_text("a blue zorb")
    sys.argv[sys.argv.index("--data") + 1] = str(other)
    share = command.Ranks.share_text
    def other_data(self, text):
        return share(self, text).replace(str(picture.parent), str(other))
    command.Ranks.share_text = other_data""",
    "another model": """
    from mlx.utils import tree_flatten, tree_unflatten
    load = session._load
    def other(settings):
        model = load(settings)
        (name, array), *_ = tree_flatten(model.vae.parameters())
        model.vae.update(tree_unflatten([(name, array + 1)]))
        return model
    session._load = other""",
    "another version of mlx-sd": """
    from mlx_sd.train import checks
    checks.VERSION = "0.0.1" """,
}


@pytest.mark.slow
@pytest.mark.parametrize("part", OTHERS)
def test_a_rank_that_would_learn_something_else_is_named(part, train):
    run = train(2, "lora", "--steps", "2", "--accumulate", "2", script=COMMAND.format(change=OTHERS[part]))
    [line] = run.lines
    assert f"rank 1 has {part} than rank 0" in line
    assert all("exited with code 2" in line for line in run.launcher) and len(run.launcher) == 2
    assert not run.folder.exists()


FAULTS = {
    "wrong input": """
    from mlx_sd.core.errors import InputError
    step = session.Trainer.run
    def failing(self, batches):
        if self.step == 2: raise InputError("a picture has changed")
        return step(self, batches)
    session.Trainer.run = failing""",
    "not finite": """
    from mlx_sd.train.kinds.lora import Lora
    loss = Lora.loss
    def failing(self, batch):
        return loss(self, batch) * (float("nan") if batch.draws.timesteps.size and trained[0].step == 2 else 1)
    Lora.loss = failing
    trained, begin = [], session.Trainer.__init__
    def remembered(self, *arguments, **options):
        trained.append(self); begin(self, *arguments, **options)
    session.Trainer.__init__ = remembered""",
}


@pytest.mark.slow
@pytest.mark.parametrize("fault, words", [("wrong input", "a picture has changed"), ("not finite", "the loss is not")])
def test_an_error_of_one_rank_ends_all_with_one_line(fault, words, train):
    options = ["--steps", "9", "--accumulate", "2", "--save-every", "1", "--validate-every", "0"]
    run = train(2, "lora", *options, script=COMMAND.format(change=FAULTS[fault]))
    [line] = run.lines
    assert f"rank 1: {words}" in line
    assert [entry["step"] for entry in run.log] == [0, 1, 2]
    assert run.weights()
    assert not run.out.exists()


LONG = ["--steps", "5000", "--accumulate", "2", "--save-every", "2", "--validate-every", "0"]


@pytest.fixture
def begun(begin) -> Callable[[], subprocess.Popen]:
    """begun() is a long training by two ranks that has written a checkpoint."""

    def start() -> subprocess.Popen:
        process = begin(2, "lora", *LONG)
        checkpoint = process.out.with_name(f"{process.out.name}-training") / "checkpoints" / "step-000002"
        wait_for(lambda: checkpoint.exists() or process.poll() is not None)
        return process

    return start


def rank_of(pid: int) -> int:
    """Returns the rank of a process, which the launcher names in its environment."""
    variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return next(int(variable.partition(b"=")[2]) for variable in variables if variable.startswith(b"MLX_RANK="))


linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@linux
@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_rank_ends_the_run(rank, begun):
    process = begun()
    victim = next(pid for pid in members(process) if rank_of(pid) == rank)
    os.kill(victim, signal.SIGKILL)
    wait_for(lambda: process.poll() is not None, 30)
    run = ended(process)
    assert any(f"rank {rank} exited with code -9" in line for line in run.launcher)
    assert len(run.lines) <= 1  # rank 0 may be ended by the launcher before it prints
    assert all("rank 1 has ended" in line and "go on with --resume" in line for line in run.lines), run.lines
    assert run.weights() and members(process) == []


@linux
@pytest.mark.slow
def test_ctrl_c_saves_and_leaves_no_process(begun, interruptible):
    process = begun()
    os.killpg(process.pid, signal.SIGINT)
    wait_for(lambda: process.poll() is not None, 30)
    run = ended(process)
    assert checkpoints.newest(run.folder / "checkpoints") == run.log[-1]["step"]
    assert members(process) == []


@linux
@pytest.mark.slow
def test_the_ranks_end_where_the_launcher_is_killed(begun):
    process = begun()
    process.kill()
    wait_for(lambda: not members(process), 30)
    run = ended(process)
    # The end may come between a step and its line in the log.
    assert checkpoints.newest(run.folder / "checkpoints") - run.log[-1]["step"] in (0, 1)


EXCHANGES = """
import json, sys
import mlx.core as mx
import numpy as np
from mlx_sd.train.parallel import launch
def exchange(ranks):
    number = ranks.rank + 1
    tree = {"a": [mx.array([1.0, 2.0]) * number, mx.ones((2, 3), mx.bfloat16) * number], "b": mx.array(3.0) * number}
    mean = ranks.average((tree, mx.array(2.0 * number)))
    assert mean[0]["a"][1].dtype == mx.bfloat16 and mean[0]["a"][1].shape == (2, 3)
    assert mean[0]["a"][0].tolist() == [1.5, 3.0] and mean[0]["b"].item() == 4.5 and mean[1].item() == 3.0
    assert ranks.mean([1.0, 2.0] if ranks.rank else []) == 1.5
    assert ranks.share_text("zörb" if ranks.rank else "", 1) == "zörb" and ranks.share_text("") == ""
    assert ranks.share_sets({"a", str(number)}) == {"a"}
    dtypes = [mx.bool_, mx.uint8, mx.int32, mx.uint64, mx.float16, mx.bfloat16, mx.float32]
    arrays = {str(i): mx.array([[-0.0, 1, 3]]).T.astype(dtype) for i, dtype in enumerate(dtypes)}
    arrays |= {"scalar": mx.array(float("nan")), "empty": mx.zeros((0, 2))}
    shared = ranks.share(arrays if ranks.rank == 1 else {}, 1)
    assert shared.keys() == arrays.keys()
    for name, array in arrays.items():
        assert shared[name].dtype == array.dtype and shared[name].shape == array.shape
        bits = [np.array(a.reshape(-1).view(mx.uint8)) for a in (array, shared[name])]
        assert (bits[0] == bits[1]).all(), name
    ranks.check_same({"another model": "x"})
    print("fine", file=sys.stderr)
launch.run(exchange)
"""


@pytest.mark.slow
def test_exchanges_keep_shapes_dtypes_and_bits(train):
    assert train(2, "lora", script=EXCHANGES).lines == ["fine"]
