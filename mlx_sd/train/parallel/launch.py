"""The start and the end of processes that train together, as MLX's launcher starts them (mlx.launch -n 2 ...)."""

import contextlib
import io
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import NoReturn

import mlx.core as mx

from ...core import interrupt
from ...core.errors import Failure, InputError
from .ranks import RankFailed, RankLost, Ranks

PATIENCE = 15.0  # seconds that a rank that failed waits for the others to listen
GRACE = 2.0  # seconds that rank 0 has to print, since the launcher ends all ranks once one has ended


def join() -> Ranks:
    """Returns this process's ranks: those that MLX's launcher has started with it, else itself alone.

    Raises Failure where the others cannot be reached, or where MLX has no back end for the launcher.
    """
    try:
        group = mx.distributed.init(strict=False)
    except RuntimeError as error:
        raise Failure(f"the other ranks cannot be reached: {error}") from None
    rank = os.environ.get("MLX_RANK", "0")
    if group.size() == 1 and rank != "0":
        raise Failure(f"this is rank {rank} of a launcher, but this MLX has no back end that joins the ranks")
    return Ranks(group)


def run(work: Callable[[Ranks], None]) -> None:
    """Does the work of this process's rank, and ends all ranks together.

    Only rank 0 prints. An error of one rank ends all of them with its exit code, and rank 0 raises it.
    """
    ranks = join()
    if ranks.size == 1:
        work(ranks)
        return
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    with contextlib.ExitStack() as stack:
        printed = io.StringIO()
        if ranks.rank:
            stack.enter_context(contextlib.redirect_stdout(printed))
            stack.enter_context(contextlib.redirect_stderr(printed))
        try:
            work(ranks)
            ranks.agree()  # no rank ends while another needs it
        except (RankLost, RankFailed, KeyboardInterrupt) as error:
            _leave(ranks, error)
        except BaseException as error:
            if isinstance(error, SystemExit) and not error.code:
                raise
            _tell(ranks, error, printed.getvalue())


def _tell(ranks: Ranks, error: BaseException, printed: str) -> NoReturn:
    """Tells the other ranks of an error of this one, and ends."""
    code = error.code if isinstance(error, SystemExit) else 2 if isinstance(error, InputError) else 1
    text = (printed.strip().splitlines() or [""])[-1] if isinstance(error, SystemExit) else str(error)
    timer = threading.Timer(PATIENCE, _give_up, (ranks.rank, text, code))
    timer.daemon = True
    timer.start()
    expected = isinstance(error, (InputError, Failure, SystemExit))
    try:
        ranks.agree(int(code or 1), text)
    except RankFailed as together:
        timer.cancel()
        if expected and (ranks.rank or not isinstance(error, SystemExit)):  # rank 0 has printed why it exits
            _leave(ranks, together)
    except RankLost:
        timer.cancel()
        if expected and ranks.rank:
            _print(ranks.rank, text)
            raise SystemExit(code) from None
    raise error


def _leave(ranks: Ranks, error: BaseException) -> NoReturn:
    """Ends this rank: rank 0 with the error, the others without a word, after rank 0 has printed."""
    code = error.code if isinstance(error, RankFailed) else 1
    if ranks.rank:
        code = interrupt.EXIT_CODE if isinstance(error, KeyboardInterrupt) else code
        signal.signal(signal.SIGTERM, lambda *_: os._exit(code))
        time.sleep(GRACE)
        raise SystemExit(code)
    raise InputError(str(error)) if code == 2 else error


def _print(rank: int, text: str) -> None:
    """Prints a line of a rank, past the redirection of its streams."""
    print(f"rank {rank}: {text}", file=sys.__stderr__, flush=True)


def _give_up(rank: int, text: str, code: int) -> None:
    """Ends the process, so that the launcher ends the others, which are busy and do not listen."""
    _print(rank, text)
    os._exit(code)


def _end_with(parent: int) -> None:
    """Interrupts this process when the launcher that started it has ended."""
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGINT)
