"""What processes of one run exchange: gradients, numbers, arrays, texts, and the errors that end them.

Every exchange begins with one word of each rank, fine or failed: so an error of one rank reaches the others wherever
they wait next. A rank that is killed closes its connections, which MLX reports; heartbeats tell which rank it was.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_map

from ..core.errors import Failure, InputError
from .beats import Beats

_SIGNED = (mx.int8, mx.int16, mx.int32, mx.int64)
_DTYPES = (mx.bool_, mx.uint8, mx.uint16, mx.uint32, mx.uint64, *_SIGNED, mx.float16, mx.bfloat16, mx.float32)
_UNSIGNED = {1: mx.uint8, 2: mx.uint16, 4: mx.uint32, 8: mx.uint64}


class RankLost(Failure):
    """The connection to another rank is gone: its process has ended, or cannot be reached."""


class RankFailed(Failure):
    """A rank has told all others why it ends."""

    def __init__(self, message: str, code: int):
        super().__init__(message)
        self.code = code  # of its process: 2 for wrong input


class Ranks:
    """The processes of a run that MLX's launcher starts. Of one process alone, nothing is exchanged.

    All ranks call the same methods in the same order. Each raises RankFailed where another rank has failed, and
    RankLost where the connection is gone.
    """

    def __init__(self, group: mx.distributed.Group | None = None):
        """group: of MLX; None is one process alone."""
        self._group = group
        self.rank, self.size = (0, 1) if group is None else (group.rank(), group.size())
        self.beats = Beats()  # of all ranks; `launch.run` begins them

    def agree(self, code: int = 0, text: str = "") -> None:
        """Waits until all ranks are here, and raises RankFailed on all of them where one comes with an exit code.

        text: why it ends. The message names the rank, unless all fail for one reason.
        """
        if self.size == 1:
            return
        codes = self._gathered(mx.array([code]))
        failed = [rank for rank in range(self.size) if codes[rank]]
        if not failed:
            return
        texts = self._gathered_texts(text)
        reason = texts[failed[0]]
        alike = len(failed) == self.size and len(set(texts)) == 1
        raise RankFailed(reason if alike else f"rank {failed[0]}: {reason}", int(codes[failed[0]]))

    def all(self, holds: bool) -> bool:
        """Returns whether something holds on all ranks."""
        if self.size == 1:
            return holds
        self.agree()
        return all(self._gathered(mx.array([int(holds)])))

    def average(self, tree: Any) -> Any:
        """Returns a tree of arrays of one shape on all ranks, each of them the mean over ranks, evaluated."""
        if self.size == 1:
            return tree
        flat: Any = tree_flatten(tree)
        arrays: list[mx.array] = [array for _, array in flat]
        mx.eval(arrays)
        self.agree()
        means: dict[int, mx.array] = {}
        for dtype in dict.fromkeys(array.dtype for array in arrays):  # MLX sums many arrays at once, of one dtype
            part = {i: array for i, array in enumerate(arrays) if array.dtype == dtype}
            means |= dict(zip(part, nn.utils.average_gradients([*part.values()], self._group), strict=True))
        self._evaluate([*means.values()])
        in_order = iter([means[i] for i in range(len(arrays))])
        return tree_map(lambda _: next(in_order), tree)

    def mean(self, numbers: Sequence[float]) -> float:
        """Returns the mean of the numbers of all ranks together, of which each may have another count, or none."""
        total, count = sum(numbers), len(numbers)
        if self.size > 1:
            self.agree()
            sums: Any = self._evaluate([self._sum(mx.array([total, count], dtype=mx.float32))])[0].tolist()
            total, count = sums
        return total / count

    def share(self, arrays: Mapping[str, mx.array], owner: int = 0) -> dict[str, mx.array]:
        """Returns the arrays of one rank on all of them, bit for bit; what the other ranks give does not matter."""
        if self.size == 1:
            return dict(arrays)
        described = {name: (array.shape, _DTYPES.index(array.dtype)) for name, array in arrays.items()}
        shapes = json.loads(self.share_text(json.dumps(described), owner))
        shared = {}
        for name, (shape, number) in shapes.items():
            dtype = _DTYPES[number]
            unsigned = _UNSIGNED[dtype.size]
            if self.rank == owner:
                bits = mx.contiguous(arrays[name]).reshape(-1).view(unsigned)
            else:
                bits = mx.zeros(mx.zeros(shape, dtype).size, unsigned)
            [bits] = self._evaluate([self._sum(bits)])
            shared[name] = bits.view(dtype).reshape(shape)
        mx.eval(shared)
        return shared

    def gather(self, array: mx.array) -> mx.array:
        """Returns the arrays of all ranks, of one shape and dtype, in order along a new first axis, bit for bit."""
        if self.size == 1:
            return array[None]
        mx.eval(array)
        self.agree()
        return self._evaluate([mx.distributed.all_gather(array[None], group=self._group)])[0]

    def share_text(self, text: str, owner: int = 0) -> str:
        """Returns the text of one rank on all of them."""
        if self.size == 1:
            return text
        self.agree()
        content = text.encode("utf-8", "surrogatepass") if self.rank == owner else b""
        length = int(self._evaluate([self._sum(mx.array([len(content)]))])[0].item())  # type: ignore[arg-type]
        content = content or bytes(length)
        return _text(self._evaluate([self._sum(mx.array([*content], dtype=mx.uint8))])[0])

    def share_sets(self, names: set[str]) -> set[str]:
        """Returns the names that all ranks have."""
        if self.size == 1:
            return names
        self.agree()
        texts = self._gathered_texts(json.dumps(sorted(names)))
        return set.intersection(*(set(json.loads(text)) for text in texts))

    def check_same(self, parts: Mapping[str, str]) -> None:
        """Raises InputError on all ranks where one has another value of a part than rank 0.

        parts: by its name in the message, such as "another model".
        """
        if self.size == 1:
            return
        self.agree()
        values = self._gathered_texts(
            json.dumps([hashlib.sha256(value.encode()).hexdigest() for value in parts.values()])
        )
        first = json.loads(values[0])
        for rank, value in enumerate(values):
            for part, digest, expected in zip(parts, json.loads(value), first, strict=True):
                if digest != expected:
                    raise InputError(f"rank {rank} has {part} than rank 0; all ranks need the same")

    def _sum(self, array: mx.array) -> mx.array:
        return mx.distributed.all_sum(array, group=self._group)

    def _gathered(self, array: mx.array) -> list[Any]:
        """Returns the array (n,) of all ranks, one after the other."""
        [gathered] = self._evaluate([mx.distributed.all_gather(array, group=self._group)])
        numbers: Any = gathered.tolist()
        return list(numbers)

    def _gathered_texts(self, text: str) -> list[str]:
        content = text.encode("utf-8", "surrogatepass")
        lengths = self._gathered(mx.array([len(content)]))
        padded = mx.array([*content.ljust(max(1, *lengths), b"\0")], dtype=mx.uint8)
        [rows] = self._evaluate([mx.distributed.all_gather(padded[None], group=self._group)])
        return [_text(rows[rank, :length]) for rank, length in enumerate(lengths)]

    def _evaluate(self, arrays: list[mx.array]) -> list[mx.array]:
        """Evaluates exchanged arrays; RankLost where the connection is gone."""
        try:
            mx.eval(arrays)
        except RuntimeError as error:
            other = f"rank {1 - self.rank}" if self.size == 2 else "another rank"
            raise RankLost(self.beats.explain() or f"{other} has ended or cannot be reached ({error})") from None
        return arrays


def _text(content: mx.array) -> str:
    numbers: Any = content.tolist()
    return bytes(numbers).decode("utf-8", "surrogatepass")
