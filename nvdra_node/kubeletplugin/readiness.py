"""Whether this node can prepare any claim at all; if not, its devices are withheld or tainted.

Checks (driver files, directories) report their result by subject, from any thread. While one fails, ``GuardedPool``
gives the publisher no devices, or tainted ones, so that the scheduler sends no pod here. Running pods are not affected.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from nvdra_core.errors import FileError
from nvdra_core.runtime import log
from nvdra_node.host.ports import Files
from nvdra_node.kubeletplugin.driver import Pool, PoolSource

TAINT = "prepare-blocked"
"""Key, after ``<driver>/``."""
_PROBE = b"nvdra\n" * 512
"""As long as a small record, so that a full file system is detected."""
_LOG = log.get(__name__)


class Readiness:
    """The failed checks of one driver. Thread safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._causes: dict[str, str] = {}
        """By subject."""
        self._changed: list[Callable[[], None]] = []

    def report(self, subject: str, cause: str) -> None:
        """Store the result of a check; an empty cause: it passed. Notifies subscribers of a change."""
        with self._lock:
            if self._causes.get(subject, "") == cause:
                return
            if cause:
                self._causes[subject] = cause
            else:
                del self._causes[subject]
            causes = self.causes
        if cause:
            _LOG.warning("no claim can be prepared", subject=subject, why=cause)
        elif not causes:
            _LOG.info("claims can be prepared again", subject=subject)
        for changed in self._changed:
            changed()

    @property
    def causes(self) -> tuple[str, ...]:
        """Why no claim can be prepared; empty: no check failed."""
        return tuple(cause for _, cause in sorted(self._causes.items()))

    def subscribe(self, changed: Callable[[], None]) -> None:
        """Call ``changed`` (cheap) after each change. Before any check runs."""
        self._changed.append(changed)


class GuardedPool:
    """A driver's pool, without devices or with tainted ones while a check fails."""

    def __init__(self, driver: PoolSource, readiness: Readiness, *, taints: bool) -> None:
        """``taints``: publish the devices with a taint, instead of none."""
        self.name = driver.name
        self._driver = driver
        self._readiness = readiness
        self._taint = {"key": f"{driver.name}/{TAINT}", "effect": "NoSchedule"} if taints else None

    def pool(self) -> Pool:
        """See PoolSource."""
        pool = self._driver.pool()
        if not self._readiness.causes:
            return pool
        if self._taint is None:
            return replace(pool, devices=(), shared_counters=())
        return replace(pool, devices=tuple(self._tainted(device) for device in pool.devices))

    def _tainted(self, device: Mapping[str, Any]) -> Mapping[str, Any]:
        taints = [*device.get("taints", ()), self._taint]
        return {**device, "taints": sorted(taints, key=lambda taint: str(taint["key"]))}


def write_fault(files: Files, probes: Iterable[Path]) -> str:
    """Why one of ``probes`` cannot be written, found by writing and removing each; empty when all can."""
    try:
        for probe in probes:
            files.make_directory(probe.parent)
            files.replace(probe, _PROBE)
            files.remove(probe)
    except FileError as error:
        return str(error)
    return ""
