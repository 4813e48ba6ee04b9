"""coremltools, imported quietly, and the parts of it used here."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """While open, coremltools does not warn."""
    logger = logging.getLogger("coremltools")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


# Off a Mac it warns of each framework that it cannot reach, and everywhere of versions of torch that it does not know.
with quiet():
    import coremltools as ct
    from coremltools.converters.mil import Builder as mb
    from coremltools.converters.mil.mil import Function, Program, types
    from coremltools.optimize import coreml as compress
    from coremltools.proto import MIL_pb2 as mil
    from coremltools.proto import Model_pb2 as model

__all__ = ["Function", "Program", "compress", "ct", "mb", "mil", "model", "quiet", "types"]
