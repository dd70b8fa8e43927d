"""Texts for logs, health reports and events: why a GPU is not published or is slow, and the remedy. Pure.

Texts contain no counters or timestamps: each change of a device's message is sent to the kubelet.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from nvdra_core.errors import NvdraError, NvmlError
from nvdra_node.gpu.model import Gpu
from nvdra_node.host.ports import NodeStat, PciGpu

COLD = "the first use of a GPU without persistence mode takes seconds"


def no_answer(limit_s: float) -> str:
    """Message for a GPU whose call exceeded its limit."""
    return f"no answer within {limit_s:g} s; NVML is the call is still in progress"


def without_persistence(gpus: Sequence[Gpu]) -> list[str]:
    """Note naming the GPUs that the driver deinitialises when no process uses them."""
    names = [gpu.name for gpu in gpus if gpu.persistence is False]
    if not names:
        return []
    return [
        f"persistence mode is off ({', '.join(names)}): the first CUDA program of each pod and each scan takes seconds"
        " longer; enable nvidia-persistenced.service"
    ]


_IN_PROGRESS, _COMPLETED = 2, 3
"""NVML_GPU_FABRIC_STATE_*."""
_PROHIBITED = 2
"""NVML_COMPUTEMODE_PROHIBITED."""
_GPU_MAJOR = 195
_REMEDIES = {
    4: "the service may not open /dev/nvidiactl: check its mode and the unit's DeviceAllow",
    9: "the kernel has the driver loaded: does /dev/nvidiactl exist? run nvidia-modprobe -c 0 -u",
    18: "the driver's package was changed without loading the new driver: reboot, or reload the driver",
}
"""NVML_ERROR_NO_PERMISSION, DRIVER_NOT_LOADED, LIB_RM_VERSION_MISMATCH."""
_RESET = "reset it when no pod uses it (nvidia-smi --gpu-reset)"
_RECOVERY = {
    1: _RESET,
    2: "reboot this node",
    4: f"drain this node, then {_RESET}",
    6: "drain this node, then reset the GPU's bus",
    7: "reboot this machine",
}
"""NVML_GPU_RECOVERY_ACTION_* after which no new claim should get the GPU, with the remedy."""
_LIMITED = {
    3: "end the pods whose GPUs reach each other's memory",
    5: "its IMEX domain must be recovered: delete the pods of its ComputeDomain",
}
"""Recovery actions of a GPU that can still be used alone."""


def needs_recovery(facts: Mapping[str, Any]) -> str:
    """Why a GPU that NVML can read should get no new claim; empty: no recovery needed."""
    action = facts.get("recovery_action", 0)
    return f"asks for recovery action {action}: {_RECOVERY[action]}" if action in _RECOVERY else ""


def forbids_programs(facts: Mapping[str, Any]) -> str:
    """Why the GPU's compute mode lets no CUDA program start; empty when it does."""
    if facts.get("compute_mode") != _PROHIBITED:
        return ""
    return (
        "its compute mode is Prohibited, and no CUDA program can use it: nvidia-smi"
        f" -i {facts.get('uuid', '')} --compute-mode=DEFAULT"
    )


def node_path(minor: int) -> str:
    """The GPU's device node."""
    return f"/dev/nvidia{minor}"


def wrong_node(minor: int, stat: NodeStat | None) -> str:
    """What is wrong with a GPU's device node; empty when nothing is."""
    path, remedy = node_path(minor), f"run nvidia-modprobe -c {minor}"
    if stat is None:
        return f"{path} does not exist: {remedy}"
    if (stat.major, stat.minor) != (_GPU_MAJOR, minor):
        return f"{path} is device {stat.major}:{stat.minor}, expected {_GPU_MAJOR}:{minor}: remove it and {remedy}"
    return ""


def nvml_failed(error: NvdraError) -> str:
    """Text for an NVML failure that affects all GPUs, with the remedy for known codes."""
    remedy = _REMEDIES.get(error.code, "") if isinstance(error, NvmlError) else ""
    return f"{error}: {remedy}" if remedy else str(error)


def without_fabric(facts: Mapping[str, Any]) -> str:
    """Why CUDA programs do not start on a GPU of an NVLink fabric; empty when registered or without fabric."""
    fabric = facts.get("fabric")
    if not fabric:
        return ""
    if fabric["state"] == _COMPLETED and fabric["status"] != 0:
        return f"registration with the NVLink fabric failed (NVML status {fabric['status']}): see nvidia-fabricmanager"
    if fabric["state"] == _IN_PROGRESS and facts.get("persistence") == 1:
        return (
            "registration with the NVLink fabric is in progress, and CUDA fails with error 802 until it ends: is"
            " nvidia-fabricmanager.service running, here or on the rack's switches?"
        )
    return ""


def limits(facts: Mapping[str, Any]) -> list[str]:
    """Limitations of a GPU that remains usable."""
    action = facts.get("recovery_action", 0)
    return [f"asks for recovery action {action}: {_LIMITED[action]}"] if action in _LIMITED else []


def unlisted(gpus: Sequence[PciGpu], known: Collection[str], listed: int) -> list[str]:
    """Notes on GPUs of the PCI bus that are not published and not in other use. ``known``: addresses that NVML has
    reported; ``listed``: number of GPUs that NVML lists, including unreadable ones."""
    notes = [
        f"{gpu.address}: no kernel driver is bound to this GPU: see the kernel log (NVRM: probe failed), or bind it"
        for gpu in gpus
        if gpu.driver is None and gpu.address not in known
    ]
    notes += [
        f"{gpu.address}: this GPU is bound to nouveau: unbind it and load the NVIDIA driver"
        for gpu in gpus
        if gpu.driver == "nouveau"
    ]
    bound = [gpu for gpu in gpus if gpu.driver == "nvidia"]
    excluded = [gpu for gpu in bound if gpu.is_excluded]
    notes += [f"{gpu.address}: excluded by NVreg_ExcludedGpus" for gpu in excluded]
    if len(bound) - len(excluded) > listed:
        notes += [
            f"{gpu.address}: bound to the NVIDIA driver, but NVML does not list this GPU: see the kernel log (NVRM,"
            " Xid), check power and seating, then reset it or reboot"
            for gpu in bound
            if not gpu.is_excluded and gpu.address not in known
        ]
    return notes
