"""How long Apple's CPU runtime takes on Linux: one thread, with rates measured on a shared x86-64 core."""

from collections.abc import Mapping
from typing import Any

# Multiply-accumulates in a second; a product of matrices in float16 is computed number by number.
_RATES = {
    "float32": {"convolution": 1.5e9, "pointwise": 2.0e9, "product": 8.2e9},
    "float16": {"convolution": 3.9e9, "pointwise": 5.4e9, "product": 0.02e9},
}
_OTHER = 1.25  # norms, softmax and elementwise work, as a share of all time
_LEAST = 0.02  # seconds of the smallest function


def seconds(function: Mapping[str, Any], attention: str) -> float:
    """Predicts the seconds of one run of a function.

    function: its description in info.json. attention: of the export's options, which says what linears have become.
    """
    floats = [port["dtype"] for port in function["inputs"].values() if port["dtype"] in _RATES]
    rates = _RATES[floats[0] if floats else "float32"]  # token ids alone: text is little work
    kinds = {
        "conv2d": "convolution",
        "linear": "product" if attention == "fused" else "pointwise",
        "attention": "product",
    }
    work: float = sum(count / rates[kinds[operation]] for operation, count in function["macs_by_operation"].items())
    return _LEAST + _OTHER * work


def words(duration: float) -> str:
    """Returns a duration in seconds as words for a terminal."""
    if duration < 90:
        return f"about {max(round(duration), 1)} s"
    return f"about {duration / 60:.0f} minutes" if duration < 5400 else f"about {duration / 3600:.1f} hours"
