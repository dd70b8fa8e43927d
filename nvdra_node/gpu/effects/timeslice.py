"""Effect ``setTimeSlice``: the length of a GPU's time slices, for several processes on one GPU.

nvidia-smi alone can set the time slice, nothing can read it. The compute mode is read and set through NVML: it is
changed if it forbids sharing, and restored. Both are lost when the kernel driver is unloaded.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec.structs import replace

from nvdra_core.errors import CommandError, EffectLostError, HostError, NotReadyError
from nvdra_core.runtime import log
from nvdra_core.runtime.clock import Deadline
from nvdra_node.gpu.effects.base import decode, encode
from nvdra_node.gpu.effects.debts import Debt, DebtStore
from nvdra_node.gpu.inventory.rescan import Rescanner
from nvdra_node.gpu.model import HOLD_PREFIX, GpuState
from nvdra_node.host import driverroot
from nvdra_node.host.host import Host
from nvdra_node.kubeletplugin.driver import Effect, Outcome

_LOG = log.get(__name__)

DEFAULT_TIME_SLICE = 0
"""Of a GPU whose driver was just loaded."""
COMPUTE_MODE_DEFAULT = 0
"""NVML_COMPUTEMODE_DEFAULT."""
UNDO_S = 5.0
"""Limit of the one attempt in an unprepare, which holds the GPU's lock and delays the pod's end."""


class Original(msgspec.Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What ``capture`` found."""

    compute_mode: int
    """NVML_COMPUTEMODE_*."""
    driver: str = ""
    """``Sysfs.driver_instance``; empty in records of early releases."""


class Applied(msgspec.Struct, frozen=True, kw_only=True):
    """What ``apply`` returned."""

    driver: str
    """``Sysfs.driver_instance`` that has the setting."""


class SetTimeSlice(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    rename="camel",
    tag="setTimeSlice",
    tag_field="kind",
    omit_defaults=True,
):
    """The effect, as in records."""

    uuid: str
    time_slice: int
    """0 default, 1 short, 2 medium, 3 long."""
    original: Original | None = None
    outcome: Applied | None = None


