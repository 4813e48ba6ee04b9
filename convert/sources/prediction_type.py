"""The prediction type of a single file's UNet, noise or v, as far as the file tells."""

from collections.abc import Mapping

import numpy as np

from mlx_sd.core.files import TENSOR_DTYPES, Tensor

from .single_file_kinds import KINDS

# Steps at which the released SD 2 checkpoints were saved -> what they predict
_STEPS = {875000: "epsilon", 110000: "v_prediction", 140000: "v_prediction"}
_MODELSPEC = {"epsilon": "epsilon", "v": "v_prediction", "v_prediction": "v_prediction"}
_ARCHITECTURES = {"stable-diffusion-v2-512": "epsilon", "stable-diffusion-v2-768-v": "v_prediction"}
# ComfyUI tells SD 2's two kinds apart by this bias: training on v spreads it beyond this deviation.
_NORM, _SPREAD = "up_blocks.3.attentions.2.transformer_blocks.0.norm1.bias", 0.09


def find(
    kind: str, tensors: Mapping[str, Tensor], unet: Mapping[str, Tensor], metadata: Mapping[str, str]
) -> tuple[str, str, bool]:
    """Returns the prediction type of a file of a kind, the reason, and whether it is only likely.

    tensors: all of the file. unet: the UNet's, by diffusers' names. metadata: of the file.
    """
    if "v_pred" in tensors:
        return "v_prediction", "by its v_pred key", False
    if prediction := _MODELSPEC.get(metadata.get("modelspec.prediction_type", "").lower()):
        return prediction, "by its metadata", False
    architecture = metadata.get("modelspec.architecture", "").partition("/")[0]
    if prediction := _ARCHITECTURES.get(architecture):
        return prediction, "by its metadata", False
    if kind != "sd2" or unet["conv_in.weight"].shape[1] != 4:
        return KINDS[kind].prediction, "as this kind does unless a file says otherwise", False
    if prediction := _STEPS.get(_integer(tensors.get("global_step"))):
        return prediction, "by the step it was saved at", False
    bias = unet.get(_NORM)
    if bias is not None and bias.dtype in TENSOR_DTYPES and bias.end > bias.start:
        spread = float(np.std(np.asarray(bias.read().astype(TENSOR_DTYPES["F32"][1]), np.float64)))
        return ("v_prediction" if spread > _SPREAD else "epsilon"), f"by the spread of a norm, {spread:.3f}", True
    return "v_prediction", "as most of this kind do", True


def _integer(tensor: Tensor | None) -> int:
    if tensor is None or tensor.dtype not in ("I32", "I64") or tensor.end - tensor.start > 8:
        return 0
    with tensor.file.open("rb") as f:
        f.seek(tensor.start)
        return int.from_bytes(f.read(tensor.end - tensor.start), "little", signed=True)
