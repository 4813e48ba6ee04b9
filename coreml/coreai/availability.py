"""Whether coreai-core is installed, and one clear line where it is not."""

import platform
import sys
from importlib import metadata

from mlx_sd.core.errors import InputError

DISTRIBUTION, VERSION = "coreai-core", "1.0.0b3"
PYTHONS = ((3, 11), (3, 14))  # the first and the last that it has wheels for
GLIBC = (2, 34)

_INSTALL = 'pip install "mlx-sd[coreai]"'


def check() -> None:
    """Raises InputError with the reason and the way out where coreai-core cannot be imported in the pinned version."""
    try:
        version = metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        obstacle = _obstacle(sys.platform, platform.machine(), sys.version_info[:2], platform.libc_ver())
        advice = obstacle or f"install it with {_INSTALL}"
        raise InputError(f"Core AI needs {DISTRIBUTION} {VERSION}, which is not installed; {advice}") from None
    if version != VERSION:
        raise InputError(f"Core AI needs {DISTRIBUTION} {VERSION}, not {version}; install it with {_INSTALL}")


def _obstacle(system: str, machine: str, python: tuple[int, ...], libc: tuple[str, str]) -> str | None:
    """Returns why there is no wheel for a machine, with the way out, or None where there is one."""
    first, last = (".".join(map(str, version)) for version in PYTHONS)
    if not PYTHONS[0] <= python <= PYTHONS[1]:
        return f"it has wheels for Python {first} to {last}, and this is {'.'.join(map(str, python))}"
    if (system, machine) not in (("linux", "x86_64"), ("darwin", "arm64")):
        return "it has wheels for Linux on x86-64 and macOS 26 on Apple silicon; export there, on any machine of these"
    name, version = libc
    if system == "linux" and (name != "glibc" or tuple(map(int, version.split(".")[:2])) < GLIBC):
        minimum, library = ".".join(map(str, GLIBC)), f"{name} {version}" if name else "another C library"
        return f"it needs glibc {minimum} or newer (Debian 12, Ubuntu 22.04), and this system has {library}"
    return None
