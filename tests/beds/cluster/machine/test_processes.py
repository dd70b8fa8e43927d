"""When a process counts as ended: only then may what it served be started again."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.beds.cluster.machine.processes import Process
from tests.lib.waits import wait_until

LEADER_ENDS_FIRST = """
import ctypes, socket, sys, threading

listener = socket.create_server(("127.0.0.1", 0))
threading.Thread(target=sys.stdin.read).start()
print("ready", flush=True)
ctypes.CDLL(None).pthread_exit(None)
"""


def test_a_process_runs_until_its_last_thread_has_ended() -> None:
    """A killed program ends thread by thread; on a busy machine its sockets live for a while after its first."""
    argv = [sys.executable, "-c", LEADER_ENDS_FIRST]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin and child.stdout
        child.stdout.readline()
        process = Process("p", child.pid, int(stat(child.pid)[19]), "")
        wait_until("the first thread ended", lambda: stat(child.pid)[0] == "Z", timeout_s=10)
        assert process.is_running
        child.stdin.close()
        wait_until("all have ended", lambda: not process.is_running, timeout_s=10)


def stat(pid: int) -> list[str]:
    """Fields of a process from its state on: see proc_pid_stat(5)."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
