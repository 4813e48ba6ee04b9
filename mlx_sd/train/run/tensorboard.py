"""The numbers of a log for TensorBoard, where tensorboardX is installed (the extra `tensorboard`)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...core.errors import InputError

_SECONDS = 5  # after which TensorBoard sees a number at the latest


def writer_class() -> Any:
    """Returns tensorboardX's SummaryWriter; InputError where it is not installed."""
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        raise InputError("tensorboardX is missing; pip install 'mlx-sd[tensorboard]'") from None
    return SummaryWriter


class TensorBoard:
    """Event files of a run, in a folder that `tensorboard --logdir` reads."""

    def __init__(self, folder: Path, step: int = 0) -> None:
        """Opens a new event file; TensorBoard hides events of earlier files after `step`. InputError as above."""
        self._writer = writer_class()(str(folder), purge_step=step + 1, flush_secs=_SECONDS)

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """Adds one number for each name at a step; NaN and infinity too."""
        for name, number in numbers.items():
            self._writer.add_scalar(name, number, step)

    def close(self) -> None:
        """Writes what is left and closes the file."""
        self._writer.close()
