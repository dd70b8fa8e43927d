"""The NVLink fabric of this node, from all GPUs (NVML).

Distinguishes nodes without multi-node NVLink, with GPUs that are still registering, and with a broken fabric. A lost or
hung GPU does not take the clique from the others.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

from msgspec.structs import replace

from nvdra_core.api.fabric import FabricState
from nvdra_core.errors import HostError, NotReadyError, NvmlError
from nvdra_core.runtime import log
from nvdra_core.runtime.clock import Clock, Deadline
from nvdra_node.host.host import Host
from nvdra_node.imex.model import Fabric
from nvdra_node.imex.supervisor import Supervisor

_LOG = log.get(__name__)

GPU_TIMEOUT_S = 5.0
SCAN_S = 30.0
UNSETTLED_SCAN_S = 2.0

_NOT_SUPPORTED_CODES = frozenset({3, 13})
_NOT_SUPPORTED, _NOT_STARTED, _IN_PROGRESS, _COMPLETED = range(4)
_UNHEALTHY = 2
_REMEDIES = {
    1: "reset it when no pod uses it (nvidia-smi --gpu-reset)",
    2: "reboot this node",
    3: "end the pods whose GPUs reach each other's memory",
    4: "drain this node, then reset the GPU (nvidia-smi --gpu-reset)",
    5: "its IMEX domain must be recovered: delete the pods of its ComputeDomain, so that nvidia-imex is restarted",
    6: "drain this node, then reset the GPU's bus",
    7: "reboot this machine",
}
"""NVML_GPU_RECOVERY_ACTION_*. The driver announces a change with XID 154."""
_NO_CLUSTER = "00000000-0000-0000-0000-000000000000"

Info = Mapping[str, Any]
"""Answer of the NVML operation ``fabric``."""


def scan(host: Host, clock: Clock, *, is_strict: bool = True) -> Fabric:
    """The fabric now. Never raises for driver or GPU errors. Not ``is_strict``: see ``is_attached``."""
    version = host.sysfs.driver_version()
    if version is None:
        return Fabric(message="the NVIDIA driver is not loaded")
    infos: list[Info] = []
    problems: list[str] = []
    try:
        count = host.nvml.call("system", Deadline(GPU_TIMEOUT_S, clock))["count"]
    except (HostError, NotReadyError) as error:
        return Fabric(message=str(error), driver_version=version)
    for index in range(count):
        info, problem = _query(host, Deadline(GPU_TIMEOUT_S, clock), index)
        infos += [info] if info is not None else []
        problems += [problem] if problem else []
    if not is_strict:
        infos = [info for info in infos if is_attached(info)]
    return evaluate(infos, problems, version)


def with_previous(seen: Fabric, before: Fabric | None) -> Fabric:
    """The scan's result, or the previous one with the reason where no GPU answered and the driver is the same. Pure.

    Otherwise a driver that hangs for a moment would take slot and IMEX from running jobs.
    """
    is_same_driver = before is not None and seen.driver_version == before.driver_version != ""
    if before is None or seen.state is not FabricState.UNSET or not is_same_driver:
        return seen
    return replace(before, message=seen.message)


def _query(host: Host, deadline: Deadline, index: int) -> tuple[Info | None, str]:
    """Fabric info of one GPU, or an error; neither: it has no fabric."""
    try:
        return host.nvml.call("fabric", deadline, index=index), ""
    except NvmlError as error:
        is_without = error.code in _NOT_SUPPORTED_CODES
        return None, "" if is_without else f"GPU {index}: {error}"
    except (HostError, NotReadyError) as error:
        return None, f"GPU {index}: {error}"


def is_attached(info: Info) -> bool:
    """Whether a GPU counts without the gate CrashOnNVLinkFabricErrors: an unregistered one has no fabric."""
    return bool(info["state"] == _COMPLETED and info["status"] == 0)


def evaluate(infos: Sequence[Info], problems: Sequence[str], driver_version: str) -> Fabric:
    """Fabric info of all GPUs, and errors -> the node's fabric. Pure."""
    registered = [info for info in infos if info["state"] == _COMPLETED]
    refused = [info for info in registered if info["status"] != 0]
    pending = [info for info in infos if info["state"] in (_NOT_STARTED, _IN_PROGRESS)]
    members = [i for i in registered if i["status"] == 0 and i["cluster_uuid"] != _NO_CLUSTER]
    cliques = sorted({f"{info['cluster_uuid']}.{info['clique_id']}" for info in members})
    recovery = "; ".join(_recovery(info) for info in infos if info["recovery_action"])

    def answer(state: FabricState, message: str = "", clique: str = "") -> Fabric:
        texts = [text for text in (message, recovery) if text]
        return Fabric(
            state=state,
            clique_id=clique,
            cluster_uuid=clique.rpartition(".")[0],
            message="; ".join([*texts, *problems]),
            recovery=recovery,
            driver_version=driver_version,
        )

    if refused:
        status = ", ".join(f"{info['uuid']} (NVML status {info['status']})" for info in refused)
        return answer(FabricState.FAILED, f"registration failed: {status}")
    if len(cliques) > 1:
        return answer(
            FabricState.FAILED, f"GPUs of one node are in several cliques: {', '.join(cliques)}"
        )
    if pending:
        return answer(
            FabricState.IN_PROGRESS, "waiting for " + ", ".join(i["uuid"] for i in pending)
        )
    if members:
        sick = [info["uuid"] for info in members if info["health"] == _UNHEALTHY]
        return answer(
            FabricState.COMPLETED, f"unhealthy: {', '.join(sick)}" if sick else "", cliques[0]
        )
    # GPUs that did not answer may be the ones with a fabric.
    return answer(FabricState.UNSET if problems and not infos else FabricState.NOT_SUPPORTED)


