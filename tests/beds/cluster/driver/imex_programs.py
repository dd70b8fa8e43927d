"""Answers the calls of a node's simulated systemctl, journalctl and nvidia-imex-ctl: ``python -m tests.beds.cluster.driver.imex_programs ROOT [instant]``.

A Python program per call takes 60 ms of CPU, which would dominate a benchmark of 18 nodes: this server loads the
programs once per node and forks for each call (8 ms). It is the parent of nvidia-imex. With ``instant`` nvidia-imex is
an idle process, READY at once and connected to all peers of its hosts file, and read-only calls need no fork.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tests.beds.cluster.artifacts.programs import cache_dir
from tests.sim.imex import ctl, settings, systemctl
from tests.sim.imex.daemon import VERSION

SOURCE = Path(__file__).with_name("ask.c")
ENTRIES: dict[str, Callable[[], int]] = {
    "systemctl": systemctl.main,
    "journalctl": systemctl.journal,
    "nvidia-imex-ctl": ctl.main,
}
SOCKET = "run/nvsim/programs.sock"


def install(root: Path, *, is_instant: bool) -> None:
    """Replace each program, and nvidia-imex with ``is_instant``, by a client of this server."""
    program = _built()
    for name in (*ENTRIES, "nvidia-imex") if is_instant else ENTRIES:
        target = root / "usr/bin" / name
        target.unlink(missing_ok=True)
        shutil.copy(program, target)


def _built() -> Path:
    key = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:12]
    target = cache_dir() / "sim" / f"ask-{key}"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        new = target.with_suffix(f".{os.getpid()}")
        subprocess.run(["cc", "-O2", "-Wall", "-o", str(new), str(SOURCE)], check=True)
        new.rename(target)
    return target


def instant(root: Path) -> dict[str, Callable[[], int]]:
    """The programs with an idle nvidia-imex."""
    return {**ENTRIES, "nvidia-imex-ctl": partial(_instant_ctl, root), "nvidia-imex": _version}


def _version() -> int:
    print(f"IMEX version is: {VERSION}")
    return 0


def _instant_ctl(root: Path) -> int:
    """Output of nvidia-imex-ctl for a daemon that is READY as soon as it runs."""
    if systemctl.Units(root).read()["ActiveState"] != "active":
        print("Failed to connect to IMEX daemon", file=sys.stderr)
        return 1
    print(json.dumps(_domain(root)) if "-N" in sys.argv else "READY")
    return 0


def _domain(root: Path) -> dict[str, Any]:
    control = settings.Control(root / settings.CONTROL)
    values = settings.parse(Path(control.text("unit_config", "")).read_text())
    hosts = Path(control.text("hosts", "")).read_text().splitlines()
    addresses = {name: line.split()[0] for line in hosts for name in line.split()[1:]}
    names = settings.read_nodes(values["IMEX_NODE_CONFIG_FILE"])
    known = {str(i): addresses[name] for i, name in enumerate(names) if name in addresses}
    connections = {i: {"host": host, "status": "CONNECTED"} for i, host in known.items()}
    nodes = {
        i: {"status": "READY", "host": host, "connections": connections, "version": VERSION}
        for i, host in known.items()
    }
    return {"nodes": nodes, "status": "UP"}


def serve(root: Path, entries: dict[str, Callable[[], int]], *, is_instant: bool = False) -> None:
    """Answer until killed."""
    path = root / SOCKET
    path.unlink(missing_ok=True)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no zombies
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(path))
        listener.listen(64)
        while True:
            connection, _ = listener.accept()
            words, files, _, _ = socket.recv_fds(connection, 65536, 2)
            if is_instant and _is_read_only(words):
                _answer_here(connection, words, files, entries)
            elif os.fork() == 0:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                listener.close()
                _answer(connection, words, files, entries)
            connection.close()
            for file in files:
                os.close(file)


def _is_read_only(words: bytes) -> bool:
    """Whether a call only reads."""
    program, first, *_ = words.split(b"\0")
    return not program.endswith(b"/systemctl") or first == b"show"


def _answer_here(
    connection: socket.socket, words: bytes, files: list[int], entries: dict[str, Callable[[], int]]
) -> None:
    """Run one call in this process."""
    said, complained = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(complained):
        try:
            status = _run(words, entries)
        except (OSError, ValueError, LookupError):
            traceback.print_exc()  # reported to the caller; the server goes on
            status = 1
    for file, text in zip(files, (said, complained), strict=True):
        with contextlib.suppress(BrokenPipeError):  # the caller has ended
            os.write(file, text.getvalue().encode())
    with contextlib.suppress(BrokenPipeError):
        connection.send(bytes([status & 255]))


def _answer(
    connection: socket.socket, words: bytes, files: list[int], entries: dict[str, Callable[[], int]]
) -> None:
    """Run one call in a process of its own."""
    for number, file in enumerate(files, start=1):
        os.dup2(file, number)
        os.close(file)
    status = 1
    try:
        status = _run(words, entries)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        connection.send(bytes([status & 255]))
        os._exit(0)


def _run(words: bytes, entries: dict[str, Callable[[], int]]) -> int:
    sys.argv = [os.fsdecode(word) for word in words.split(b"\0")[:-1]]
    try:
        return entries[Path(sys.argv[0]).name]()
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 1


if __name__ == "__main__":
    place = Path(sys.argv[1])
    if sys.argv[2:] == ["instant"]:
        serve(place, instant(place), is_instant=True)
    serve(place, ENTRIES)
