"""The start and the end of processes that work together, as MLX's launcher starts them (mlx.launch -n 2 ...)."""

import contextlib
import errno
import io
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable
from typing import NoReturn

import mlx.core as mx

from ..core import interrupt
from ..core.errors import Failure, InputError
from . import launcher
from .beats import Beats
from .exchange import RankFailed, RankLost, Ranks
from .watch import Watch, say

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


def run(work: Callable[[Ranks], None], keep_going: bool = False) -> None:
    """Does the work of this process's rank, and ends all ranks together.

    Only rank 0 prints. An error of one rank ends all of them with its exit code, and rank 0 raises it; so does a rank
    that has not been heard for 20 s. keep_going: where a rank has ended abnormally or is silent, it is reported, and
    the others go on; the work then exchanges nothing any more, as any exchange raises RankLost.
    """
    ranks = join()
    if ranks.size == 1:
        work(ranks)
        return
    with contextlib.ExitStack() as stack:
        printed = io.StringIO()
        if ranks.rank:
            stack.enter_context(contextlib.redirect_stdout(printed))
            stack.enter_context(contextlib.redirect_stderr(printed))
        ranks.beats = stack.enter_context(Beats.of(ranks))
        launcher.calm()
        if keep_going and not ranks.beats.active:
            keep_going = False
            warnings.warn("without heartbeats, the ranks do not go on where one ends", stacklevel=2)
        watch = stack.enter_context(Watch(ranks, keep_going))
        try:
            work(ranks)
            if not keep_going:
                ranks.agree()  # no rank ends while another needs it
            elif watch.speaks():
                watch.end_stopped()
        except (RankLost, RankFailed, KeyboardInterrupt) as error:
            _leave(ranks, watch, error)
        except BaseException as error:
            if isinstance(error, SystemExit) and not error.code:
                raise
            _tell(ranks, watch, error, printed.getvalue())


def _tell(ranks: Ranks, watch: Watch, error: BaseException, printed: str) -> NoReturn:
    """Tells the other ranks of an error of this one, and ends."""
    code = error.code if isinstance(error, SystemExit) else 2 if isinstance(error, InputError) else 1
    text = (printed.strip().splitlines() or [""])[-1] if isinstance(error, SystemExit) else str(error)
    ranks.beats.end("failed", f"has failed: {text}")
    timer = threading.Timer(PATIENCE, _give_up, (ranks, watch, text, code))
    timer.daemon = True
    timer.start()
    expected = isinstance(error, (InputError, Failure, SystemExit)) or _is_full(error)
    try:
        ranks.agree(int(code or 1), text)
    except RankFailed as together:
        timer.cancel()
        if expected and (ranks.rank or not isinstance(error, SystemExit)):  # rank 0 has printed why it exits
            _leave(ranks, watch, together)
    except RankLost:
        timer.cancel()
        if expected and ranks.rank:
            if watch.speaks():
                say(f"rank {ranks.rank}: {text}")
            raise SystemExit(code) from None
    raise error


def _leave(ranks: Ranks, watch: Watch, error: BaseException) -> NoReturn:
    """Ends this rank: the one that prints for all with the error, the others without a word, after it has printed."""
    watch.leaving = True
    ranks.beats.end("interrupted" if isinstance(error, KeyboardInterrupt) else "ended")
    watch.end_stopped()
    code = error.code if isinstance(error, RankFailed) else 1
    if ranks.rank:
        code = interrupt.EXIT_CODE if isinstance(error, KeyboardInterrupt) else code
        signal.signal(signal.SIGTERM, lambda *_: os._exit(code))
        if isinstance(error, RankLost) and watch.speaks():
            say(str(error))
        else:
            time.sleep(GRACE)
        raise SystemExit(code)
    raise InputError(str(error)) if code == 2 else error


def _is_full(error: BaseException) -> bool:
    """Returns whether an error says that no more can be written."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def _give_up(ranks: Ranks, watch: Watch, text: str, code: int) -> None:
    """Ends the process, so that the launcher ends the others, which are busy and do not listen."""
    if watch.speaks() or not ranks.beats.active:
        say(f"rank {ranks.rank}: {text}")
    os._exit(code)
