"""Trays of a rack: the shipped services on a simulated driver, nvidia-imex and systemd, with one fake API server.

The controller is the test: it writes FabricNodes as the real one would.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc

from nvdra_core.errors import ApiError
from nvdra_core.kube.resources import CLAIMS, FABRIC_NODES, SLICES
from nvdra_core.runtime.clock import Deadline, SystemClock
from nvdra_node.kube.client import Client
from tests.beds.services.kubelet import Kubelet, Plugin, RegistrationError
from tests.fakes.apiserver.server import FakeApiServer
from tests.lib import objects
from tests.lib.objects import obj
from tests.lib.waits import wait_until
from tests.sim.api import SimRoot
from tests.sim.imex import install

DRIVER = "compute-domain.nvidia.com"
TOP = Path(__file__).parents[3]
TIMEOUT_S = 90.0
CALL_S = 45.0
"""The kubelet's own."""
SLOTS = 4
NETWORK = ("fd00:8::", "127.0.8.")
"""Addresses of the trays, and where they are reached on this machine."""


class Tray:
    """One node."""

    def __init__(self, rack: Rack, index: int, profile: str) -> None:
        self.rack = rack
        self.index = index
        self.name = f"tray-{index}"
        self.address = f"{NETWORK[0]}{index + 1}"
        self.home = rack.directory / f"t{index}"
        self.root = SimRoot.create(self.home / "root", profile, node=index)
        self.imex_dir = self.home / "imex"
        self.services: dict[str, subprocess.Popen[bytes]] = {}
        self.broker: subprocess.Popen[bytes] | None = None
        """Stands, with the simulated systemctl, for systemd."""
        install.install(self.root.path, python=sys.executable, with_systemd=True)
        install.configure(
            self.root.path, time_scale=0.05, hosts=str(self.imex_dir / "hosts"),
            nsswitch=str(self.imex_dir / "nsswitch.conf"), persist_dir=str(self.imex_dir / "persist"),
            unit_config=str(self.imex_dir / "imexd.cfg"), loopback_network=list(NETWORK),
        )  # fmt: skip
        packed = ipaddress.IPv6Address(self.address).packed.hex()
        addresses = self.root.proc / "net/if_inet6"
        addresses.parent.mkdir(parents=True, exist_ok=True)
        addresses.write_text(f"{packed} 02 40 00 80     eth0\n")
        self.registry = self.home / "registry"
        self.registry.mkdir(parents=True)
        self.cdi = self.home / "cdi"
        self.kubelet = Kubelet(self.registry)
        self.plugin: Plugin | None = None

    def settings(self, **more: Any) -> Path:
        programs = self.root.path / "usr/bin"
        values = {
            "nodeName": self.name, "kubeconfig": str(self.rack.kubeconfig),
            "nvidiaDriverRoot": str(self.root.path), "devRoot": str(self.root.path / "dev"),
            "procRoot": str(self.root.proc), "sysRoot": str(self.root.sys),
            "cdiRoot": str(self.cdi), "stateDir": str(self.home / "state"),
            "kubeletRegistrarDirectoryPath": str(self.registry),
            "kubeletPluginsDirectoryPath": str(self.home / "plugins"),
            "imexDir": str(self.imex_dir), "imexAddress": self.address,
            "imexPath": str(programs / "nvidia-imex"), "imexCtlPath": str(programs / "nvidia-imex-ctl"),
            "systemctlPath": str(programs / "systemctl"),
            "unitBrokerSocket": str(self.home / "units.sock"),
            "journalctlPath": str(programs / "journalctl"), "imexLingerSeconds": 1,
            "imexPersistDir": str(self.imex_dir / "persist"), "logVerbosity": 4,
            "imexEncryption": "disabled", "sweepIntervalSeconds": 600,
        } | more  # fmt: skip
        path = self.home / "config.yaml"
        path.write_text(json.dumps(values))
        return path

    def start(self, *services: str, **settings: Any) -> None:
        """Start `imex-supervisor` and `compute-domain`, or one of them; before the first, the unit broker."""
        config = self.settings(**settings)
        if self.broker is None:
            self.start_broker()
        for service in services or ("imex-supervisor", "compute-domain"):
            words = ("-m", "nvdra_node", service, "--config", str(config))
            self.services[service] = self._popen(service, *words)

    def _popen(self, name: str, *words: str) -> subprocess.Popen[bytes]:
        with (self.home / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, *words],
                stderr=log, stdout=log, cwd=TOP, env={**os.environ, "PYTHONPATH": str(TOP)},
            )  # fmt: skip

    def start_broker(self) -> None:
        """Start the unit broker with the last settings; ``start`` does it the first time."""
        words = ("-m", "tests.sim.broker", str(self.home / "config.yaml"))
        self.broker = self._popen("unit-broker", *words)
        wait_until("the unit broker", (self.home / "units.sock").is_socket)

    def kill_broker(self) -> None:
        """End it abruptly, with its socket."""
        assert self.broker is not None
        self.broker.kill()
        self.broker.wait(TIMEOUT_S)
        (self.home / "units.sock").unlink()

    def stop(self, service: str, number: signal.Signals = signal.SIGTERM) -> int:
        process = self.services.pop(service)
        process.send_signal(number)
        return process.wait(TIMEOUT_S)

    def register(self) -> Plugin:
        if self.plugin is not None:
            self.plugin.close()
        self.kubelet.wait_for_socket(DRIVER, TIMEOUT_S)
        self.plugin = wait_until(f"{self.name} registers", self._try_to_register)
        return self.plugin

    def _try_to_register(self) -> Plugin | None:
        try:
            return self.kubelet.register(DRIVER)
        except (RegistrationError, grpc.RpcError):  # the socket of an earlier instance
            return None

    def prepare(self, *claims: str, timeout_s: float = CALL_S) -> Any:
        assert self.plugin is not None
        return self.plugin.prepare(
            *(("ns", c, self.rack.uids[c]) for c in claims), timeout_s=timeout_s
        )

    def wait_for_error(self, claim: str, *texts: str) -> str:
        """Prepare until it fails with all ``texts`` in the message; the message."""
        uid = self.rack.uids[claim]
        said = [""]
        timeout_s = [0.5]

        def failure() -> str:
            try:
                said[0] = str(self.prepare(claim, timeout_s=timeout_s[0]).errors.get(uid, ""))
            except grpc.RpcError as error:  # a machine so busy that the answer came too late
                said[0] = str(error)
            timeout_s[0] = min(2 * timeout_s[0], 10.0)
            return said[0] if all(text in said[0] for text in texts) else ""

        try:
            return str(wait_until(f"{claim} fails with {texts}", failure))
        except AssertionError as error:
            raise AssertionError(f"{error}; its error is {said[0]!r}") from None

    def unprepare(self, *claims: str) -> Any:
        assert self.plugin is not None
        return self.plugin.unprepare(
            *(("ns", c, self.rack.uids[c]) for c in claims), timeout_s=CALL_S
        )

    def cdi_spec(self, claim: str) -> Any:
        path = self.cdi / f"k8s.compute-domain.nvidia.com-claim_{self.rack.uids[claim]}.yaml"
        return json.loads(path.read_text()) if path.exists() else None

    def imex(self) -> dict[str, Any]:
        """State of the daemon in the simulated systemd and kernel."""
        units = self.root.path / "run/nvsim/units.json"
        known = json.loads(units.read_text()) if units.exists() else {"ActiveState": "inactive"}
        return {**known, **{"session": install.session(self.root.path)}}

    def kill_imex(self) -> None:
        os.kill(wait_until("nvidia-imex runs", lambda: self.imex().get("pid")), signal.SIGKILL)

    def status(self) -> dict[str, Any]:
        """The last status. The first one is written a moment after the first claim is answered."""
        status: dict[str, Any] = wait_until(
            f"a report of {self.name}", lambda: self.rack.get(self.name).get("status")
        )
        return status

    def log(self, service: str) -> str:
        return (self.home / f"{service}.log").read_text()

    def end(self) -> None:
        for service in list(self.services):
            self.stop(service, signal.SIGKILL)
        if self.plugin is not None:
            self.plugin.close()
        pid = self.imex().get("pid")
        if pid:
            with contextlib.suppress(ProcessLookupError):  # it was ending by itself
                os.kill(pid, signal.SIGKILL)
            wait_until("nvidia-imex ends", lambda: not self.imex().get("pid"))
        if self.broker is not None:
            self.broker.kill()
            self.broker.wait(TIMEOUT_S)
        self.root.destroy()


