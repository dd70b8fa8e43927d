"""pynvml on one simulated root, as a shipped program would have it on a real host.

`session` is for tests that load the library into their own process; `Client` is a second process that stays alive,
so that a test can change the root and see what a running program gets.
"""

from __future__ import annotations

import ctypes
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import pynvml

_SERVE = """
import sys
from pathlib import Path
import pynvml
from tests.sim.client import session
with session(Path(sys.argv[1]), flags=1):
    print("ready", flush=True)
    for line in sys.stdin:
        try:
            print(repr(eval(line)), flush=True)
        except pynvml.NVMLError as error:
            print(f"error {error.value}", flush=True)
"""


@contextmanager
def session(library: Path, flags: int = 0) -> Iterator[Any]:
    """pynvml, initialised on this library file, and shut down at the end."""
    pynvml.nvmlLib = ctypes.CDLL(str(library))
    pynvml._nvmlGetFunctionPointer_cache.clear()
    pynvml.nvmlInitWithFlags(flags)
    try:
        yield pynvml
    finally:
        pynvml.nvmlShutdown()
        pynvml.nvmlLib = None
        pynvml._nvmlGetFunctionPointer_cache.clear()


class Client:
    """Another process with an open session. Ask it expressions over `pynvml`."""

    def __init__(self, library: Path) -> None:
        command = [sys.executable, "-c", _SERVE, str(library)]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        self._read()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.communicate()

    def send(self, expression: str) -> None:
        """Lets the process evaluate; `answer` waits for the result."""
        assert self._process.stdin
        self._process.stdin.write(expression + "\n")
        self._process.stdin.flush()

    def answer(self) -> str:
        """repr of the value, or `error CODE`."""
        return self._read()

    def ask(self, expression: str) -> str:
        self.send(expression)
        return self.answer()

    def _read(self) -> str:
        assert self._process.stdout
        return self._process.stdout.readline().strip()
