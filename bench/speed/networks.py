"""Connections between Macs, as simulations assume them: where each number comes from stands beside it."""

from typing import NamedTuple

from mlx_sd.split_cost import ETHERNET, THUNDERBOLT


class Network(NamedTuple):
    """A connection between two ranks of MLX's ring, over TCP."""

    latency: float  # seconds until a small message has arrived
    bandwidth: float  # bytes a second, in each direction
    title: str
    origin: str

    def seconds(self, size: int, messages: int = 1) -> float:
        """Returns the seconds in which `size` bytes have arrived, after so many messages that wait for each other."""
        return messages * self.latency + size / self.bandwidth


NETWORKS = {
    "thunderbolt": Network(
        THUNDERBOLT.latency,
        THUNDERBOLT.bits / 8,
        "a Thunderbolt cable",
        "exo-explore/exo issue 2295: round trips of 0.38 to 0.95 ms; jiribrejcha.net: 16.4 Gbit/s of TCP by "
        "Thunderbolt 4",
    ),
    "ethernet": Network(
        ETHERNET.latency,
        ETHERNET.bits / 8,
        "Gigabit Ethernet",
        "the payload of Gigabit Ethernet; its latency is assumed to be that of Thunderbolt",
    ),
    "wifi": Network(
        5e-3,
        50e6,
        "Wi-Fi",
        "exo-explore/exo issue 2295: round trips of 4.9 to 54 ms; the bandwidth is a guess",
    ),
}
