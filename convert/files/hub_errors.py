"""What goes wrong with the hub -> one line each, with the way out."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit
from urllib.request import getproxies

from huggingface_hub import constants, get_token
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

from mlx_sd.core.errors import Failure, InputError

# The base of whatever the HTTP library under huggingface_hub raises, connection errors included.
HTTPError: type[Exception] = HfHubHTTPError.__bases__[0]
_FULL = (errno.ENOSPC, errno.EDQUOT)
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)


class UnreachableError(Exception):
    """The hub cannot be reached, or does not answer as it should; the text says why."""


@contextmanager
def explained(repository: str) -> Iterator[None]:
    """Turns what the hub's client raises into InputError, Failure or UnreachableError."""
    try:
        yield
    except GatedRepoError:
        page = f"{constants.ENDPOINT}/{repository}"
        advice = "with an account that may read it" if get_token() else "then `hf auth login`, or set HF_TOKEN"
        raise InputError(f"{repository} asks you to accept its licence on the hub: open {page}, {advice}") from None
    except RepositoryNotFoundError:
        token = "your token may not read it" if get_token() else "log in by `hf auth login`, or set HF_TOKEN"
        raise InputError(
            f"{repository} is neither a folder here nor a repository on the hub; check the spelling, or, if it is "
            f"private, {token}"
        ) from None
    except (HTTPError, OSError) as error:
        raise _translated(repository, error) from None


def _translated(repository: str, error: Exception) -> Exception:
    """Returns our error for one of the client's; it looks at causes too, for the client wraps some."""
    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) is not None and cause not in chain:
        chain.append(cause)
    for link in chain:
        code = getattr(getattr(link, "response", None), "status_code", None)
        number = link.errno if isinstance(link, OSError) else None
        if number in _FULL:
            return Failure(f"the disk of {folder()} is full; free some space, or set HF_HOME to a folder elsewhere")
        if number in _REFUSED and getattr(link, "filename", None):
            return Failure(f"{folder()} cannot be written ({os.strerror(number)}); set HF_HOME to a folder of your own")
        if code in (401, 403):
            token = "your token may not read it" if get_token() else "there is no token"
            return InputError(
                f"the hub refuses {repository} ({code}), for {token}; `hf auth login` with an account that may read it"
            )
        if code == 404:
            return InputError(f"{repository} lacks a file on the hub (404); check its name and the repository's page")
        if code == 429:
            return Failure("the hub has had too many requests from here (429); wait some minutes, or `hf auth login`")
        if code is not None and code >= 400:
            return UnreachableError(f"it answers {code}")
    return UnreachableError(_reason(chain))


def _reason(chain: list[BaseException]) -> str:
    """Returns why there is no connection, by the names of the classes, for the client changes its HTTP library."""
    names = {kind.__name__ for link in chain for kind in type(link).__mro__}
    if constants.HF_HUB_OFFLINE or "OfflineModeIsEnabled" in names:
        return "HF_HUB_OFFLINE is set"
    proxies = getproxies()
    scheme = urlsplit(constants.ENDPOINT).scheme
    proxy = proxies.get(scheme) or proxies.get("all")
    if proxy and not any("Timeout" in name for name in names if "Connect" not in name):
        place = urlsplit(proxy if "//" in proxy else f"//{proxy}")  # without the user's name and password
        return f"by the proxy {place.hostname}:{place.port}; check {scheme.upper()}_PROXY"
    if any("Timeout" in name for name in names):
        return "it does not answer in time"
    if "RemoteProtocolError" in names or "ReadError" in names:
        return "the connection broke off"
    return "no connection"


def folder() -> str:
    """Returns the folder of the hub's cache."""
    return str(constants.HF_HUB_CACHE)
