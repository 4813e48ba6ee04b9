"""ControlNet: residuals, the UNet's output and whole pipelines, against diffusers; in every case the control is on."""

import inspect
import textwrap
from pathlib import Path
from typing import Any

import diffusers
import mlx.core as mx
import numpy as np
import pytest
import torch
from diffusers.pipelines.controlnet.pipeline_controlnet import StableDiffusionControlNetPipeline
from diffusers.pipelines.controlnet.pipeline_controlnet_sd_xl import StableDiffusionXLControlNetPipeline

from mlx_sd import Control, StableDiffusion
from mlx_sd.controls import branches
from mlx_sd.networks.control import ControlNet
from mlx_sd.tasks import edges
from tests.support import controls, families, reference
from tests.support.families import FAMILIES, GUIDANCE, NEGATIVE, PROMPT, SEED, distance

NETWORK, LATENTS = 1e-5, 1e-4
STEPS = 10
LEAST = 0.1  # by which control changes what is compared

# What is different in the config or the call
CHANGES: dict[str, dict[str, Any]] = {
    "plain": {},
    "bgr": {"controlnet_conditioning_channel_order": "bgr"},
    "pooled": {"global_pool_conditions": True},
    "narrow": {"conditioning_embedding_out_channels": [8, 4, 8, 4]},
}


class Pair:
    """A ControlNet of diffusers, saved, and the same as it is loaded here beside its family's model."""

    def __init__(self, kind: str, home: Path, seed: str = "control", **changes: Any):
        self.family, kind_changes = controls.KINDS[kind]
        values = controls.config(self.family, **kind_changes, **changes)
        halvings = len(FAMILIES[self.family]["vae"]["block_out_channels"]) - 1
        values["conditioning_embedding_out_channels"] = values["conditioning_embedding_out_channels"][: halvings + 1]
        self.torch: Any = diffusers.ControlNetModel.from_config(values)
        state = {name: torch.from_numpy(array) for name, array in controls.weights(values, seed).items()}
        self.torch.load_state_dict(state)
        self.folder = home / f"{kind}-{seed}"
        self.torch.save_pretrained(self.folder)

    def image(self, name: str = "control") -> Any:
        """The control image for latents of 8 x 8, at the size of the picture."""
        side = 8 * 2 ** (len(FAMILIES[self.family]["vae"]["block_out_channels"]) - 1)
        return controls.image(name, (64, 64)).resize((side, side), 1)

    def loaded(self, sd: StableDiffusion) -> tuple[ControlNet, mx.array]:
        """The network here, and its embedded image."""
        request = sd.complete(request_of(sd, [(self.folder, self.image())]))
        (branch,) = branches(sd.model, request)
        return branch.network, branch.image


def request_of(sd: StableDiffusion, entries: list[Any]) -> Any:
    from mlx_sd import Request

    side = 8 * sd.vae.config.downsampling
    return Request(prompt=PROMPT, width=side, height=side, controls=entries)  # type: ignore[arg-type]


def residuals(pair: Pair, inputs: dict[str, np.ndarray], **how: Any) -> list[np.ndarray]:
    """Those of diffusers, the middle's last."""
    first = {name: reference.first(value) for name, value in inputs.items()}
    added = {name: first[name] for name in ("text_embeds", "time_ids") if name in first}
    image = reference.first(np.asarray(pair.image(), np.float32)[None] / 255)
    skips, middle = pair.torch(
        first["x"],
        first["t"],
        first["context"],
        image.expand(len(first["x"]), -1, -1, -1),
        added_cond_kwargs=added or None,
        return_dict=False,
        **how,
    )
    return [reference.last(array) for array in (*skips, middle)]


def ours(network: ControlNet, image: mx.array, inputs: dict[str, np.ndarray], **how: Any) -> Any:
    arrays = {name: mx.array(value) for name, value in inputs.items()}
    return network(arrays.pop("x"), arrays.pop("t"), arrays.pop("context"), image, **arrays, **how)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kind", controls.KINDS)
