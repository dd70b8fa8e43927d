"""A host with a systemd of its own and our units: base of a cluster's node (``unit_bed``) and of other releases
(``versions``).

Installs the units, simulates the NVIDIA driver for them, and runs programs in the sandbox of a unit (``probe``).
"""

from __future__ import annotations

import json
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from tests.beds.cluster.driver.gpu_bed import TOP
from tests.beds.cluster.machine.processes import Process
from tests.lib.waits import wait_until
from tests.sim.api import SimRoot

UNITS = TOP / "systemd"
UNIT_DIR = "/usr/lib/systemd/system"
OTHER_FILES = {
    "90-nvdra.preset": "/usr/lib/systemd/system-preset/90-nvdra.preset",
    "nvdra.conf": "/usr/lib/tmpfiles.d/nvdra.conf",
}
UNIT = "nvdra-gpu-plugin.service"
SUPERVISOR = "nvdra-imex-supervisor.service"
PLUGIN = "nvdra-compute-domain-plugin.service"
BROKER = "nvdra-unit-broker.service"
SOCKET = "nvdra-unit-broker.socket"
PROC_DEVICES = "/run/proc-devices"
FREEZE_PROGRAM = "/usr/lib/nvdra-freeze.py"
PROBE_UNIT = "nvdra-probe.service"
PROBE_PROGRAM = "/usr/lib/nvdra-probe.py"
PROBE_OUTPUT = "/var/log/nvdra-probe.json"
REPLACED = frozenset(
    {
        *("Type", "NotifyAccess", "ExecStart", "ExecReload", "WatchdogSec", "Restart"),
        *("RestartSec", "RemainAfterExit"),
    }
)
"""Settings of the probe's unit that differ from the service's."""
MAX_EXPOSURE = 2.6
"""Highest score of ``systemd-analyze security`` for a unit."""
REFUSALS = frozenset({"EPERM", "EACCES", "EROFS", "EAFNOSUPPORT", "ENOENT"})
"""ENOENT: it is not in the service's own view of the file system; everything that is tried is there on the host."""

_MODPROBE = """\
#!/bin/sh
# What NVIDIA's own makes: with -u its numbers count nodes of nvidia-uvm, else of GPUs, and 255 is nvidiactl.
node() {
  major=$(sed -n "s/^ *\\([0-9]*\\) $2$/\\1/p" /proc/devices)
  test -n "$major" || exit 1
  test -e /dev/$1 || mknod -m 0666 /dev/$1 c $major $3
  chown 0:0 /dev/$1 && chmod 0666 /dev/$1 || exit 1
}
class=nvidia
while test $# -gt 0; do
  case $1 in
    -u) class=nvidia-uvm;;
    -c) shift
      case $class.$1 in
        nvidia-uvm.*) node nvidia-uvm nvidia-uvm $1; node nvidia-uvm-tools nvidia-uvm $(($1 + 1));;
        nvidia.255) node nvidiactl nvidiactl 255;;
        *) node nvidia$1 nvidia $1;;
      esac;;
  esac
  shift
done
"""

IMEX_FILES = """\
mkdir -p /run/nvidia-imex /run/nvdra/imex/persist /run/nvdra/imex/ctl
cd /run/nvdra/imex && touch imexd.cfg nodes_config.cfg hosts nsswitch.conf
"""
"""Files that the supervisor creates before it starts nvidia-imex."""

Answers = dict[str, dict[str, str]]
"""Table of the probe -> what was tried -> "ok" or an errno name."""

_SYSTEM = {"open the shadow file"}
"""Root's own files are open to all but nvidia-imex, which peers on the network can talk to."""
_CLIENT = {
    *_SYSTEM,
    *("open the node's token", "open the settings", "open the kubelet's directory"),
    *("open the kubelet's credential", "open kubeadm's credential"),
}
"""Reads of every client of the API server."""

