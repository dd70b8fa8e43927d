"""A driver and a claim source with state, for tests of what all drivers share.

The driver's devices are ``gpu-<n>``. An opaque config ``{"set": {"mode": "fast"}, "restart": true}`` becomes one effect
per entry and device. ``admin_access`` results get no effects and no holds.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from msgspec.structs import replace

from nvdra_core.errors import (
    ApiError,
    HostError,
    NotReadyError,
    StaleClaimError,
    UnknownDeviceError,
)
from nvdra_core.runtime.clock import Deadline
from nvdra_node.cdi import spec
from nvdra_node.cdi.edits import CdiDevice, ClaimFile, ClaimSpec, ContainerEdits, DeviceNode
from nvdra_node.checkpoint.claim import Claim, ClaimRef
from nvdra_node.checkpoint.model import PreparedDevice, Record
from nvdra_node.kubeletplugin.claims import effects as effect_rules
from nvdra_node.kubeletplugin.driver import Effect, Outcome, Plan, Pool, Prepared
from tests.fakes.host.files import Faults

KIND = "gpu.example.com/claim"


def content_of(file: str) -> str:
    """The content of a claim's file (config ``{"files": [name, ...]}``)."""
    return f"content of {file}"


@dataclass
class FakeMachine:
    """Settings that effects change. A reboot resets them."""

    faults: Faults = field(default_factory=Faults)
    devices: set[str] = field(default_factory=lambda: {f"gpu-{n}" for n in range(8)})
    settings: dict[str, str] = field(default_factory=dict)
    not_ready: int = 0
    """The next so many applications raise NotReadyError, after they took effect."""
    is_stuck: bool = False
    """Nothing can be undone."""
    undone: list[Effect] = field(default_factory=list)
    """Effects as ``undo`` got them."""
    on_apply: Callable[[], None] = field(default=lambda: None)
    """Called at the beginning of each application: lets a test hold it up."""

    def reboot(self) -> None:
        """Settings are volatile."""
        self.settings.clear()


