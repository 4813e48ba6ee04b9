"""What ranks exchange to share a picture, and when that pays: from counts of bytes and multiplications."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import mlx.core as mx

from . import cost, split_checks
from .checkpoint.model import Model
from .completion import complete
from .conditions import rows_of
from .ranks.deal import share_of
from .request import Request

_WAITS = 2  # of an exchange: for the word that every rank is fine, and for the arrays


class Link(NamedTuple):
    """A connection between two ranks, as far as it is assumed here."""

    name: str
    bits: float  # a second
    latency: float  # seconds until a small message has arrived


# Of TCP, as others have published it; bench/speed/networks.py names them.
THUNDERBOLT = Link("Thunderbolt", 16e9, 0.3e-3)
ETHERNET = Link("Ethernet", 0.936e9, 0.3e-3)


@dataclass(frozen=True)
class Exchange:
    """What a picture costs that ranks share; bytes and shares are those of rank 0, which has most."""

    kind: str
    ranks: int
    evaluations: int
    exchanges: int  # in all evaluations; in each, all ranks wait for each other
    bytes: int  # that a rank sends to the next one, in all exchanges together
    evaluation_bytes: int  # of these, the most at an evaluation, but for what T-GATE exchanges once
    macs: int  # multiply-accumulates of the UNet in all evaluations, of one process alone
    share: int  # of these, those of a rank
    evaluation_macs: int  # of the largest evaluation, of one process alone

    def seconds(self, link: Link) -> float:
        """Returns the seconds that all exchanges take over a link, where every rank is ready at once."""
        steps = self.ranks - 1  # what is gathered goes around the ring
        return steps * (self.exchanges * _WAITS * link.latency + self.bytes * 8 / link.bits)

    def pays_above(self, link: Link) -> float:
        """Returns the seconds of a full evaluation by one process above which sharing the picture takes less time.

        An evaluation's time is taken as proportional to its multiplications.
        """
        saved = self.macs - self.share
        return self.seconds(link) * self.evaluation_macs / saved if saved else math.inf


def exchange_of(model: Model, request: Request, kind: str, ranks: int) -> Exchange:
    """Returns what so many ranks exchange for a picture, and what each computes; the model's weights are not needed.

    kind: "guidance" or "tiles". Networks beside the UNet are not counted, nor what encodes and decodes. Where the image
    decides which evaluations run the whole UNet or are guided, all do. InputError where the request does not fit.
    """
    completed = complete(model, request.with_values(**cost.BESIDE))
    deepcache = completed.deepcache
    adaptive = deepcache is not None and deepcache.decides_per_image
    fixed = completed.with_values(adaptive_guidance=None, **({"deepcache": None} if adaptive else {}))
    features = deepcache is not None and deepcache.looks_inside  # whose numbers ranks exchange
    passes = cost.passes_of(model, fixed)
    exchanges = sent = largest = share = 0
    for part in passes:
        for i, macs in enumerate(part.macs):
            parts, sizes = _sizes(model, part, kind, ranks, i)
            exchanges += len(sizes) * (1 + (features and kind == "guidance"))
            sent += sum(sizes)
            largest = max(largest, sum(sizes))
            share += macs * len(share_of(0, ranks, parts)) // parts
        if kind == "guidance" and rows_of(model, completed).guided:
            exchanges += len(part.attended)
            sent += sum(part.attended)
    counts = [macs for part in passes for macs in part.macs]
    return Exchange(kind, ranks, len(counts), exchanges, sent, largest, sum(counts), share, max(counts))


def words(exchange: Exchange) -> str:
    """Returns a line about what is exchanged, and above which time of an evaluation that pays."""
    links = " or ".join(
        f"{_milliseconds(exchange.pays_above(link))} over {link.name} ({link.bits / 1e9:g} Gbit/s and "
        f"{_milliseconds(link.latency)} a message assumed)"
        for link in (THUNDERBOLT, ETHERNET)
    )
    sent, largest = _short(exchange.bytes, "B"), _short(exchange.evaluation_bytes, "B")
    share, macs = _short(exchange.share, "MAC"), _short(exchange.macs, "MAC")
    return (
        f"{exchange.ranks} ranks exchange {largest} at each of {exchange.evaluations} evaluations ({sent} in all), and "
        f"each computes at most {share} of {macs}; that pays where a full evaluation by one takes longer than {links}"
    )


def _sizes(model: Model, part: cost.Pass, kind: str, ranks: int, evaluation: int) -> tuple[int, list[int]]:
    """Returns how many parts an evaluation is dealt out in, and the bytes that rank 0 sends in each exchange."""
    request = part.request
    channels, dtype = model.unet.config.out_channels, model.unet.dtype
    tiles = [
        (row.end - row.begin) * (column.end - column.begin) * channels
        for row, column in split_checks.places(model, request)
    ]
    if kind == "tiles":
        shares = [share_of(rank, ranks, len(tiles)) for rank in range(ranks)]
        return len(tiles), [max(sum(tiles[i] for i in share) for share in shares) * mx.float32.size]
    gated = request.tgate is not None and request.tgate.drops_guidance(evaluation)
    conditions = rows_of(model, request)
    shown = conditions if part.guided[evaluation] else conditions.conditional()
    rows = 1 if gated else shown.copies
    return rows, [len(share_of(0, ranks, rows)) * tile * dtype.size for tile in tiles]


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.{0 if seconds >= 0.01 else 2 if seconds < 0.001 else 1}f} ms"


def _short(number: int, unit: str) -> str:
    """Returns a number with three digits, and its unit with a prefix: "32.8 kB"."""
    prefixes = {12: "T", 9: "G", 6: "M"}
    power = next((power for power in prefixes if number >= 10**power), 3)
    return f"{number / 10**power:.3g} {prefixes.get(power, 'k')}{unit}"
