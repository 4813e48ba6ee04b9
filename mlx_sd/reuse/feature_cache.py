"""What DeepCache keeps during one generation: the deep features of the latest full evaluations.

The UNet asks for them in its call, `unet(..., deep=, depth=)`: an array replaces everything below the cut, None has it
computed, and a function decides between the two when it is shown the shallow features.
"""

from collections.abc import Callable, Collection, Sequence

import mlx.core as mx

from ..networks.unet import Deep
from .forecast import Forecast, Polynomial
from .policy import CollectRows, PathDecision, Policy, all_rows

_SAME_LEVEL = 5e-7  # difference of log-SNRs below which two evaluations are at one noise level


class FeatureCache:
    """Counts the evaluations of one generation and hands the UNet its deep features; made fresh for each generation.

    evaluations: how many have run. full: how many of them ran the whole UNet.
    """

    def __init__(
        self,
        policy: Policy | None,
        log_snr: Sequence[float],
        *,
        forced: Collection[int] = (),
        restarts: Collection[int] = (),
        decision: PathDecision | None = None,
    ):
        """Prepares for the evaluations at `log_snr`, the log-SNR of each (`Table.log_snr`).

        policy: None makes every evaluation full and keeps nothing.
        forced: evaluations that are full beside those of the policy.
        restarts: evaluations that are full, too, and drop what was kept: from there on the batch has another size, or
            another prompt, or another control network acts.
        decision: of a policy that follows the path (`Policy.along`), about the others.
        """
        self.policy, self._log_snr, self._restarts = policy, log_snr, frozenset(restarts)
        self._full_evaluations = {*(policy.full_evaluations(len(log_snr)) if policy else ()), *forced, *restarts}
        self.evaluations = self.full = 0
        forecast = policy.extrapolation(log_snr) if policy else Polynomial()
        self._front, self._others = Past(forecast), Past(forecast)
        self._shallow: mx.array | None = None  # shallow features of the latest full evaluation
        self._decision = decision

    def is_full(self, evaluation: int) -> bool:
        """Tells whether an evaluation, counted from 0, runs the whole UNet, whatever the images are."""
        return self.policy is None or evaluation in self._full_evaluations

    @property
    def looks_inside(self) -> bool:
        """Tells whether features inside the UNet decide which evaluations are full, so that they need all rows."""
        return self.policy is not None and self.policy.looks_inside

    def restart(self) -> None:
        """Makes the next evaluation full, and drops what was kept: the batch has another size from there on."""
        self._restarts |= {self.evaluations}
        self._full_evaluations |= {self.evaluations}

    def decide(self, latents: mx.array) -> bool:
        """Tells whether the next evaluation is full, on latents (N, h, w, C), but for what its features decide."""
        evaluation = self.evaluations
        if self._decision and not self.is_full(evaluation) and self._decision.refreshes(evaluation, latents):
            self._full_evaluations |= {evaluation}
        return self.is_full(evaluation)

    def follow(self, latents: mx.array, prediction: mx.array) -> None:
        """Notes the guided prediction (N, h, w, C) of the latest evaluation, for policies that follow the path."""
        if self._decision:
            evaluation = self.evaluations - 1
            self._decision.end(evaluation, latents, prediction, self.is_full(evaluation))

    def evaluate(
        self,
        unet: Callable[[Deep, int], tuple[mx.array, mx.array]],
        collect: CollectRows = all_rows,
        *,
        front: int = 0,
        without_front: bool = False,
    ) -> mx.array:
        """Runs `unet(deep, depth) -> (prediction, deep)` for the next evaluation and returns the prediction.

        collect: as `Policy.refreshes` takes it. front: so many first rows are left out of some full evaluations, of
        this one where `without_front`; their deep features are those of the latest full evaluation that had them.
        """
        evaluation, self.evaluations = self.evaluations, self.evaluations + 1
        policy = self.policy
        if policy is None:
            self.full += 1
            return unet(None, 1)[0]
        log_snr, required = self._log_snr[evaluation], evaluation in self._full_evaluations
        if evaluation in self._restarts:
            self._front.clear()
            self._others.clear()
        reused: mx.array | None = None

        def carried() -> mx.array:
            """Returns the deep features of all rows, carried to this evaluation."""
            others = self._others.at(log_snr)
            return mx.concatenate([self._front.at(log_snr), others]) if front else others

        def decide(shallow: mx.array) -> mx.array | None:
            """Returns the deep features to reuse, or None to have them computed."""
            nonlocal reused
            if required or self._shallow is None or policy.refreshes(self._shallow, shallow, collect):
                self._shallow = shallow
            else:
                reused = carried()
            return reused

        if self.looks_inside:
            prediction, deep = unet(decide, policy.branch + 1)
        else:
            reused = None if required else carried()
            prediction, deep = unet(reused, policy.branch + 1)
        if reused is None:
            self.full += 1
            if front and not without_front:
                self._front.add(log_snr, deep[:front])
                deep = deep[front:]
            self._others.add(log_snr, deep)
        return prediction


class Past:
    """The deep features of some rows at the latest full evaluations, as many as a forecast looks back on."""

    def __init__(self, forecast: Forecast):
        self._forecast = forecast
        self._entries: list[tuple[float, mx.array]] = []  # log-SNR and features

    def __len__(self) -> int:
        return len(self._entries)

    def clear(self) -> None:
        """Drops all features that were kept."""
        self._entries = []

    def add(self, log_snr: float, features: mx.array) -> None:
        """Keeps features; of two evaluations at one noise level (Heun's) the later replaces the earlier."""
        others = [entry for entry in self._entries if abs(entry[0] - log_snr) > _SAME_LEVEL]
        self._entries = [*others, (log_snr, features)][-self._forecast.reach :]

    def at(self, log_snr: float) -> mx.array:
        """Returns the features carried to `log_snr`."""
        return extrapolate(self._entries, log_snr, self._forecast)


def extrapolate(past: Sequence[tuple[float, mx.array]], log_snr: float, forecast: Forecast) -> mx.array:
    """Returns the forecast at `log_snr` from `past`, pairs of log-SNR and features, in their dtype.

    The features are summed in float32 by the forecast's weights; those of a single full evaluation are reused as they
    are.
    """
    if len(past) == 1:
        return past[0][1]
    total = mx.zeros(past[0][1].shape)
    weights = forecast.weights([level for level, _ in past], log_snr)
    for weight, (_, features) in zip(weights, past, strict=True):
        total = total + weight * features.astype(mx.float32)
    return total.astype(past[0][1].dtype)
