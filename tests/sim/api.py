"""The simulator for tests: one `SimRoot` is one machine's driver.

    root = SimRoot.create(tmp_path / "host", "h100x8")
    root.fault("nvmlDeviceGetUUID", code=15, gpu=3)     # live, for every process that has the library open
    root.lose(5); root.xid(2, 79); root.unload_driver(); root.reboot(); root.destroy()

Truth to compare with is in `root.profile`. Settings of a service under test: driverRoot = devRoot = `root.path`,
procRoot = `root.proc`, sysRoot = `root.sys`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from tests.sim import library, profile, state
from tests.sim.fs import files, kernel, procfs, sysfs, tree
from tests.sim.profile import Gpu, Profile
from tests.sim.state import ANY, EVENT_XID, MigInstance, State

_RECORD = "run/nvsim/profile.json"


class SimRoot:
    """A fake driver root on disk. Cheap to make, cheap to open again from another process."""

    def __init__(self, path: Path, truth: Profile) -> None:
        self.path = path
        self.profile = truth

    @classmethod
    def create(
        cls,
        path: Path | str,
        profile_name: str = "h100x8",
        *,
        seed: int = 0,
        node: int = 0,
        change: Mapping[str, Any] | None = None,
    ) -> SimRoot:
        """Makes the root at `path` with the driver loaded. Nodes of one cluster: the same seed, distinct `node`.

        An older root at that place is removed first; any other content stays.
        """
        path = Path(path).absolute()
        if (path / _RECORD).exists():
            cls.open(path).destroy()
        truth = profile.load(profile_name, seed, node, change)
        path.mkdir(parents=True, exist_ok=True)
        tree.install(path, truth, state.initial(truth))
        record = {"profile": profile_name, "seed": seed, "node": node, "change": dict(change or {})}
        files.write(path / _RECORD, json.dumps(record))
        sysfs.boot(path, truth)
        procfs.boot(path)
        root = cls(path, truth)
        root._show_driver()
        return root

    @classmethod
    def open(cls, path: Path | str) -> SimRoot:
        """A root that was made before."""
        path = Path(path).absolute()
        record = json.loads((path / _RECORD).read_text())
        return cls(
            path, profile.load(record["profile"], record["seed"], record["node"], record["change"])
        )

    @property
    def proc(self) -> Path:
        return self.path / "proc"

    @property
    def sys(self) -> Path:
        return self.path / "sys"

    @property
    def nvml_library(self) -> Path:
        return self.path / tree.LIBRARY_DIRECTORY / "libnvidia-ml.so.1"

    @property
    def nvidia_smi(self) -> Path:
        return self.path / "usr/bin/nvidia-smi"

    def state(self) -> State:
        """The shared state, open; close it."""
        return State(self.path / "run/nvsim/state")

    def fault(
        self,
        function: str = "*",
        *,
        gpu: int | None = None,
        code: int = 0,
        delay_ms: int = 0,
        hang: bool = False,
        times: int = 0,
    ) -> int:
        """Calls of `function` (NVML name, "*" for all; on one GPU or on any) fail with `code`, are slow, or hang.

        `times` 0 means until cleared. A hanging call goes on when the fault is cleared. Returns the fault's slot.
        A function that the simulator knows by name only takes no GPU.
        """
        number = ANY if function == "*" else library.functions().index(function)
        fault = state.Fault(
            used=1,
            fn=number,
            gpu=ANY if gpu is None else gpu,
            code=code,
            delay_ms=delay_ms,
            hang=int(hang),
            remaining=times,
        )
        with self.state() as view:
            return view.add_fault(fault)

    def fault_hits(self, slot: int) -> int:
        """How often the fault in this slot was met."""
        with self.state() as view:
            return int(view.layout.faults[slot].hits)

    def clear_fault(self, slot: int) -> None:
        with self.state() as view:
            view.clear_fault(slot)

    def clear(self) -> None:
        """No faults, no lost GPUs; MIG instances and settings stay."""
        with self.state() as view:
            view.clear()

    def lose(self, gpu: int) -> None:
        """The GPU has fallen off the bus: its calls answer GPU_IS_LOST, waiters for its events too."""
        with self.state() as view:
            view.set_gpu(gpu, lost=1)

    def find(self, gpu: int) -> None:
        """The lost GPU is back."""
        with self.state() as view:
            view.set_gpu(gpu, lost=0)

    def xid(self, gpu: int, number: int, gi: int | None = None, ci: int | None = None) -> None:
        """An XID event; without instance ids it is the GPU's as a whole."""
        any_instance = state.ANY_INSTANCE
        with self.state() as view:
            view.inject(
                gpu,
                EVENT_XID,
                number,
                any_instance if gi is None else gi,
                any_instance if ci is None else ci,
            )

    def cool(self, gpu: int, seconds: float) -> None:
        """Persistence mode is off: the first use of the GPU takes this long, whenever no process has it open."""
        with self.state() as view:
            view.set_gpu(gpu, persistence=0, cold_ms=int(seconds * 1000))

    def set_gpu(self, gpu: int, **words: int) -> None:
        """Sets words of a GPU's state: fabric_state, recovery_action, ecc_uncorrected ... (see state.py)."""
        with self.state() as view:
            view.set_gpu(gpu, **words)

    def mig_instances(self) -> list[MigInstance]:
        with self.state() as view:
            return view.mig_instances()

    def unload_driver(self, *, uninstall: bool = False) -> None:
        """As `rmmod nvidia`: no nodes, no /proc/driver/nvidia, NVML says DRIVER_NOT_LOADED.

        `uninstall` takes the NVML library away too: it cannot be loaded any more.
        """
        with self.state() as view:
            view.set_driver_loaded(False)
        tree.remove_nodes(self.path)
        procfs.unload(self.path, self.profile)
        sysfs.unload(self.path, self.profile)
        if uninstall:
            for library_file in self.nvml_library.parent.glob("libnvidia-ml.so*"):
                library_file.unlink()

    def load_driver(self, version: str | None = None) -> None:
        """As `modprobe nvidia`, after installing it where it is missing. `version`: another driver is installed."""
        if version or not self.nvml_library.exists():
            self._install(version or self.profile.driver_version)
        with self.state() as view:
            view.set_driver_loaded(True)
        self._show_driver()

    def reboot(self) -> None:
        """MIG instances, settings and faults are gone, the boot id is another one; the driver is loaded again."""
        procfs.boot(self.path)
        with self.state() as view:
            view.reboot(self.profile)
        tree.remove_nodes(self.path)
        procfs.unload(self.path, self.profile)
        sysfs.unload(self.path, self.profile)
        for gpu in self.profile.gpus:
            sysfs.unbind(self.path, gpu)
        self._show_driver()

    def bind(self, gpu: int, driver: str | None) -> None:
        """Moves a GPU to another PCI driver, as writes to sysfs would: `vfio-pci`, `nvidia`, or None."""
        target: Gpu = self.profile.gpus[gpu]
        sysfs.unbind(self.path, target)
        if driver:
            sysfs.bind(self.path, target, driver)
        node = self.path / f"dev/nvidia{target.minor}"
        if driver == "nvidia":
            files.node(node, tree.MAJOR_NVIDIA, target.minor)
        else:
            files.remove(node)
        if driver and driver.startswith("vfio"):
            files.node(self.path / f"dev/vfio/{target.iommu_group}", 511, target.iommu_group, 0o600)
        else:
            files.remove(self.path / f"dev/vfio/{target.iommu_group}")

    def pci_kernel(self) -> AbstractContextManager[None]:
        """While it is entered, writes to `bind`, `unbind` and `drivers_probe` under `sys` move GPUs between drivers."""
        return kernel.running(self)

    def destroy(self) -> None:
        """Removes the root."""
        for name in ("dev", "lib", "proc", "run", "sys", "usr"):
            files.remove(self.path / name)
        if not any(self.path.iterdir()):
            self.path.rmdir()

    def _show_driver(self) -> None:
        tree.make_nodes(self.path, self.profile)
        procfs.load(self.path, self.profile)
        sysfs.load(self.path, self.profile)

    def _install(self, version: str) -> None:
        record = json.loads((self.path / _RECORD).read_text())
        if version != self.profile.driver_version:
            driver = {"version": version, "nvml": f"{_api_major(version)}.{version}"}
            record["change"] = {**record["change"], "driver": driver}
            for old in self.nvml_library.parent.iterdir():
                files.remove(old)
            files.write(self.path / _RECORD, json.dumps(record))
        self.profile = profile.load(
            record["profile"], record["seed"], record["node"], record["change"]
        )
        tree.install(self.path, self.profile, state.initial(self.profile))


def _api_major(driver_version: str) -> int:
    """The first number of NVML's own version, which follows CUDA's: 13 since driver 580."""
    return 13 if int(driver_version.split(".")[0]) >= 580 else 12
