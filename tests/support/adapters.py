"""Random adapters for the tiny families, in every form that trainers write them, without torch."""

import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from convert.files.diffusers_names import current_name
from tests.support import families

Arrays = dict[str, np.ndarray]
Layer = tuple[str, str]  # network, and the layer's name in a diffusers checkpoint
Factors = Mapping[Layer, Arrays]

KOHYA = {"unet": "lora_unet_", "text_encoder": "lora_te_", "text_encoder_2": "lora_te2_"}


def layers(
    shapes: families.Shapes, pick: Callable[[str, tuple[int, ...]], bool]
) -> Iterator[tuple[Layer, tuple[int, ...]]]:
    """The layers of UNet and text encoders that `pick(name, shape of the weight)` takes, and their weights' shapes."""
    for part in KOHYA.keys() & shapes.keys():
        for name, shape in shapes[part].items():
            layer, _, last = (current_name(name) or "").rpartition(".")
            if last == "weight" and "embedding" not in layer.split(".")[-1] and pick(layer, tuple(shape)):
                yield (part, layer), tuple(shape)


def attention(layer: str, shape: tuple[int, ...]) -> bool:
    """What most adapters train: the attention's projections."""
    return layer.endswith(("to_q", "to_k", "to_v", "to_out.0", "q_proj", "k_proj", "v_proj", "out_proj"))


def matrices(layer: str, shape: tuple[int, ...]) -> bool:
    """Everything that multiplies."""
    return len(shape) > 1


def numbers(layer: Layer, role: str, *shape: int) -> np.ndarray:
    return families.numbers(f"{layer} {role}", *shape) * np.float32(0.3)


def lora(layer: Layer, shape: tuple[int, ...], rank: int = 4, alpha: float | None = None, seed: str = "") -> Arrays:
    """Random factors in kohya's roles; a convolution's first has its kernel."""
    o, i, *kernel = shape
    found = {
        "lora_down.weight": numbers(layer, f"down{seed}", rank, i, *kernel),
        "lora_up.weight": numbers(layer, f"up{seed}", o, rank, *[1 for _ in kernel]),
    }
    return found | ({} if alpha is None else {"alpha": np.array(alpha, np.float32)})


def delta(factors: Arrays) -> np.ndarray:
    """What `lora` factors add to a weight, by the definition."""
    down, up = factors["lora_down.weight"], factors["lora_up.weight"]
    whole = np.einsum("or,r...->o...", up.reshape(len(up), -1), down)
    return whole * (factors["alpha"] / len(down) if "alpha" in factors else 1)


def every_layer(
    shapes: families.Shapes, make: Callable[..., Arrays] = lora, pick: Callable = matrices, **how
) -> Factors:
    return {layer: make(layer, shape, **how) for layer, shape in layers(shapes, pick)}


def norm(layer: Layer, shape: tuple[int, ...]) -> Arrays:
    """LyCORIS' differences of a norm's weight and bias."""
    return {role: numbers(layer, role, *shape) for role in ("w_norm", "b_norm")}


def mixed(layer: Layer, shape: tuple[int, ...]) -> Arrays:
    """Factors of a rank and an alpha of the layer's own."""
    number = zlib.crc32(repr(layer).encode())
    return lora(layer, shape, rank=1 + number % 5, alpha=0.5 + number % 7)


# ------------------------------------------------------------------------------------------------ spellings


def kohya(factors: Factors) -> Arrays:
    """As kohya's scripts and LyCORIS write: every dot of a layer's name an underscore."""
    found = {}
    for (part, layer), roles in factors.items():
        inside = f"text_model.{layer}" if part != "unet" and layer != "text_projection" else layer
        for role, array in roles.items():
            found[f"{KOHYA[part]}{inside.replace('.', '_')}.{role}"] = array
    return found


def original(layer: str, per_level: int) -> str:
    """A UNet layer's name in the original code, which counts blocks through all levels of `per_level` each."""
    whole = {"conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2"}
    whole |= {"time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2"}
    whole |= {"add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2"}
    if layer in whole:
        return whole[layer]
    inner = {"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1"}
    inner |= {"norm2": "out_layers.0", "conv2": "out_layers.3", "conv_shortcut": "skip_connection"}
    side, *rest = layer.split(".")
    if side == "mid_block":
        kind, number, *inside = rest
        place = f"middle_block.{1 if kind == 'attentions' else 2 * int(number)}"
    else:
        level, kind, number, *inside = rest
        at = int(level) * per_level + (per_level - 1 if kind.endswith("samplers") else int(number))
        if side == "down_blocks":
            place = f"input_blocks.{at + 1}.{int(kind == 'attentions')}"
        else:
            place = f"output_blocks.{at}.{ {'resnets': 0, 'attentions': 1, 'upsamplers': 2}[kind] }"
    if kind == "downsamplers":
        return f"{place}.op"
    if kind == "resnets":
        return f"{place}.{inner['.'.join(inside)]}"
    return ".".join([place, *inside])


def renamed(factors: Factors, rule: Callable[[str], str]) -> Factors:
    """With the UNet's layers called otherwise."""
    return {(p, rule(layer) if p == "unet" else layer): roles for (p, layer), roles in factors.items()}


def peft(factors: Factors) -> Arrays:
    """As diffusers writes today; its alphas are elsewhere."""
    words = {"lora_down.weight": "lora_A.weight", "lora_up.weight": "lora_B.weight"}
    return {
        f"{part}.{layer}.{words[role]}": array
        for (part, layer), roles in factors.items()
        for role, array in roles.items()
        if role in words
    }


def dotted(factors: Factors) -> Arrays:
    """Network, layer and role with dots between."""
    return {f"{p}.{layer}.{role}": array for (p, layer), roles in factors.items() for role, array in roles.items()}


def old_diffusers(factors: Factors) -> Arrays:
    """As diffusers wrote when adapters were attention processors."""
    words = {"lora_down.weight": "down.weight", "lora_up.weight": "up.weight", "alpha": "alpha"}
    old = {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "out_proj": "to_out", "to_out.0": "to_out"}
    found = {}
    for (part, layer), roles in factors.items():
        at, _, last = layer.replace("to_out.0", "to_out").rpartition(".")
        home = f"{part}.{at}.processor" if part == "unet" else f"{part}.text_model.{at}"
        for role, array in roles.items():
            found[f"{home}.{old.get(last, last)}_lora.{words[role]}"] = array
    return found


def save(path: Path, arrays: Arrays, metadata: dict[str, str] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path, metadata)
    return path
