"""A cluster in memory for model-based tests: objects, machines with supervisors, users, and our decisions.

The controller sees it only through ``wire`` and its cache; events may arrive late, answers to its own
writes arrive at once. ``check`` states what must hold at any time, ``check_settled`` what must hold
when everything has been delivered and done.
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest

from nvdra_cluster.control.reconciler import Now, Reconciler
from nvdra_cluster.control.state import decode
from nvdra_cluster.control.state.cache import Cache
from nvdra_cluster.control.state.reuse_delay import SLOT_REUSE_DELAY_S
from nvdra_cluster.decide.model import DOMAIN_LABEL
from nvdra_cluster.decide.writes import Create, Delete, Write
from nvdra_cluster.settings import FabricSettings

Json = dict[str, Any]
Path = tuple[str, str, str]
ROUNDS = 50


@dataclass
class Machine:
    """A host with a supervisor; ``running`` is the slot that its IMEX runs on."""

    name: str
    clique: str
    boot: int = 1
    is_on: bool = True
    running: int | None = None
    has_node: bool = False
    is_out: bool = False
    drifts: int = 0
    """How often a running IMEX got another slot although its node had never left."""


@dataclass
class World:
    settings: FabricSettings
    objects: dict[Path, Json] = field(default_factory=dict)
    machines: dict[str, Machine] = field(default_factory=dict)
    numbers: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Domain to the port and channel that it was first given."""
    forced: set[str] = field(default_factory=set)
    """Domains that are deleted or may be, held or not."""
    clock_s: float = 0.0
    writes: int = 0
    _late: deque[tuple[str, Json]] = field(default_factory=deque)
    _version: int = 0

    def __post_init__(self) -> None:
        self.start_controller()

    def start_controller(self) -> None:
        """A controller that knows only what the API has."""
        self._late.clear()
        self.cache = Cache(lambda: self.clock_s)
        for obj in self.objects.values():
            self._deliver("PUT", obj)
        self.registry = CollectorRegistry()
        self.reconciler = Reconciler(self.cache, self.settings, self.registry)
        for obj in self.of("configmaps"):
            self.reconciler.released.note(obj)
        self.reconciler.adopt(self.clock_s)
        self.cache.enqueue_all()

    # What the API server does.

    def put(self, obj: Json, *, is_ours: bool = False) -> Json:
        path = path_of(obj)
        old = self.objects.get(path)
        self._version += 1
        metadata = {**obj["metadata"], "resourceVersion": str(self._version)}
        metadata.setdefault("uid", f"uid-{self._version}")
        metadata.setdefault("creationTimestamp", f"2026-01-01T00:00:00.{self._version:09}Z")
        obj = {**obj, "metadata": metadata}
        if old == obj:
            return old
        if metadata.get("deletionTimestamp") and not metadata.get("finalizers"):
            del self.objects[path]
            self._late.append(("DROP", obj))
            return obj
        self.objects[path] = obj
        self._late.append(("PUT", obj))
        return obj

    def delete(self, path: Path) -> None:
        obj = self.objects.get(path)
        if obj is None:
            return
        if obj["metadata"].get("finalizers"):
            if not obj["metadata"].get("deletionTimestamp"):
                self.put({**obj, "metadata": {**obj["metadata"], "deletionTimestamp": "now"}})
            return
        del self.objects[path]
        self._late.append(("DROP", obj))

    def deliver(self, count: int | None = None) -> None:
        """Let the controller's watches see what happened, in order."""
        for _ in range(len(self._late) if count is None else min(count, len(self._late))):
            self._deliver(*self._late.popleft())

    def _deliver(self, what: str, obj: Json) -> None:
        cache, plural = self.cache, obj["plural"]
        namespace, name = obj["metadata"].get("namespace", ""), obj["metadata"]["name"]
        path = f"{namespace}/{name}" if namespace else name
        puts: dict[str, tuple[Callable[[Json], None], Callable[[str], None]]] = {
            "nodes": (lambda o: cache.put_node(decode.node(o)), cache.drop_node),
            "fabricnodes": (lambda o: cache.put_fabric(decode.fabric(o)), cache.drop_fabric),
            "computedomains": (lambda o: cache.put_domain(decode.domain(o)), cache.drop_domain),
            "resourceclaimtemplates": (lambda o: cache.put_template(decode.template(o)), cache.drop_template),
            "computedomaincliques": (lambda o: cache.put_clique(decode.clique(o)), cache.drop_clique),
            "resourceclaims": (lambda o: cache.put_claim(decode.claim(o)), cache.drop_claim),
            "resourceslices": (lambda o: cache.put_slice(name, decode.slice_node(o)), cache.drop_slice),
            "events": (lambda o: None, lambda path: None),
            "configmaps": (lambda o: None, lambda path: None),
        }  # fmt: skip
        put, drop = puts[plural]
        if what == "PUT":
            put(obj)
        else:
            drop(path)

    # What the controller does.

    def step(self) -> int:
        """One round of decisions and writes, as ``Controller.reconcile_once``."""
        keys = self.cache.queue.get(1000)
        self.cache.queue.done(*keys)
        now = Now(self.clock_s, "2026-11-21T16:00:00Z")
        plans = self.reconciler.decide(keys, now)
        for plan in plans:
            if plan.ends is not None:
                for claim in self.of("resourceclaims"):
                    self._deliver("PUT", claim)
                plans += [replace(g, ends=None) for g in self.reconciler.decide([plan.key], now)]
                continue
            for write in plan.writes:
                self.writes += 1
                if not self._carry_out(write):
                    self.cache.enqueue(plan.key)
                    break
        return len(plans)

    def _carry_out(self, write: Write) -> bool:
        path: Path = write.key
        old = self.objects.get(path)
        if isinstance(write, Create):
            if old is None:
                body = {**copy.deepcopy(write.body), "plural": path[0]}
                self._deliver("PUT", self.put(body, is_ours=True))
                self._note(path)
                return True
            self._deliver("PUT", old)
            return False
        if old is None:
            return True
        if isinstance(write, Delete):
            if old["metadata"]["uid"] == write.uid:
                self.delete(path)
                self.cache.tombstone(write.uid)
                self._deliver("DROP", old)
            return True
        metadata = write.patch["metadata"]
        for key in ("uid", "resourceVersion"):
            if key in metadata and metadata[key] != old["metadata"][key]:
                return False
        stored = self.put(merge(old, write.patch), is_ours=True)
        self._deliver("PUT" if path in self.objects else "DROP", stored)
        self._note(path)
        return True

    def _note(self, path: Path) -> None:
        """The answer to a write of the released numbers, as ``Controller`` takes it over."""
        if path[0] == "configmaps":
            self.reconciler.released.note(self.objects.get(path))

    def settle(self) -> None:
        """Deliver, decide and let supervisors act until nothing changes."""
        for _ in range(ROUNDS):
            self.deliver()
            done = self.step()
            for machine in self.machines.values():
                done += self.act(machine)
            if not done and not self._late:
                return
        raise AssertionError("the controller does not come to rest")

    # What supervisors do.

    def act(self, machine: Machine) -> int:
        """Start or restart IMEX on the slot that the spec says, and report; 1 when something changed."""
        obj = self.objects.get(("fabricnodes", "", machine.name))
        if obj is None or not machine.is_on:
            return 0
        spec = obj.get("spec") or {}
        if machine.clique and spec.get("cliqueID") == machine.clique:
            slot = spec.get("slot")
            if machine.running is not None and slot is not None and slot != machine.running:
                machine.drifts += 1
            if slot is not None:
                machine.running = slot
        status = self.status(machine, obj)
        if status == obj.get("status"):
            return 0
        self.put({**obj, "status": status})
        return 1

    def status(self, machine: Machine, obj: Json) -> Json:
        status: Json = {
            "bootID": f"boot-{machine.boot}",
            "cliqueID": machine.clique,
            "addresses": [f"10.0.0.{len(machine.name)}"],
        }
        if machine.running is not None:
            status["imex"] = {
                "state": "READY",
                "incarnation": {
                    "bootID": status["bootID"], "invocationID": "i", "configHash": "h",
                    "slot": machine.running, "domainUID": "",
                },
            }  # fmt: skip
        assigned = {one["uid"] for one in (obj.get("spec") or {}).get("domains") or ()}
        before = obj.get("status") or {}
        if before.get("bootID") == status["bootID"]:  # claims do not survive a boot
            assigned |= {one["uid"] for one in before.get("domains") or ()}
        domains: dict[str, list[Json]] = {}
        for claim in self.of("resourceclaims"):
            if (
                node_of(claim) == machine.name
                and claim["metadata"]["labels"][DOMAIN_LABEL] in assigned
            ):
                uid = claim["metadata"]["labels"][DOMAIN_LABEL]
                held = {key: claim["metadata"][key] for key in ("namespace", "name", "uid")}
                domains.setdefault(uid, []).append(held)
        status["domains"] = [
            {"uid": uid, "ready": True, "claims": claims} for uid, claims in sorted(domains.items())
        ]
        return status

    def of(self, plural: str) -> list[Json]:
        return [obj for (kind, _, _), obj in sorted(self.objects.items()) if kind == plural]

    # What must hold.

    def check(self) -> None:
        """Recorded slots are distinct whatever events are pending; no decision failed."""
        assert b"decision_failures_total{" not in generate_latest(self.registry)
        seen: dict[tuple[str, int], str] = {}
        for obj in self.of("fabricnodes"):
            spec = obj.get("spec") or {}
            if spec.get("slot") is not None:
                key = (spec["cliqueID"], spec["slot"])
                name = obj["metadata"]["name"]
                assert seen.setdefault(key, name) == name, f"two nodes have slot {key}"
        running: dict[tuple[str, int], str] = {}
        for machine in self.machines.values():
            if machine.is_on and machine.running is not None:
                key = (machine.clique, machine.running)
                assert running.setdefault(key, machine.name) == machine.name, f"two run on {key}"
        for machine in self.machines.values():
            assert machine.drifts == 0, f"{machine.name} got another slot while it ran"

    def check_settled(self) -> None:
        self.check()
        self._check_holders()
        lists: dict[str, Json] = {}
        for obj in self.of("fabricnodes"):
            spec = obj.get("spec") or {}
            machine = self.machines[obj["metadata"]["name"]]
            if machine.clique and not machine.is_out and spec.get("slot") is not None:
                assigned = lists.setdefault(spec["cliqueID"], spec["slots"])
                assert assigned == spec["slots"], "peers got different slots"
            self._check_domains(spec)
        for domain in self.of("computedomains"):
            metadata = domain["metadata"]
            template = ("resourceclaimtemplates", metadata["namespace"], metadata["name"])
            assert (template in self.objects) is not bool(metadata.get("deletionTimestamp"))

    def _check_holders(self) -> None:
        """No two domains in use share numbers, deleted domains included."""
        users: dict[tuple[int, int], str] = {}
        for obj in self.of("fabricnodes"):
            machine = self.machines[obj["metadata"]["name"]]
            if machine.is_out or not machine.has_node:
                continue
            for report in (obj.get("status") or {}).get("domains") or ():
                numbers = self.numbers.get(report["uid"])
                if numbers is not None:
                    holder = users.setdefault(numbers, report["uid"])
                    assert holder == report["uid"], f"two domains in use have {numbers}"

    def _check_domains(self, spec: Json) -> None:
        domains = spec.get("domains") or []
        if self.settings.isolation.value == "channel":
            own = [one["channel"] for one in domains]
        else:
            own = [one["port"] for one in domains]
        assert len(own) == len(set(own)), "two domains share a number on a node"
        for one in domains:
            numbers = (one["port"], one["channel"])
            assert self.numbers.setdefault(one["uid"], numbers) == numbers, "a number changed"


def path_of(obj: Json) -> Path:
    return (obj["plural"], obj["metadata"].get("namespace", ""), obj["metadata"]["name"])


def node_of(claim: Json) -> str:
    return decode.claim(claim).node


def merge(old: Any, patch: Any) -> Any:
    """RFC 7386."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    result = dict(old) if isinstance(old, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge(result.get(key), value)
    return result


__all__ = ["SLOT_REUSE_DELAY_S", "Machine", "World", "merge", "node_of", "path_of"]
