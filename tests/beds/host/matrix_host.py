"""A host with one release of systemd on which the deb is installed, with an API server in memory and a small kubelet.

Real kubelets run only on one of these releases (``package_host``). Here a small kubelet calls the services; package,
scripts, dpkg, systemd, sandboxes and services are real.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nvdra_packages.layout import TOP
from tests.beds.cluster.artifacts import host_image, programs
from tests.beds.cluster.artifacts.build import install_packages
from tests.beds.cluster.machine.processes import Process
from tests.beds.host import debian, standins
from tests.beds.host.unit_bed import settings
from tests.beds.host.units import UNIT
from tests.beds.host.versions import Release, VersionHost, ensure
from tests.beds.rack.releases import Releases
from tests.beds.services import kubelet
from tests.lib import objects
from tests.lib.waits import WaitError, wait_until
from tests.sim.api import SimRoot

NODE = "node-1"
DRIVER = "gpu.nvidia.com"
PLACE = "team"
CLAIMS = {"first": "gpu-0", "second": "gpu-1", "third": "gpu-2"}
"""Name of a claim -> the device that it was allocated."""
PORT = 18443
DEBS = "/opt/packages"
PATIENCE_S = 120.0

_HOME = Path("/var/lib/nvdra-matrix")
_PACKAGES = ("ca-certificates", "libstdc++6", "procps", "python3")
"""Dependencies of the deb."""
_ASK = """\
import json, sys, urllib.request
with urllib.request.urlopen(sys.argv[1]) as answer:
    sys.stdout.write(answer.read().decode())
