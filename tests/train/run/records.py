"""A small settings record, arrays that follow from a step, and a run on them."""

from __future__ import annotations

from dataclasses import dataclass

import mlx_sd  # noqa: F401 - before mlx.core: it brings the BLAS

import mlx.core as mx  # isort: skip
import numpy as np

from mlx_sd.setting import setting
from mlx_sd.train.run.folder import RunFolder


@dataclass(frozen=True)
class Settings:
    steps: int = setting(100, "steps", kind=int)
    rank: int = setting(4, "rank", kind=int)
    lr: float = setting(1e-4, "learning rate", kind=float, key="learning_rate")
    sample_every: int = setting(10, "steps between samples", kind=int)
    targets: tuple[str, ...] = setting(("q", "k"), "targets", to_json=list)


def state(step: int, size: int = 100) -> dict[str, dict[str, mx.array]]:
    """Returns arrays that are different after each step."""
    random = np.random.default_rng(step)
    weights = {f"layer.{i}.up": mx.array(random.normal(size=(size, 4)).astype(np.float32)) for i in range(3)}
    return {"weights": weights, "optimizer": {"step": mx.array(step, mx.uint64), "layer.0.up.m": weights["layer.1.up"]}}


def same(one: dict[str, dict[str, mx.array]], other: dict[str, dict[str, mx.array]]) -> bool:
    """Returns whether two sets of arrays are equal, bit for bit."""
    return {p: {n: bits(a) for n, a in part.items()} for p, part in one.items()} == {
        p: {n: bits(a) for n, a in part.items()} for p, part in other.items()
    }


def bits(array: mx.array) -> tuple[str, tuple[int, ...], bytes]:
    """Returns dtype, shape and bytes of an array."""
    plain = array if array.dtype != mx.bfloat16 else array.view(mx.uint16)
    return str(array.dtype), array.shape, np.array(plain).tobytes()


def opened(path, resume=False, **changes) -> RunFolder:
    """Returns the run of `Settings`, with fields that are changed."""
    return RunFolder(path, Settings(**changes), resume=resume, display=("sample_every",))


def train(run: RunFolder, last: int, every: int = 2) -> None:
    """Trains to a step: a line each, and a checkpoint every two."""
    for step in range(run.step + 1, last + 1):
        loss = 1 / step + step % 3 * 0.01
        run.log.write(step, loss=loss, lr=1e-4, grad_norm=loss * 2, seconds=0.1, validation=loss if step % 2 else None)
        if step % every == 0:
            run.save(step, state(step), {"epoch": step // 4})
