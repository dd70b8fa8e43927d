"""Brings GPU effects about and takes them back; all of it may be repeated. Called by ``driver``.

The time slice can be set through nvidia-smi only (NVML has no function for it) and cannot be read. The compute mode is
read and set through NVML; it is changed when it forbids sharing, and put back to what it was. Both end with the driver:
what was captured or applied under another instance of it is no more.
"""

from __future__ import annotations

from msgspec.structs import replace

from nvdra_core.errors import CommandError, HostError, NotReadyError
from nvdra_core.runtime import log
from nvdra_core.runtime.clock import Deadline
from nvdra_node.gpu.effects import DEFAULT_TIME_SLICE, GpuEffect
from nvdra_node.gpu.owed import Debt, Owed
from nvdra_node.host import driverroot
from nvdra_node.host.host import Host

_log = log.get(__name__)

COMPUTE_MODE_DEFAULT = 0
UNDO_S = 5.0
"""For the one try of an unprepare, which holds the GPU's lock and a pod's end."""


class Effects:
    """The effects on one machine."""

    def __init__(self, host: Host, owed: Owed) -> None:
        self.host = host
        self._owed = owed

    def capture(self, effect: GpuEffect, deadline: Deadline) -> GpuEffect:
        """The effect with what must be restored. Raises NvmlError, HostError."""
        driver = self.host.sysfs.driver_instance() or ""
        if effect.compute_mode is not None and effect.driver in ("", driver):
            return effect
        mode = self.host.nvml.call("compute_mode", deadline, uuid=effect.uuid)
        return replace(effect, compute_mode=int(mode), driver=driver)

    def apply(self, effect: GpuEffect, deadline: Deadline) -> None:
        """Make it so. Raises NvmlError, CommandError."""
        if effect.compute_mode != COMPUTE_MODE_DEFAULT:
            self._set_compute_mode(effect.uuid, COMPUTE_MODE_DEFAULT, deadline)
        self._set_time_slice(effect.uuid, effect.time_slice, deadline)

    def undo(self, effect: GpuEffect, deadline: Deadline, *, is_asked: bool) -> None:
        """Put back what was or, when that fails within a few seconds, let the GPU owe it.

        ``is_asked`` False: the GPU is known not to answer. Raises FileError when the debt cannot be written.
        """
        driver = self.host.sysfs.driver_instance()
        if driver is None:
            return  # the settings went with the driver
        mode = effect.compute_mode if effect.driver in ("", driver) else None
        mode = None if mode == COMPUTE_MODE_DEFAULT else mode
        if effect.time_slice == DEFAULT_TIME_SLICE and mode is None:
            return
        why: Exception | None = None
        if is_asked:
            try:
                self._restore(effect.uuid, mode, deadline.within(UNDO_S))
            except (HostError, NotReadyError) as error:
                why = error
            else:
                return
        debt = Debt(
            uuid=effect.uuid,
            boot_id=self.host.sysfs.boot_id(),
            driver=driver,
            compute_mode=mode,
        )
        self._owed.add(debt)
        _log.warning("time slice not reset: it is owed until the GPU answers", why, gpu=effect.uuid)

    def owed(self) -> tuple[str, ...]:
        """UUIDs of the GPUs that owe something. Raises FileError."""
        return self._owed.uuids()

    def settle(self, uuid: str, deadline: Deadline, *, is_asked: bool) -> None:
        """Reset what a GPU owes; nothing when it owes nothing. ``is_asked`` False: the GPU is known not to answer, or
        not on this node any more, and only a void debt is removed. Raises NvmlError, CommandError, DeadlineError,
        FileError."""
        debt = self._owed.get(uuid)
        if debt is None:
            return
        is_void = self._is_void(debt)
        if not is_void and not is_asked:
            return
        if not is_void:
            self._restore(uuid, debt.compute_mode, deadline)
            _log.info("time slice reset, which an ended claim had left", gpu=uuid)
        self._owed.remove(uuid)

    def _is_void(self, debt: Debt) -> bool:
        """Whether the settings are gone: with the kernel, or with the driver."""
        if not debt.driver:
            return False
        sysfs = self.host.sysfs
        return debt.boot_id != sysfs.boot_id() or debt.driver != sysfs.driver_instance()

    def _restore(self, uuid: str, compute_mode: int | None, deadline: Deadline) -> None:
        self._set_time_slice(uuid, DEFAULT_TIME_SLICE, deadline)
        if compute_mode is not None:
            self._set_compute_mode(uuid, compute_mode, deadline)

    def _set_compute_mode(self, uuid: str, mode: int | None, deadline: Deadline) -> None:
        self.host.nvml.call("set_compute_mode", deadline, uuid=uuid, mode=mode)

    def _set_time_slice(self, uuid: str, time_slice: int, deadline: Deadline) -> None:
        arguments = ["compute-policy", "-i", uuid, "--set-timeslice", str(time_slice)]
        try:
            self.host.commands.run([*_nvidia_smi(self.host), *arguments], deadline)
        except CommandError as error:
            # A GPU without time slices does what the default asks for anyway.
            if time_slice != DEFAULT_TIME_SLICE or not _is_unsupported(error):
                raise


def _nvidia_smi(host: Host) -> list[str]:
    """How to start nvidia-smi: below another driver root, with that root's library."""
    root = host.roots.driver
    if str(root) == "/":
        return ["nvidia-smi"]
    library = driverroot.library(root)
    return ["env", f"LD_PRELOAD={library}", str(driverroot.program(root, "nvidia-smi"))]


def _is_unsupported(error: CommandError) -> bool:
    return "not supported" in f"{error.output} {error}".lower()
