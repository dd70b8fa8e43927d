"""Host -> Inventory: one scan of all GPUs, in which a failing GPU does not affect the others.

A GPU that does not answer in time keeps its pending call; the next scan collects the answer. Without persistence mode
the first use takes seconds, so a late answer is no fault. A GPU that fails keeps its last known data and gets the state
that says so. Never raises for faults of a GPU or the driver: they become notes of the inventory.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
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
from nvdra_node.gpu import causes
from nvdra_node.gpu.facts import ADDRESSING_MODES, ARCHITECTURES, BRANDS, named, pci_address
from nvdra_node.gpu.model import Gpu, GpuState, Inventory
from nvdra_node.host.host import Host

NOT_SUPPORTED = frozenset({3, 13})
"""NVML_ERROR_NOT_SUPPORTED and FUNCTION_NOT_FOUND: the GPU or the driver has no such thing."""
NO_DRIVER = frozenset({9, 12})
"""NVML_ERROR_DRIVER_NOT_LOADED and LIBRARY_NOT_FOUND."""
GPU_IS_LOST = 15

DISPLAY_GPUS = frozenset({"DGX Display", "NVIDIA DGX Display"})
"""Boards that only drive a monitor; never offered."""

OURS = ("nvidia", None)
"""Kernel drivers of a GPU that NVML may tell of; None: sysfs does not know."""

_IDENTITY = ("minor", "uuid", "name", "pci_bus_id", "mig_mode")
"""Without these a GPU cannot be offered: it could not be told from another, or would be offered in the wrong mode."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """How long a look may take, in seconds, and what it judges."""

    open_s: float = 30.0
    """First answer of NVML: initialising it takes up to seconds on large machines."""
    gpu_s: float = 2.0
    """For an answer of a GPU with persistence mode, after which it counts as hung. Without: the NVML client's limit."""
    step_s: float = 0.5
    """How long one slow GPU keeps the look from asking the next."""
    again_s: float = 1.0
    """How long the slow ones together are waited for, once all were asked."""
    total_s: float = 20.0
    """For all GPUs together, counted from NVML's first answer; those not reached keep what was known."""
    fabric: bool = True
    """A GPU that is not registered with its NVLink fabric is not usable. False: partitions of it are made as needed."""


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """What one look gave."""

    inventory: Inventory
    hung: tuple[int, ...] = ()
    """NVML indices whose call never returned and was given up: asking again costs a process."""
    waiting: tuple[int, ...] = ()
    """NVML indices whose call goes on: look again soon."""
    complete: bool = True
    """False: NVML as a whole failed or the time ran out, and the inventory is (partly) the one from before."""


class _Looking(msgspec.Struct, frozen=True):
    """A look in progress."""

    host: Host
    clock: Clock
    limits: Limits
    before: Inventory
    system: dict[str, Any]
    instance: str
    """Of the driver, before anything was read."""
    read: list[Gpu] = msgspec.field(default_factory=list)
    unread: dict[int, tuple[GpuState, str]] = msgspec.field(default_factory=dict)
    """NVML index -> why nothing could be read there."""
    slow: dict[int, float] = msgspec.field(default_factory=dict)
    """NVML index -> for how long its call has gone on, in seconds."""
    kept: list[int] = msgspec.field(default_factory=list)
    """NVML indices that were not asked."""
    displays: set[str] = msgspec.field(default_factory=set)
    addresses: set[str] = msgspec.field(default_factory=set)
    """PCI addresses that NVML told."""
    notes: list[str] = msgspec.field(default_factory=list)


