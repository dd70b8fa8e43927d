"""The hosts of a rack: systemd hosts that are nodes of a real cluster, with a simulated NVIDIA driver and without nvdra.

``Rack.up`` makes them; Ansible does the rest, over ``ssh`` in place of the real one.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.beds.cluster import lifecycle
from tests.beds.cluster.api import Cluster
from tests.beds.cluster.artifacts import build, programs
from tests.beds.cluster.driver.base import sim_home
from tests.beds.cluster.driver.gpu_bed import DEVICE_CLASSES, Bed, GpuNode
from tests.beds.cluster.machine.node import Node
from tests.beds.host import debian, standins
from tests.sim.api import SimRoot
from tests.sim.imex import install as sim_imex

SSH = Path(__file__).with_name("ssh.py")
NAME = "rack"
PROFILE = "gb200-nvl4"
PROC_DEVICES = "/run/proc-devices"
_IMEX = {"nvidia-imex": "--nogpu", "nvidia-imex-ctl": ""}
"""NVIDIA's programs of a fabric, simulated; the kernel's session would be a file that the sandbox keeps read-only."""


def host_names(count: int, racks: int) -> dict[str, list[str]]:
    """Names of the hosts by rack: ``rack1``: rack1-01, rack1-02 and so on."""
    share = -(-count // racks)
    names: dict[str, list[str]] = {}
    for number in range(count):
        rack = f"rack{number // share + 1}"
        names.setdefault(rack, []).append(f"{rack}-{number % share + 1:02}")
    return names


class Rack:
    """Hosts that are up."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.name = cluster.name
        self.hosts = {node.name: node for node in cluster.nodes}
        home = sim_home(cluster.name)
        nodes = [GpuNode(node, SimRoot.open(home / node.name)) for node in cluster.nodes]
        self.bed = Bed(cluster, nodes)
        """The hosts as a bed: slices, pods, leftovers of claims."""

    @classmethod
    def up(cls, name: str = NAME, hosts: int = 3, racks: int = 2) -> Rack:
        """Bring the hosts up: systemd, containerd, kubelet, a GB200 tray's driver; no nvdra."""
        build.ensure(programs.NEWEST)
        lifecycle.down(name)
        home = sim_home(name)
        shutil.rmtree(home, ignore_errors=True)
        names = [host for rack in host_names(hosts, racks).values() for host in rack]
        for number, host in enumerate(names):
            sim_imex.install(SimRoot.create(home / host, PROFILE, node=number).path)
        toolkit = programs.NVIDIA.home()
        binds = [(home, str(home))]
        binds += [
            (toolkit / tool, f"/usr/bin/{tool}") for tool in ("nvidia-ctk", "nvidia-cdi-hook")
        ]
        cluster = Cluster.up(name, names, systemd_nodes=hosts, binds=binds)
        try:
            cluster.apply(DEVICE_CLASSES.read_text())
            rack = cls(cluster)
            rack._install_standins()
            (cluster.layout.home / "inventory.json").write_text(json.dumps(rack.inventory()))
            _write_ssh(cluster.layout.home)
            return rack
        except BaseException:
            down(name)
            raise

    @classmethod
    def load(cls, name: str = NAME) -> Rack:
        """A rack that another program brought up."""
        return cls(Cluster.load(name))

    def down(self) -> None:
        """Remove everything."""
        self.cluster.down()
        down(self.name)

    def __enter__(self) -> Rack:
        self.cluster.__enter__()
        return self

    def __exit__(self, *exc: object) -> None:
        self.down()

    @property
    def home(self) -> Path:
        """The directory of everything that the rack writes."""
        return self.cluster.layout.home

    def boot(self, host: str) -> None:
        """Show a host's systemd the driver's devices: once after each start of the host."""
        node = self.hosts[host]
        node.path(PROC_DEVICES).write_text((self.bed.nodes[host].sim.proc / "devices").read_text())
        node.run(["mount", "--bind", PROC_DEVICES, "/proc/devices"])

    def keep_logs(self, place: Path) -> None:
        """Copy all logs to ``place``, which is replaced."""
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(self.home / "logs", place)

    def version(self, host: str) -> str:
        """Version of the package that is installed; empty when none is."""
        return debian.installed_version(self.hosts[host])

    def inventory(self) -> dict[str, Any]:
        """The inventory that an operator writes for these racks: ranges of hosts and their variables."""
        root = f"{sim_home(self.name)}/{{{{ inventory_hostname }}}}"
        racks: dict[str, list[str]] = {}
        for host in self.hosts:
            racks.setdefault(host.partition("-")[0], []).append(host)
        children: dict[str, Any] = {
            rack: {"hosts": {f"{rack}-[01:{len(hosts):02}]": {}}} for rack, hosts in racks.items()
        }
        connection = {
            "ansible_host": "{{ inventory_hostname }}",
            "ansible_ssh_executable": str(self.home / "ssh"),
            "ansible_ssh_transfer_method": "piped",
            "ansible_python_interpreter": "/usr/bin/python3",
            "ansible_become": False,
            "ansible_pipelining": True,
        }
        settings = {
            "nvdra_config": {
                "nvidiaDriverRoot": root,
                "devRoot": f"{root}/dev",
                "procRoot": f"{root}/proc",
                "sysRoot": f"{root}/sys",
            },
            "nvdra_min_devices": 4,
        }
        return {"nvdra": {"children": children, "vars": {**connection, **settings}}}

    def _install_standins(self) -> None:
        """Install stand-ins of dependencies that no registry here has; their programs are bound in."""
        with tempfile.TemporaryDirectory() as scratch:
            package = standins.make(
                Path(scratch), standins.TOOLKIT, version=standins.TOOLKIT_VERSION
            ).read_bytes()

        def install(item: tuple[str, Node]) -> None:
            name, node = item
            node.path("/var/tmp/toolkit.deb").write_bytes(package)
            for program, options in _IMEX.items():
                path = node.path(f"/usr/bin/{program}")
                there = f"{sim_home(self.name)}/{name}/usr/bin/{program}"
                path.write_text(f'#!/bin/sh\nexec python3 {there} {options} "$@"\n')
                path.chmod(0o755)
            # The sandbox hides /var/lib: bind the simulated program.
            drop_in = node.path("/etc/systemd/system/nvdra-imex.service.d/simulated.conf")
            drop_in.parent.mkdir(parents=True, exist_ok=True)
            drop_in.write_text(f"[Service]\nBindReadOnlyPaths={sim_home(self.name)}/{name}\n")
            # Faster: nothing of a rack survives it, so dpkg need not sync.
            node.path("/etc/dpkg/dpkg.cfg.d/unsafe-io").write_text("force-unsafe-io\n")
            node.run(["dpkg", "-i", "/var/tmp/toolkit.deb"])
            self.boot(name)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(install, self.hosts.items()))


def down(name: str) -> None:
    """Remove a rack, also one whose start was cut short."""
    lifecycle.down(name)
    shutil.rmtree(sim_home(name), ignore_errors=True)


def _write_ssh(home: Path) -> None:
    ssh = home / "ssh"
    ssh.write_text(f'#!/bin/sh\nexec {sys.executable} -ISB {SSH} {home} "$@"\n')
    ssh.chmod(0o755)