class Rack:
    """All trays; acts as the controller."""

    def __init__(
        self,
        directory: Path,
        trays: int,
        profile: str = "gb200-nvl4",
        *,
        has_controller: bool = False,
    ) -> None:
        """`has_controller`: another one makes the FabricNodes."""
        self.directory = directory
        self.server = FakeApiServer()
        self.server.start()
        self.kubeconfig = self.server.write_kubeconfig(directory / "kubeconfig")
        self.client = Client(self.server.config())
        self.port = 41000 + os.getpid() % 2000
        self.domains: dict[str, dict[str, Any]] = {}
        self.uids: dict[str, str] = {}
        self.certificates: dict[str, dict[str, str]] = {}
        self.heartbeat_s = 1
        self.trays = [Tray(self, i, profile) for i in range(trays)]
        for tray in self.trays:
            self.server.add(obj("Node", tray.name))
            if not has_controller:
                self.server.add(obj("FabricNode", tray.name, spec={}))

    def get(self, node: str) -> dict[str, Any]:
        return self.client.get(FABRIC_NODES, node, deadline=Deadline(10, SystemClock()))

    def domain(self, name: str, trays: list[Tray] | None = None, **change: Any) -> str:
        """Create or change a ComputeDomain of these trays."""
        known = self.domains.setdefault(
            name,
            {
                "uid": f"domain-{name}", "namespace": "ns", "name": name, "isolation": "domain",
                "port": self.port + 2000 * len(self.domains), "channel": 0,
            },
        )  # fmt: skip
        known.update(change)
        known["trays"] = [t.index for t in (self.trays if trays is None else trays)]
        self.assign()
        return str(known["uid"])

    def assign(self, **spec: Any) -> None:
        """Write every FabricNode's spec."""
        fabric = self.trays[0].root.profile.fabric
        clique = f"{fabric.cluster_uuid}.{fabric.clique_id}" if fabric.is_multi_node else ""
        slots = [{"index": t.index, "nodeName": t.name, "address": t.address} for t in self.trays]
        for tray in self.trays:
            domains = [
                {key: value for key, value in d.items() if key != "trays"} | {"members": d["trays"]}
                for d in self.domains.values()
                if tray.index in d["trays"]
            ]
            values = {
                "cliqueID": clique, "slotCount": SLOTS, "slots": slots, "domains": domains,
                "heartbeatSeconds": self.heartbeat_s,
            } | ({"slot": tray.index} if clique else {}) | spec  # fmt: skip
            if tray.name in self.certificates:
                values["certificate"] = self.certificates[tray.name]
            self._write(tray.name, values)

    def _write(self, node: str, spec: dict[str, Any]) -> None:
        body = obj("FabricNode", node, spec=spec)
        self.client.merge_patch(FABRIC_NODES, body, deadline=Deadline(10, SystemClock()))

    def claim(
        self, name: str, tray: Tray, domain: str, namespace: str = "ns", mode: str = "Single"
    ) -> str:
        """A claim of this domain, allocated on the tray."""
        parameters = {  # sorted, as the controller writes them
            "allocationMode": mode, "apiVersion": "resource.nvidia.com/v1beta1",
            "domainID": domain, "kind": "ComputeDomainChannelConfig",
        }  # fmt: skip
        request = objects.request(
            "channel",
            "compute-domain-default-channel.nvidia.com",
            allocationMode="ExactCount",
            count=1,
        )
        result = objects.result("channel-0", tray.name, "channel", DRIVER)
        config = objects.opaque(parameters, DRIVER, source="FromClaim")
        allocation = objects.allocation(result, node=tray.name, config=[config])
        body = objects.claim(name, namespace, request, status={"allocation": allocation})
        self.uids[name] = self.server.add(body)["metadata"]["uid"]
        return name

    def forget(self, claim: str) -> None:
        try:
            self.client.delete(CLAIMS, claim, namespace="ns", deadline=Deadline(10, SystemClock()))
        except ApiError as error:
            if error.status != 404:
                raise

    def slices(self, tray: Tray) -> list[dict[str, Any]]:
        found = self.client.list(SLICES, deadline=Deadline(10, SystemClock())).items
        return [
            s
            for s in found
            if s["spec"]["driver"] == DRIVER and s["spec"]["pool"]["name"] == tray.name
        ]

    def devices(self, tray: Tray) -> list[dict[str, Any]]:
        """Published devices. The first slice may be empty, before the supervisor has sent its state."""
        return [device for s in self.slices(tray) for device in s["spec"].get("devices", ())]

    def end(self) -> None:
        for tray in self.trays:
            tray.end()
        self.client.close()
        self.server.stop()
        shutil.rmtree(self.directory, ignore_errors=True)
