"""TensorBoard gets the numbers of the log, where it is asked for."""

import math
import sys
import types
from typing import ClassVar

import pytest

from mlx_sd.train.run.folder import RunFolder
from tests.train.run.records import Settings


class Writer:
    """Stands for tensorboardX's SummaryWriter and keeps what it is told."""

    calls: ClassVar[list] = []

    def __init__(self, folder, **options):
        Writer.calls.append((folder, options["purge_step"]))

    def add_scalar(self, name, number, step):
        Writer.calls.append((name, number, step))

    def close(self):
        Writer.calls.append("close")


def test_tensorboard_gets_every_number_and_hides_what_a_resumed_run_makes_again(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", types.SimpleNamespace(SummaryWriter=Writer))
    monkeypatch.setattr(Writer, "calls", [])
    folder = str(tmp_path / "tensorboard")
    with RunFolder(tmp_path, Settings(), tensorboard=True) as run:
        run.log.write(1, loss=0.5, others={"prior": 0.25})
        run.save(1, {"weights": {}})
        run.log.write(2, loss=math.inf)
    with RunFolder(tmp_path, Settings(), resume=True, tensorboard=True):
        pass
    first = [(folder, 1), ("loss", 0.5, 1), ("prior", 0.25, 1), ("loss", math.inf, 2), "close"]
    assert Writer.calls == [*first, (folder, 2), "close"]


def test_tensorboardx_itself_writes_event_files(tmp_path):
    pytest.importorskip("tensorboardX")
    with RunFolder(tmp_path, Settings(), tensorboard=True) as run:
        run.log.write(1, loss=0.5)
    (events,) = (tmp_path / "tensorboard").iterdir()
    assert b"loss" in events.read_bytes()