def discover(
    host: Host,
    clock: Clock,
    *,
    limits: Limits | None = None,
    before: Inventory | None = None,
    skip: Collection[int] = (),
) -> Look:
    """Look at all GPUs. ``before``: the last inventory. ``skip``: NVML indices not to ask now (they hung)."""
    before = before or Inventory(devices=(), driver_version=None)
    loaded, instance = host.sysfs.driver_version(), host.sysfs.driver_instance()
    if loaded is None or instance is None:
        # Asking NVML would start a process for nothing, and could make it load the kernel module.
        return _no_driver(host.sysfs.why_no_driver())
    limits = limits or Limits()
    try:
        system = _system(host, Deadline(limits.open_s, clock))
    except (HostError, DeadlineError) as error:
        return _without_nvml(before, loaded, error)
    looking = _Looking(host, clock, limits, before, system, instance)
    end = Deadline(looking.limits.total_s, clock)
    is_usable = True
    for index in range(looking.system["count"]):
        if index in skip or not is_usable:
            looking.kept.append(index)
            continue
        _ask(looking, index, min(limits.step_s, limits.gpu_s, end.remaining_s()))
        is_usable = end.remaining_s() > 0.0 and (
            index not in looking.unread or _is_open_again(looking, end)
        )
    limit = Deadline(min(limits.again_s, end.remaining_s()), clock)
    for index in list(looking.slow):
        del looking.slow[index]
        _ask(looking, index, limit.remaining_s())
    return _conclude(looking, set(skip))


def _system(host: Host, deadline: Deadline) -> Any:
    """Asked again when its process was killed, which is no fault of a GPU. Raises HostError, DeadlineError."""
    try:
        return host.nvml.call("system", deadline)
    except NvmlError as error:
        if error.code != -1 or isinstance(error, NvmlHungError):
            raise
        return host.nvml.call("system", deadline)


def _no_driver(note: str) -> Look:
    return Look(inventory=Inventory(devices=(), driver_version=None, notes=(note,)))


def _without_nvml(before: Inventory, loaded: str, error: HostError | DeadlineError) -> Look:
    """The driver is loaded and NVML as a whole does not work: what was known is kept, as failed."""
    if isinstance(error, NvmlError) and error.code in NO_DRIVER:
        # The kernel has the driver: it comes or goes this moment, or its device nodes are still missing: look again.
        return replace(_no_driver(causes.nvml_failed(error)), complete=False)
    if isinstance(error, DeadlineError):
        return Look(inventory=before, complete=False)
    state = GpuState.HUNG if isinstance(error, NvmlHungError) else GpuState.FAILED
    why = causes.nvml_failed(error)
    devices = tuple(_sick(gpu, state, why) for gpu in before.devices)
    inventory = Inventory(devices=devices, driver_version=loaded, notes=(why,))
    return Look(inventory=inventory, complete=False)


def _ask(looking: _Looking, index: int, timeout_s: float) -> None:
    """Read one GPU into ``looking``."""
    nvml = looking.host.nvml
    try:
        answer = nvml.call("gpu", Deadline(timeout_s, looking.clock), index=index)
    except NvmlSlowError as error:
        looking.slow[index] = error.waited_s
    except NvmlHungError as error:
        looking.unread[index] = (GpuState.HUNG, str(error))
    except NvmlError as error:
        lost = error.code == GPU_IS_LOST
        looking.unread[index] = (GpuState.LOST if lost else GpuState.FAILED, str(error))
    except HostError as error:
        looking.unread[index] = (GpuState.FAILED, str(error))
    except DeadlineError:
        looking.kept.append(index)
    else:
        _take(looking, index, answer["facts"], answer["errors"])


def _is_open_again(looking: _Looking, end: Deadline) -> bool:
    """After a failed GPU: give a replaced child its time to initialise, which is not the next GPU's time."""
    timeout_s = min(looking.limits.open_s, end.remaining_s())
    try:
        looking.host.nvml.call("system", Deadline(timeout_s, looking.clock))
    except (HostError, DeadlineError) as error:
        looking.notes.append(str(error))
        return False
    return True