def test_residuals_and_the_unet_s_output(kind, change, family, modules, tmp_path, measure):
    pair = Pair(kind, tmp_path, **CHANGES[change])
    sd, inputs = family(pair.family), families.unet_inputs(FAMILIES[pair.family]["unet"])
    network, image = pair.loaded(sd)
    plain = reference.unet(modules(pair.family)["unet"], inputs)
    for guess in (False, True):
        theirs = residuals(pair, inputs, conditioning_scale=0.7, guess_mode=guess)
        here = ours(network, image, inputs, scale=0.7, guess=guess)
        arrays = [*here.skips, here.middle]
        assert len(arrays) == len(theirs)
        measure("control residuals", max(map(distance, arrays, theirs)), NETWORK)
        sizes = [array.shape for array in residuals(pair, inputs)] if change == "pooled" else []
        assert all(shape[1:3] == (1, 1) for shape in sizes)
        outputs = [
            np.asarray(
                sd.unet(
                    **{name: mx.array(value) for name, value in inputs.items()},
                    skip_residuals=here.skips,
                    middle_residual=here.middle,
                )[0]
            ),
            reference.unet(modules(pair.family)["unet"], inputs, theirs[:-1], theirs[-1]),
        ]
        assert distance(outputs[1], plain) >= LEAST or guess
        measure("UNet with control", distance(*outputs), NETWORK)


def pipeline(folder: Path, networks: list[Any]) -> Any:
    """The ControlNet pipeline of a folder, silent."""
    plain = reference.pipeline(folder)
    kind = (
        StableDiffusionXLControlNetPipeline if hasattr(plain, "text_encoder_2") else StableDiffusionControlNetPipeline
    )
    parts = {name: part for name, part in plain.components.items() if name != "image_encoder"}
    if kind is StableDiffusionControlNetPipeline:
        parts["requires_safety_checker"] = False
    pipe = reference.silent(kind(**parts, controlnet=networks[0] if len(networks) == 1 else networks))
    return pipe


def compare(
    sd: StableDiffusion,
    folder: Path,
    pairs: list[Pair],
    entries: list[Control],
    how: dict[str, Any],
    **settings: Any,
) -> float:
    """The distance of the final latents, where control changes them."""
    noise = families.noise()
    scales, starts, ends = ([getattr(entry, name) for entry in entries] for name in ("scale", "start", "end"))
    images = [entry.image for entry in entries]
    single = len(pairs) == 1
    theirs = reference.generate(
        pipeline(folder, [pair.torch for pair in pairs]),
        noise,
        num_inference_steps=STEPS,
        image=images[0] if single else images,
        controlnet_conditioning_scale=scales[0] if single else scales,
        control_guidance_start=starts[0] if single else starts,
        control_guidance_end=ends[0] if single else ends,
        **how,
    )
    side = 8 * sd.vae.config.downsampling
    values = {"seed": SEED, "steps": STEPS, "guidance": GUIDANCE, "width": side, "height": side, "output": "latent"}
    values |= {"latents": mx.array(noise)}
    here = sd.generate(PROMPT, NEGATIVE, **values, controls=entries, **settings).latents
    assert distance(here, sd.generate(PROMPT, NEGATIVE, **values).latents) >= LEAST
    return distance(here, theirs)


@pytest.mark.parametrize("kind", controls.KINDS)
def test_ten_steps_of_the_pipeline(kind, family, saved, tmp_path, measure):
    pair = Pair(kind, tmp_path)
    sd = family(pair.family)
    error = compare(sd, saved(pair.family), [pair], [Control(str(pair.folder), pair.image(), 0.8)], {})
    measure("pipeline with control", error, LATENTS)


