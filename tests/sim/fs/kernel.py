"""The PCI core of a simulated host: writes to `bind`, `unbind` and `drivers_probe` do what the kernel would do.

In: plain files of `<root>/sys/bus/pci`, watched with inotify. Out: a GPU's `driver` link, its node, its vfio group.
Called by: `SimRoot.pci_kernel()` and `python -m tests.sim kernel ROOT`. Unlike the real sysfs it answers some
milliseconds after the write and never with an error: a program under test has to read the result.
"""

from __future__ import annotations

import ctypes
import os
import select
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tests.sim.fs import sysfs
from tests.sim.profile import Gpu

if TYPE_CHECKING:
    from tests.sim.api import SimRoot

_CLOSE_WRITE = 0x8
_EVENT = struct.Struct("iIII")
_NO_OVERRIDE = ("", "(null)")


class PciKernel:
    """Watches one root until it is stopped."""

    def __init__(self, root: SimRoot) -> None:
        self._root = root
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._inotify = self._libc.inotify_init1(os.O_CLOEXEC)
        self._stop_read, self._stop_write = os.pipe()
        self._watched: dict[int, Path] = {}
        bus = root.sys / "bus/pci"
        (bus / "drivers_probe").touch()
        for path in (
            bus / "drivers_probe",
            *bus.glob("drivers/*/bind"),
            *bus.glob("drivers/*/unbind"),
        ):
            watch = self._libc.inotify_add_watch(self._inotify, os.fsencode(path), _CLOSE_WRITE)
            if watch < 0:
                raise OSError(ctypes.get_errno(), "inotify_add_watch", str(path))
            self._watched[watch] = path

    def run(self) -> None:
        """Serves writes until `stop`."""
        while True:
            ready, _, _ = select.select([self._inotify, self._stop_read], [], [])
            if self._stop_read in ready:
                return
            data = os.read(self._inotify, 65536)
            at = 0
            while at < len(data):
                watch, _, _, name_size = _EVENT.unpack_from(data, at)
                at += _EVENT.size + name_size
                if watch in self._watched:
                    self._serve(self._watched[watch])

    def stop(self) -> None:
        os.write(self._stop_write, b"x")

    def close(self) -> None:
        for fd in (self._inotify, self._stop_read, self._stop_write):
            os.close(fd)

    def _serve(self, path: Path) -> None:
        bdf = path.read_text().strip()
        gpu = next((gpu for gpu in self._root.profile.gpus if gpu.bdf == bdf), None)
        if gpu is None:
            return
        path.write_text("")  # an attribute that is written keeps nothing
        if path.name == "unbind":
            if sysfs.bound_driver(self._root.path, gpu) == path.parent.name:
                self._root.bind(gpu.index, None)
        elif sysfs.bound_driver(self._root.path, gpu) is None:
            driver = self._match(gpu, path)
            if driver:
                self._root.bind(gpu.index, driver)

    def _match(self, gpu: Gpu, path: Path) -> str | None:
        """The driver that takes this GPU. An override names the only one; vfio-pci takes nothing without it."""
        override = (
            (sysfs.device_directory(self._root.path, gpu) / "driver_override").read_text().strip()
        )
        asked = None if path.name == "drivers_probe" else path.parent.name
        wanted = "nvidia" if override in _NO_OVERRIDE else override
        if (
            asked not in (None, wanted)
            or not (self._root.sys / "bus/pci/drivers" / wanted).exists()
        ):
            return None
        return wanted


@contextmanager
def running(root: SimRoot) -> Iterator[None]:
    """A PCI core in a thread of this process."""
    kernel = PciKernel(root)
    thread = threading.Thread(target=kernel.run, name="sim-pci", daemon=True)
    thread.start()
    try:
        yield
    finally:
        kernel.stop()
        thread.join()
        kernel.close()