def _take(
    looking: _Looking, index: int, facts: Mapping[str, Any], errors: Mapping[str, Any]
) -> None:
    """Facts and errors of one GPU to a Gpu, as good as they allow."""
    looking.addresses.add(pci_address(facts.get("pci_bus_id", "")))
    if facts.get("name") in DISPLAY_GPUS:
        looking.displays.add(facts.get("uuid", ""))
        return
    if looking.host.sysfs.pci_driver(pci_address(facts.get("pci_bus_id", ""))) not in OURS:
        return  # given to another driver under an open session, which does not notice
    bad = {fact: error for fact, error in errors.items() if error["code"] not in NOT_SUPPORTED}
    state, why = GpuState.OK, ""
    for fact, error in bad.items():
        text = f"{error['function']}: {error['message']} ({error['code']})"
        if error["code"] == GPU_IS_LOST:
            state, why = GpuState.LOST, text
        elif fact in _IDENTITY and state is GpuState.OK:
            state, why = GpuState.FAILED, text
        else:
            looking.notes.append(f"GPU at NVML index {index}: {text}")
    if state is GpuState.OK and (unusable := _unusable(looking, facts)):
        state, why = GpuState.FAILED, unusable
    missing = [fact for fact in _IDENTITY[:4] if fact not in facts]
    if missing:
        why = why or f"NVML does not tell {', '.join(missing)}"
        looking.unread[index] = (state if state is not GpuState.OK else GpuState.FAILED, why)
        return
    gpu = _gpu(looking, index, facts)
    known = _known(looking.before, gpu.uuid)
    if state is not GpuState.OK:
        gpu = _sick(_placed(known, gpu) if known else gpu, state, why)
    looking.read.append(gpu)
    looking.notes.extend(f"{gpu.name}: {note}" for note in causes.limits(facts))


def _unusable(looking: _Looking, facts: Mapping[str, Any]) -> str:
    """Why no CUDA program can use a GPU that NVML can read; empty when nothing is known against it."""
    if why := causes.needs_recovery(facts) or causes.forbids_programs(facts):
        return why
    if looking.limits.fabric and (why := causes.without_fabric(facts)):
        return why
    minor = facts.get("minor", -1)
    try:
        return causes.wrong_node(minor, looking.host.sysfs.device_node(causes.node_path(minor)))
    except FileError as error:
        return str(error)


def _gpu(looking: _Looking, index: int, facts: Mapping[str, Any]) -> Gpu:
    address = pci_address(facts["pci_bus_id"])
    numa_node, pcie_root = None, None
    try:
        pci = looking.host.sysfs.pci(address)
        numa_node, pcie_root = pci.numa_node, pci.pcie_root
    except FileError as error:
        looking.notes.append(f"gpu-{facts['minor']}: {error}")
    capability = facts.get("cuda_compute_capability")
    cuda = looking.system["cuda_driver_version"]
    return Gpu(
        index=index,
        driver_instance=looking.instance,
        drm=looking.host.sysfs.drm_nodes(address),
        minor=facts["minor"],
        uuid=facts["uuid"],
        pci_address=address,
        product_name=facts["name"],
        brand=named(BRANDS, facts.get("brand")),
        architecture=named(ARCHITECTURES, facts.get("architecture")),
        cuda_compute_capability=f"{capability[0]}.{capability[1]}.0" if capability else "",
        driver_version=looking.system["driver_version"],
        cuda_driver_version=f"{cuda // 1000}.{cuda % 1000 // 10}.0",
        memory_bytes=facts.get("memory_bytes"),
        addressing_mode=ADDRESSING_MODES.get(facts.get("addressing_mode", -1)),
        numa_node=numa_node,
        pcie_root=pcie_root,
        mig_enabled=facts.get("mig_mode", {}).get("current") == 1,
        module_id=facts.get("module_id"),
        persistence=None if "persistence" not in facts else facts["persistence"] == 1,
    )


def _placed(known: Gpu, gpu: Gpu) -> Gpu:
    """A known GPU where it is now: what names and numbers it has is never taken from an earlier look."""
    return replace(
        known,
        index=gpu.index,
        minor=gpu.minor,
        pci_address=gpu.pci_address,
        driver_instance=gpu.driver_instance,
        drm=gpu.drm,
    )


def _known(before: Inventory, uuid: str) -> Gpu | None:
    return next((gpu for gpu in before.devices if gpu.uuid == uuid), None)


def _sick(gpu: Gpu, state: GpuState, message: str) -> Gpu:
    return replace(gpu, state=state, message=message)


