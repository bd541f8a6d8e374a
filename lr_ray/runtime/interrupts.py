"""Ctrl-C and SIGTERM end a job in order, and within seconds even when a library swallows the exception.

The handler raises KeyboardInterrupt or SystemExit, so that `finally` blocks shut things down. A
library's bare `except:` can swallow either, most of all while it is being imported; so a watchdog
ends this process and all its descendants when it is still there after the grace.
Exercised by `pytest tests/unit/test_interrupts.py`.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

import psutil

GRACE_S = 12.0
_patience_s = 0.0  # on top of it
_borrowed = False  # by work in a process that goes on
received: signal.Signals | None = None
EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


def install() -> None:
    """Puts the handlers in place; call again after a library took them. In another thread it does nothing."""
    if threading.current_thread() is not threading.main_thread():
        return  # where Python takes none
    for number in EXIT_CODES:
        signal.signal(number, _interrupt)


@contextlib.contextmanager
def borrowed() -> Iterator[None]:
    """Gives the handlers back at the end, to a process that goes on: a notebook, or a test.

    An interruption within ends the work alone, without a watchdog. In another thread than the main one it
    does nothing.
    """
    global received, _borrowed
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in EXIT_CODES}
    _borrowed = True
    try:
        yield
    finally:
        received, _borrowed = None, False
        for number, handler in handlers.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def patience(seconds: float) -> Iterator[None]:
    """Within it, the watchdog waits that many seconds longer for work that ends in order."""
    global _patience_s
    _patience_s = seconds
    try:
        yield
    finally:
        _patience_s = 0.0


def again() -> None:
    """Raises a received signal's exception once more, where a library has made another error of it, or
    Python has dropped it, as in a callback of the garbage collector. In another thread it does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    if received == signal.SIGINT:
        raise KeyboardInterrupt
    if received is not None:
        raise SystemExit(EXIT_CODES[received])


def _interrupt(number: int, frame: FrameType | None) -> None:
    global received
    received = signal.Signals(number)
    if not _borrowed:
        watchdog = threading.Timer(GRACE_S + _patience_s, _end_now, (EXIT_CODES[received],))
        watchdog.daemon = True
        watchdog.start()
    again()


def _end_now(code: int) -> None:
    try:
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                process.kill()
    finally:  # whatever psutil meets
        os._exit(code)
