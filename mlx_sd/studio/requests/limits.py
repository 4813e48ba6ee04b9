"""The largest of everything that a client may ask for, in one table."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Limits:
    """Numbers above which a request is refused before any work."""

    pixels: int = 4_194_304  # of a picture: width x height
    enlarged_pixels: int = 16_777_216  # of a picture behind hires fix, or made larger by an upscaler
    side: int = 8192  # pixels of width or height
    steps: int = 1000
    count: int = 64  # pictures of one submission
    text: int = 32_000  # characters of a prompt, or of a list of timesteps
    word: int = 1000  # characters of any other text
    entries: int = 16  # LoRAs, embeddings, control networks, ... of one request

    def to_json(self) -> dict[str, Any]:
        """Returns the table by name."""
        return asdict(self)


LIMITS = Limits()
