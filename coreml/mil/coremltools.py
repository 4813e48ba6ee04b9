"""coremltools, imported without its warnings: every other module takes it from here."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quiet() -> Iterator[None]:
    """Silences coremltools' log below errors while open."""
    logger = logging.getLogger("coremltools")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


# Off a Mac it warns of each framework that it cannot reach, and everywhere of versions of torch that it does not know.
with quiet():
    import coremltools as ct
    from coremltools.converters.mil import Builder as mb
    from coremltools.converters.mil.mil import Function, Program, types
    from coremltools.optimize import coreml as compress
    from coremltools.proto import MIL_pb2 as mil_messages
    from coremltools.proto import Model_pb2 as model_messages

__all__ = ["Function", "Program", "compress", "ct", "mb", "mil_messages", "model_messages", "quiet", "types"]
