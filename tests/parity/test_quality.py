"""Judges of pictures agree with those elsewhere: the trained tower, scikit-image, transformers, pytorch-fid."""

from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from transformers import AutoTokenizer, CLIPConfig, CLIPImageProcessorPil, CLIPModel

from bench.quality import extractors, fidelity, landscapes, scores
from bench.tiny.clip import ImageTower
from mlx_sd.core.errors import InputError
from tests.support.families import distance, write_tokenizer


def _pictures(count, size=(48, 40)):
    drawn = np.random.default_rng(0).integers(0, 256, (count, size[1], size[0], 3), np.uint8)
    return [Image.fromarray(pixels) for pixels in drawn]


def test_features_are_the_trained_towers(measure):
    tower = ImageTower().eval()
    weights = {name.removeprefix("image."): w.float() for name, w in load_file(landscapes.WEIGHTS).items()}
    tower.load_state_dict({name: weights[name] for name in tower.state_dict() if name in weights}, strict=False)
    pixels = landscapes.paintings(range(4))
    with torch.no_grad():
        known = tower(torch.from_numpy(np.array(pixels)).permute(0, 3, 1, 2)).numpy()
    scorer = landscapes.TinyClip()
    measure("CLIP image features", distance(scorer.images(pixels), known), 1e-5)


def test_drift_is_scikit_images(measure):
    one = np.asarray(landscapes.paintings([1])[0] * 127.5 + 127.5)
    noise = np.random.default_rng(0).standard_normal(one.shape)
    how = {"data_range": 255, "gaussian_weights": True, "use_sample_covariance": False, "channel_axis": -1}
    for strength in (1, 20, 200):
        other = np.clip(one + strength * noise, 0, 255)
        known = structural_similarity(one, other, **how)
        measure("SSIM", distance(fidelity.ssim(one, other), known), 1e-5)
        known = peak_signal_noise_ratio(one, other, data_range=255)
        measure("PSNR", distance(fidelity.psnr(one, other), known), 1e-6)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A tiny random CLIP as the hub would have it."""
    folder = tmp_path_factory.mktemp("clip")
    write_tokenizer(folder / "tokenizer", "<|endoftext|>")
    tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer")
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    text, vision = sizes | ids | {"vocab_size": len(tokenizer)}, sizes | {"image_size": 32, "patch_size": 8}
    torch.manual_seed(0)
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)).save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=32).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_hub_clips_cosines_are_those_of_its_own_forward(clip, measure):
    judge, pictures = extractors.Clip(str(clip)), _pictures(3)
    prompts = ["a red tent", "a snowman at night", "tent " * 200]
    seen, said = judge.pictures(pictures), judge.texts(prompts)
    cosines = seen @ said.T / np.outer(np.linalg.norm(seen, axis=1), np.linalg.norm(said, axis=1))
    model, tokenizer = CLIPModel.from_pretrained(clip).eval(), AutoTokenizer.from_pretrained(clip)
    given = tokenizer(prompts, padding="max_length", max_length=77, truncation=True, return_tensors="pt")
    given |= CLIPImageProcessorPil.from_pretrained(clip)(images=pictures, return_tensors="pt")
    with torch.no_grad():
        known = (model(**given).logits_per_image / model.logit_scale.exp()).numpy()
    measure("CLIP cosines", distance(cosines, known), 1e-5)


def test_a_clip_that_is_not_there_is_one_line(clip, tmp_path):
    for place in (tmp_path, tmp_path / "none"):
        with pytest.raises(InputError, match=f"--clip {place}: no CLIP in safetensors there") as refused:
            extractors.Clip(str(place))
        assert "\n" not in str(refused.value)


# --------------------------------------------------------------- pytorch-fid, where it is: pip install -e '.[judges]'


@pytest.fixture(scope="module")
def fid():
    return pytest.importorskip("pytorch_fid.fid_score")


@pytest.fixture(scope="module")
def inception(fid):
    """Its Inception with random weights in place of the download."""
    from pytorch_fid import inception

    with pytest.MonkeyPatch.context() as patch:
        torch.manual_seed(0)
        patch.setattr(inception, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(torch.nn.Module, "load_state_dict", lambda self, state: None)
        weights = inception.fid_inception_v3().state_dict()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inception, "load_state_dict_from_url", lambda *_, **__: weights)
        yield inception


@pytest.mark.parametrize("pictures", [20, 200])
def test_the_frechet_distance_is_pytorch_fids(fid, measure, pictures):
    generator = np.random.default_rng(pictures)
    mixed = generator.standard_normal((64, 64))
    p, q = (scores.statistics(generator.standard_normal((pictures, 64)) @ mixed + shift) for shift in (0, 0.5))
    known = fid.calculate_frechet_distance(*p, *q)
    measure("Frechet distance", distance(scores.frechet(p, q), known), 1e-5)


def test_statistics_of_a_folder_are_pytorch_fids(fid, inception, tmp_path, measure):
    paths = [tmp_path / f"{i}.png" for i in range(6)]
    for path, picture in zip(paths, _pictures(6), strict=True):
        picture.save(path)
    ours = extractors.FeatureCache(tmp_path / "features").statistics(extractors.Inception(), paths)
    network = inception.InceptionV3()
    known = fid.calculate_activation_statistics(list(map(str, paths)), network, batch_size=3, num_workers=0)
    measure("Inception statistics", max(distance(a, b) for a, b in zip(ours, known, strict=True)), 1e-4)


def test_probabilities_are_those_of_the_whole_network_without_its_last_bias(inception, measure):
    judge, pictures = extractors.Inception(), [*_pictures(2), *_pictures(1, (30, 30))]
    said = judge.classes(judge.pictures(pictures))
    whole = inception.fid_inception_v3().eval()
    whole.fc.bias = None
    logits = []
    with torch.no_grad():
        for picture in pictures:
            x = torch.from_numpy(np.asarray(picture).transpose(2, 0, 1)[None] / np.float32(255))
            large = torch.nn.functional.interpolate(x, (299, 299), mode="bilinear")
            logits.append(whole(2 * large - 1)[0])
    assert said.shape == (3, 1008) and said.sum(1) == pytest.approx(1)
    measure("Inception classes", distance(said, torch.stack(logits).softmax(1).numpy()), 1e-4)


def test_inception_without_its_weights_is_one_line(inception, monkeypatch):
    def offline(*_, **__):
        raise URLError("no route to host")

    monkeypatch.setattr(inception, "load_state_dict_from_url", offline)
    with pytest.raises(InputError, match=r"weights cannot be had .*no route to host.*hub/checkpoints") as no:
        extractors.Inception()
    assert "\n" not in str(no.value)
