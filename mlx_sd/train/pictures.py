"""The micro-batches of a run: which pictures, how they are cut, and their random numbers, as functions of the step."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import mlx.core as mx

from ..checkpoint.model import Model
from ..core import terminal
from ..core.errors import InputError
from ..ranks.exchange import Ranks
from ..tasks.images import to_pixels
from .data import batches as order
from .data import picture_file
from .data.buckets import Buckets, Size, buckets, cover
from .data.dataset import Dataset, Example
from .data.fit import Fit, fit, generator
from .data.latents import LatentCache, Moments
from .learning import random_keys
from .learning.examples import MicroBatch
from .learning.kind_settings import ControlSettings, LoraSettings
from .learning.objective import Objective
from .learning.random_keys import Place
from .learning.settings import TrainSettings

VALIDATION = 8  # examples, at least
_BEFORE = -1  # the step whose random numbers validation has: no step of training


class Pictures:
    """The pictures of a dataset, encoded when they are needed, in the order that the settings' seed gives."""

    def __init__(
        self, model: Model, dataset: Dataset, settings: TrainSettings, objective: Objective, folder: Path | None
    ):
        """folder: where latents are kept; None keeps them in memory."""
        self._model, self._dataset, self._settings, self._objective = model, dataset, settings, objective
        self._examples, self._cache = dataset.examples, LatentCache(model.vae, folder)
        table = buckets_of(model, settings)
        self.sizes: list[Size] = [table.bucket_of(example.size).size for example in self._examples]
        self._table, self._epoch = table, -1
        self._order: list[order.Batch] = []
        self._length = len(self._batches(0))

    @property
    def length(self) -> int:
        """Returns the number of micro-batches of an epoch."""
        return self._length

    def step(self, number: int, rank: int = 0, ranks: int = 1) -> Iterator[MicroBatch]:
        """Yields the micro-batches of a step, counted from 0; of several ranks each has every ranks-th."""
        accumulate = self._settings.accumulate
        for micro in range(rank, accumulate, ranks):
            epoch, index = divmod(number * accumulate + micro, self._length)
            yield self._micro_batch(number, micro, epoch, index, self._batches(epoch)[index], learns=True)

    def validation(self, rank: int = 0, ranks: int = 1) -> list[MicroBatch]:
        """Returns micro-batches whose noise and timesteps are always the same, of the first pictures; dealt out too."""
        first = self._batches(0)[: max(1, VALIDATION // self._settings.batch)]
        repeated = [first[i % len(first)] for i in range(max(1, VALIDATION // self._settings.batch))]
        dealt = [*enumerate(repeated)][rank::ranks]
        return [self._micro_batch(_BEFORE, i, 0, i, batch, learns=False) for i, batch in dealt]

    def encode_all(self, ranks: Ranks) -> None:
        """Encodes every picture as it is cut at its centre, so that the autoencoder is not needed any more.

        Each of several ranks encodes its share, and the others get the latents from it.
        """
        fits = [
            (example, fit(example.size, self._table.bucket_of(example.size), flip=flip))
            for example in self._examples
            for flip in ((False, True) if self._settings.flip else (False,))
        ]
        missing = fits
        if ranks.size > 1:
            common = ranks.share_sets({str(i) for i, entry in enumerate(fits) if self._cache.holds(*entry)})
            missing = [entry for i, entry in enumerate(fits) if str(i) not in common]
        with terminal.progress(len(missing), "pictures") as advance:
            for start in range(0, len(missing), ranks.size):
                group = missing[start : start + ranks.size]
                moments = [self._cache.moments(*entry) for entry in group[ranks.rank : ranks.rank + 1]]
                for owner, entry in enumerate(group if ranks.size > 1 else ()):
                    arrays = moments[0]._asdict() if owner == ranks.rank else {}
                    self._cache.keep(*entry, Moments(**ranks.share(arrays, owner)))
                advance(len(group))

    def _batches(self, epoch: int) -> list[order.Batch]:
        if epoch != self._epoch:
            examples = self._examples
            self._order = order.batches(
                self.sizes,
                self._settings.batch,
                seed=self._settings.seed,
                epoch=epoch,
                repeats=[example.repeats for example in examples],
                prior=[example.prior for example in examples],
            )
            self._epoch = epoch
        return self._order

    def _micro_batch(
        self, step: int, micro: int, epoch: int, index: int, batch: order.Batch, learns: bool
    ) -> MicroBatch:
        examples = [self._examples[i] for i in batch.indices]
        places = [Place(step, micro * len(examples) + row) for row in range(len(examples))]
        seed = self._settings.seed
        fits = [
            self._fit(example, batch.size, place, generator(seed, epoch, index, row), learns)
            for row, (example, place) in enumerate(zip(examples, places, strict=True))
        ]
        latents = [
            self._cache.moments(example, cut).sample(random_keys.key(seed, place, "latents"))
            for example, cut, place in zip(examples, fits, places, strict=True)
        ]
        clean = mx.concatenate(latents)
        return MicroBatch(
            clean,
            self._objective.draw(seed, places, clean.shape[1:]),
            tuple(self._caption(example, place, learns) for example, place in zip(examples, places, strict=True)),
            time_ids=tuple(cut.time_ids for cut in fits),
            weights=self._weights(batch),
            hints=self._hints(examples, fits),
            places=tuple(places),
        )

    def _fit(self, example: Example, size: Size, place: Place, draw: object, learns: bool) -> Fit:
        settings = self._settings
        flip = learns and settings.flip and random_keys.chance(settings.seed, place, "flip") < 0.5
        crops = learns and settings.random_crop
        return fit(example.size, cover(example.size, size), draw if crops else None, flip)  # type: ignore[arg-type]

    def _caption(self, example: Example, place: Place, learns: bool) -> str | None:
        settings = self._settings
        dropped = learns and random_keys.chance(settings.seed, place, "caption") < settings.caption_dropout
        return None if dropped else example.caption

    def _weights(self, batch: order.Batch) -> mx.array | None:
        if not batch.priors:
            return None
        prior = self._settings.prior_weight if isinstance(self._settings, LoraSettings) else 1.0
        # Of a mean over instances and priors together: each half counts as a mean of its own.
        return mx.array([2.0] * len(batch.instances) + [2.0 * prior] * len(batch.priors))

    def _hints(self, examples: Sequence[Example], fits: Sequence[Fit]) -> mx.array | None:
        if not isinstance(self._settings, ControlSettings):
            return None
        folder, images = hint_folder(self._settings), []
        for example, cut in zip(examples, fits, strict=True):
            image = picture_file.read(hint_file(folder, example.path)).image
            images.append((to_pixels(cut.apply(image)) + 1) / 2)
        return mx.concatenate(images)


def hint_folder(settings: ControlSettings) -> Path:
    """Returns the folder of the control images, in that of the pictures, or beside the file that names these."""
    data = Path(settings.data)
    return (data.parent if data.is_file() else data) / settings.images


def hint_file(folder: Path, picture: Path) -> Path:
    """Returns the control image of a picture: of its name, or of its stem; InputError where there is none."""
    if (folder / picture.name).is_file():
        return folder / picture.name
    matches = [file for file in sorted(folder.glob(f"{picture.stem}.*")) if file.is_file()]
    if not matches:
        raise InputError(f"{picture.name} has no control image in {folder}; add one of its name, or remove the picture")
    return matches[0]


def buckets_of(model: Model, settings: TrainSettings) -> Buckets:
    """Returns the sizes that pictures are cut to for a model."""
    factor = model.vae.config.downsampling
    native = model.unet.config.sample_size * factor
    resolution = settings.resolution or (native, native)
    # The steps that keep whole latents on all levels of the UNet.
    return buckets(resolution, step=factor * 2 ** (len(model.unet.config.down) - 1))
