"""The shipped service on a host with a systemd of its own, laid out as a package installs it.

``up`` gives a Bed whose only node is such a host: the code in /usr/lib/nvdra with the dependencies of the node extra and
no others, /usr/bin/nvdra-node, NVIDIA's programs in /usr/bin, the units of ``systemd/`` in /usr/lib/systemd/system,
settings in /etc/nvdra/config.yaml. ``UnitNode.probe`` runs a program in exactly the unit's sandbox;
``UnitNode.load_driver`` and ``unload_driver`` show the host what the NVIDIA driver's module shows.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.cluster import lifecycle, programs
from tests.cluster.api import Cluster
from tests.cluster.layout import BRIDGE_ADDRESS
from tests.e2e.bed import DEVICE_CLASSES, TOP, Bed, GpuNode, sim_home, wait_for
from tests.sim.api import SimRoot

UNITS = TOP / "systemd"
UNIT_DIR = "/usr/lib/systemd/system"
UNIT = "nvdra-gpu-plugin.service"
PROC_DEVICES = "/run/proc-devices"
ENDPOINT = "127.0.0.1:9899"
FREEZE_PROGRAM = "/usr/lib/nvdra-freeze.py"
PROBE_UNIT = "nvdra-probe.service"
PROBE_PROGRAM = "/usr/lib/nvdra-probe.py"
PROBE_OUTPUT = "/var/log/nvdra-probe.json"
REPLACED = frozenset(
    {"Type", "NotifyAccess", "ExecStart", "ExecReload", "WatchdogSec", "Restart", "RestartSec"}
)
"""What the probe's unit says otherwise than the service's."""
NODE_NAME = "node-1"
LIBRARY = "/usr/lib/nvdra"
HOST_PYTHON = "3.11"
"""Debian 12's."""

_PACKAGES = ("grpcio", "protobuf", "msgspec", "nvidia-ml-py", "PyYAML", "typing_extensions")
_SOURCE_PACKAGES = ("sdnotify",)
"""Published without a wheel; pure Python."""

_LAUNCHER = f"""\
#!/usr/bin/python3 -IB
import sys
sys.path[:0] = ["{LIBRARY}", "{LIBRARY}/site-packages"]
from nvdra_node.cli import main
sys.exit(main())
"""

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

Answers = dict[str, dict[str, str]]
"""Table of the probe -> what was tried -> "ok" or an errno name."""


