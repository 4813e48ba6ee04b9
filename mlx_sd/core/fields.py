"""A Hugging Face config read field by field; what nobody asked for is an error."""

from collections.abc import Iterable, Mapping
from typing import Any

from .errors import InputError


class Fields:
    """A config read field by field: a value nobody supports, or a field nobody asked for, is an error naming it."""

    def __init__(self, values: Mapping[str, Any], where: str):
        self.where = where
        self._left = {name: value for name, value in values.items() if not name.startswith("_")}

    @property
    def rest(self) -> Mapping[str, Any]:
        """The fields that nobody has taken yet."""
        return self._left

    def take(self, name: str, default: Any = None) -> Any:
        return self._left.pop(name, default)

    def require(self, name: str) -> Any:
        if name not in self._left:
            raise InputError(f"{self.where}: the field {name} is missing")
        return self._left.pop(name)

    def only(self, name: str, *allowed: Any) -> Any:
        """Takes a field that must be absent or hold one of the `allowed` values; absent means the first."""
        value = self._left.pop(name, allowed[0])
        if value not in allowed:
            raise self.unsupported(name, value, allowed)
        return value

    def listed(self, name: str, default: Any, length: int) -> list[Any]:
        """Takes a field that holds one value for all blocks, or a list of one for each."""
        value = self.take(name, default)
        value = list(value) if isinstance(value, (list, tuple)) else [value] * length
        if len(value) != length:
            raise InputError(f"{self.where}: {name} has {len(value)} entries for {length} block_out_channels")
        return value

    def side(self, name: str, default: int) -> int:
        """Takes the side of a square."""
        size = self.take(name) or default
        if isinstance(size, (list, tuple)):
            if len(set(size)) != 1:
                raise self.unsupported(name, size)
            size = size[0]
        return int(size)

    def ignore(self, names: Iterable[str]) -> None:
        """Drops fields that do not change what the network computes."""
        for name in names:
            self._left.pop(name, None)

    def unsupported(self, name: str, value: Any, allowed: Iterable[Any] = ()) -> InputError:
        known = ", ".join(repr(v) for v in allowed)
        return InputError(f"{self.where}: {name} = {value!r} is not supported" + (f" (only {known})" if known else ""))

    def done(self) -> None:
        if self._left:
            raise InputError(f"{self.where}: unknown field(s) {', '.join(sorted(self._left))}")
