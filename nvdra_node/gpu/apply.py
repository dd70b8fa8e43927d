"""Brings GPU effects about and takes them back; both may be repeated. Called by ``driver``.

The time slice can be set through nvidia-smi only (NVML has no function for it) and cannot be read. The compute mode is
read and set through NVML; it is changed when it forbids sharing, and put back to what it was.
"""

from __future__ import annotations

from nvdra_core import log
from nvdra_core.clock import Deadline
from nvdra_core.errors import CommandError
from nvdra_node.gpu.effects import DEFAULT_TIME_SLICE, GpuEffect, SetTimeSlice
from nvdra_node.host import driverroot
from nvdra_node.host.host import Host

_log = log.get(__name__)

COMPUTE_MODE_DEFAULT = 0


class Effects:
    """The effects on one machine."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def capture(self, effect: GpuEffect, deadline: Deadline) -> GpuEffect:
        """The effect with what must be restored. Raises NvmlError, HostError."""
        mode = self._host.nvml.call("compute_mode", deadline, uuid=effect.uuid)
        return SetTimeSlice(uuid=effect.uuid, time_slice=effect.time_slice, compute_mode=int(mode))

    def apply(self, effect: GpuEffect, deadline: Deadline) -> None:
        """Make it so. Raises NvmlError, CommandError."""
        if effect.compute_mode != COMPUTE_MODE_DEFAULT:
            self._set_compute_mode(effect.uuid, COMPUTE_MODE_DEFAULT, deadline)
        try:
            self._set_time_slice(effect.uuid, effect.time_slice, deadline)
        except CommandError as error:
            # A GPU without time slices does what the default asks for anyway.
            if effect.time_slice != DEFAULT_TIME_SLICE or not _is_unsupported(error):
                raise

    def undo(self, effect: GpuEffect, deadline: Deadline) -> None:
        """Put back what was. Raises NvmlError, CommandError."""
        if self._host.sysfs.driver_version() is None:
            return  # the setting went with the driver
        if effect.time_slice != DEFAULT_TIME_SLICE:
            try:
                self._set_time_slice(effect.uuid, DEFAULT_TIME_SLICE, deadline)
            except CommandError as error:
                if not _is_unsupported(error):
                    raise
                _log.info("time slice not supported, nothing to reset", gpu=effect.uuid)
        if effect.compute_mode not in (None, COMPUTE_MODE_DEFAULT):
            self._set_compute_mode(effect.uuid, effect.compute_mode, deadline)

    def _set_compute_mode(self, uuid: str, mode: int | None, deadline: Deadline) -> None:
        self._host.nvml.call("set_compute_mode", deadline, uuid=uuid, mode=mode)

    def _set_time_slice(self, uuid: str, time_slice: int, deadline: Deadline) -> None:
        arguments = ["compute-policy", "-i", uuid, "--set-timeslice", str(time_slice)]
        self._host.commands.run([*_nvidia_smi(self._host), *arguments], deadline)


def _nvidia_smi(host: Host) -> list[str]:
    """How to start nvidia-smi: below another driver root, with that root's library."""
    root = host.roots.driver
    if str(root) == "/":
        return ["nvidia-smi"]
    library = driverroot.library(root)
    return ["env", f"LD_PRELOAD={library}", str(driverroot.program(root, "nvidia-smi"))]


def _is_unsupported(error: CommandError) -> bool:
    return "not supported" in f"{error.output} {error}".lower()
