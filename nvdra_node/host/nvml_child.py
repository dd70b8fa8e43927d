"""The process that loads NVML: lines of JSON in, lines of JSON out, one request at a time. Started by ``nvml``.

A hang in NVML hangs this process only, and the parent kills it. It ends itself when the parent is gone (end of stdin,
seen by a thread of its own even while NVML hangs) and, when asked to, after some idle time: an open NVML session keeps
the kernel module in use, and nobody could upgrade the driver. Imports the least: its memory is a cost of every node.
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
"""Exit status after idle time: a request that was sent meanwhile was not begun and can be sent again."""


def main(library: str, idle_s: float) -> None:
    """Serve requests until the parent goes or nothing was asked for ``idle_s`` seconds (0: no limit)."""
    # The parent decides when this process ends, also while the service is being stopped.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A library that prints must not write between the answers.
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    requests: SimpleQueue[bytes] = SimpleQueue()
    threading.Thread(target=_read, args=(requests,), daemon=True).start()
    # Here, because the parent imports this module too and must not load pynvml.
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
    finally:  # also when it cannot be read: nothing else ends this process
        os._exit(0)


def _answer(call: Callable[[str, dict[str, Any]], Any], line: bytes) -> dict[str, Any]:
    """One request to one answer. Every failure is an answer: the parent sorts them by ``kind``."""
    request = json.loads(line)
    try:
        return {"id": request["id"], "ok": call(request["op"], request["args"])}
    except Exception as error:  # noqa: BLE001  # crosses to the parent, which raises it there
        fault = getattr(error, "fault", None)
        if fault is None:
            fault = {"kind": "bug", "message": traceback.format_exc()}
        return {"id": request["id"], "error": fault}
