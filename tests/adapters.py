"""Random adapters for the tiny families, in every form that trainers write them, without torch."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from convert import names
from tests import families

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
            layer, _, last = (names.today(name) or "").rpartition(".")
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


# ------------------------------------------------------------------------------------------------ spellings


def kohya(factors: Factors) -> Arrays:
    """As kohya's scripts and LyCORIS write: every dot of a layer's name an underscore."""
    found = {}
    for (part, layer), roles in factors.items():
        inside = f"text_model.{layer}" if part != "unet" and layer != "text_projection" else layer
        for role, array in roles.items():
            found[f"{KOHYA[part]}{inside.replace('.', '_')}.{role}"] = array
    return found


def peft(factors: Factors, prefix: str = "") -> Arrays:
    """As diffusers writes today; its alphas are elsewhere."""
    words = {"lora_down.weight": "lora_A.weight", "lora_up.weight": "lora_B.weight"}
    return {
        f"{prefix}{part}.{layer}.{words[role]}": array
        for (part, layer), roles in factors.items()
        for role, array in roles.items()
        if role in words
    }


def save(path: Path, arrays: Arrays, metadata: dict[str, str] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path, metadata)
    return path
