"""The device that computes, as pictures record it: bytes are equal where devices are, and may differ elsewhere."""

import mlx.core as mx


def describe(coreml: bool = False) -> str:
    """Returns the name and the kind of MLX's device, "Apple M2 Pro (gpu)"; coreml: of networks that Core ML runs."""
    device = mx.default_device()
    name = str(mx.device_info(device)["device_name"])
    kind = "Core ML" if coreml else "gpu" if device == mx.Device(mx.gpu) else "cpu"
    return f"{name} ({kind})"