def _conclude(looking: _Looking, skipped: set[int]) -> Look:
    """Join what was read with what was known before."""
    seen = {gpu.uuid for gpu in looking.read} | looking.displays
    missing = [gpu for gpu in looking.before.devices if gpu.uuid not in seen]
    not_read = [*_kept(looking, missing, skipped), *_unread(looking, missing)]
    not_read += _slow(looking, missing)
    not_read += [gone for gpu in missing if (gone := _gone(looking, gpu)) is not None]
    by_minor: dict[int, Gpu] = {}
    for gpu in (*looking.read, *not_read):
        if by_minor.setdefault(gpu.minor, gpu) is not gpu:
            looking.notes.append(f"{gpu.name}: {gpu.uuid} is gone, another GPU has its name")
    devices = tuple(by_minor[minor] for minor in sorted(by_minor))
    hung = {i for i, (state, _) in looking.unread.items() if state is GpuState.HUNG}
    complete = set(looking.kept) <= skipped and not looking.slow
    if complete:
        looking.notes.extend(causes.without_persistence(devices))
        looking.notes.extend(_unlisted(looking))
    inventory = Inventory(
        devices=devices,
        driver_version=looking.system["driver_version"],
        notes=tuple(looking.notes),
        is_partial=not complete,
    )
    waiting = tuple(sorted(looking.slow))
    return Look(inventory=inventory, hung=tuple(sorted(hung)), waiting=waiting, complete=complete)


def _unlisted(looking: _Looking) -> list[str]:
    """Notes on GPUs of the PCI bus that NVML does not list. Those that were known have a state, or a note already."""
    known = [*looking.read, *looking.before.devices]
    return causes.unlisted(
        looking.host.sysfs.pci_gpus(),
        {gpu.pci_address for gpu in known} | looking.addresses,
        looking.system["count"],
    )


def _kept(looking: _Looking, missing: list[Gpu], skipped: set[int]) -> list[Gpu]:
    """Known GPUs that were not asked, as they were; taken out of ``missing``."""
    kept = []
    for index in looking.kept:
        gpu = _take_missing(missing, index, exact=True)
        if gpu is not None:
            kept.append(gpu)
        elif index in skipped:
            looking.notes.append(f"GPU at NVML index {index}: hung, will be asked again later")
        else:
            looking.notes.append(f"GPU at NVML index {index}: not asked, the look took too long")
    return kept


def _slow(looking: _Looking, missing: list[Gpu]) -> list[Gpu]:
    """Known GPUs whose call goes on; taken out of ``missing``."""
    slow = []
    for index, waited_s in looking.slow.items():
        gpu = _take_missing(missing, index, exact=True)
        if gpu is None:
            looking.notes.append(f"GPU at NVML index {index}: not read yet; {causes.COLD}")
        elif gpu.state is GpuState.HUNG:
            slow.append(gpu)  # with the message that it has: another one would be news
        elif gpu.persistence and waited_s >= looking.limits.gpu_s:
            slow.append(_sick(gpu, GpuState.HUNG, causes.no_answer(looking.limits.gpu_s)))
        else:
            slow.append(gpu)
    return slow


def _unread(looking: _Looking, missing: list[Gpu]) -> list[Gpu]:
    """Known GPUs that could not be read, with their new state; taken out of ``missing``."""
    unread = []
    for index, (state, why) in looking.unread.items():
        gpu = _take_missing(missing, index, exact=len(looking.unread) > 1)
        if gpu is not None:
            unread.append(_sick(gpu, state, why))
        else:
            looking.notes.append(f"GPU at NVML index {index}: {state.value}: {why}")
    return unread


def _take_missing(missing: list[Gpu], index: int, *, exact: bool) -> Gpu | None:
    """The known GPU that NVML index stands for, removed from ``missing``.

    An unreadable GPU does not say who it is. It is the one that had this index; failing that, when only one is
    missing and only one is unreadable, they are the same (indices move when a GPU leaves the list).
    """
    for gpu in missing:
        if gpu.index == index:
            missing.remove(gpu)
            return gpu
    if not exact and len(missing) == 1:
        return missing.pop()
    return None


def _gone(looking: _Looking, gpu: Gpu) -> Gpu | None:
    """A known GPU that NVML does not list any more: lost, unless another driver has it or it was unbound."""
    driver = looking.host.sysfs.pci_driver(gpu.pci_address)
    try:
        looking.host.sysfs.pci(gpu.pci_address)
    except FileError:
        return _sick(gpu, GpuState.LOST, "gone from the PCI bus")
    if driver == "nvidia":
        return _sick(gpu, GpuState.LOST, "NVML does not list it any more")
    looking.notes.append(f"{gpu.name}: now bound to {driver or 'no driver'}, not to nvidia")
    return None