MAY: dict[str, set[str]] = {
    UNIT: _CLIENT,
    PLUGIN: _CLIENT,
    SUPERVISOR: {
        *_CLIENT,
        *("ask the unit broker", "open the key for IMEX peers", "write in the supervisor's state"),
    },
    BROKER: {
        *_SYSTEM,
        *("ask systemd by its own socket", "ask the unit broker", "open the settings"),
    },
    "nvdra-imex.service": {
        *("configure the network", "use keyrings", "write and run memory"),
        "open the key for IMEX peers",
    },
    "nvdra-credential.service": {
        *_CLIENT,
        *("change the node's token", "replace the node's token"),
    },
    "nvdra-driver.service": {*_SYSTEM, "ask systemd by its own socket"},
    "nvdra-device-nodes.service": {
        *_SYSTEM,
        *("make a node of a disk", "make a node of memory", "make a node of a GPU", "open a disk"),
        *("give a file away", "load a module"),
    },
}
"""Service -> entries of the probe's table ``refused`` that it may do."""


def not_refused(answers: Answers) -> set[str]:
    """Entries of the table that were not refused."""
    return {name for name, said in answers["refused"].items() if said not in REFUSALS}


def same(bound: Answers, unbound: Answers) -> set[str]:
    """Entries with the same answer with and without the sandbox, so not refused by it."""
    found = {name for name, said in bound["refused"].items() if unbound["refused"][name] == said}
    return found - MAY[UNIT]


