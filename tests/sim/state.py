"""The state that all processes of one driver root share, seen from Python: faults, lost GPUs, events, MIG instances.

In: the file `<root>/run/nvsim/state`, a hard link to the driver library (see nvml/state.c; nvml/sim.h has the same
layout). Out: `State`, an open view. Changes are seen by running processes at their next call, without a message.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.sim import library
from tests.sim.profile import Profile

MAX_GPUS, MAX_GIS, MAX_CIS, MAX_FAULTS, MAX_EVENTS = 16, 15, 8, 64, 256
MAGIC, VERSION = 0x4E565331, 2
ANY = -1
ANY_INSTANCE = 0xFFFFFFFF
EVENT_XID = 8
FABRIC_COMPLETED = 3
_SYS_FUTEX = {"x86_64": 202, "aarch64": 98}[platform.machine()]
_FUTEX_WAKE = 1
_U32, _I32, _U64 = ctypes.c_uint32, ctypes.c_int32, ctypes.c_uint64


class _Ci(ctypes.Structure):
    _fields_ = [(name, _U32) for name in ("used", "profile", "start", "size")]


class _Gi(ctypes.Structure):
    _fields_ = [
        *((name, _U32) for name in ("used", "profile", "start", "size")),
        ("cis", _Ci * MAX_CIS),
    ]


_GPU_WORDS = """
    lost mig_current mig_pending compute_mode persistence timeslice accounting power_limit_mw ecc_pending fabric_state
    fabric_status fabric_health recovery_action ecc_corrected ecc_uncorrected remapped_pending remapped_failed temperature
    cold_ms
