"""Installs the simulated programs below a driver root (`tests.sim.api.SimRoot`, or any directory), and configures them."""

from __future__ import annotations

import io
import json
import py_compile
import tempfile
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

from tests.sim.imex import kernel, settings

HERE = Path(__file__).parent
MODULES = (
    "__init__",
    "settings",
    "kernel",
    "names",
    "peers",
    "commands",
    "daemon",
    "ctl",
    "systemctl",
)
PROGRAMS = {"nvidia-imex": "daemon.main", "nvidia-imex-ctl": "ctl.main"}
SYSTEMD = {"systemctl": "systemctl.main", "journalctl": "systemctl.journal"}


@cache
def pack(entry: str, python: str = "/usr/bin/env python3") -> bytes:
    """One program as a zip file: bytecode for this Python, as programs are started often, and source for others."""
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive,
        tempfile.TemporaryDirectory() as directory,
    ):
        for package in ("tests/__init__.py", "tests/sim/__init__.py"):
            archive.writestr(package, "")
        for name in MODULES:
            source = HERE / f"{name}.py"
            compiled = py_compile.compile(
                str(source), f"{directory}/{name}.pyc", doraise=True,
                invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
            )  # fmt: skip
            archive.write(str(compiled), f"tests/sim/imex/{name}.pyc")
            archive.write(source, f"tests/sim/imex/{name}.py")
        module, function = entry.split(".")
        start = f"from tests.sim.imex.{module} import {function}\nraise SystemExit({function}())\n"
        archive.writestr("__main__.py", start)
    return f"#!{python}\n".encode() + buffer.getvalue()


def install(
    root: Path, *, python: str = "/usr/bin/env python3", with_systemd: bool = False
) -> None:
    """Install both programs below `root`; `with_systemd`: systemctl and journalctl for the one unit, too."""
    programs = PROGRAMS | (SYSTEMD if with_systemd else {})
    for name, entry in programs.items():
        target = root / "usr/bin" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        target.write_bytes(pack(entry, python))
        target.chmod(0o755)


def add_fabric(root: Path, minor: int = 4323) -> None:
    """Add the fabric capability, for roots without a profile."""
    file = root / kernel.FABRIC_CAPABILITY
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"DeviceFileMinor: {minor}\nDeviceFileMode: 256\nDeviceFileModify: 1\n")
    node = root / f"dev/nvidia-caps/nvidia-cap{minor}"
    node.parent.mkdir(parents=True, exist_ok=True)
    node.touch()


def configure(root: Path, **values: Any) -> None:
    """Change settings (`time_scale`, `hosts`, `nsswitch`, `persist_dir`, `version`, `loopback_network`) and faults; None removes one.

    `unit_config` is what the simulated systemctl starts nvidia-imex with.

    Faults: `start_delay_s`, `stuck_state`, `crash_after_s`, `exit_status` (with `exit_message`), `hang_commands`,
    `ctl_hang`, `refuse_peers` (ids), `ignore_term`, `wrong_id`, `systemctl_hang`, `active_units` (foreign ones).
    """
    path = root / settings.CONTROL
    path.parent.mkdir(parents=True, exist_ok=True)
    known = json.loads(path.read_text()) if path.exists() else {}
    known = {key: value for key, value in {**known, **values}.items() if value is not None}
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps(known))
    temporary.replace(path)


def session(root: Path) -> dict[str, Any]:
    """State of the IMEX session: `held`, `open`, `sessions`, `abrupt`, `allocations`, `pid`."""
    return kernel.state(root, settings.SESSION)
