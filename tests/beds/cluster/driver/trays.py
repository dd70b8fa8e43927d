"""One node of a rack: a real node with a simulated GB200 tray, and the services of the ComputeDomain half on it.

The services are the shipped processes with the kubelet's credential and default paths. ``imex_programs`` replaces
systemd for the one unit.
"""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any

from tests.beds.cluster.driver import imex_programs
from tests.beds.cluster.machine.node import Node
from tests.beds.cluster.machine.processes import Process
from tests.lib.waits import wait_until
from tests.sim.api import SimRoot
from tests.sim.imex import install

TOP = Path(__file__).resolve().parents[4]
DRIVER = "compute-domain.nvidia.com"
SUPERVISOR, PLUGIN = "imex-supervisor", "compute-domain"
IMEX_DIR = "/run/nvdra/imex"
CONFIG = "/etc/nvdra/config.yaml"
PROGRAMS = "programs"
BROKER = "unit-broker"
BROKER_SOCKET = "/run/nvdra/units.sock"
TIME_SCALE = 0.05
"""Speed of the simulated nvidia-imex: seconds per second of the real one."""


class Tray:
    """One node with its services."""

    def __init__(self, node: Node, sim: SimRoot, *, is_instant: bool = False) -> None:
        """``is_instant``: nvidia-imex is a stub (``imex_programs``)."""
        self.node = node
        self.name = node.name
        self.sim = sim
        self.settings: dict[str, Any] = {}
        self.services: dict[str, Process] = {}
        install.install(sim.path, python=sys.executable)
        imex_programs.install(sim.path, is_instant=is_instant)
        self._is_instant = is_instant
        self.configure_imex(
            time_scale=TIME_SCALE, hosts=f"{IMEX_DIR}/hosts", nsswitch=f"{IMEX_DIR}/nsswitch.conf",
            persist_dir="/run/nvidia-imex", unit_config=f"{IMEX_DIR}/imexd.cfg",
        )  # fmt: skip

    def configure_imex(self, **values: Any) -> None:
        """Settings and faults of the simulated nvidia-imex; see ``tests.sim.imex.install.configure``."""
        install.configure(self.sim.path, **values)

    def start(self, *services: str) -> None:
        """Start both services, or those named."""
        self._write_settings()
        if PROGRAMS not in self.services:
            words = [
                sys.executable,
                "-m",
                "tests.beds.cluster.driver.imex_programs",
                str(self.sim.path),
            ]
            words += ["instant"] if self._is_instant else []
            self.services[PROGRAMS] = self._popen(words, PROGRAMS)
            path = self.sim.path / imex_programs.SOCKET
            wait_until(f"{path} is there", path.is_socket, 30)
        if BROKER not in self.services:
            self.node.path(BROKER_SOCKET).parent.mkdir(parents=True, exist_ok=True)
            argv = [sys.executable, "-m", "tests.sim.broker", CONFIG]
            self.services[BROKER] = self._popen(argv, BROKER)
            path = self.node.path(BROKER_SOCKET)
            wait_until(f"{path} is there", path.is_socket, 30)
        for service in services or (SUPERVISOR, PLUGIN):
            argv = [sys.executable, "-m", "nvdra_node", service, "--config", CONFIG]
            self.services[service] = self._popen(argv, service)

    def _popen(self, argv: list[str], name: str) -> Process:
        return self.node.popen(argv, name=name, env={"PYTHONPATH": str(TOP)})

    def stop(self, service: str, number: signal.Signals = signal.SIGTERM) -> None:
        """End one service; nvidia-imex keeps running."""
        process = self.services.pop(service)
        process.signal(number)
        process.wait()

    def imex(self) -> dict[str, Any]:
        """State of the nvidia-imex unit; ``pid`` 0: not running."""
        path = self.sim.path / "run/nvsim/units.json"
        values: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"pid": 0}
        return values

    def logged(self, service: str) -> str:
        """Everything that a service wrote."""
        path = self.node.layout.logs / f"{self.name}.{service}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def leftovers(self) -> list[str]:
        """Records and CDI files of claims: empty when nothing is prepared."""
        state = f"/var/lib/nvdra/{DRIVER}"
        places = {"/run/cdi": "*", f"{state}/claims": "*", f"{state}/quarantine": "*"}
        found = [p for place, glob in places.items() for p in self.node.path(place).glob(glob)]
        return sorted(str(path).partition("/root/")[2] for path in found)

    def _write_settings(self) -> None:
        root = self.sim.path
        imex_programs = root / "usr/bin"
        values = {
            "nodeName": self.name, "kubeconfig": self.node.kubeconfig,
            "nvidiaDriverRoot": str(root), "devRoot": str(root / "dev"),
            "procRoot": str(self.sim.proc), "sysRoot": str(self.sim.sys),
            "imexPath": str(imex_programs / "nvidia-imex"),
            "imexCtlPath": str(imex_programs / "nvidia-imex-ctl"),
            "systemctlPath": str(imex_programs / "systemctl"),
            "journalctlPath": str(imex_programs / "journalctl"), "logVerbosity": 4,
        }  # fmt: skip
        path = self.node.path(CONFIG)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values | self.settings))
