"""The shipped service on a cluster node with a systemd of its own, laid out as the packages install it: ``up``.

Code and the packages' pinned dependencies are in /usr/lib/nvdra, units in /usr/lib/systemd/system, settings in
/etc/nvdra/config.yaml.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.beds.cluster import lifecycle
from tests.beds.cluster.api import Cluster
from tests.beds.cluster.artifacts import programs
from tests.beds.cluster.driver.base import sim_home
from tests.beds.cluster.driver.gpu_bed import DEVICE_CLASSES, TOP, Bed, GpuNode
from tests.beds.cluster.machine.node import Node
from tests.beds.host.units import UnitHost
from tests.lib.waits import wait_until
from tests.sim.api import SimRoot

ENDPOINT = "127.0.0.1:9899"
NODE_NAME = "node-1"
LIBRARY = "/usr/lib/nvdra"
HOST_PYTHON = "3.11"
"""Debian 12's."""

_SOURCE_PACKAGES = ("sdnotify",)
"""Published as source only; pure Python."""

_LAUNCHER = f"""\
#!/usr/bin/python3 -IB
import sys
sys.path[:0] = ["{LIBRARY}", "{LIBRARY}/site-packages"]
from nvdra_node.cli import main
sys.exit(main())
"""


class UnitNode(GpuNode, UnitHost):
    """A node on which the service is a unit of the host's own systemd."""

    @property
    def machine(self) -> Node:
        """See UnitHost."""
        return self.node

    def install(self) -> None:
        """Install everything as the package does; the driver is loaded, the service not started."""
        self.write("/usr/bin/nvdra-node", _LAUNCHER, mode=0o755)
        self.write("/etc/nvdra/config.yaml", settings(self.sim))
        # A package ships compiled files; the service itself must never write there.
        self.node.run(["python3", "-m", "compileall", "-q", LIBRARY], timeout_s=120)
        self.install_units()

    def processes(self) -> list[int]:
        """Pids, on the host, of the service's processes."""
        return [int(word) for word in self._cgroup_file("systemd", "cgroup.procs").split()]

    def allowed_devices(self) -> list[str]:
        """The service's device list in the kernel's device controller."""
        return self._cgroup_file("devices", "devices.list").splitlines()

    def memory_limit(self) -> int:
        """The service's memory limit in the kernel, in bytes."""
        return int(self._cgroup_file("memory", "memory.limit_in_bytes"))

    def answers(self) -> bool:
        """Whether the service's health endpoint reports that both sockets answer."""
        script = f"import urllib.request as r; r.urlopen('http://{ENDPOINT}/healthz', timeout=10)"
        return self.node.run(["python3", "-IBc", script], check=False).returncode == 0

    def wait_registered_again(self) -> None:
        """Wait until the kubelet has registered the running instance."""
        words = ("-o", "cat", f"_PID={self.show('MainPID')}")
        wait_until("registered", lambda: "registered by the kubelet" in self.journal(*words), 30)

    def _cgroup_file(self, hierarchy: str, name: str) -> str:
        path = f"/sys/fs/cgroup/{hierarchy}{self.show('ControlGroup')}/{name}"
        return self.node.run(["cat", path]).stdout


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
    """A cluster of one systemd host with the service installed and not yet started; removed afterwards."""
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
    """Return a directory with the packages' pinned wheels for the host's Python, made once."""
    text = (TOP / "packaging" / "requirements-node.txt").read_text()
    pins = dict(re.findall(r"^([\w-]+)(==\S+)", text, re.MULTILINE))
    key = hashlib.sha256(repr((sorted(pins.items()), HOST_PYTHON)).encode()).hexdigest()[:12]
    home = programs.cache_dir() / "site-packages" / f"py{HOST_PYTHON}-{key}"
    if home.is_dir():
        return home
    home.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home.parent, prefix=".making-") as making:
        target = Path(making, "packages")
        sources = [name + pins.pop(name) for name in _SOURCE_PACKAGES]
        wheels = [name + pin for name, pin in pins.items()]
        _pip(target, "--only-binary=:all:", f"--python-version={HOST_PYTHON}", *wheels)
        _pip(target, *sources)
        target.rename(home)
    return home


def _pip(target: Path, *words: str) -> None:
    argv = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile"]
    subprocess.run([*argv, "--upgrade", f"--target={target}", *words], check=True, timeout=300)
