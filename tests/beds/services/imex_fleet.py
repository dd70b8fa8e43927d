"""Several hosts with the simulated nvidia-imex, each on a loopback address of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.lib.waits import wait_until
from tests.sim.imex import commands, install

DAEMON_TIMEOUT_S = 50.0


def slot_line(index: int) -> str:
    return f"imex-test-{index:04d}"


class ImexHost:
    """One machine: its root, its configuration, its daemon."""

    def __init__(self, directory: Path, index: int, port: int, slots: int = 4) -> None:
        self.root = directory / f"host{index}"
        self.index = index
        self.port = port
        self.address = f"127.0.7.{index + 1}"
        self.process: subprocess.Popen[bytes] | None = None
        install.install(self.root, python=sys.executable)
        install.add_fabric(self.root)
        self.run = self.root / "run"
        self.run.mkdir(parents=True)
        self.config = self.run / "imexd.cfg"
        self.hosts = self.run / "hosts"
        (self.run / "nsswitch.conf").write_text("hosts: files\n")
        self.nodes = self.run / "nodes_config.cfg"
        self.nodes.write_text("".join(f"{slot_line(i)}\n" for i in range(slots)))
        self.hosts.write_text("")
        self.persist = self.run / "persist" / "persist.dat"
        install.configure(
            self.root, time_scale=0.02, hosts=str(self.hosts), persist_dir=str(self.persist.parent),
            nsswitch=str(self.run / "nsswitch.conf"),
        )  # fmt: skip
        self.write_config()

    def write_config(self, **more: str) -> None:
        values = {
            "DAEMONIZE": "0", "LOG_FILE_NAME": "", "SERVER_PORT": str(self.port),
            "BIND_INTERFACE_IP": self.address, "IMEX_NODE_CONFIG_FILE": str(self.nodes),
            "IMEX_CMD_ENABLED": "1", "IMEX_CMD_UNIX_DOMAIN_PATH": str(self.run / "cmd.sock"),
        } | more  # fmt: skip
        self.config.write_text("".join(f"{key}={value}\n" for key, value in values.items()))

    def know(self, *others: ImexHost) -> None:
        lines = [f"{h.address}\t{slot_line(h.index)}\n" for h in (self, *others)]
        self.hosts.write_text("".join(lines))

    def start(self, *options: str) -> subprocess.Popen[bytes]:
        self.log = self.run / "log"
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [str(self.root / "usr/bin/nvidia-imex"), "-c", str(self.config), *options],
                stderr=log, stdout=log,
            )  # fmt: skip
        return self.process

    def ctl(self, *options: str) -> subprocess.CompletedProcess[str]:
        argv = [str(self.root / "usr/bin/nvidia-imex-ctl"), "-c", str(self.config), *options]
        return subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)

    def state(self) -> str:
        """State as ``ctl -q`` prints it, by socket; empty while the daemon does not answer."""
        try:
            return str(commands.ask(str(self.run / "cmd.sock"), "status", 5.0)["status"])
        except OSError:
            return ""

    def wait(self, state: str) -> None:
        wait_until(f"{self.address} is {state}", lambda: self.state() == state)

    def kill(self, number: signal.Signals) -> None:
        assert self.process is not None
        os.kill(self.process.pid, number)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        assert self.process is not None
        if self.process.poll() is None:
            self.kill(number)
        return self.process.wait(DAEMON_TIMEOUT_S)

    def text(self) -> str:
        return self.log.read_text()
