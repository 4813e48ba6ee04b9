"""Hugging Face configs, read field by field: a value or a field that is not supported is an error that names it."""

from collections.abc import Iterable, Mapping
from typing import Any

from .errors import InputError


class ConfigFields:
    """The fields of a config that have not been read yet; `done` raises InputError for the fields nothing has read."""

    def __init__(self, values: Mapping[str, Any], where: str):
        """values: the config; fields that begin with an underscore are bookkeeping and left out. where: for errors."""
        self.where = where
        self._unread = {name: value for name, value in values.items() if not name.startswith("_")}

    @property
    def unread(self) -> Mapping[str, Any]:
        """Returns the fields that have not been read yet."""
        return self._unread

    def take(self, name: str, default: Any = None) -> Any:
        """Reads a field that may be absent."""
        return self._unread.pop(name, default)

    def require(self, name: str) -> Any:
        """Reads a field; InputError where it is absent."""
        if name not in self._unread:
            raise InputError(f"{self.where}: the field {name} is missing")
        return self._unread.pop(name)

    def only(self, name: str, *allowed: Any) -> Any:
        """Reads a field that must be absent or hold one of the `allowed` values; absent means the first."""
        value = self._unread.pop(name, allowed[0])
        if value not in allowed:
            raise self.unsupported(name, value, allowed)
        return value

    def listed(self, name: str, default: Any, length: int) -> list[Any]:
        """Reads a field that holds one value for all blocks, or a list with one for each."""
        value = self.take(name, default)
        value = list(value) if isinstance(value, (list, tuple)) else [value] * length
        if len(value) != length:
            raise InputError(f"{self.where}: {name} has {len(value)} entries for {length} block_out_channels")
        return value

    def side(self, name: str, default: int) -> int:
        """Reads the side of a square: a number, or a list of equal numbers."""
        size = self.take(name) or default
        if isinstance(size, (list, tuple)):
            if len(set(size)) != 1:
                raise self.unsupported(name, size)
            size = size[0]
        return int(size)

    def ignore(self, names: Iterable[str]) -> None:
        """Drops fields that do not change what the network computes."""
        for name in names:
            self._unread.pop(name, None)

    def unsupported(self, name: str, value: Any, allowed: Iterable[Any] = ()) -> InputError:
        """Returns the error for a value that is not supported; `allowed` are the values that are."""
        values = ", ".join(repr(a) for a in allowed)
        return InputError(
            f"{self.where}: {name} = {value!r} is not supported" + (f" (only {values})" if values else "")
        )

    def done(self) -> None:
        """Raises InputError with the names of the fields that nothing has read."""
        if self._unread:
            raise InputError(f"{self.where}: unknown field(s) {', '.join(sorted(self._unread))}")