@pytest.mark.parametrize("kind", ["sd1", "sdxl"])
def test_guess_mode_and_a_span_of_the_steps(kind, family, saved, tmp_path, measure):
    pair = Pair(kind, tmp_path)
    entry = Control(str(pair.folder), pair.image(), 1.5, 0.15, 0.8)
    sd, folder = family(pair.family), saved(pair.family)
    measure("pipeline, start and end", compare(sd, folder, [pair], [entry], {}), LATENTS)
    error = compare(sd, folder, [pair], [entry], {"guess_mode": True}, guess_mode=True)
    measure("pipeline, guess mode", error, LATENTS)


def test_a_pooled_network_guides_the_half_with_the_prompt(family, saved, tmp_path, measure):
    pair = Pair("sd1", tmp_path, global_pool_conditions=True)
    error = compare(family("sd1"), saved("sd1"), [pair], [Control(str(pair.folder), pair.image(), 2.0)], {})
    measure("pipeline, pooled", error, LATENTS)


@pytest.mark.parametrize("kind", ["sd1", "sdxl"])
def test_several_networks_are_the_sum(kind, family, saved, tmp_path, measure):
    pairs = [Pair(kind, tmp_path), Pair(kind, tmp_path, "another")]
    entries = [
        Control(str(pairs[0].folder), pairs[0].image(), 0.6, 0.0, 0.7),
        Control(str(pairs[1].folder), pairs[1].image("another"), 0.9, 0.3, 1.0),
    ]
    error = compare(family(pairs[0].family), saved(pairs[0].family), pairs, entries, {})
    measure("pipeline, two networks", error, LATENTS)


def test_a_network_acts_at_the_steps_at_which_diffusers_keeps_it():
    source = inspect.getsource(StableDiffusionControlNetPipeline.__call__)
    begin = source.index("        controlnet_keep = []")
    code = compile(textwrap.dedent(source[begin : source.index("# 8.", begin)]), "diffusers", "exec")
    spans = [(0.0, 1.0), (0.0, 0.5), (0.5, 1.0), (0.1, 0.9), (1 / 3, 2 / 3), (0.2, 0.35), (0.0, 0.29)]
    for count in range(1, 51):
        values: dict[str, Any] = {
            "timesteps": list(range(count)),
            "control_guidance_start": [start for start, _ in spans],
            "control_guidance_end": [end for _, end in spans],
            "controlnet": None,
            "ControlNetModel": diffusers.ControlNetModel,
        }
        exec(code, values)
        here = [[Control("m", "i", 1.0, *span).acts(i, count) for span in spans] for i in range(count)]
        assert here == [[bool(keep) for keep in row] for row in values["controlnet_keep"]]


def saved_union(modes: int, folder: Path) -> tuple[Any, Path]:
    """A union of diffusers with random weights, and the folder that it is saved in."""
    network: Any = diffusers.ControlNetUnionModel.from_config(controls.union(modes))
    shapes = {name: list(tensor.shape) for name, tensor in network.state_dict().items()}
    network.load_state_dict({name: torch.from_numpy(controls.weight(name, shape)) for name, shape in shapes.items()})
    network.eval().save_pretrained(folder / "union")
    return network, folder / "union"


