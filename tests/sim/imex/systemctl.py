"""`systemctl` and `journalctl`, simulated for the unit nvdra-imex.service.

A keeper process stands for systemd: it runs nvidia-imex, survives its caller, and records how the daemon ended.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

from tests.sim.imex import settings
from tests.sim.imex.settings import Control

UNIT = "nvdra-imex.service"
UNITS = "run/nvsim/units.json"
LOG = "run/nvsim/imex.log"
STOP_S = 20.0


class Units:
    """The unit's state, in a file."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.path = root / UNITS

    def read(self) -> dict[str, Any]:
        try:
            values: dict[str, Any] = json.loads(self.path.read_text())
        except (OSError, ValueError):
            return {
                "ActiveState": "inactive",
                "InvocationID": "",
                "Result": "success",
                "ExecMainStatus": 0,
                "pid": 0,
            }
        return values

    def write(self, **values: Any) -> None:
        temporary = self.path.with_suffix(f".{os.getpid()}")
        temporary.write_text(json.dumps({**self.read(), **values}))
        temporary.replace(self.path)


def show(units: Units, names: list[str], foreign: list[str]) -> str:
    """As `systemctl show -p ...`."""
    blocks = []
    for name in names:
        values = {"ActiveState": "active" if name in foreign else "inactive", "InvocationID": "",
                  "Result": "success", "ExecMainStatus": 0, "MainPID": 0}  # fmt: skip
        if name == UNIT:
            values = {"MainPID" if k == "pid" else k: v for k, v in units.read().items()}
        blocks.append("\n".join([f"Id={name}", *(f"{k}={v}" for k, v in values.items())]))
    return "\n\n".join(blocks) + "\n"


def start(units: Units, control: Control) -> int:
    if units.read()["ActiveState"] == "active":
        return 0
    argv = [str(units.root / "usr/bin/nvidia-imex"), "-c", control.text("unit_config", "")]
    before = units.read()["InvocationID"]  # the keeper may be quicker than this process
    if os.fork() == 0:
        os.setsid()
        keep(units, argv)
        os._exit(0)
    end = time.monotonic() + 10
    while units.read()["InvocationID"] == before and time.monotonic() < end:
        time.sleep(0.005)
    return 0


def keep(units: Units, argv: list[str]) -> None:
    """Run one start, as systemd would."""
    null = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        os.dup2(null, number)
    invocation = uuid.uuid4().hex
    with (units.root / LOG).open("ab") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log, start_new_session=True)
    units.write(
        ActiveState="active",
        InvocationID=invocation,
        Result="success",
        ExecMainStatus=0,
        pid=process.pid,
    )
    status = process.wait()
    if status == 0:
        units.write(ActiveState="inactive", Result="success", ExecMainStatus=0, pid=0)
    else:
        result = "signal" if status < 0 else "exit-code"
        units.write(ActiveState="failed", Result=result, ExecMainStatus=abs(status), pid=0)


def stop(units: Units) -> int:
    found = units.read()
    if found["ActiveState"] != "active":
        return 0
    os.kill(found["pid"], signal.SIGTERM)
    end = time.monotonic() + STOP_S
    while units.read()["ActiveState"] == "active":
        if time.monotonic() > end:
            os.kill(found["pid"], signal.SIGKILL)
        time.sleep(0.01)
    return 0


def main() -> int:
    root = settings.root()
    units, control = Units(root), Control(root / settings.CONTROL)
    command, *rest = sys.argv[1:]
    if control.get("systemctl_hang"):
        time.sleep(3600)
    if command == "show":
        foreign = control.get("active_units", [])
        names = rest[rest.index("-p") + 2 :]
        sys.stdout.write(show(units, names, foreign if isinstance(foreign, list) else []))
        return 0
    if rest[-1] != UNIT:
        sys.stderr.write(f"Unit {rest[-1]} not found.\n")
        return 5
    if command == "start":
        return start(units, control)
    if command == "stop":
        return stop(units)
    if command == "kill":
        pid = units.read()["pid"]
        if pid:
            os.kill(pid, getattr(signal, rest[0].removeprefix("--signal=")))
        return 0
    return 1


def journal() -> int:
    """`journalctl -n N`, whatever is selected."""
    lines = int(sys.argv[sys.argv.index("-n") + 1])
    path = settings.root() / LOG
    text = path.read_text(errors="replace").splitlines() if path.exists() else []
    sys.stdout.write("\n".join(text[-lines:]) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
