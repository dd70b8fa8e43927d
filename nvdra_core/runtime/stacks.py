"""Writes the stacks of all threads to stderr on SIGUSR2. Called by ``service`` in a thread of its own.

faulthandler does this in a signal handler without the GIL and can crash on frames of a thread that ends at that
moment. This holds the GIL, and therefore cannot show a thread that never releases it; faulthandler shows that one when
systemd's watchdog aborts the process.
"""

from __future__ import annotations

import os
import sys
import threading
from types import FrameType

MAX_FRAMES = 100
_STDERR = 2


def write() -> None:
    """Write to the file descriptor: a hanging thread may hold the lock of ``sys.stderr``."""
    rest = text().encode("utf-8", "backslashreplace")
    try:
        while rest:
            rest = rest[os.write(_STDERR, rest) :]
    except OSError:
        return  # stderr is closed at the other end


def text() -> str:
    """The stacks in faulthandler's form, innermost call first; the main thread's comes last."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    main = threading.main_thread().ident
    frames = sorted(sys._current_frames().items(), key=lambda item: item[0] == main)
    lines: list[str] = []
    for ident, frame in frames:
        name = names.get(ident, "not a Python thread")
        lines += [f"Thread 0x{ident:016x} [{name}] (most recent call first):", *_calls(frame)]
    return "\n".join(lines) + "\n"


def _calls(frame: FrameType | None) -> list[str]:
    lines: list[str] = []
    while frame is not None and len(lines) < MAX_FRAMES:
        code = frame.f_code
        lines.append(f'  File "{code.co_filename}", line {frame.f_lineno} in {code.co_name}')
        frame = frame.f_back
    return [*lines, "  ..."] if frame is not None else lines
