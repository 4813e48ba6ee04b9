"""Apple's chips, and times that others have measured on them and published: the data behind predictions."""

from typing import NamedTuple


class Chip(NamedTuple):
    """A chip; in CHIPS, the variant with the most GPU cores."""

    cores: int  # of the GPU
    mhz: int  # of the GPU, at most
    bandwidth: float  # GB/s, of its memory

    @property
    def flops(self) -> float:
        """The peak a second: 128 multiply-adds a core and cycle, in float16 as in float32 (metal-benchmarks)."""
        return self.cores * 128 * 2 * self.mhz * 1e6


# Cores and bandwidth: Apple's announcements of each chip. Clocks: philipturner/metal-benchmarks (M1, M2) and
# hmc-tech.com (M3 to M5). Apple does not publish them, and sources differ by up to a fifth for M4 and M5; those of the
# M4 Pro's and M5's larger GPUs are taken from their smaller ones. The matrix units in M5's GPU are left out.
CHIPS = {
    "M1": Chip(8, 1278, 68),
    "M1 Pro": Chip(16, 1296, 200),
    "M1 Max": Chip(32, 1296, 400),
    "M1 Ultra": Chip(64, 1296, 800),
    "M2": Chip(10, 1398, 100),
    "M2 Pro": Chip(19, 1398, 200),
    "M2 Max": Chip(38, 1398, 400),
    "M2 Ultra": Chip(76, 1398, 800),
    "M3": Chip(10, 1398, 100),
    "M3 Pro": Chip(18, 1398, 150),
    "M3 Max": Chip(40, 1398, 400),
    "M3 Ultra": Chip(80, 1398, 819),
    "M4": Chip(10, 1470, 120),
    "M4 Pro": Chip(20, 1470, 273),
    "M4 Max": Chip(40, 1678, 546),
    "M5": Chip(10, 1740, 153),
    "M5 Pro": Chip(20, 1740, 307),
    "M5 Max": Chip(40, 1740, 614),
}


class Point(NamedTuple):
    """A published time of one guided step on a chip's GPU, in float16."""

    source: str
    chip: str
    cores: int
    model: str
    latents: int  # a side
    pictures: int
    seconds: float


# apple/ml-stable-diffusion, README of November 2022: a picture in 50 steps from text to pixels, Core ML on the GPU.
_PICTURES = (("M1 Ultra", 64, 9), ("M1 Ultra", 48, 13), ("M1 Max", 32, 18), ("M1 Max", 24, 20))
# The same, July 2023: steps a second of SDXL. It does not tell the number of cores; the largest variant is assumed.
_SDXL = (("M1 Max", 0.46), ("M2 Max", 0.57), ("M1 Ultra", 0.89), ("M2 Ultra", 1.11))
# ml-explore/mlx-examples, stable_diffusion/README.md, late 2023: guided pictures a second through SD 2.1-base's UNet.
_MLX = {1: 4.17, 2: 5.88, 4: 7.14, 6: 8.0, 8: 8.42, 12: 8.51, 16: 8.79}

POINTS = (
    *(Point("Core ML 2022", chip, cores, "sd15", 64, 1, seconds / 50) for chip, cores, seconds in _PICTURES),
    *(Point("Core ML 2023", chip, CHIPS[chip].cores, "sdxl", 128, 1, 1 / rate) for chip, rate in _SDXL),
    *(Point("mlx-examples 2023", "M2 Ultra", 76, "sd21", 64, n, n / rate) for n, rate in _MLX.items()),
    # aszc-dev/coreml-diffusion-benchmarks, results/tables/latency.md, 2026: batch 2; the number of cores is a guess.
    Point("coreml-diffusion-benchmarks, Core ML", "M2 Pro", 19, "sd15", 64, 1, 0.4466),
    Point("coreml-diffusion-benchmarks, MLX 0.31", "M2 Pro", 19, "sd15", 64, 1, 0.5018),
)
