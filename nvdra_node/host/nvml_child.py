"""The process that loads NVML: JSON lines in and out, one request at a time. Started by ``nvml``.

The parent kills it when NVML hangs. It exits at the end of stdin (read by its own thread, also while NVML hangs), and
after some idle time if requested: an open NVML session keeps the kernel module in use, which blocks driver upgrades.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any

IDLE_STATUS = 75
"""Exit status after idle time; a request sent meanwhile was not started and can be repeated."""


def main(library: str, idle_s: float) -> None:
    """Serve until stdin ends or ``idle_s`` seconds passed without a request (0: no limit)."""
    # systemd signals the whole service at a stop; the parent decides when this process ends.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # NVML's own output goes to stderr, not between the answers.
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    requests: SimpleQueue[bytes] = SimpleQueue()
    threading.Thread(target=_read, args=(requests,), daemon=True).start()
    # Imported here: the parent imports this module for IDLE_STATUS and must not load pynvml.
    from nvdra_node.host import nvml_ops

    session = nvml_ops.Session(library)
    while True:
        try:
            line = requests.get(timeout=idle_s if idle_s and not session.is_watching else None)
        except Empty:
            os._exit(IDLE_STATUS)
        answers.write(json.dumps(_answer(session.call, line)).encode() + b"\n")


def _read(requests: SimpleQueue[bytes]) -> None:
    try:
        for line in sys.stdin.buffer:
            requests.put(line)
    finally:  # also after a read error: nothing else ends this process
        os._exit(0)


def _answer(call: Callable[[str, dict[str, Any]], Any], line: bytes) -> dict[str, Any]:
    """One answer per request. Failures are answers too, sorted by ``kind`` in the parent."""
    request = json.loads(line)
    try:
        return {"id": request["id"], "ok": call(request["op"], request["args"])}
    except Exception as error:  # noqa: BLE001  # sent to the parent, which raises it
        fault = getattr(error, "fault", None)
        if fault is None:
            fault = {"kind": "bug", "message": traceback.format_exc()}
        return {"id": request["id"], "error": fault}
