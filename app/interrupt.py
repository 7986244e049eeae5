"""Signals that end a program end it as Ctrl-C does: whatever is half done is cleaned up."""

import signal
from types import FrameType
from typing import NoReturn


def ending_signals() -> list[signal.Signals]:
    """Return the signals that ask a program to end, but for those that whoever started it has it ignore (nohup)."""
    return [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) is not signal.SIG_IGN]


def install() -> None:
    """Turn these signals into KeyboardInterrupt(number)."""
    for number in ending_signals():
        signal.signal(number, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt(number)
