"""The command service: what `nvidia-imex-ctl` connects to, and its client."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
from collections.abc import Callable, Mapping
from typing import Any

from tests.sim.imex.settings import Control


class CommandService:
    """One query per connection, over a unix socket or TCP."""

    def __init__(
        self,
        values: Mapping[str, str],
        answer: Callable[[str], dict[str, object]],
        control: Control,
    ) -> None:
        self._values = values
        self._answer = answer
        self._control = control
        self._listener: socket.socket | None = None

    def start(self) -> None:
        if self._values["IMEX_CMD_ENABLED"] != "1":
            return
        path = self._values["IMEX_CMD_UNIX_DOMAIN_PATH"]
        if path:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(path)
            self._listener.listen(16)
        else:
            address = (
                self._values["IMEX_CMD_BIND_INTERFACE_IP"],
                int(self._values["IMEX_CMD_PORT"]),
            )
            self._listener = socket.create_server(address)
        threading.Thread(target=self._serve, daemon=True).start()

    def stop(self) -> None:
        if self._listener is None:
            return
        self._listener.close()
        if path := self._values["IMEX_CMD_UNIX_DOMAIN_PATH"]:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)

    def _serve(self) -> None:
        while self._listener is not None:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._one, args=(connection,), daemon=True).start()

    def _one(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rw") as lines, contextlib.suppress(OSError):
            request = json.loads(lines.readline() or "{}")
            if self._control.get("hang_commands"):
                lines.readline()
                return
            lines.write(json.dumps(self._answer(request.get("query", ""))) + "\n")
            lines.flush()


def ask(target: str | tuple[str, int], query: str, timeout_s: float | None) -> dict[str, Any]:
    """One answer. Raises OSError."""
    family = socket.AF_UNIX if isinstance(target, str) else socket.AF_INET
    with socket.socket(family) as connection:
        connection.settimeout(timeout_s)
        connection.connect(target)
        with connection.makefile("rw") as lines:
            lines.write(json.dumps({"query": query}) + "\n")
            lines.flush()
            line = lines.readline()
    if not line:
        raise OSError("the daemon closed the connection")
    answer = json.loads(line)
    if not isinstance(answer, dict):
        raise OSError("the daemon's answer is garbled")
    return answer
