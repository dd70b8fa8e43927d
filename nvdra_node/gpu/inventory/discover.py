"""Host -> Inventory: one scan of all GPUs, in which a failing GPU does not affect the others.

A GPU that does not answer in time keeps its pending call, whose answer the next scan collects: without persistence mode
the first use of a GPU takes seconds, so a late answer is no fault. A GPU that fails keeps its last known facts and gets
the state that says so. Never raises for faults of a GPU or the driver: they become notes of the inventory.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import msgspec
from msgspec.structs import replace

from nvdra_core.errors import (
    DeadlineError,
    FileError,
    HostError,
    NvmlError,
    NvmlHungError,
    NvmlSlowError,
)
from nvdra_core.runtime.clock import Clock, Deadline
from nvdra_node.gpu.inventory import causes
from nvdra_node.gpu.inventory.scan import GPU_IS_LOST, Limits, Scan, add_facts
from nvdra_node.gpu.model import Gpu, GpuState, Inventory
from nvdra_node.host.host import Host

NO_DRIVER = frozenset({9, 12})
"""NVML_ERROR_DRIVER_NOT_LOADED and LIBRARY_NOT_FOUND."""


class ScanResult(msgspec.Struct, frozen=True, kw_only=True):
    """Result of one scan."""

    inventory: Inventory
    hung: tuple[int, ...] = ()
    """NVML indices whose call never returned and was given up: each retry may cost a process."""
    waiting: tuple[int, ...] = ()
    """NVML indices whose call is still in progress: scan again soon."""
    is_complete: bool = True
    """False: NVML as a whole failed or time ran out, and (part of) the inventory is from the scan before."""


def discover(
    host: Host,
    clock: Clock,
    *,
    limits: Limits | None = None,
    before: Inventory | None = None,
    skip: Collection[int] = (),
) -> ScanResult:
    """Scan all GPUs. ``before``: the last inventory. ``skip``: NVML indices not to ask now (they hung)."""
    before = before or Inventory(gpus=(), driver_version=None)
    loaded, instance = host.sysfs.driver_version(), host.sysfs.driver_instance()
    if loaded is None or instance is None:
        # An NVML call would start a process for nothing, and could make the library load the kernel module.
        return _no_driver(host.sysfs.why_no_driver())
    limits = limits or Limits()
    try:
        system = _system(host, Deadline(limits.open_s, clock))
    except (HostError, DeadlineError) as error:
        return _without_nvml(before, loaded, error)
    scan = Scan(host, limits, before, system, instance)
    end = Deadline(limits.total_s, clock)
    is_usable = True
    for index in range(system["count"]):
        if index in skip or not is_usable:
            scan.not_asked.append(index)
            continue
        _ask(scan, index, Deadline(min(limits.step_s, limits.gpu_s, end.remaining_s()), clock))
        is_usable = end.remaining_s() > 0.0 and (
            index not in scan.unread or _is_open_again(scan, end, clock)
        )
    limit = Deadline(min(limits.again_s, end.remaining_s()), clock)
    for index in list(scan.slow):
        del scan.slow[index]
        _ask(scan, index, limit)
    return _conclude(scan, set(skip))


def _system(host: Host, deadline: Deadline) -> Any:
    """Facts of the driver; retried once when the NVML process was killed. Raises HostError, DeadlineError."""
    try:
        return host.nvml.call("system", deadline)
    except NvmlError as error:
        if error.code != -1 or isinstance(error, NvmlHungError):
            raise
        return host.nvml.call("system", deadline)


def _no_driver(note: str) -> ScanResult:
    return ScanResult(inventory=Inventory(gpus=(), driver_version=None, notes=(note,)))


def _without_nvml(before: Inventory, loaded: str, error: HostError | DeadlineError) -> ScanResult:
    """Result while the driver is loaded and NVML as a whole fails: the known GPUs, as failed."""
    if isinstance(error, NvmlError) and error.code in NO_DRIVER:
        # The kernel has the driver: it is being loaded or unloaded, or its device nodes are missing. Scan again.
        return replace(_no_driver(causes.nvml_failed(error)), is_complete=False)
    if isinstance(error, DeadlineError):
        return ScanResult(inventory=before, is_complete=False)
    state = GpuState.HUNG if isinstance(error, NvmlHungError) else GpuState.FAILED
    why = causes.nvml_failed(error)
    gpus = tuple(replace(gpu, state=state, message=why) for gpu in before.gpus)
    inventory = Inventory(gpus=gpus, driver_version=loaded, notes=(why,))
    return ScanResult(inventory=inventory, is_complete=False)


def _ask(scan: Scan, index: int, deadline: Deadline) -> None:
    """Read one GPU into ``scan``."""
    try:
        answer = scan.host.nvml.call("gpu", deadline, index=index)
    except NvmlSlowError as error:
        scan.slow[index] = error.waited_s
    except NvmlHungError as error:
        scan.unread[index] = (GpuState.HUNG, str(error))
    except NvmlError as error:
        is_lost = error.code == GPU_IS_LOST
        scan.unread[index] = (GpuState.LOST if is_lost else GpuState.FAILED, str(error))
    except HostError as error:
        scan.unread[index] = (GpuState.FAILED, str(error))
    except DeadlineError:
        scan.not_asked.append(index)
    else:
        add_facts(scan, index, answer["facts"], answer["errors"])


def _is_open_again(scan: Scan, end: Deadline, clock: Clock) -> bool:
    """After a failed GPU: give a replaced NVML process its time to initialise, outside the next GPU's limit."""
    timeout_s = min(scan.limits.open_s, end.remaining_s())
    try:
        scan.host.nvml.call("system", Deadline(timeout_s, clock))
    except (HostError, DeadlineError) as error:
        scan.notes.append(str(error))
        return False
    return True


