"""The rules of the guard, in the order in which they are applied. Each returns a refusal, or None.

Whoever can make a browser on this machine open a page can make it send requests here: the rules tell those from the
page's own and from programs'. What each prevents is said at it.
"""

import base64
import binascii
import re
import secrets
from collections.abc import Callable

from .exchange import MULTIPART, PAGE, Exchange, Policy, Refusal, is_address

Rule = Callable[[Exchange, Policy], Refusal | None]

_LONGEST_PATH = 1024  # bytes, as sent
_METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE")
_WITH_BODY = ("POST", "PUT")
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9_.-]+)(?::(\d{1,5}))?", re.ASCII)
_SINGLE = (
    *("host", "origin", "authorization", "content-type", "content-length", "transfer-encoding"),
    *("sec-fetch-site", "sec-fetch-mode", "sec-fetch-dest"),
)
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}
_CHARSET = re.compile(r'\s*charset="?utf-8"?\s*', re.IGNORECASE)
_BOUNDARY = re.compile(r"""\s*boundary=("?)[0-9A-Za-z'()+_,./:=?-]{1,70}\1\s*""", re.IGNORECASE)  # RFC 2046


def plain_path(exchange: Exchange, policy: Policy) -> Refusal | None:
    """Refuses paths with parts that a file system or another parser reads differently.

    Names in paths are looked up in tables and lists, so none of these would name anything: the rule is a second lock.
    """
    path = exchange.path
    if len(exchange.raw_path) > _LONGEST_PATH:
        return Refusal(414, f"the path is longer than {_LONGEST_PATH} bytes")
    if not path.startswith("/"):  # absolute-form, as proxies get it, and * of OPTIONS
        return Refusal(400, "the request must name a path, as /api/state")
    odd = "\\" in path or "\ufffd" in path or not path.isprintable() or b"%2f" in exchange.raw_path.lower()
    if odd or any(part in (".", "..") for part in path.split("/")):
        return Refusal(400, "the path has a part that no name here has: . or .., a slash or backslash, a control sign")
    return None


def single_headers(exchange: Exchange, policy: Policy) -> Refusal | None:
    """Refuses headers that are there twice, of which another program could read the other one."""
    for name in _SINGLE:
        if len(exchange.values(name)) > 1:
            return Refusal(400, f"the request has the header {name} twice")
    if exchange.value("content-length") is not None and exchange.value("transfer-encoding") is not None:
        return Refusal(400, "the request has two lengths: Content-Length and Transfer-Encoding")
    return None


def known_host(exchange: Exchange, policy: Policy) -> Refusal | None:
    """Refuses names in Host that are not this server's: the defence against DNS rebinding.

    A site whose name is made to mean 127.0.0.1 is same-origin for the browser, and only Host still has its name.
    """
    value = exchange.value("host")
    match = _HOST.fullmatch((value or "").lower())
    if match is None or int(match[2] or 0) > 65535:
        return Refusal(400, "the request has no usable Host header: it must be the name or address of this server")
    name = match[1]
    if name in policy.names or (policy.any_address and is_address(name)):
        return None
    advice = "use its address in numbers" if policy.any_address else "use 127.0.0.1 or localhost"
    return Refusal(421, f"this server does not answer to the name {name[:80]}; {advice}")


def own_origin(exchange: Exchange, policy: Policy) -> Refusal | None:
    """Refuses requests that a page of another origin sends: the defence against forms and scripts of other sites.

    The origin must be the request's own Host, port included: localhost and 127.0.0.1 are two origins, and another
    port is another program. `null` is the origin of sandboxed frames and files. Programs send no Origin.
    """
    origin = exchange.value("origin")
    if origin is None:
        return None
    port = _DEFAULT_PORTS.get(exchange.scheme, "")
    host = (exchange.value("host") or "").lower()
    if origin.lower().removesuffix(port) == f"{exchange.scheme}://{host.removesuffix(port)}":
        return None
    return Refusal(403, "a page of another origin sent this request; open the studio's own page")