class TimeSlices:
    """See EffectHandler."""

    kind = "setTimeSlice"

    def __init__(self, host: Host, debts: DebtStore, source: Rescanner) -> None:
        self._host = host
        self._debts = debts
        self._source = source

    def capture(self, effect: Effect, deadline: Deadline) -> Effect:
        """See EffectHandler."""
        decoded, driver = decode(effect, SetTimeSlice), self._instance()
        original = decoded.original
        if original is None or original.driver not in ("", driver):
            mode = self._host.nvml.call("compute_mode", deadline, uuid=decoded.uuid)
            original = Original(compute_mode=int(mode), driver=driver)
        return encode(replace(decoded, original=original))

    def apply(self, effect: Effect, deadline: Deadline) -> Outcome:
        """See EffectHandler."""
        decoded = decode(effect, SetTimeSlice)
        # Before the setting: it is lost if the driver is loaded again in between.
        outcome = {"driver": self._instance()}
        if decoded.original is None or decoded.original.compute_mode != COMPUTE_MODE_DEFAULT:
            self._set_compute_mode(decoded.uuid, COMPUTE_MODE_DEFAULT, deadline)
        self._set_time_slice(decoded.uuid, decoded.time_slice, deadline)
        return outcome

    def verify(self, effect: Effect, deadline: Deadline) -> None:
        """See EffectHandler."""
        decoded = decode(effect, SetTimeSlice)
        driver = decoded.original.driver if decoded.original else ""
        if decoded.outcome is not None:
            driver = decoded.outcome.driver
        if driver != self._instance():
            raise EffectLostError(
                f"GPU {decoded.uuid} has lost its time slice, as the NVIDIA driver was loaded again"
            )

    def undo(self, effect: Effect, deadline: Deadline) -> None:
        """See EffectHandler. Raises FileError when a debt cannot be written."""
        decoded = decode(effect, SetTimeSlice)
        driver = self._host.sysfs.driver_instance()
        if driver is None:
            return  # the settings were lost with the driver
        original = decoded.original
        mode = original.compute_mode if original and original.driver in ("", driver) else None
        mode = None if mode == COMPUTE_MODE_DEFAULT else mode
        if decoded.time_slice == DEFAULT_TIME_SLICE and mode is None:
            return
        why: Exception | None = None
        if self._should_ask(decoded.uuid):
            try:
                self._restore(decoded.uuid, mode, deadline.within(UNDO_S))
            except (HostError, NotReadyError) as error:
                why = error
            else:
                return
        debt = Debt(
            uuid=decoded.uuid,
            boot_id=self._host.sysfs.boot_id(),
            driver=driver,
            compute_mode=mode,
        )
        self._debts.add(debt)
        _LOG.warning("time slice not reset; retrying when the GPU answers", why, gpu=decoded.uuid)

    def owed(self) -> Sequence[str]:
        """See EffectHandler."""
        return [f"{HOLD_PREFIX}{uuid}" for uuid in self._debts.uuids()]

    def settle(self, hold: str, deadline: Deadline) -> None:
        """See EffectHandler. A GPU that does not answer is settled once it does, and prepared meanwhile: its taint
        keeps claims away that do not tolerate it."""
        debt = self._debts.get(hold.removeprefix(HOLD_PREFIX))
        if debt is None:
            return
        is_obsolete = self._is_obsolete(debt)
        if not is_obsolete and not self._should_ask(debt.uuid):
            return
        try:
            if not is_obsolete:
                self._restore(debt.uuid, debt.compute_mode, deadline)
                _LOG.info("time slice of an ended claim reset", gpu=debt.uuid)
            self._debts.remove(debt.uuid)
        except (HostError, NotReadyError) as error:
            raise HostError(
                f"GPU {debt.uuid} has the time slice of a claim that ended, and it cannot be reset: {error}; retrying;"
                " reset the GPU if that does not help"
            ) from error

    def _should_ask(self, uuid: str) -> bool:
        """Whether to call a GPU: each call on a hung one can leave a process stuck in the kernel."""
        gpus = self._source.inventory.gpus
        gpu = next((gpu for gpu in gpus if gpu.uuid == uuid), None)
        if gpu is None:
            return not gpus
        return gpu.state in (GpuState.OK, GpuState.FAILED)

    def _is_obsolete(self, debt: Debt) -> bool:
        """Whether the settings were lost with the kernel or the driver."""
        if not debt.driver:
            return False
        sysfs = self._host.sysfs
        return debt.boot_id != sysfs.boot_id() or debt.driver != sysfs.driver_instance()

    def _instance(self) -> str:
        return self._host.sysfs.driver_instance() or ""

    def _restore(self, uuid: str, compute_mode: int | None, deadline: Deadline) -> None:
        self._set_time_slice(uuid, DEFAULT_TIME_SLICE, deadline)
        if compute_mode is not None:
            self._set_compute_mode(uuid, compute_mode, deadline)

    def _set_compute_mode(self, uuid: str, mode: int, deadline: Deadline) -> None:
        self._host.nvml.call("set_compute_mode", deadline, uuid=uuid, mode=mode)

    def _set_time_slice(self, uuid: str, time_slice: int, deadline: Deadline) -> None:
        arguments = ["compute-policy", "-i", uuid, "--set-timeslice", str(time_slice)]
        try:
            self._host.commands.run([*_nvidia_smi(self._host), *arguments], deadline)
        except CommandError as error:
            # A GPU without time slices has the default anyway.
            if time_slice != DEFAULT_TIME_SLICE or not _is_unsupported(error):
                raise


def _nvidia_smi(host: Host) -> list[str]:
    """The command of nvidia-smi; below another driver root with that root's library."""
    root = host.roots.driver
    if str(root) == "/":
        return ["nvidia-smi"]
    library = driverroot.library(root)
    return ["env", f"LD_PRELOAD={library}", str(driverroot.program(root, "nvidia-smi"))]


def _is_unsupported(error: CommandError) -> bool:
    return "not supported" in f"{error.output} {error}".lower()
