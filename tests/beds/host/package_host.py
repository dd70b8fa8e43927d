"""A host of a real cluster on which the package is installed as an operator does it: ``apt install``, ``systemctl``.

The simulated driver's files lie where a driver package puts them, so the default settings work. A drop-in binds the
simulated /proc and /sys for the service.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.beds.cluster import lifecycle
from tests.beds.cluster.api import Cluster
from tests.beds.cluster.artifacts import programs
from tests.beds.cluster.driver.base import sim_home
from tests.beds.cluster.driver.gpu_bed import DEVICE_CLASSES, Bed, GpuNode
from tests.beds.host import debian, standins
from tests.packages.conftest import Packages
from tests.sim.api import SimRoot

NODE_NAME = "node-1"
UNIT = "nvdra-gpu-plugin.service"
TARGET = "nvdra.target"
PACKAGES_DIR = "/opt/packages"

_DROP_IN = f"/etc/systemd/system/{UNIT}.d/simulated-kernel.conf"
_SEEN = ("proc/devices", "proc/driver", "sys/bus/pci", "sys/devices", "sys/module")
_DRIVER = """\
cp -a "$1/usr/." /usr/
cp -a "$1/lib/firmware" /usr/lib/
cp -a "$1/dev/." /dev/
ldconfig
"""


class PackageHost(GpuNode):
    """One node, and what an operator types there."""

    def sh(self, *argv: str, check: bool = True) -> str:
        """Run a command on the host and return what it printed."""
        return self.node.run(argv, check=check, timeout_s=300).stdout

    def apt(self, *words: str) -> str:
        """Run apt-get; package files are named as they lie in ``PACKAGES_DIR``."""
        return debian.apt(self.node, PACKAGES_DIR, *words)

    def version(self) -> str:
        """The installed package's version; empty when it is not installed."""
        return debian.installed_version(self.node)

    def pid(self) -> int:
        """Main process of the service; 0 when it does not run."""
        return int(self.sh("systemctl", "show", "-P", "MainPID", UNIT))

    def start(self) -> None:  # type: ignore[override]  # the process is systemd's, not ours to hold
        """Enable and start the target."""
        self.sh("systemctl", "enable", "--now", TARGET)

    def stop(self, *, kill: bool = False) -> None:
        """Stop the service."""
        self.sh("systemctl", "stop", TARGET, UNIT, check=False)

    def load_driver(self) -> None:
        """Install the driver's files and device nodes, and bind the simulated /proc and /sys."""
        self.sh("sh", "-ec", _DRIVER, "sh", str(self.sim.path))
        binds = " ".join(f"{self.sim.path}/{name}:/{name}" for name in _SEEN)
        self.write(_DROP_IN, f"[Service]\nBindReadOnlyPaths={binds}\n")
        self.sh("systemctl", "daemon-reload")

    def write(self, path: str, text: str) -> None:
        """Write a file of the host."""
        target = self.node.path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)


@contextmanager
def up(name: str, packages: Packages) -> Iterator[tuple[Bed, PackageHost]]:
    """A cluster of one host with the driver and without the package; removed afterwards."""
    lifecycle.down(name)
    home = sim_home(name)
    shutil.rmtree(home, ignore_errors=True)
    sim = SimRoot.create(home / NODE_NAME, "h100x8")
    binds = [(sim.path, str(sim.path)), (_collect(packages, home / "packages"), PACKAGES_DIR)]
    try:
        with Cluster.up(name, nodes=[NODE_NAME], systemd_nodes=1, binds=binds) as cluster:
            cluster.apply(DEVICE_CLASSES.read_text())
            host = PackageHost(cluster.nodes[0], sim)
            host.load_driver()
            # The kubelet retries a failed prepare at the next sync of the pod.
            host.configure_kubelet(syncFrequency="5s")
            yield Bed(cluster, [host]), host
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _collect(packages: Packages, place: Path) -> Path:
    """The packages in one directory, and the toolkit's with its real programs."""
    home = programs.NVIDIA.home()
    files = {f"/usr/bin/{name}": home / name for name in ("nvidia-ctk", "nvidia-cdi-hook")}
    standins.make(place, standins.TOOLKIT, files=files, version=standins.TOOLKIT_VERSION)
    shutil.copy(packages.deb, place / "nvdra.deb")
    shutil.copy(packages.next_deb, place / "nvdra-next.deb")
    return place