class FakeDriver:
    """See Driver."""

    name = "gpu.example.com"

    def __init__(self, machine: FakeMachine) -> None:
        self._machine = machine
        self._lock = threading.Lock()

    def pool(self) -> Pool:
        """See Driver."""
        return Pool(devices=tuple({"name": name} for name in sorted(self._machine.devices)))

    def subscribe(self, changed: Callable[[], None]) -> None:
        """See Driver. The pool never changes."""

    def plan(self, claim: Claim, others: Sequence[Record]) -> Plan:
        """See Driver."""
        for result in claim.results:
            if result.device not in self._machine.devices:
                raise UnknownDeviceError(f"there is no device {result.device}")
        used = [result.device for result in claim.results if not result.admin_access]
        parameters = [config.parameters for config in claim.configs]
        effects: list[Effect] = [
            {"kind": "set", "target": f"{device}/{key}", "value": value}
            for device in used
            for config in parameters
            for key, value in config.get("set", {}).items()
        ]
        return Plan(
            holds=tuple(sorted(f"hold:{device}" for device in used)),
            effects=effect_rules.adopt(effects, others),
            config_key=repr(parameters),
            restart=any(config.get("restart") for config in parameters),
        )

    def release(self, record: Record, others: Sequence[Record]) -> Sequence[Effect]:
        """See Driver."""
        return effect_rules.unneeded(record, others)

    def capture(self, effect: Effect, deadline: Deadline) -> Effect:
        """See Driver."""
        if "original" in effect:
            return effect
        return {**effect, "original": self._machine.settings.get(effect["target"])}

    def apply(self, effect: Effect, deadline: Deadline) -> Outcome:
        """See Driver."""
        deadline.check(f"apply {effect['target']}")
        self._machine.on_apply()
        with self._lock:
            self._fail(f"apply {effect['target']}")
            self._machine.settings[effect["target"]] = effect["value"]
            if self._machine.not_ready > 0:
                self._machine.not_ready -= 1
                raise NotReadyError(f"{effect['target']} is not there yet", retry_after_s=0.01)
        return {"value": effect["value"]}

    def undo(self, effect: Effect, deadline: Deadline) -> None:
        """See Driver."""
        with self._lock:
            self._fail(f"undo {effect['target']}")
            if self._machine.is_stuck:
                raise HostError(f"{effect['target']} is stuck")
            self._machine.undone.append(effect)
            if effect["original"] is None:
                self._machine.settings.pop(effect["target"], None)
            else:
                self._machine.settings[effect["target"]] = effect["original"]

    def owed(self) -> Sequence[str]:
        """See Driver. What is stuck keeps its claim."""
        return ()

    def settle(self, holds: Sequence[str], deadline: Deadline) -> None:
        """See Driver."""

    def finish(self, claim: Claim, plan: Plan, effects: Sequence[Effect]) -> Prepared:
        """See Driver."""
        named = [(f"{claim.ref.uid}-{result.device}", result) for result in claim.results]
        return Prepared(
            devices=tuple(
                PreparedDevice(
                    request=result.main_request,
                    pool=result.pool,
                    device=result.device,
                    cdi_ids=(f"{KIND}={name}",),
                    admin_access=result.admin_access,
                    share_id=result.share_id,
                )
                for name, result in named
            ),
            spec=ClaimSpec(
                devices=tuple(
                    CdiDevice(
                        name=name,
                        edits=ContainerEdits(
                            env=tuple(f"SET={effect['outcome']['value']}" for effect in effects),
                            device_nodes=(DeviceNode(path=f"/dev/{result.device}"),),
                        ),
                    )
                    for name, result in named
                ),
                files=tuple(
                    ClaimFile(name=name, content=content_of(name))
                    for config in claim.configs
                    for name in config.parameters.get("files", ())
                ),
            ),
        )

    def verify(self, record: Record, deadline: Deadline) -> None:
        """See Driver."""
        for device in record.devices:
            if device.device not in self._machine.devices:
                raise HostError(f"device {device.device} is missing")
        for effect in record.effects:
            if self._machine.settings.get(effect["target"]) != effect["value"]:
                raise HostError(f"{effect['target']} is not {effect['value']}")

    def edits(self, record: Record) -> ClaimSpec:
        """See Driver. Nothing is numbered here; the contents of files are made again."""
        assert record.cdi is not None
        files = [
            ClaimFile(name=file.name, content=content_of(file.name)) for file in record.cdi.files
        ]
        return replace(record.cdi, files=tuple(files))

    def _fail(self, what: str) -> None:
        if self._machine.faults.step(what) is not None:
            raise HostError(f"{what}: refused by the fake machine")


class FakeClaims:
    """See ClaimSource: the API server's claims in a dict."""

    def __init__(self) -> None:
        self.claims: dict[str, Claim] = {}
        """By namespace/name."""
        self.is_down = False
        self.refusal: ApiError | None = None
        """What every read raises instead."""
        self.reads = 0
        self.after_read: Callable[[], None] = lambda: None
        """Called when a claim was read, found or not, before the answer is given."""

    def add(self, claim: Claim) -> ClaimRef:
        """Create or replace a claim."""
        self.claims[f"{claim.ref.namespace}/{claim.ref.name}"] = claim
        return claim.ref

    def delete(self, ref: ClaimRef) -> None:
        """Delete a claim."""
        self.claims.pop(f"{ref.namespace}/{ref.name}", None)

    def fetch(self, ref: ClaimRef, deadline: Deadline) -> Claim:
        """See ClaimSource."""
        self.reads += 1
        if self.is_down:
            raise ApiError("no answer", status=0)
        if self.refusal is not None:
            raise self.refusal
        claim = self.claims.get(f"{ref.namespace}/{ref.name}")
        self.after_read()
        if claim is None or claim.ref.uid != ref.uid:
            raise StaleClaimError(f"claim {ref} was deleted")
        return claim


class NoDriverFiles:
    """See DriverFiles: a driver whose devices need none of NVIDIA's files."""

    def current(self, deadline: Deadline) -> spec.Common:
        """See DriverFiles."""
        return spec.WITHOUT_DRIVER