"""


class MatrixHost(VersionHost):
    """See the module."""

    def __init__(self, release: Release, home: Path, sim: SimRoot) -> None:
        super().__init__(release, home, sim)
        self._cgroup = f"nvdra-matrix.{release.name}"
        self._api: Process | None = None

    def system(self) -> Path:
        """See VersionHost."""
        return ensure(self.release, _PACKAGES)

    def install_units(self) -> None:
        """Remove our files, which the package installs."""
        self.run(["rm", "-rf", "/usr/bin/nvdra-node", "/etc/nvdra"])
        self.boot()

    def bring(self, packages: Releases) -> None:
        """Put the packages on the host, and the API server beside it."""
        place = self._home / "packages"
        home = programs.NVIDIA.home()
        tools = {f"/usr/bin/{name}": home / name for name in ("nvidia-ctk", "nvidia-cdi-hook")}
        made = standins.make(place, standins.TOOLKIT, files=tools, version=standins.TOOLKIT_VERSION)
        target = self.path(DEBS)
        target.mkdir(parents=True, exist_ok=True)
        for name, deb in (
            ("this", packages.this),
            ("next", packages.next),
            ("older", packages.older),
        ):
            shutil.copy(next(deb.glob("*.deb")), target / f"{name}.deb")
        shutil.copy(made, target / "toolkit.deb")
        self.write("/etc/dpkg/dpkg.cfg.d/unsafe-io", "force-unsafe-io\n")
        self._start_api()

    def _start_api(self) -> None:
        stored = [objects.obj("Node", NODE)]
        for name, device in CLAIMS.items():
            allocation = objects.allocation(objects.result(device, NODE), node=NODE)
            claim = objects.claim(name, PLACE, objects.request(), status={"allocation": allocation})
            stored.append(claim)
        path = self._home / "objects.json"
        path.write_text(json.dumps(stored))
        kubeconfig = self._home / "kubeconfig"
        argv = [sys.executable, "-m", "tests.fakes.apiserver", "--port", str(PORT)]
        argv += ["--objects", str(path), "--kubeconfig", str(kubeconfig)]
        inside = ["nsenter", "-t", str(self._leader()), "-n", "--", *argv]
        self._api = self._start(inside, "api", {"PYTHONPATH": str(TOP)})
        wait_until("the API server", kubeconfig.exists, PATIENCE_S)

    def configure(self) -> None:
        """Write the settings (paths of the simulated driver) and a credential."""
        self.write("/etc/nvdra/config.yaml", f"{settings(self.sim)}nodeName: {NODE}\n")
        text = (self._home / "kubeconfig").read_text()
        self.write("/etc/nvdra/kubeconfig", text, mode=0o600)

    def apt(self, *words: str, check: bool = True) -> str:
        """Run apt-get; package files are named as they lie in ``DEBS``."""
        return debian.apt(self, DEBS, *words, check=check)

    def package(self) -> str:
        """Version of the installed package; empty when it is not installed."""
        return debian.installed_version(self)

    def begin(self) -> None:
        """Install, configure, enable and start, as an operator does."""
        self.apt("install", "this.deb", "toolkit.deb")
        self.configure()
        self.systemctl("enable", "--now", "nvdra.target")
        try:
            wait_until("eight devices published", lambda: len(self.devices()) == 8, PATIENCE_S)
        except WaitError as error:
            raise WaitError(f"{error}\n{self.journal()}") from error

    def ask(self, path: str) -> Any:
        """Ask the API server."""
        argv = ["python3", "-IBc", _ASK, f"http://127.0.0.1:{PORT}{path}"]
        return json.loads(self.run(argv).stdout)

    def devices(self) -> list[str]:
        """Names of the published devices."""
        slices = self.ask("/apis/resource.k8s.io/v1/resourceslices")["items"]
        return [device["name"] for item in slices for device in item["spec"].get("devices", ())]

    @contextmanager
    def plugin(self) -> Iterator[kubelet.Plugin]:
        """The service as a kubelet reaches it."""
        registry = self.path("/var/lib/kubelet/plugins_registry")
        found = kubelet.Kubelet(registry).register(DRIVER)
        # The service names the path on the host.
        found.channel.close()
        found.channel = kubelet.connect(self.path(found.info.endpoint))
        try:
            yield found
        finally:
            found.close()

    def claim(self, name: str) -> tuple[str, str, str]:
        """Namespace, name and UID of a claim."""
        path = f"/apis/resource.k8s.io/v1/namespaces/{PLACE}/resourceclaims/{name}"
        return PLACE, name, self.ask(path)["metadata"]["uid"]

    def prepare(self, *names: str) -> dict[str, list[kubelet.Prepared]]:
        """Prepare claims; the devices of each."""
        with self.plugin() as plugin:
            answers = plugin.prepare(*(self.claim(name) for name in names))
        assert answers.errors == {}
        return answers.devices

    def unprepare(self, *names: str) -> None:
        """Release claims."""
        with self.plugin() as plugin:
            assert plugin.unprepare(*(self.claim(name) for name in names)).errors == {}

    def kept(self) -> dict[str, bytes]:
        """Content of all records and CDI files of claims."""
        places = {f"/var/lib/nvdra/{DRIVER}/claims": "*.json", "/run/cdi": f"*{DRIVER}*"}
        return {
            str(path): path.read_bytes()
            for place, pattern in places.items()
            for path in self.path(place).glob(pattern)
        }

    def pid(self) -> str:
        """Main process of the service; 0 when it does not run."""
        return self.show("MainPID", UNIT)


@contextmanager
def booted(release: Release, packages: Releases) -> Iterator[MatrixHost]:
    """A host of a release without the package; removed afterwards."""
    install_packages(packages=host_image.TOOLS)
    home = _HOME / release.name
    host = MatrixHost(release, home, SimRoot.create(home / "sim", "h100x8"))
    host.end()
    for name in ("pids", "root", "upper", "work", "packages"):
        shutil.rmtree(home / name, ignore_errors=True)
        (home / name).mkdir()
    try:
        host.start()
        host.bring(packages)
        yield host
    finally:
        host.end()
        shutil.rmtree(home, ignore_errors=True)
