"""A node with the shipped GPU driver in the shared transaction, on a fake or simulated host."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from nvdra_core.errors import CommandError
from nvdra_core.gates import FeatureGates
from nvdra_core.runtime.clock import Clock, Deadline
from nvdra_node.cdi.nvidia import CommonEdits
from nvdra_node.cdi.store import SpecFiles
from nvdra_node.cdi.toolkit import Toolkit
from nvdra_node.checkpoint.claim import (
    AllocationResult,
    Claim,
    ClaimRef,
    ClaimUID,
    ConfigSource,
    OpaqueConfig,
)
from nvdra_node.checkpoint.model import PreparedDevice
from nvdra_node.checkpoint.store import RecordStore
from nvdra_node.gpu import registry
from nvdra_node.gpu.driver import GpuDriver
from nvdra_node.gpu.effects.debts import DebtStore
from nvdra_node.gpu.inventory.rescan import Rescanner
from nvdra_node.gpu.kinds.base import SliceSettings
from nvdra_node.gpu.plan import CDI_KIND
from nvdra_node.host.host import Host
from nvdra_node.host.ports import CommandResult, Files, NodeStat
from nvdra_node.kubeletplugin.claims.dependencies import Dependencies
from nvdra_node.kubeletplugin.claims.transaction import Transaction
from tests.fakes.clock import FakeClock
from tests.fakes.driver import FakeClaims
from tests.fakes.host.commands import FakeCommands
from tests.fakes.host.files import FakeFiles, Faults
from tests.fakes.host.host import fake_host
from tests.fakes.host.machine import FakeMachine, fake_gpus
from tests.fakes.host.smi import FakeSmi

HOOK = Path("/usr/bin/nvidia-cdi-hook")
CTK = Path("/usr/bin/nvidia-ctk")
LIBRARY = "/usr/lib/x86_64-linux-gnu/libcuda.so.580.65.06"
COMMON_NODES = ("/dev/nvidiactl", "/dev/nvidia-uvm")
SOCKET = "/run/nvidia-fabricmanager/socket"


def ctk_output(**change):
    """What nvidia-ctk writes, abbreviated."""
    edits = {
        "env": ["NVIDIA_VISIBLE_DEVICES=void"],
        "deviceNodes": [
            {"path": path, "hostPath": path, "major": 195, "minor": 255, "permissions": "rwm"}
            for path in COMMON_NODES
        ],
        "mounts": [
            {"hostPath": LIBRARY, "containerPath": LIBRARY, "options": ["ro"]},
            {"hostPath": SOCKET, "containerPath": SOCKET},
        ],
        "hooks": [{"hookName": "createContainer", "path": str(HOOK), "args": ["nvidia-cdi-hook"]}],
    }
    return {
        "cdiVersion": "0.5.0",
        "kind": "nvidia.com/gpu",
        "devices": [{"name": "none", "containerEdits": {}}],
        "containerEdits": {**edits, **change},
    }


def a_claim(
    uid="c1", devices=("gpu-0",), configs=(), admin=False, source=ConfigSource.CLAIM, shares=()
):
    """``configs``: parameters, or (requests, parameters)."""
    pairs = [c if isinstance(c, tuple) else ((), c) for c in configs]
    shares = shares or [None] * len(devices)
    return Claim(
        ref=ClaimRef("ns", f"claim-{uid}", ClaimUID(uid)),
        results=tuple(
            AllocationResult(
                request=f"r{i}", pool="node", device=device, admin_access=admin, share_id=share
            )
            for i, (device, share) in enumerate(zip(devices, shares, strict=True))
        ),
        configs=tuple(
            OpaqueConfig(source=source, requests=tuple(requests), parameters=parameters, index=i)
            for i, (requests, parameters) in enumerate(pairs)
        ),
    )


class GpuProcess:
    """The shipped GPU driver on a host, fake or simulated; ``restart`` starts another process on the same host."""

    ctk, hook = CTK, HOOK

    def __init__(self, host: Host, clock: Clock, files: Files, root: Path, gates: str) -> None:
        self.host, self.clock, self.files = host, clock, files
        self.state, self.cdi = root / "var/lib/nvdra", root / "run/cdi"
        self.claims = FakeClaims()
        self.gates = FeatureGates.parse(gates)
        self.restart()

    def restart(self, scan: bool = True) -> None:
        records = RecordStore(self.state, self.files)
        records.load()
        toolkit = Toolkit(
            ctk=self.ctk,
            hook=self.hook,
            roots=self.host.roots,
            cache=self.state / "cdi-common.json",
        )
        self.common = CommonEdits(
            toolkit, self.host.commands, self.host.sysfs, self.files, self.clock
        )
        specs = SpecFiles(self.cdi, CDI_KIND, self.files, self.common, self.state / "files")
        specs.open()
        self.rescanner = Rescanner(self.host, self.clock)
        if scan:
            self.rescanner.rescan_if_due()
        debts = DebtStore(self.state / "owed", self.files)
        self.registry = registry.build(self.host, self.rescanner, debts, self.hook)
        self.driver = self.open_driver(self.registry)
        self.deps = Dependencies(
            driver=self.driver,
            claims=self.claims,
            records=records,
            specs=specs,
            clock=self.clock,
            boot_id=self.host.sysfs.boot_id(),
        )
        self.transaction = Transaction(self.deps)

    def open_driver(self, shipped: registry.Registry) -> GpuDriver:
        """The driver with the kinds and effects of this release."""
        return GpuDriver(shipped, self.rescanner, self.gates, SliceSettings())

    def rescan(self) -> None:
        """Scan twice: a GPU that does not answer counts as hung in the second scan."""
        for _ in range(2):
            self.rescanner.trigger("test")
            self.rescanner.rescan_if_due()

    def deadline(self, timeout_s: float = 45.0) -> Deadline:
        return Deadline(timeout_s, self.clock)

    def prepare(self, claim: Claim) -> tuple[PreparedDevice, ...]:
        return self.transaction.prepare(self.claims.add(claim), self.deadline())

    def unprepare(self, claim: Claim) -> None:
        self.transaction.unprepare(claim.ref, self.deadline())

    def cdi_path(self, uid: str = "c1") -> Path:
        return self.cdi / f"k8s.gpu.nvidia.com-claim_{uid}.yaml"

    def cdi_spec(self, uid: str = "c1") -> Any:
        data = self.files.read(self.cdi_path(uid))
        return None if data is None else json.loads(data)


class GpuNode(GpuProcess):
    """A fake machine."""

    def __init__(
        self,
        gpus: int = 8,
        gates: str = "TimeSlicingSettings=true",
        files: Files | None = None,
        root: Path = Path("/"),
        clock: Clock | None = None,
        faults: Faults | None = None,
    ) -> None:
        self.faults = faults or Faults()
        self.machine = FakeMachine(fake_gpus(gpus), self.faults)
        clock, files = clock or FakeClock(), files or FakeFiles(self.faults)
        self.ctk_runs = 0
        self.ctk_output = ctk_output()
        self.ctk_lacks: tuple[str, ...] = ()
        """Options that this version of nvidia-ctk does not know."""
        self.hook_status = 0
        self.commands = FakeCommands(
            clock,
            {
                "nvidia-smi": FakeSmi(self.machine),
                str(CTK): self._nvidia_ctk,
                str(HOOK): self._hook,
            },
        )
        host = replace(fake_host(self.machine, clock), commands=self.commands)
        for path, major in zip(COMMON_NODES, (195, 510), strict=True):
            self.machine.nodes[path] = NodeStat(major=major, minor=255, mode=0o666, gid=0)
            self.machine.char_majors[path.removeprefix("/dev/")] = major
        if isinstance(files, FakeFiles):
            for path in (LIBRARY, *COMMON_NODES, str(HOOK), str(CTK)):
                files.put(Path(path), b"")
        super().__init__(host, clock, files, root, gates)

    @property
    def time_slices(self) -> dict[str, int]:
        """What GPUs have that is not the default."""
        return {gpu.uuid: gpu.time_slice for gpu in self.machine.gpus if gpu.time_slice}

    def uuid(self, index: int) -> str:
        return self.machine.gpus[index].uuid

    def _hook(self, argv: Iterable[str]):
        return self.hook_status or CommandResult(stdout="NVIDIA CDI Hook version 1.19.1", stderr="")

    def _nvidia_ctk(self, argv: Iterable[str]):
        given = [text.removeprefix("--").partition("=")[0] for text in argv]
        for option in given:
            if option in self.ctk_lacks:
                said = f'level=error msg="flag provided but not defined: -{option}"'
                raise CommandError(said, argv=tuple(argv), returncode=1, output=said)
        self.ctk_runs += 1
        return CommandResult(stdout=json.dumps(self.ctk_output), stderr="")
