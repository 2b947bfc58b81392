"""Ctrl-C and SIGTERM: stop at once, or at the next whole piece where a command asked for that."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType


class _State:
    patient = False
    asked = False
    piece = ""


def install() -> None:
    """Let both signals raise KeyboardInterrupt in the main thread, unless they are ignored."""
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(ValueError):  # not in the main thread: somebody else's process
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, _stop)


@contextlib.contextmanager
def patiently(piece: str) -> Iterator[Callable[[], bool]]:
    """Within the block the first signal only asks to stop; yields "has anybody asked?".

    piece: what is finished first, for the line that says so. A second signal stops at once.
    """
    _State.patient, _State.asked, _State.piece = True, False, piece
    try:
        yield lambda: _State.asked
    finally:
        _State.patient = False


def _stop(number: int, frame: FrameType | None) -> None:
    if _State.patient and not _State.asked:
        _State.asked = True
        print(f"\nfinishing the {_State.piece}; again stops at once", file=sys.stderr, flush=True)
        return
    raise KeyboardInterrupt
