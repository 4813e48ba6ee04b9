"""The prediction without the prompt, computed at some full evaluations alone: the difference of both changes slowly.

Guidance needs e_u, the prediction without the prompt, beside e_c, the one with it. Of the full evaluations that are
guided, every R-th computes both; the others compute e_c alone, on half of the batch, and take

    e_u = e_c - d,  d = e_c' - e_u' of the latest evaluation that computed both,

so that the guided prediction is e_c + (s - 1) d. To keep the difference is better than to keep e_u' itself: what both
halves share moves with e_c. A cached evaluation of DeepCache computes both halves, each above its own deep features:
those without the prompt are of the latest full evaluation that had them. It costs little, and d is then as fresh as the
levels above the cut. (On the embedded checkpoint, both of the other ways end farther from the run that leaves nothing
out: to compute e_c alone there, and to move the deep features without the prompt by those with it.)
"""

from collections.abc import Collection, Sequence
from typing import Any

import mlx.core as mx


class RefreshCount:
    """Counts the full guided evaluations of one generation: every `interval`-th computes both halves."""

    def __init__(self, interval: int, changes: Collection[int] = ()):
        """changes: evaluations, counted from 0, from which on earlier differences mean nothing; they compute both."""
        self._interval, self._changes, self._count = interval, frozenset(changes), 0

    def leaves_out(self, evaluation: int, full: bool) -> bool:
        """Tells whether a guided evaluation leaves the half without the prompt out; evaluations come in order."""
        if evaluation in self._changes:
            self._count = 0
        if not full:
            return False
        self._count += 1
        return (self._count - 1) % self._interval != 0


class UnconditionalRefresh:
    """Keeps the difference that the prompt makes during one generation; made fresh for each generation."""

    def __init__(self, interval: int, changes: Collection[int] = ()):
        """Takes the arguments of `RefreshCount`."""
        self._arguments = interval, changes
        self._counter = self.counter()
        self._difference: mx.array | None = None

    def counter(self) -> RefreshCount:
        """Returns a fresh count of the same evaluations, which decides as this generation does."""
        return RefreshCount(*self._arguments)

    def leaves_out(self, evaluation: int, full: bool) -> bool:
        """Tells whether a guided evaluation leaves the half without the prompt out; see `RefreshCount.leaves_out`."""
        return self._counter.leaves_out(evaluation, full)

    def keep(self, output: mx.array, count: int) -> None:
        """Keeps the difference of the halves of an output (2 count + others, h, w, C), the one without prompt first."""
        self._difference = output[count : 2 * count] - output[:count]

    def restored(self, output: mx.array, count: int) -> mx.array:
        """Returns an output (count + others, h, w, C) behind the half that it lacks."""
        assert self._difference is not None  # the first evaluation computes both
        return mx.concatenate([output[:count] - self._difference, output])


def unconditional_refresh_of(
    request: Any, conditions: Sequence[object], restarts: Collection[int]
) -> UnconditionalRefresh | None:
    """Returns what leaves out halves of a request's evaluations; None where none is left out.

    conditions: what each evaluation is shown; where it is another object than before, the difference is another, too.
    restarts: evaluations at which deep features are dropped, as `FeatureCache` takes them.
    """
    interval = request.unconditional_refresh
    if interval is None or interval == 1:
        return None
    switches = {i for i in range(1, len(conditions)) if conditions[i] is not conditions[i - 1]}
    return UnconditionalRefresh(interval, switches | {*restarts})
