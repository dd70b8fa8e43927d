"""A plugin with a transaction in memory, served on real sockets, for the service tests."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from nvdra_core.errors import NvdraError, StaleClaimError
from nvdra_core.runtime.clock import Deadline, SystemClock
from nvdra_node.checkpoint.claim import ClaimRef
from nvdra_node.checkpoint.model import PreparedDevice
from nvdra_node.kubeletplugin.driver import DeviceHealth, Health
from nvdra_node.kubeletplugin.kubelet.health import HealthService
from nvdra_node.kubeletplugin.kubelet.registration import Registration, SelfCheck
from nvdra_node.kubeletplugin.kubelet.server import PluginServer, SocketPaths
from nvdra_node.kubeletplugin.kubelet.service import DraService, Transaction

DRIVER = "gpu.nvidia.com"
CLOCK = SystemClock()


class Ledger:
    """A transaction in memory. Claims named ``bad*`` fail, ``bug*`` raise KeyError, ``slow*`` wait for ``gate``."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.prepared: dict[str, str] = {}
        self.calls: list[str] = []
        self.gate = threading.Event()
        self.deadlines_s: list[float] = []
        self.running = 0
        self.most_running = 0

    def prepare(self, ref: ClaimRef, deadline: Deadline) -> Sequence[PreparedDevice]:
        with self.lock:
            self.calls.append(ref.uid)
            self.deadlines_s.append(deadline.remaining_s())
            self.running += 1
            self.most_running = max(self.running, self.most_running)
        try:
            if ref.name.startswith("slow"):
                CLOCK.wait(self.gate, deadline.remaining_s())
            if ref.name.startswith("bad"):
                raise StaleClaimError(f"claim {ref.name} is deleted;\n delete the pod")
            if ref.name.startswith("bug"):
                raise KeyError("0x7f3a")
        finally:
            with self.lock:
                self.running -= 1
        self.prepared[ref.uid] = ref.name
        share_id = "5e1f" if ref.name.startswith("share") else None
        return (
            PreparedDevice(
                request="gpu/big", pool="node-1", device="gpu-0", share_id=share_id,
                cdi_ids=(f"k8s.gpu.nvidia.com/claim={ref.uid}-gpu-0",),
            ),
        )  # fmt: skip

    def unprepare(self, ref: ClaimRef, deadline: Deadline) -> None:
        self.prepared.pop(ref.uid, None)


class Counts:
    """RequestMetrics that records outcomes."""

    def __init__(self) -> None:
        self.finished: list[tuple[str, str]] = []

    @contextmanager
    def operation(self, operation: str) -> Iterator[None]:
        try:
            yield
        except NvdraError as error:
            self.finished.append((operation, error.reason))
            raise
        self.finished.append((operation, "success"))


@dataclass
class TestPlugin:
    """All components, wired as the composition root does it."""

    __test__ = False
    directory: Path
    ledger: Ledger = field(default_factory=Ledger)
    counts: Counts = field(default_factory=Counts)
    registrations: list[bool] = field(default_factory=list)
    transaction: Transaction | None = None
    """Used in place of the ledger."""

    def __post_init__(self) -> None:
        self.paths = SocketPaths(
            driver=DRIVER,
            data_dir=self.directory / "plugins" / DRIVER,
            registry_dir=self.directory / "registry",
        )
        self.registration = Registration(
            DRIVER,
            self.paths.dra,
            CLOCK,
            registered=lambda: self.registrations.append(True),
            refused=lambda: self.registrations.append(False),
        )
        self.healths = [DeviceHealth(device="gpu-0", health=Health.HEALTHY)]
        self.health = HealthService("node-1", lambda: self.healths, CLOCK)
        self.service = DraService(DRIVER, self.transaction or self.ledger, self.counts, CLOCK)
        self.server = PluginServer(
            self.paths,
            (self.service.add_to, self.health.add_to),
            (self.registration.add_to,),
            CLOCK,
        )
        self.selfcheck = SelfCheck(self.paths.registration, self.paths.dra)

    def start(self, timeout_s: float = 60.0) -> None:
        self.server.start(Deadline(timeout_s, CLOCK), threading.Event())

    def stop(self, timeout_s: float = 5.0) -> None:
        def drain() -> None:
            self.health.stop()
            self.service.drain(Deadline(timeout_s, CLOCK))

        self.server.stop(drain)
