"""What the rules of the guard look at: the head of a request, and the policy of this server."""

import ipaddress
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from starlette.types import Scope

LOOPBACK = frozenset({"127.0.0.1", "localhost", "[::1]"})
PAGE = "/"  # the path of the page itself, to which another site may link
_PAGE_FILES = ("/page/", "/favicon.ico")
_MIB = 1 << 20


@dataclass(frozen=True)
class Policy:
    """What a server allows: the names in its address, its token, and how long and how much it waits for.

    names: that the Host header may have. any_address: with --listen, any IP address written as numbers may be in Host
    too: DNS rebinding needs a name. token: None where none is needed.
    """

    names: frozenset[str] = LOOPBACK
    any_address: bool = False
    token: str | None = field(default=None, repr=False)  # never in a log
    body_seconds: float = 120.0  # for a whole body
    idle_seconds: float = 20.0  # for the next piece of a body
    bytes_in_flight: int = 256 * _MIB  # of all bodies that are being received

    @classmethod
    def of(cls, host: str, token: str | None) -> "Policy":
        """Returns the policy of a server that listens on an address; LOOPBACK's names alone where that is 127.0.0.1."""
        if host in ("127.0.0.1", "::1"):
            return cls(token=token)
        host_name = socket.gethostname().lower()
        names = {
            host_name,
            host_name.partition(".")[0],
            f"{host_name.partition('.')[0]}.local",
        }  # .local: as Macs call themselves
        return cls(names=LOOPBACK | names, any_address=True, token=token)


class Refusal(NamedTuple):
    """The answer to a request that a rule refuses."""

    status: int
    message: str
    headers: Mapping[str, str] = {}


class BodyKind(NamedTuple):
    """What a route takes as its body: the content types, and how many bytes."""

    types: tuple[str, ...]
    limit: int


JSON, MULTIPART = "application/json", "multipart/form-data"
_PICTURES = ("image/png", "image/jpeg", "image/webp")
PICTURE_BYTES = 32 * _MIB  # 16 megapixels of noise as PNG take 48 MB, photographs of that size at most 30
# Base64 is 4/3 of the picture. Clients of these two APIs send pictures inside JSON: one of full size, or several small.
_JSON_WITH_PICTURES = BodyKind((JSON,), 48 * _MIB)
_OWN_JSON = BodyKind((JSON,), _MIB)  # names pictures by id
_EXACT = {
    "/api/images": BodyKind(_PICTURES, PICTURE_BYTES),
    "/api/read": BodyKind((*_PICTURES, "image/gif"), PICTURE_BYTES),
    "/v1/images/edits": BodyKind((MULTIPART,), 2 * PICTURE_BYTES),  # a picture and its mask
    "/v1/images/variations": BodyKind((MULTIPART,), PICTURE_BYTES),
}


class Exchange:
    """The head of one request, with headers by their names in lower case."""

    def __init__(self, scope: Scope):
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.raw_path: bytes = scope.get("raw_path") or self.path.encode()
        self.scheme: str = scope.get("scheme", "http")
        headers: dict[str, list[str]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1").strip())
        self._headers = headers

    def values(self, name: str) -> Sequence[str]:
        """Returns all values of a header."""
        return self._headers.get(name, ())

    def value(self, name: str) -> str | None:
        """Returns the first value of a header; None where the request has none."""
        values = self._headers.get(name)
        return values[0] if values else None

    @property
    def has_body(self) -> bool:
        """Whether the request announces a body."""
        return self.value("content-length") not in (None, "0") or self.value("transfer-encoding") is not None

    @property
    def is_page(self) -> bool:
        """Whether the path is the page or one of its files, which hold nothing secret."""
        return self.path == PAGE or self.path.startswith(_PAGE_FILES)

    @property
    def is_foreign_api(self) -> bool:
        """Whether the path belongs to an API of other programs, not to the page."""
        return self.path.startswith(("/v1/", "/sdapi/", "/queue/"))

    @property
    def body_kind(self) -> BodyKind:
        """What the route of this path takes as its body."""
        if self.path in _EXACT:
            return _EXACT[self.path]
        return _JSON_WITH_PICTURES if self.path.startswith(("/v1/", "/sdapi/")) else _OWN_JSON


def is_address(name: str) -> bool:
    """Returns whether the name in a Host header is an IP address in its usual spelling, [] around IPv6."""
    try:
        address = ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return name == (f"[{address}]" if address.version == 6 else str(address))