def own_site(exchange: Exchange, policy: Policy) -> Refusal | None:
    """Refuses requests that the browser says other sites caused, those without an Origin too, as of an <img>.

    Following a link to the page is allowed: that alone reads and changes nothing. Programs send no such header.
    """
    site = exchange.value("sec-fetch-site")
    if site in (None, "same-origin", "none"):
        return None
    modes = exchange.value("sec-fetch-mode"), exchange.value("sec-fetch-dest")
    if exchange.method == "GET" and exchange.path == PAGE and modes == ("navigate", "document"):
        return None
    return Refusal(403, "a page of another site caused this request; open the studio's own page")


def known_method(exchange: Exchange, policy: Policy) -> Refusal | None:
    """Refuses methods that no route has. OPTIONS is the question of browsers whether other origins may ask: no."""
    if exchange.method in _METHODS:
        return None
    return Refusal(405, "this method is not known here", {"allow": ", ".join(_METHODS)})


def valid_token(exchange: Exchange, policy: Policy) -> Refusal | None:
    """Refuses requests without the token, where the server has one; the page's files hold no secret and are open.

    Clients of A1111 send it as a password, clients of OpenAI as their key. Only they are asked for a password: at the
    page's requests a browser would show its own dialog.
    """
    if policy.token is None or exchange.is_page:
        return None
    if any(_equal(candidate, policy.token) for candidate in _tokens(exchange.value("authorization") or "")):
        return None
    headers = {"www-authenticate": 'Basic realm="mlx-sd", charset="UTF-8"'} if exchange.is_foreign_api else {}
    return Refusal(401, "the token is missing or wrong; the server printed it when it started", headers)


def _tokens(authorization: str) -> list[str]:
    """Returns the token that an Authorization header holds: of Bearer, or the password of Basic."""
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return [value.strip()]
    if scheme.lower() == "basic":
        try:
            decoded = base64.b64decode(value.strip(), validate=True).decode("latin-1")
        except (binascii.Error, ValueError):
            return []
        return [decoded.partition(":")[2]]
    return []


def _equal(candidate: str, token: str) -> bool:
    """Returns whether two tokens are equal, in a time that does not tell how far they are."""
    return secrets.compare_digest(candidate.encode("utf-8"), token.encode("utf-8"))


def expected_body(exchange: Exchange, policy: Policy) -> Refusal | None:
    """Refuses bodies where no route reads one, and compressed ones, whose size nobody knows."""
    if exchange.has_body and exchange.method not in _WITH_BODY:
        return Refusal(400, f"a {exchange.method} request has no body here")
    if exchange.value("content-encoding") not in (None, "identity"):
        return Refusal(415, "compressed bodies are not read; send it as it is")
    return None


def exact_type(exchange: Exchange, policy: Policy) -> Refusal | None:
    """Refuses bodies of another type than the route takes.

    A form of any site may send text/plain, urlencoded and multipart bodies without asking; for JSON and pictures the
    browser asks first, and is refused.
    """
    if exchange.method not in _WITH_BODY:
        return None
    value = exchange.value("content-type")
    if value is None and not exchange.has_body:
        return None
    kind, semicolon, parameters = (value or "").partition(";")
    types = exchange.body_kind.types
    grammar = _BOUNDARY if MULTIPART in types else _CHARSET
    fits = kind.strip().lower() in types and (bool(grammar.fullmatch(parameters)) if semicolon else True)
    if fits and (MULTIPART not in types or semicolon):
        return None
    return Refusal(415, f"the Content-Type must be {' or '.join(types)}")


def bounded_length(exchange: Exchange, policy: Policy) -> Refusal | None:
    """Refuses bodies that announce more bytes than the route takes; those that announce none are counted later."""
    length = exchange.value("content-length")
    if length is None:
        return None
    if not (length.isascii() and length.isdigit()):
        return Refusal(400, "the Content-Length is not a number")
    limit = exchange.body_kind.limit
    return too_large(limit) if len(length) > 12 or int(length) > limit else None


def too_large(limit: int) -> Refusal:
    """Returns the refusal of a body with more bytes than `limit`."""
    return Refusal(413, f"the body is too large: at most {limit >> 20} MiB are taken here")


RULES: tuple[Rule, ...] = (
    plain_path,
    single_headers,
    known_host,
    own_origin,
    own_site,
    known_method,
    valid_token,
    expected_body,
    exact_type,
    bounded_length,
)
