"""What the files of a training tell about it, by which A1111 and other programs list them."""

import time
from collections import Counter

from .data import buckets
from .data.dataset import Dataset
from .files.training_record import TrainingRecord
from .learning.kind_settings import EmbeddingSettings, LoraSettings
from .learning.settings import TrainSettings
from .pictures import Pictures

_OWN_WORDS = "pictures"  # the name of the data, where its folder has none


def training_record(
    settings: TrainSettings, usual_rate: float, data: Dataset, pictures: Pictures, started: float
) -> TrainingRecord:
    """Returns the record of a training that ends now; usual_rate: where the settings have none; started: since 1970."""
    instances = [example for example in data.examples if not example.prior]
    rate = settings.rate or usual_rate
    lora = settings if isinstance(settings, LoraSettings) else None
    return TrainingRecord(
        trigger_phrase=settings.token if isinstance(settings, EmbeddingSettings) else None,
        resolution=settings.resolution,
        pictures=len(instances),
        prior_pictures=len(data.examples) - len(instances),
        tag_frequency={_folder(data): dict(_tags(data).most_common())},
        bucket_info=_bucket_info(pictures),
        steps=settings.steps,
        total_steps=settings.steps,
        epoch=settings.steps * settings.accumulate // pictures.length,
        batch=settings.batch,
        accumulation=settings.accumulate,
        seed=settings.seed,
        learning_rate=rate,
        unet_learning_rate=rate if lora else None,
        text_learning_rate=lora.text_rate if lora else None,
        schedule=settings.schedule,
        warmup=settings.warmup,
        optimizer=settings.optimizer,
        clipping=settings.clip,
        min_snr_gamma=settings.snr_gamma,
        noise_offset=settings.noise_offset or None,
        caption_dropout=settings.caption_dropout,
        prior_weight=lora.prior_weight if lora else None,
        precision=settings.dtype,
        started=started,
        finished=time.time(),
    )


def _folder(data: Dataset) -> str:
    return data.examples[0].path.parent.name or _OWN_WORDS


def _tags(data: Dataset) -> Counter[str]:
    """Returns how often captions have each tag; kohya's scripts separate tags by commas."""
    tags = (tag.strip() for example in data.examples for tag in example.caption.split(","))
    return Counter(tag for tag in tags if tag)


def _bucket_info(pictures: Pictures) -> dict[str, object]:
    table = enumerate(buckets.counts(pictures.sizes).items())
    return {"buckets": {str(i): {"resolution": list(size), "count": count} for i, (size, count) in table}}
