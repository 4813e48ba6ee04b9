"""Previews of the picture in work, which cost at most a twentieth of the time that evaluations take."""

import base64
import io
import time
from collections.abc import Callable

import mlx.core as mx

from ... import preview
from ...pipeline import StableDiffusion
from ...preview import Preview
from ..jobs.events import Events
from ..jobs.job import StudioJob

SHARE = 0.05  # of the seconds of evaluations
_QUALITY = 85  # of the JPEG


class Previews:
    """Shows estimates of the running job to those who look, by the small network of the model's VAE.

    Fitting that network takes as long as pictures do, so that it happens when there is nothing else to do.
    """

    def __init__(self, events: Events):
        self._events = events
        self._preview: Preview | None = None
        self._unavailable = False  # there can be none for this model
        self.spent = 0.0  # seconds, of all jobs
        self._job_spent, self._last = 0.0, 0.0

    def forget(self) -> None:
        """Forgets the network, with the model that it belongs to."""
        self._preview, self._unavailable = None, False

    def begin(self, sd: StableDiffusion) -> None:
        """Prepares a job of a model: takes the network from the cache, where it is there."""
        self._job_spent = 0.0
        if sd.model.tokens is not None and self._preview is None:
            self._preview = Preview(sd)  # needs no network
        elif self._preview is None and (network := preview.cached_network(sd)) is not None:
            self._preview = Preview(sd, network=network)

    def prepare(self, sd: StableDiffusion, check: Callable[[], None]) -> None:
        """Fits the network of a model, where the cache has none; check: raises where there is something else to do."""
        if self._preview is not None or self._unavailable:
            return
        try:
            self._preview = Preview(sd, network=preview.network_of(sd, check))
        except (ValueError, RuntimeError, OSError, MemoryError):  # InputError and Failure too: pictures do without
            self._unavailable = True

    def show(self, job: StudioJob, denoised: mx.array, seconds: float) -> None:
        """Publishes a preview of an estimate, where somebody looks and it does not cost too much.

        seconds: that the evaluations of the job have taken so far.
        """
        if self._preview is None or not (self._events.listeners or job.watched > time.time()):
            return
        if self._job_spent + self._last > SHARE * seconds:
            self._last *= 0.9  # one that was slow by chance does not end them
            return
        clock = time.perf_counter()
        file = io.BytesIO()
        self._preview(denoised[:1])[0].save(file, format="JPEG", quality=_QUALITY)
        job.preview = file.getvalue()
        self._events.publish(
            {
                "type": "preview",
                "id": job.id,
                "evaluation": job.evaluation,
                "evaluations": job.evaluations,
                "image": base64.b64encode(job.preview).decode(),
            }
        )
        self._last = time.perf_counter() - clock
        self._job_spent += self._last
        self.spent += self._last
