"""A file that the owner of a machine has sent: what `bench report --mine` writes."""

MACHINE = {
    "chip": "Apple M9",
    "memory": 2**34,
    "release": "26.1",
    "processor": "arm",
    "cores": 8,
    "system": "Darwin arm64",
    "device": "Device(gpu, 0)",
    "python": "3.12",
    "mlx": "0.32",
    "mlx_sd": "0.1",
}
STEP = {"by": "mlx-sd", "macs": 10, "count": 5, "median": 0.5, "min": 0.4, "max": 0.6, "relative": 1.0}
MODEL = {
    "model": "sd15",
    "latents": 64,
    "guided": True,
    "dtype": "float16",
    "steps": 10,
    "peak_memory_over_weights": 1.25,
    "kinds": [STEP, STEP | {"median": 0.1}],
    "loops": [
        {"loop": loop, "ideal": 2.0, "speedup": 1.9, "speedup_by_medians": speedup}
        for loop, speedup in (("full", 1.0), ("3:0", 2.25), ("5:0", 3.5))
    ],
    "load": [0.1, 0.2, 0.3],
}
PICTURE = {"prompt": "a tent", "seed": 0, "steps": 10, "sha256": "0" * 64, "mean": [1.0, 2.0, 3.0], "seconds": {}}
VALUE = {
    "value": "true",
    "rounds": 15,
    "outcome": "faster, not exact",
    "full": 0.4,
    "cached": 0.1,
    "first": 2.0,
    "ratio": 0.9,
    "spread": 0.02,
    "difference": 1e-6,
}
DEFAULT = {"value": "false", "rounds": 15, "outcome": "not faster", "first": 2.0}
TUNED = {
    "chip": "Apple M9 (gpu)",
    "system": "macOS 26.1",
    "mlx": "0.32.4",
    "mlx_sd": "0.1",
    "blas": "none",
    "winograd": "",
    "family": "Stable Diffusion 1",
    "unet": "0" * 12,
    "dtype": "float16",
    "quantize": "no",
    "width": 512,
    "height": 512,
    "choices": [{"choice": "compile_step", "beside": "", "values": [DEFAULT, VALUE]}],
    "exact": "",
    "fastest": "compile_step=true",
}
VALUES = {"kind": "mine", "machine": MACHINE, "picture": PICTURE, "models": [MODEL], "tuning": [TUNED]}
