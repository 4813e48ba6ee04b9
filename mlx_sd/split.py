"""One picture over several processes that MLX's launcher starts: who computes what of it, and what they agree on.

With "guidance" the rows of each evaluation are dealt out, such as the one with the prompt and the one without, and the
ranks exchange the predictions alone. With "tiles" the tiles of a large picture are. The tiles of a large picture are
decoded by all ranks either way. Every rank has the same latents all the time; pictures are rank 0's alone.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import mlx.core as mx
import numpy as np

from . import codec, seeds
from .checkpoint.model import Model
from .core.errors import InputError
from .core.suggestions import unknown
from .ranks.deal import Deal, Dealt

if TYPE_CHECKING:
    from .ranks.exchange import Ranks  # which one process has no use for

KINDS = ("guidance", "tiles")
WAY_ON = "start several by mlx.launch -n 2"


class Split:
    """How the work of each picture is dealt out over ranks, all of which make the same calls with the same arguments.

    kind: "guidance" deals out the rows of an evaluation, such as those with and without the prompt; "tiles" the tiles
    of `denoise_tile`; None is one process that computes everything. ranks: what `mlx_sd.ranks.launch.run` hands to the
    work. Pictures are rank 0's, whose results have images; latents are everybody's. InputError where there is one rank
    alone, and from `generate` where there is less to deal out than ranks, or where a rank has other settings, files or
    versions than rank 0.
    """

    def __init__(self, kind: str | None = None, ranks: "Ranks | None" = None):
        if kind not in (None, *KINDS):
            raise unknown("split", str(kind), KINDS)
        if kind and (ranks is None or ranks.size == 1):
            raise InputError(f"--split {kind} deals a picture out to processes, and this is one: {WAY_ON}")
        self.kind, self.ranks = kind, ranks if kind else None
        self.rank = self.ranks.rank if self.ranks else 0
        alone, dealt = Deal(), Dealt(self.ranks) if self.ranks else Deal()
        self.rows = dealt if kind == "guidance" else alone  # of an evaluation
        self.tiles = dealt if kind == "tiles" else alone  # of a large picture
        self._decoded = dealt  # tiles of the decoder

    def draw_seed(self, count: int = 1) -> int:
        """Returns a random seed, the same on all ranks, from which on there are `count` seeds in range."""
        seed = seeds.draw(count)
        return int(self.ranks.share_text(str(seed))) if self.ranks else seed

    def decisions(self, accept: Callable[[int], bool] | None) -> Callable[[int], bool] | None:
        """Returns what asks `accept` on rank 0 alone, and gives its answer to all ranks."""
        if (ranks := self.ranks) is None:
            return accept

        def accepted(index: int) -> bool:
            """Returns what rank 0 decides."""
            answer = self.rank == 0 and (accept is None or accept(index))
            return ranks.share_text(str(int(answer))) == "1"

        return accepted

    def once(self, compute: Callable[[], mx.array]) -> mx.array:
        """Returns an array that rank 0 alone computes, on all ranks."""
        if self.ranks is None:
            return compute()
        return self.ranks.share({} if self.rank else {"array": compute()})["array"]

    def most(self, number: int) -> int:
        """Returns the largest number of all ranks."""
        return int(np.array(self.ranks.gather(mx.array(number))).max()) if self.ranks else number

    def decode(self, model: Model, latents: mx.array, tile: int | None) -> list[mx.array]:
        """Returns pixels (H, W, 3) in [-1, 1] of each of the latents (N, h, w, C); of rank 0 alone.

        tile: as `codec.decode` takes it; where there are tiles, each rank decodes some.
        """
        if self.rank and not codec.is_tiled(model, latents, tile):
            return []
        pixels = [codec.decode(model, z, tile, self._decoded.evaluate)[0] for z in latents[:, None]]
        return [] if self.rank else pixels


UNSPLIT = Split()