class UnitNode(GpuNode):
    """A node on which the service is a unit of the host's own systemd."""

    def install(self) -> None:
        """Put units, launcher and settings in place, as the package does; the driver is loaded."""
        for unit in units():
            self._write(f"{UNIT_DIR}/{unit.name}", unit.read_text())
        self._write("/usr/bin/nvdra-node", _LAUNCHER, mode=0o755)
        self._write("/usr/bin/nvidia-modprobe", _MODPROBE, mode=0o755)
        self._write("/etc/nvdra/config.yaml", settings(self.sim))
        self._simulate_proc()
        # A package ships compiled files; the service itself must never write there.
        self.node.run(["python3", "-m", "compileall", "-q", LIBRARY], timeout_s=120)
        self.boot()

    def boot(self) -> None:
        """Show the host the simulated driver's part of /proc, loaded or not: once after each start of the host."""
        self._show_devices()
        self.node.run(["mount", "--bind", PROC_DEVICES, "/proc/devices"])
        self.systemctl("daemon-reload")

    def _simulate_proc(self) -> None:
        """Give the units about the driver its /proc. The host keeps its own: containers have that one too."""
        there = f"{self.sim.proc}/driver/nvidia/version"
        binds = f"{PROC_DEVICES}:/proc/devices {self.sim.proc}/driver:/proc/driver"
        conditions = f"[Unit]\nConditionPathExists=\nConditionPathExists={there}\n"
        for name, unit in (("nvdra-device-nodes", conditions), ("nvdra-driver", "")):
            drop_in = f"/etc/systemd/system/{name}.service.d/simulated.conf"
            self._write(drop_in, f"{unit}[Service]\nBindReadOnlyPaths={binds}\n")

    def load_driver(self) -> None:
        """As ``modprobe nvidia``, with what udev does then."""
        self.sim.load_driver()
        self._show_devices()
        self.systemctl("start", "nvdra-driver.service")

    def unload_driver(self) -> None:
        """As ``rmmod nvidia``."""
        self.sim.unload_driver()
        self._show_devices()
        self.node.run(["sh", "-c", "rm -rf /dev/nvidia*"])

    def _show_devices(self) -> None:
        """systemd looks classes of devices up in /proc/devices. Written in place, for a mount stays on its file."""
        self._write(PROC_DEVICES, (self.sim.proc / "devices").read_text())

    def systemctl(self, *words: str, check: bool = True) -> str:
        """Run systemctl on the host and return what it printed."""
        return self.node.run(["systemctl", *words], check=check).stdout

    def show(self, name: str, unit: str = UNIT) -> str:
        """Return one property of a unit."""
        return self.systemctl("show", "-P", name, unit).strip()

    def journal(self, *words: str) -> str:
        """Return the unit's journal."""
        return self.node.run(["journalctl", "--no-pager", "-u", UNIT, *words]).stdout

    def processes(self) -> list[int]:
        """Pids, on the host, of the unit's processes."""
        return [int(word) for word in self._cgroup_file("systemd", "cgroup.procs").split()]

    def allowed_devices(self) -> list[str]:
        """What the device controller lets the unit's processes open and make, as the kernel says it."""
        return self._cgroup_file("devices", "devices.list").splitlines()

    def signal(self, name: str) -> None:
        """Send a signal to the unit's main process."""
        self.systemctl("kill", "--kill-who=main", f"--signal={name}", UNIT)

    def freeze(self, pid: str) -> None:
        """Hold all threads of a process but its first, until it is gone."""
        self._write(FREEZE_PROGRAM, Path(__file__).with_name("systemd_freeze.py").read_text())
        holder = self.node.popen(["python3", "-IB", FREEZE_PROGRAM, pid])
        wait_for("threads held", lambda: holder.output().strip(), 20)

    def answers(self) -> bool:
        """Whether the service's health endpoint finds that both of its sockets answer."""
        script = f"import urllib.request as r; r.urlopen('http://{ENDPOINT}/healthz', timeout=10)"
        return self.node.run(["python3", "-IBc", script], check=False).returncode == 0

    def wait_registered_anew(self) -> None:
        """Wait until the kubelet has registered the running instance."""
        words = ("-o", "cat", f"_PID={self.show('MainPID')}")
        wait_for("registered", lambda: "registered by the kubelet" in self.journal(*words), 30)

    def _cgroup_file(self, hierarchy: str, name: str) -> str:
        path = f"/sys/fs/cgroup/{hierarchy}{self.show('ControlGroup')}/{name}"
        return self.node.run(["cat", path]).stdout

    def probe(self, *, sandboxed: bool = True) -> Answers:
        """Return what ``systemd_probe`` could do with all settings of the unit but what it runs; or with none."""
        self._write(PROBE_PROGRAM, Path(__file__).with_name("systemd_probe.py").read_text())
        script = (
            "mknod /dev/probe-disk b 8 0; mkdir -p /dev/nvidia-caps /var/lib/kubelet/pods/probe"
        )
        self.node.run(["sh", "-ec", script])
        other = self.node.popen(["setpriv", "--reuid=65534", "sleep", "60"])
        try:
            found = wait_for("another user's process", self._pid_of_nobody, 10)
            argv = ["/usr/bin/python3", "-IB", PROBE_PROGRAM, BRIDGE_ADDRESS, "6443", found]
            if sandboxed:
                output = self._run_as_unit(argv)
            else:
                output = self.node.run(["unshare", "--mount", "--uts", *argv]).stdout
        finally:
            other.end(kill=True)
            self.node.run(["rm", "/dev/probe-disk"])
        answers: Answers = json.loads(output)
        return answers

    def _pid_of_nobody(self) -> str:
        return self.node.run(["pgrep", "-n", "-u", "65534", "sleep"], check=False).stdout.strip()

    def _run_as_unit(self, argv: Sequence[str]) -> str:
        text = probe_unit((UNITS / UNIT).read_text(), argv)
        self._write(f"/run/systemd/system/{PROBE_UNIT}", text)
        self.systemctl("daemon-reload")
        self.systemctl("start", PROBE_UNIT)
        return self.node.path(PROBE_OUTPUT).read_text()

    def _write(self, path: str, text: str, mode: int = 0o644) -> None:
        target = self.node.path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        target.chmod(mode)


