"""Prompts of the measurements: those of the README's picture, and files of one prompt a line."""

from pathlib import Path

from mlx_sd.core.errors import InputError

SHOWCASE = (
    "a red tent in the center on green grass, under a clear day sky",
    "a sailboat with blue sails on the left on the blue sea, a large sun on the right, under a sunset sky",
    "a house with a yellow roof on the right on white snow, snowy mountains, a small moon on the left, a night sky",
    "a cactus on the left in a sandy desert, rocky mountains, a large sun in the center, a clear day sky",
    "a pine tree on the left and a blue roofed house on the right on green grass, clouds, under a stormy sky",
    "a pink lighthouse in the center on a calm sea, white clouds, under a bright blue sky",
)
SHOWCASE_SEED = 3


def read(path: Path) -> list[str]:
    """Reads the lines that are not empty; InputError if there are none."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; give a file with one prompt a line") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8; save the file as UTF-8 text") from None
    prompts = [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise InputError(f"{path} is empty; give one prompt a line")
    return prompts