@pytest.mark.parametrize("modes", [6, 8])
def test_a_union_with_each_of_its_modes(modes, family, modules, tmp_path, measure):
    """The rows of a batch have one image, as in guidance: then attention over the batch is the value alone."""
    network, _ = saved_union(modes, tmp_path)
    sd, inputs = family("sdxl"), families.unet_inputs(FAMILIES["sdxl"]["unet"])
    side = 8 * sd.vae.config.downsampling
    image = controls.image("control", (side, side))
    first = {name: reference.first(value) for name, value in inputs.items()}
    pixels = reference.first(np.asarray(image, np.float32)[None] / 255).expand(2, -1, -1, -1)
    added = {name: first[name] for name in ("text_embeds", "time_ids")}
    outputs = []
    for mode, number in (("openpose", 0), ("canny", 3), ("segmentation", 5)):
        (branch,) = branches(
            sd.model, sd.complete(request_of(sd, [Control(str(tmp_path / "union"), image, mode=mode)]))
        )
        types = torch.zeros(2, modes)
        types[:, number] = 1
        for guess in (False, True):
            skips, middle = network(
                first["x"],
                first["t"],
                first["context"],
                [pixels],
                control_type=types,
                control_type_idx=[number],
                conditioning_scale=[0.7],
                added_cond_kwargs=added,
                guess_mode=guess,
                return_dict=False,
            )
            here = ours(branch.network, branch.image, inputs, scale=0.7, guess=guess, mode=branch.mode)
            theirs = [reference.last(array) for array in (*skips, middle)]
            measure("union residuals", max(map(distance, [*here.skips, here.middle], theirs)), NETWORK)
        outputs.append(theirs[-1])
    assert distance(outputs[0], outputs[1]) >= LEAST and distance(outputs[1], outputs[2]) >= LEAST
    file = tmp_path / "copy.safetensors"
    file.write_bytes((tmp_path / "union" / "diffusion_pytorch_model.safetensors").read_bytes())
    (other,) = branches(sd.model, sd.complete(request_of(sd, [Control(str(file), image, mode="segmentation")])))
    assert mx.array_equal(other.image, branch.image)


@pytest.mark.parametrize("guess", [False, True])
def test_a_union_that_sees_several_images_at_once(guess, family, tmp_path, measure):
    """Where diffusers' attention over the batch is the value alone, its tokens of several images do not mix either."""
    network, folder = saved_union(8, tmp_path)
    sd, inputs = family("sdxl"), families.unet_inputs(FAMILIES["sdxl"]["unet"])
    side = 8 * sd.vae.config.downsampling
    images = [controls.image(name, (side, side)) for name in ("control", "another")]
    first = {name: reference.first(value) for name, value in inputs.items()}
    types, scales = torch.zeros(2, 8), (0.7, 1.4)
    types[:, [1, 5]] = 1
    skips, middle = network(
        first["x"],
        first["t"],
        first["context"],
        [reference.first(np.asarray(image, np.float32)[None] / 255).expand(2, -1, -1, -1) for image in images],
        control_type=types,
        control_type_idx=[1, 5],
        conditioning_scale=list(scales),
        added_cond_kwargs={name: first[name] for name in ("text_embeds", "time_ids")},
        guess_mode=guess,
        return_dict=False,
    )
    entries = [
        Control(str(folder), image, scale, mode=mode)
        for image, scale, mode in zip(images, scales, ("depth", "segmentation"), strict=True)
    ]
    (branch,) = branches(sd.model, sd.complete(request_of(sd, entries)))
    here = ours(branch.network, branch.image, inputs, scale=branch.control.scale, guess=guess, mode=branch.mode)
    theirs = [reference.last(array) for array in (*skips, middle)]
    measure("union residuals, two images", max(map(distance, [*here.skips, here.middle], theirs)), NETWORK)
    (alone,) = branches(sd.model, sd.complete(request_of(sd, entries[:1])))
    assert distance(ours(alone.network, alone.image, inputs, scale=0.7, mode=alone.mode).middle, theirs[-1]) >= LEAST
    spans = [entries[0], entries[1]._replace(end=0.5)]
    assert len(branches(sd.model, sd.complete(request_of(sd, spans)))) == 2  # apart, as two networks


def test_canny_is_opencv_s_on_pictures_of_every_size():
    cv2 = pytest.importorskip("cv2")
    random = np.random.RandomState(5)
    for i in range(40):
        height, width = random.randint(1, 90, 2)
        picture = random.randint(0, 256, (height // (1 + i % 4) + 1, width // (1 + i % 4) + 1, 3)).astype(np.uint8)
        picture = np.asarray(controls.Image.fromarray(picture).resize((int(width) + 1, int(height) + 1), 3))
        assert (edges.canny(picture) == cv2.Canny(np.ascontiguousarray(picture), 100, 200)).mean() >= 0.999
