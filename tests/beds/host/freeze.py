"""Stops every thread of a process but its first, as a deadlock would: ``freeze.py PID``.

Run by ``test_systemd`` on the test host; standard library only. Prints the number of threads it holds, and ends with
the process.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys

_PTRACE_SEIZE, _PTRACE_INTERRUPT = 0x4206, 0x4207
_WAIT_ALL = 0x40000000
_LIBC = ctypes.CDLL(None, use_errno=True)


def ptrace(request: int, thread: int) -> None:
    """One call of ptrace(2) without an address and data."""
    arguments = (
        ctypes.c_long(request),
        ctypes.c_long(thread),
        ctypes.c_void_p(),
        ctypes.c_void_p(),
    )
    if _LIBC.ptrace(*arguments) == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def main() -> None:
    """Hold the threads until there are none."""
    first = int(sys.argv[1])
    others = [int(name) for name in os.listdir(f"/proc/{first}/task") if int(name) != first]
    for thread in others:
        ptrace(_PTRACE_SEIZE, thread)
        ptrace(_PTRACE_INTERRUPT, thread)
    print(len(others), flush=True)
    # The kernel keeps the process until its ended threads were waited for.
    with contextlib.suppress(ChildProcessError):
        while True:
            os.waitpid(-1, _WAIT_ALL)


if __name__ == "__main__":
    main()
