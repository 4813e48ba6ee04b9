"""Networks that look at pictures and are not ours: Inception for FID and the Inception Score, a CLIP from the hub.

They run in torch, on the CPU, where they say the same on every machine. Nothing is downloaded before one is made.
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

_BATCH = 32  # pictures that a judge looks at together


class Judge(Protocol):
    """Whoever turns pictures into features."""

    name: str

    def pictures(self, pictures: Sequence[Image.Image]) -> Features:
        """Features of pictures of any sizes."""


class Inception:
    """Inception as FID is defined by: pytorch-fid's port of the TensorFlow network of 2015-12-05."""

    name = "Inception 2015-12-05, pytorch-fid"

    def __init__(self) -> None:
        """InputError where the package or its weights are missing."""
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
        """Features (N, 2048), of the last average pooling; the network makes all pictures 299 pixels a side."""
        import torch

        found = []
        for _, alike in groupby(pictures, lambda picture: picture.size):
            pixels = np.stack([np.asarray(picture.convert("RGB"), np.float32) / 255 for picture in alike])
            with torch.inference_mode():
                found.append(self._network(torch.from_numpy(pixels).permute(0, 3, 1, 2))[0].flatten(1).numpy())
        return np.concatenate(found)

    def classes(self, features: Features) -> NDArray[np.float64]:
        """Probabilities (N, 1008) of the network's classes; as in Salimans et al.'s code, without the last bias."""
        probabilities: NDArray[np.float64] = softmax(features.astype(np.float64) @ self._classes.T, axis=1)
        return probabilities


class Clip:
    """A CLIP from the hub, or from a folder, through transformers."""

    def __init__(self, name: str):
        """InputError where there is none, or none in safetensors."""
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
        """Features of pictures, cut to squares as CLIP's authors do it."""
        import torch

        given = self._processor(images=[picture.convert("RGB") for picture in pictures], return_tensors="pt")
        with torch.inference_mode():
            found: Features = self._model.get_image_features(**given).pooler_output.numpy()
        return found

    def texts(self, prompts: Sequence[str]) -> Features:
        """Features of prompts, cut to the length that CLIP takes."""
        import torch

        longest = self._model.config.text_config.max_position_embeddings
        given = self._tokenizer(list(prompts), padding=True, truncation=True, max_length=longest, return_tensors="pt")
        with torch.inference_mode():
            found: Features = self._model.get_text_features(**given).pooler_output.numpy()
        return found


class Judged:
    """What judges made of picture files, kept in a folder: each file is looked at once."""

    def __init__(self, folder: Path):
        self._folder = folder

    def features(self, judge: Judge, paths: Sequence[Path]) -> Features:
        """Features of picture files; InputError for what is no picture."""
        kept = self._path(judge, paths, ".npy")
        if not kept.exists():
            found = _seen(judge, paths)
            with atomic_file(kept) as f:
                np.save(f, found)
        features: Features = np.load(kept)
        return features

    def statistics(self, judge: Judge, paths: Sequence[Path]) -> Statistics:
        """The Gaussian fitted to their features, which are not kept: of references there may be very many."""
        kept = self._path(judge, paths, ".npz")
        if not kept.exists():
            fitted = statistics(_seen(judge, paths))
            with atomic_file(kept) as f:
                np.savez(f, **fitted._asdict())
        with np.load(kept) as stored:
            return Statistics(**stored)

    def _path(self, judge: Judge, paths: Sequence[Path], suffix: str) -> Path:
        self._folder.mkdir(parents=True, exist_ok=True)
        files = [(str(path.resolve()), (about := path.stat()).st_size, about.st_mtime_ns) for path in paths]
        return self._folder / f"{hashlib.sha256(repr((judge.name, files)).encode()).hexdigest()[:16]}{suffix}"


def _seen(judge: Judge, paths: Sequence[Path]) -> Features:
    return np.concatenate([judge.pictures(pictures) for pictures in _opened(paths)])


def _opened(paths: Sequence[Path]) -> Iterator[list[Image.Image]]:
    """Pictures, a batch at a time."""
    rest = iter(paths)
    with tqdm(total=len(paths), unit="picture", desc="judging", disable=not sys.stderr.isatty()) as bar:
        while some := list(islice(rest, _BATCH)):
            pictures = []
            for path in some:
                try:
                    with Image.open(path) as image:
                        pictures.append(image.convert("RGB"))
                except (OSError, SyntaxError) as error:
                    raise InputError(f"{path} is not a picture that can be read ({error})") from None
            yield pictures
            bar.update(len(some))