class Machine(Protocol):
    """What is needed of a host: see tests.beds.cluster.machine.node.Node."""

    def run(
        self, argv: Sequence[str], *, check: bool = True, timeout_s: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run a command there to its end."""

    def popen(self, argv: Sequence[str]) -> Process:
        """Start a program there."""

    def path(self, node_path: str) -> Path:
        """Where a file of the host is for this process."""


class UnitHost:
    """The units on one host."""

    sim: SimRoot

    @property
    def machine(self) -> Machine:
        """The host."""
        raise NotImplementedError

    def install_units(self) -> None:
        """Install the units as the package does, and a simulated driver with NVIDIA's programs."""
        for unit in units():
            self.write(f"{UNIT_DIR}/{unit.name}", unit.read_text())
        for name, place in OTHER_FILES.items():
            self.write(place, (UNITS / name).read_text())
        self.write("/usr/bin/nvidia-modprobe", _MODPROBE, mode=0o755)
        self.write("/usr/bin/nvidia-imex", "#!/bin/sh\nexec sleep 9999\n", mode=0o755)
        # Only the driver's units see the simulated /proc: containers share the host's.
        there = f"{self.sim.proc}/driver/nvidia/version"
        binds = f"{PROC_DEVICES}:/proc/devices {self.sim.proc}/driver:/proc/driver"
        conditions = f"[Unit]\nConditionPathExists=\nConditionPathExists={there}\n"
        for name, unit_lines in (("nvdra-device-nodes", conditions), ("nvdra-driver", "")):
            drop_in = f"/etc/systemd/system/{name}.service.d/simulated.conf"
            self.write(drop_in, f"{unit_lines}[Service]\nBindReadOnlyPaths={binds}\n")
        self.boot()

    def boot(self) -> None:
        """Show systemd the simulated driver's devices, loaded or not: once after each start of the host."""
        self._show_devices()
        self.machine.run(["mount", "--bind", PROC_DEVICES, "/proc/devices"])
        self.systemctl("daemon-reload")

    def load_driver(self) -> None:
        """As ``modprobe nvidia`` and the udev rule do."""
        self.sim.load_driver()
        self._show_devices()
        self.systemctl("start", "nvdra-driver.service")

    def unload_driver(self) -> None:
        """As ``rmmod nvidia``."""
        self.sim.unload_driver()
        self._show_devices()
        self.machine.run(["sh", "-c", "rm -rf /dev/nvidia*"])

    def _show_devices(self) -> None:
        """systemd reads device classes from /proc/devices. Written in place, as a bind mount keeps its inode."""
        self.write(PROC_DEVICES, (self.sim.proc / "devices").read_text())

    def systemctl(self, *words: str, check: bool = True) -> str:
        """Run systemctl on the host and return what it printed."""
        return self.machine.run(["systemctl", *words], check=check).stdout

    def show(self, name: str, unit: str = UNIT) -> str:
        """Return one property of a unit."""
        return self.systemctl("show", "-P", name, unit).strip()

    def journal(self, *words: str) -> str:
        """Return the service's journal."""
        return self.machine.run(["journalctl", "--no-pager", "-u", UNIT, *words]).stdout

    def signal(self, name: str) -> None:
        """Send a signal to the service's main process."""
        self.systemctl("kill", "--kill-who=main", f"--signal={name}", UNIT)

    def freeze(self, pid: str) -> None:
        """Hold all threads of a process but its first until it ends."""
        self.write(FREEZE_PROGRAM, Path(__file__).with_name("freeze.py").read_text())
        holder = self.machine.popen(["python3", "-IB", FREEZE_PROGRAM, pid])
        wait_until("threads held", lambda: holder.output().strip(), 20)

    def verify(self) -> str:
        """Output of ``systemd-analyze verify`` for the units; empty when it has no complaint."""
        paths = [f"{UNIT_DIR}/{unit.name}" for unit in units()]
        done = self.machine.run(["systemd-analyze", "verify", *paths], check=False)
        return f"{done.stdout}{done.stderr}" + (f"rc {done.returncode}" if done.returncode else "")

    def _exposures(self, *options: str) -> dict[str, float]:
        """Score of each service by ``systemd-analyze security``, 0 (best) to 10."""
        scores = {}
        for unit in units():
            if unit.suffix == ".service":
                name = f"{UNIT_DIR}/{unit.name}" if options else unit.name
                argv = ["systemd-analyze", "security", "--no-pager", *options, name]
                said = self.machine.run(argv).stdout
                scores[unit.name] = float(said.rpartition("level for ")[2].split()[1])
        return scores

    def too_exposed(self, *options: str) -> dict[str, float]:
        """Services with a score above the limit; prints all scores."""
        scores = self._exposures(*options)
        print(
            "\n".join(f"systemd-analyze security {name}: {score}" for name, score in scores.items())
        )
        return {name: s for name, s in scores.items() if s > MAX_EXPOSURE}

    def probe(self, api_server: str, unit: str | None = UNIT) -> Answers:
        """Run ``probe`` in the sandbox of a unit, or without one, and return its answers.

        ``api_server``: an address where something listens on port 6443.
        """
        self.write(PROBE_PROGRAM, Path(__file__).with_name("probe.py").read_text())
        others = [
            name for name in (PLUGIN, SUPERVISOR, BROKER) if self.show("MainPID", name) == "0"
        ]
        # The container around the host has these read-only; it is the unit's sandbox that is asked here.
        self._remount("rw")
        other = self.machine.popen(["setpriv", "--reuid=65534", "sleep", "60"])
        try:
            # Many units are probed in turn: systemd limits the rate of starts.
            self.systemctl("reset-failed", "nvdra-device-nodes.service", check=False)
            self.systemctl("restart", "nvdra-device-nodes.service")
            self.machine.run(["sh", "-ec", _PROBED])
            self.systemctl("start", SOCKET, *others)
            found = wait_until("another user's process", self._pid_of_nobody, 10)
            argv = ["/usr/bin/python3", "-IB", PROBE_PROGRAM, api_server, "6443", found]
            argv += [unit] if unit else []
            if unit:
                output = self.run_as(unit, argv)
            else:
                output = self.machine.run(["unshare", "--mount", "--uts", *argv]).stdout
        finally:
            self.systemctl("stop", SOCKET, *others)
            other.end(kill=True)
            self._remount("ro")
        answers: Answers = json.loads(output)
        return answers

    def _remount(self, mode: str) -> None:
        self.machine.run(["sh", "-ec", _REMOUNT, "sh", mode])

    def _pid_of_nobody(self) -> str:
        return self.machine.run(["pgrep", "-n", "-u", "65534", "sleep"], check=False).stdout.strip()

    def run_as(self, unit: str, argv: Sequence[str]) -> str:
        """Run a program in the sandbox of a unit; its output."""
        self.write(
            f"/run/systemd/system/{PROBE_UNIT}", probe_unit((UNITS / unit).read_text(), argv)
        )
        self.machine.path(PROBE_OUTPUT).unlink(missing_ok=True)
        self.systemctl("daemon-reload")
        self.systemctl("start", PROBE_UNIT)
        return self.machine.path(PROBE_OUTPUT).read_text()

    def run_instead(self, unit: str, argv: Sequence[str]) -> str:
        """Run a program in place of a unit's own, in its cgroup; its output."""
        place = f"/run/systemd/system/{unit}.d"
        reset = "".join(f"{name}=\n" for name in ("ExecStart", "ExecStartPre", "ExecReload"))
        lines = f"Type=oneshot\nExecStart={shlex.join(argv)}\nRestart=no\nWatchdogSec=0\n"
        output = f"StandardOutput=file:{PROBE_OUTPUT}\n"
        self.write(f"{place}/probe.conf", f"[Service]\n{reset}{lines}{output}")
        self.machine.path(PROBE_OUTPUT).unlink(missing_ok=True)
        self.systemctl("daemon-reload")
        try:
            self.systemctl("restart", unit)
            return self.machine.path(PROBE_OUTPUT).read_text()
        finally:
            self.machine.run(["rm", "-r", place])
            self.systemctl("daemon-reload")

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Write a file of the host, in place if it is there."""
        target = self.machine.path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        target.chmod(mode)


_REMOUNT = """\
for path in /proc/sys $(sed -n 's/^[^ ]* \\([^ ]*\\) sysfs .*/\\1/p' /proc/mounts); do
  # A file system of the container's own is read-only as a whole, and not only where it is mounted.
  test "$1" = ro || mount -o remount,rw "$path" || true
  mount -o "remount,bind,$1" "$path"
done
"""

_PROBED = """\
test -e /dev/probe-disk || mknod /dev/probe-disk b 8 0
mkdir -p /dev/nvidia-caps /var/lib/kubelet/pods/probe /etc/kubernetes
mkdir -p -m 0700 /var/lib/nvdra/credential /var/lib/nvdra/imex/tls /var/lib/nvdra/gpu.nvidia.com
for path in /var/lib/nvdra/credential/token /var/lib/nvdra/imex/tls/probe.pem /etc/kubernetes/kubelet.conf; do
  test -s "$path" || echo probe >"$path"
done
varlink=/run/systemd/io.systemd.Manager # of 257 and later
test -e $varlink || python3 -IBc "import socket; socket.socket(1).bind('$varlink')"
"""


def units() -> list[Path]:
    """The files of ``systemd/`` that are units."""
    return sorted(
        p
        for p in UNITS.iterdir()
        if p.suffix in (".service", ".socket", ".target", ".timer", ".path")
    )


def probe_unit(text: str, argv: Sequence[str]) -> str:
    """Return a unit that runs ``argv`` once, with every other line of ``[Service]`` as it is in ``text``."""
    service = text.partition("[Service]\n")[2].partition("[Install]")[0]
    kept = [line for line in service.splitlines() if line.partition("=")[0] not in REPLACED]
    new = [
        "Type=oneshot",
        f"ExecStart={shlex.join(argv)}",
        f"StandardOutput=file:{PROBE_OUTPUT}",
    ]
    return "\n".join(["[Service]", *new, *kept, ""])