def units() -> list[Path]:
    """The files of ``systemd/`` that are units."""
    return sorted(p for p in UNITS.iterdir() if p.suffix in (".service", ".target"))


def probe_unit(text: str, argv: Sequence[str]) -> str:
    """Return a unit that runs ``argv`` once, with every other line of ``[Service]`` as it is in ``text``."""
    service = text.partition("[Service]\n")[2].partition("[Install]")[0]
    kept = [line for line in service.splitlines() if line.partition("=")[0] not in REPLACED]
    new = [
        "Type=oneshot",
        f"ExecStart={shlex.join(argv)}",
        f"StandardOutput=truncate:{PROBE_OUTPUT}",
    ]
    return "\n".join(["[Service]", *new, *kept, ""])


def settings(sim: SimRoot) -> str:
    """Return /etc/nvdra/config.yaml for a simulated host; all else is the default."""
    return (
        f"nvidiaDriverRoot: {sim.path}\n"
        f"devRoot: {sim.path}/dev\n"
        f"procRoot: {sim.proc}\n"
        f"sysRoot: {sim.sys}\n"
        f"httpEndpoint: {ENDPOINT}\n"
        "logVerbosity: 4\n"
    )


@contextmanager
def up(name: str, profile: str = "h100x8") -> Iterator[tuple[Bed, UnitNode]]:
    """A cluster of one systemd host with the service installed and not yet started; all gone afterwards."""
    lifecycle.down(name)
    home = sim_home(name)
    shutil.rmtree(home, ignore_errors=True)
    sim = SimRoot.create(home / NODE_NAME, profile)
    code = home / "lib"
    for package in ("nvdra_core", "nvdra_node"):
        shutil.copytree(TOP / package, code / package, ignore=shutil.ignore_patterns("__pycache__"))
    (code / "site-packages").mkdir()
    toolkit = programs.NVIDIA.home()
    binds = [
        (sim.path, str(sim.path)),
        (code, LIBRARY),
        (site_packages(), f"{LIBRARY}/site-packages"),
        (toolkit / "nvidia-ctk", "/usr/bin/nvidia-ctk"),
        (toolkit / "nvidia-cdi-hook", "/usr/bin/nvidia-cdi-hook"),
    ]
    try:
        with Cluster.up(name, nodes=[NODE_NAME], systemd_nodes=1, binds=binds) as cluster:
            cluster.apply(DEVICE_CLASSES.read_text())
            node = UnitNode(cluster.nodes[0], sim)
            node.install()
            yield Bed(cluster, [node]), node
    finally:
        shutil.rmtree(home, ignore_errors=True)


def site_packages() -> Path:
    """Return a directory with the pinned dependencies of the node extra for the host's Python, made once."""
    pins = (TOP / "tests" / "requirements.txt").read_text().splitlines()
    wanted = {
        n: next(p for p in pins if p.startswith(f"{n}==")) for n in (*_PACKAGES, *_SOURCE_PACKAGES)
    }
    key = hashlib.sha256(repr((sorted(wanted.values()), HOST_PYTHON)).encode()).hexdigest()[:12]
    home = programs.cache_dir() / "site-packages" / f"py{HOST_PYTHON}-{key}"
    if home.is_dir():
        return home
    home.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home.parent, prefix=".making-") as making:
        target = Path(making, "packages")
        wheels = [wanted[name] for name in _PACKAGES]
        _pip(target, "--only-binary=:all:", f"--python-version={HOST_PYTHON}", *wheels)
        _pip(target, *(wanted[name] for name in _SOURCE_PACKAGES))
        target.rename(home)
    return home


def _pip(target: Path, *words: str) -> None:
    argv = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile"]
    subprocess.run([*argv, "--upgrade", f"--target={target}", *words], check=True, timeout=300)