def _recovery(info: Info) -> str:
    """The GPU's recovery action, with the remedy."""
    action = info["recovery_action"]
    remedy = _REMEDIES.get(action, "see NVIDIA's documentation of this driver")
    return f"{info['uuid']} needs recovery action {action}: {remedy}"


def channel_count(params: bytes | None) -> int:
    """``ImexChannelCount`` of /proc/driver/nvidia/params: the number of channels; 0 without driver. Pure."""
    for line in (params or b"").decode(errors="replace").splitlines():
        key, _, value = line.partition(":")
        if key == "ImexChannelCount" and value.strip().isdecimal():
            return int(value)
    return 0


class FabricMonitor:
    """Scans periodically, and more often until the fabric has settled. One thread; run by ``app``."""

    def __init__(
        self, host: Host, clock: Clock, supervisor: Supervisor, *, is_strict: bool = True
    ) -> None:
        self._is_strict = is_strict
        self._host = host
        self._clock = clock
        self._supervisor = supervisor
        self._last: Fabric | None = None
        self._wake = threading.Event()

    def trigger(self) -> None:
        """Scan now; from any thread."""
        self._wake.set()

    def run(self, stopping: threading.Event) -> None:
        """Scan until ``stopping``."""
        while not stopping.is_set():
            self._wake.clear()
            pause_s = self.scan()
            if self._clock.wait(stopping, 0.0):
                return
            self._clock.wait(self._wake, pause_s)

    def scan(self) -> float:
        """One scan; the seconds until the next."""
        seen = scan(self._host, self._clock, is_strict=self._is_strict)
        found = with_previous(seen, self._last)
        if found != self._last:
            _LOG.info(
                "fabric changed", state=found.state.value, clique=found.clique_id, why=found.message
            )
            self._last = found
            self._supervisor.set_fabric(found)
        is_settled = seen.state in (FabricState.COMPLETED, FabricState.NOT_SUPPORTED)
        return SCAN_S if is_settled else UNSETTLED_SCAN_S