""".split()  # noqa: SIM905 - one word a field, in the order of the struct


class _Gpu(ctypes.Structure):
    _fields_ = [*((name, _U32) for name in _GPU_WORDS), ("gis", _Gi * MAX_GIS)]


class _Fault(ctypes.Structure):
    _fields_ = [
        ("used", _U32), ("fn", _I32), ("gpu", _I32), ("code", _I32),
        ("delay_ms", _U32), ("hang", _U32), ("remaining", _U32), ("hits", _U32),
    ]  # fmt: skip


class _Event(ctypes.Structure):
    _fields_ = [
        ("type", _U64),
        ("data", _U64),
        ("gpu", _U32),
        ("gi", _U32),
        ("ci", _U32),
        ("unused", _U32),
    ]


class Layout(ctypes.Structure):
    """`struct state` of nvml/sim.h."""

    _fields_ = [
        ("magic", _U32), ("version", _U32), ("boot", _U32), ("driver_loaded", _U32),
        ("fault_count", _U32), ("event_head", _U32), ("spare", _U32 * 2),
        ("faults", _Fault * MAX_FAULTS), ("events", _Event * MAX_EVENTS), ("gpus", _Gpu * MAX_GPUS),
    ]  # fmt: skip


@dataclass(frozen=True)
class MigInstance:
    """A GPU instance that exists, with the ids of its compute instances."""

    gpu: int
    gi: int
    profile_number: int
    start: int
    size: int
    cis: tuple[int, ...]


def initial(profile: Profile) -> bytes:
    """The state right after a boot with the driver loaded."""
    layout = Layout(magic=MAGIC, version=VERSION, driver_loaded=1)
    _reset_gpus(layout, profile)
    return bytes(layout)


def _reset_gpus(layout: Layout, profile: Profile) -> None:
    """What a boot does: an InfoROM keeps the wished MIG mode of models that need a reset; nothing else stays."""
    for gpu in profile.gpus:
        own = layout.gpus[gpu.index]
        mig = own.mig_pending if gpu.model.mig_needs_reset else 0
        ctypes.memset(ctypes.byref(own), 0, ctypes.sizeof(own))
        own.mig_current = own.mig_pending = mig
        own.power_limit_mw = int(gpu.model.values["power_default_mw"])
        own.ecc_pending = int(gpu.model.values["ecc"])
        own.persistence = 1
        own.fabric_state = FABRIC_COMPLETED if gpu.model.values["fabric"] else 0


class State:
    """An open view of the shared state of one root. Close it, or use it as a context."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        offset = self._offset()
        self._map = mmap.mmap(self._fd, ctypes.sizeof(Layout), offset=offset)
        self.layout = Layout.from_buffer(self._map)
        if (self.layout.magic, self.layout.version) != (MAGIC, VERSION):
            raise ValueError(
                f"{path} is no state of this simulator (made by another version of it?)"
            )

    def __enter__(self) -> State:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        del self.layout
        self._map.close()
        os.close(self._fd)

    def _offset(self) -> int:
        size = os.fstat(self._fd).st_size
        magic, state_at, _, _ = library.FOOTER.unpack(
            os.pread(self._fd, library.FOOTER.size, size - library.FOOTER.size)
        )
        return int(state_at) if magic == library.MAGIC else 0

    @contextmanager
    def locked(self) -> Iterator[Layout]:
        """The layout, with no other writer at work."""
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        try:
            yield self.layout
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    def add_fault(self, fault: _Fault) -> int:
        """Puts a fault into a free slot and returns the slot."""
        with self.locked() as layout:
            for slot, at in enumerate(layout.faults):
                if not at.used:
                    layout.faults[slot] = fault
                    layout.fault_count = max(layout.fault_count, slot + 1)
                    return slot
        raise RuntimeError(f"all {MAX_FAULTS} faults are in use: clear some")

    def clear_fault(self, slot: int) -> None:
        with self.locked() as layout:
            layout.faults[slot].used = 0
            while layout.fault_count and not layout.faults[layout.fault_count - 1].used:
                layout.fault_count -= 1

    def clear(self) -> None:
        """No faults, no lost GPUs; what is really set (MIG, modes) stays."""
        with self.locked() as layout:
            for fault in layout.faults:
                fault.used = 0
            layout.fault_count = 0
            for gpu in layout.gpus:
                gpu.lost = gpu.recovery_action = gpu.fabric_status = gpu.fabric_health = 0
        self._wake()

    def reboot(self, profile: Profile) -> None:
        with self.locked() as layout:
            ctypes.memset(ctypes.byref(layout.faults), 0, ctypes.sizeof(layout.faults))
            layout.fault_count = 0
            layout.boot += 1
            layout.driver_loaded = 1
            _reset_gpus(layout, profile)
        self._wake()

    def set_gpu(self, gpu: int, **words: int) -> None:
        """Sets words of one GPU's state by their names in the layout."""
        with self.locked() as layout:
            for name, value in words.items():
                if name not in _GPU_WORDS:
                    raise KeyError(name)
                setattr(layout.gpus[gpu], name, value)
        self._wake()

    def set_driver_loaded(self, loaded: bool) -> None:
        with self.locked() as layout:
            layout.driver_loaded = int(loaded)
            for gpu in layout.gpus:  # settings are the driver's, and gone with it
                gpu.compute_mode = gpu.timeslice = 0
        self._wake()

    def inject(
        self, gpu: int, kind: int, data: int, gi: int = ANY_INSTANCE, ci: int = ANY_INSTANCE
    ) -> None:
        """Adds an event and wakes every waiter."""
        with self.locked() as layout:
            event = _Event(type=kind, data=data, gpu=gpu, gi=gi, ci=ci)
            layout.events[layout.event_head % MAX_EVENTS] = event
            layout.event_head += 1
        self._wake()

    def _wake(self) -> None:
        address = ctypes.addressof(self.layout) + Layout.event_head.offset
        ctypes.CDLL(None).syscall(
            _SYS_FUTEX, ctypes.c_void_p(address), _FUTEX_WAKE, 2**31 - 1, None, None, 0
        )

    def mig_instances(self) -> list[MigInstance]:
        found = []
        for number, gpu in enumerate(self.layout.gpus):
            for gi_id, gi in enumerate(gpu.gis):
                if gi.used:
                    cis = tuple(i for i, ci in enumerate(gi.cis) if ci.used)
                    found.append(MigInstance(number, gi_id, gi.profile, gi.start, gi.size, cis))
        return found


Fault = _Fault
