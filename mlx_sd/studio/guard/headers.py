"""The headers of every answer: what a browser may do with it."""

from starlette.datastructures import MutableHeaders

_CONTENT_SECURITY = "; ".join(
    (
        "default-src 'self'",
        "img-src 'self' blob: data:",
        "style-src 'self'",
        "script-src 'self'",
        "object-src 'none'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
        "form-action 'none'",
    )
)
_UNUSED = (
    "accelerometer camera display-capture geolocation gyroscope hid magnetometer microphone midi payment serial usb"
)
FIXED = {
    "content-security-policy": _CONTENT_SECURITY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",  # pages of other sites cannot embed pictures from here
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": ", ".join(f"{feature}=()" for feature in _UNUSED.split()),
}
_NEVER = ("server", "set-cookie", "x-powered-by")
_SHARING = "access-control-"  # would let other origins read answers


def protect(headers: MutableHeaders, is_page: bool) -> None:
    """Sets the headers that every answer has, and takes out those that none may have.

    Answers are not stored unless their route allows it; the page's files are asked for anew at each visit.
    """
    for name in [name for name in headers if name in _NEVER or name.startswith(_SHARING)]:
        del headers[name]
    for name, value in FIXED.items():
        headers[name] = value
    headers.setdefault("cache-control", "no-cache" if is_page else "no-store")
