"""What the modules of this package work with, in one value. Built by ``app``."""

from __future__ import annotations

import threading

import msgspec

from nvdra_core.runtime.clock import Clock
from nvdra_node.cdi.store import SpecFiles
from nvdra_node.checkpoint.store import RecordStore
from nvdra_node.kubeletplugin.claims.reader import ClaimSource
from nvdra_node.kubeletplugin.claims.wait_events import NoWaitEvents, WaitEvents
from nvdra_node.kubeletplugin.driver import Driver


class Dependencies(msgspec.Struct, frozen=True, kw_only=True):
    """What a transaction works with."""

    driver: Driver
    claims: ClaimSource
    records: RecordStore
    specs: SpecFiles
    clock: Clock
    boot_id: str
    stopping: threading.Event = msgspec.field(default_factory=threading.Event)
    """Set when the process ends: waits end early."""
    wait_events: NoWaitEvents | WaitEvents = msgspec.field(default_factory=NoWaitEvents)