def _conclude(scan: Scan, skipped: set[int]) -> ScanResult:
    """Join what was read with the last inventory."""
    seen = {gpu.uuid for gpu in scan.read} | scan.displays
    missing = [gpu for gpu in scan.before.gpus if gpu.uuid not in seen]
    not_read = [*_not_asked(scan, missing, skipped), *_unread(scan, missing)]
    not_read += _slow(scan, missing)
    not_read += [lost for gpu in missing if (lost := _unlisted(scan, gpu)) is not None]
    by_minor: dict[int, Gpu] = {}
    for gpu in (*scan.read, *not_read):
        if by_minor.setdefault(gpu.minor, gpu) is not gpu:
            scan.notes.append(f"{gpu.name}: {gpu.uuid} was replaced by another GPU of this name")
    gpus = tuple(by_minor[minor] for minor in sorted(by_minor))
    hung = {i for i, (state, _) in scan.unread.items() if state is GpuState.HUNG}
    is_complete = set(scan.not_asked) <= skipped and not scan.slow
    if is_complete:
        scan.notes.extend(causes.without_persistence(gpus))
        scan.notes.extend(_never_listed(scan))
    inventory = Inventory(
        gpus=gpus,
        driver_version=scan.system["driver_version"],
        notes=tuple(scan.notes),
        is_partial=not is_complete,
    )
    return ScanResult(
        inventory=inventory,
        hung=tuple(sorted(hung)),
        waiting=tuple(sorted(scan.slow)),
        is_complete=is_complete,
    )


def _never_listed(scan: Scan) -> list[str]:
    """Notes on GPUs of the PCI bus that NVML does not list. Known GPUs have a state or a note already."""
    known = [*scan.read, *scan.before.gpus]
    return causes.unlisted(
        scan.host.sysfs.pci_gpus(),
        {gpu.pci_address for gpu in known} | scan.addresses,
        scan.system["count"],
    )


def _not_asked(scan: Scan, missing: list[Gpu], skipped: set[int]) -> list[Gpu]:
    """Known GPUs that were not asked, unchanged; removed from ``missing``."""
    unchanged = []
    for index in scan.not_asked:
        gpu = _take_missing(missing, index, exact=True)
        if gpu is not None:
            unchanged.append(gpu)
        elif index in skipped:
            scan.notes.append(f"GPU at NVML index {index}: hung, will be retried later")
        else:
            scan.notes.append(f"GPU at NVML index {index}: not scanned, the time limit was reached")
    return unchanged


def _slow(scan: Scan, missing: list[Gpu]) -> list[Gpu]:
    """Known GPUs whose call is in progress; removed from ``missing``."""
    slow = []
    for index, waited_s in scan.slow.items():
        gpu = _take_missing(missing, index, exact=True)
        if gpu is None:
            scan.notes.append(f"GPU at NVML index {index}: not read yet; {causes.COLD}")
        elif gpu.state is GpuState.HUNG:
            slow.append(
                gpu
            )  # with its message: a different one would be sent to the kubelet as a change
        elif gpu.persistence and waited_s >= scan.limits.gpu_s:
            message = causes.no_answer(scan.limits.gpu_s)
            slow.append(replace(gpu, state=GpuState.HUNG, message=message))
        else:
            slow.append(gpu)
    return slow


def _unread(scan: Scan, missing: list[Gpu]) -> list[Gpu]:
    """Known GPUs that could not be read, with their new state; removed from ``missing``."""
    unread = []
    for index, (state, why) in scan.unread.items():
        gpu = _take_missing(missing, index, exact=len(scan.unread) > 1)
        if gpu is not None:
            unread.append(replace(gpu, state=state, message=why))
        else:
            scan.notes.append(f"GPU at NVML index {index}: {state.value}: {why}")
    return unread


def _take_missing(missing: list[Gpu], index: int, *, exact: bool) -> Gpu | None:
    """The known GPU at an NVML index, removed from ``missing``.

    An unreadable GPU does not identify itself. It is the one that had this index; else, if exactly one GPU is missing
    and one is unreadable, they are the same (indices shift when a GPU leaves the list).
    """
    for gpu in missing:
        if gpu.index == index:
            missing.remove(gpu)
            return gpu
    if not exact and len(missing) == 1:
        return missing.pop()
    return None


def _unlisted(scan: Scan, gpu: Gpu) -> Gpu | None:
    """A known GPU that NVML lists no longer: lost, or None when another driver has it or it was unbound."""
    driver = scan.host.sysfs.pci_driver(gpu.pci_address)
    try:
        scan.host.sysfs.pci(gpu.pci_address)
    except FileError:
        return replace(gpu, state=GpuState.LOST, message="disappeared from the PCI bus")
    if driver == "nvidia":
        return replace(gpu, state=GpuState.LOST, message="no longer listed by NVML")
    scan.notes.append(f"{gpu.name}: now bound to {driver or 'no driver'}, not to nvidia")
    return None
