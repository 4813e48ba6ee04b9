"""Networks that turn pictures into features: Inception for FID and the Inception Score, and a CLIP from the hub.

They run in torch, on the CPU, where they give the same features on every machine. Nothing is downloaded before one of
them is built.
"""

import hashlib
import sys
from collections.abc import Iterator, Sequence
from itertools import groupby, islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.special import softmax
from tqdm import tqdm

from mlx_sd.core.errors import InputError
from mlx_sd.core.files import atomic_file

from .scores import Features, Statistics, statistics

_BATCH = 32  # pictures through an extractor together


class Extractor(Protocol):
    """A network that turns pictures into features."""

    name: str

    def pictures(self, pictures: Sequence[Image.Image]) -> Features:
        """Returns the features (N, D) of pictures of any sizes."""


class Inception:
    """Inception as FID is defined by: pytorch-fid's port of the TensorFlow network of 2015-12-05."""

    name = "Inception 2015-12-05, pytorch-fid"

    def __init__(self) -> None:
        """Loads the network; InputError where the package or its weights are missing."""
        try:
            from pytorch_fid import inception
        except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision that is not for this torch
            why = str(error).partition("\n")[0]
            raise InputError(
                f"--inception needs pytorch-fid ({why}); pip install 'mlx-sd[judges]', or leave it out"
            ) from None
        try:
            self._network: Any = inception.InceptionV3().eval()
            self._classes: NDArray[np.float32] = inception.fid_inception_v3().fc.weight.detach().numpy()
        except OSError as error:
            from torch import hub

            raise InputError(
                f"Inception's weights cannot be had ({error}); put {inception.FID_WEIGHTS_URL} into "
                f"{hub.get_dir()}/checkpoints, or leave out --inception"
            ) from None

    def pictures(self, pictures: Sequence[Image.Image]) -> Features:
        """Returns the features (N, 2048) of the last average pooling; pictures are scaled to 299 pixels a side."""
        import torch

        features = []
        for _, group in groupby(pictures, lambda picture: picture.size):
            pixels = np.stack([np.asarray(picture.convert("RGB"), np.float32) / 255 for picture in group])
            with torch.inference_mode():
                features.append(self._network(torch.from_numpy(pixels).permute(0, 3, 1, 2))[0].flatten(1).numpy())
        return np.concatenate(features)

    def classes(self, features: Features) -> NDArray[np.float64]:
        """Returns the probabilities (N, 1008) of the classes; as in Salimans et al.'s code, without the last bias."""
        probabilities: NDArray[np.float64] = softmax(features.astype(np.float64) @ self._classes.T, axis=1)
        return probabilities


class Clip:
    """A CLIP from the hub, or from a folder, through transformers."""

    def __init__(self, name: str):
        """Loads the CLIP; InputError where there is none, or none in safetensors."""
        try:
            from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPModel, logging
        except ImportError as error:
            raise InputError(f"--clip needs transformers ({error}); pip install 'mlx-sd[judges]'") from None
        self.name = name
        if not sys.stderr.isatty():
            logging.disable_progress_bar()
        try:
            self._model: Any = CLIPModel.from_pretrained(name, use_safetensors=True).eval()
            self._processor: Any = CLIPImageProcessorPil.from_pretrained(name)
            self._tokenizer: Any = AutoTokenizer.from_pretrained(name)
        except (OSError, ValueError) as error:
            why = str(error).strip().partition("\n")[0]
            raise InputError(f"--clip {name}: no CLIP in safetensors there, or no network ({why})") from None

    def pictures(self, pictures: Sequence[Image.Image]) -> Features:
        """Returns the features (N, D) of pictures, cropped to squares as CLIP's authors do it."""
        import torch

        inputs = self._processor(images=[picture.convert("RGB") for picture in pictures], return_tensors="pt")
        with torch.inference_mode():
            features: Features = self._model.get_image_features(**inputs).pooler_output.numpy()
        return features

    def texts(self, prompts: Sequence[str]) -> Features:
        """Returns the features (N, D) of prompts, cut to the length that CLIP takes."""
        import torch

        longest = self._model.config.text_config.max_position_embeddings
        inputs = self._tokenizer(list(prompts), padding=True, truncation=True, max_length=longest, return_tensors="pt")
        with torch.inference_mode():
            features: Features = self._model.get_text_features(**inputs).pooler_output.numpy()
        return features


class FeatureCache:
    """A folder of features of picture files, so that each file goes through an extractor once."""

    def __init__(self, folder: Path):
        self._folder = folder

    def features(self, extractor: Extractor, paths: Sequence[Path]) -> Features:
        """Returns the features (N, D) of picture files; InputError for a file that is not a picture."""
        file = self._path(extractor, paths, ".npy")
        if not file.exists():
            extracted = _extract(extractor, paths)
            with atomic_file(file) as f:
                np.save(f, extracted)
        features: Features = np.load(file)
        return features

    def statistics(self, extractor: Extractor, paths: Sequence[Path]) -> Statistics:
        """Returns the Gaussian fitted to their features, which are not stored: references may be very many."""
        file = self._path(extractor, paths, ".npz")
        if not file.exists():
            fitted = statistics(_extract(extractor, paths))
            with atomic_file(file) as f:
                np.savez(f, **fitted._asdict())
        with np.load(file) as stored:
            return Statistics(**stored)

    def _path(self, extractor: Extractor, paths: Sequence[Path], suffix: str) -> Path:
        self._folder.mkdir(parents=True, exist_ok=True)
        stats = [(path, path.stat()) for path in paths]
        files = [(str(path.resolve()), stat.st_size, stat.st_mtime_ns) for path, stat in stats]
        return self._folder / f"{hashlib.sha256(repr((extractor.name, files)).encode()).hexdigest()[:16]}{suffix}"


def _extract(extractor: Extractor, paths: Sequence[Path]) -> Features:
    return np.concatenate([extractor.pictures(pictures) for pictures in _opened(paths)])


def _opened(paths: Sequence[Path]) -> Iterator[list[Image.Image]]:
    """Pictures, a batch at a time."""
    remaining = iter(paths)
    with tqdm(total=len(paths), unit="picture", desc="features", disable=not sys.stderr.isatty()) as bar:
        while batch := list(islice(remaining, _BATCH)):
            pictures = []
            for path in batch:
                try:
                    with Image.open(path) as image:
                        pictures.append(image.convert("RGB"))
                except (OSError, SyntaxError) as error:
                    raise InputError(f"{path} is not a picture that can be read ({error})") from None
            yield pictures
            bar.update(len(batch))
