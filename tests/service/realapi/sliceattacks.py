"""What a stolen node could do to ResourceSlices, in every version of the API that is served."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.beds.services.attackbed import (
    APPLY,
    CHANNEL,
    GPU,
    JSON_PATCH,
    KUBELET,
    MERGE,
    NIC,
    NODE_RULES,
    OTHER,
    OWN,
    POLICY,
    RBAC,
    RESOURCE_API,
    STRATEGIC,
    TOKEN,
    UNBOUND,
    VERSIONS,
    Attack,
    Json,
    Request,
    World,
    fixed,
)
from tests.lib.objects import node_selector, reference

ABSURD = 2**62
COUNTERS = [{"name": "all", "counters": {"memory": {"value": "1Gi"}}}]
BOTH = ((TOKEN, POLICY), (KUBELET, POLICY))
BY_NODE_RULES = ((TOKEN, POLICY), (KUBELET, NODE_RULES))


def slices(version: str, name: str = "") -> str:
    """The path of slices, or of one."""
    return f"{RESOURCE_API}/{version}/resourceslices" + (f"/{name}" if name else "")


def of_slices() -> Iterator[Attack]:
    """All of them."""
    for version in VERSIONS:
        yield from _creates(version)
        yield from _updates(version)
        yield from _deletes(version)
        yield from _patches(version)


def _create(row: str, version: str, by: tuple[tuple[str, str], ...], spec: Json) -> Iterator[Attack]:  # fmt: skip
    def make(world: World) -> Request:
        return Request("POST", slices(version), _sent(world, version, spec))

    for credential, held_by in by:
        yield Attack(row, "create", version, credential, held_by, make)


def _sent(world: World, version: str, spec: Json) -> Json:
    """A new slice; what is None is left out."""
    changes = dict(spec)
    metadata = changes.pop("metadata", {})
    pool = changes.pop("pool", {})
    body = world.a_slice(world.new_name(), version=version, node=changes.pop("node", OWN))
    body["spec"] |= changes
    body["spec"]["pool"] |= pool
    body["metadata"] |= metadata
    body["spec"] = {key: value for key, value in body["spec"].items() if value is not None}
    return body


def _creates(version: str) -> Iterator[Attack]:
    of_another = "publishes for another node (`nodeName`)"
    yield from _create(of_another, version, BY_NODE_RULES, {"node": OTHER})
    foreign = "puts its slice into another node's pool (`spec.pool.name`)"
    counters: Json = {"devices": None, "sharedCounters": COUNTERS}
    for driver in (GPU, CHANNEL):
        yield from _create(foreign, version, BOTH, {"driver": driver, "pool": {"name": OTHER}})
    shadow = {"name": OTHER, "generation": ABSURD}
    yield from _create(foreign, version, BOTH, {"pool": shadow, **counters})
    yield from _create(foreign, version, BOTH, {"pool": {"name": f"{OWN}/{OTHER}"}})
    no_node = "publishes for all nodes, for selected ones, or for each device another"
    device: Json = {"name": "dev-0", "nodeName": OTHER}
    if version == "v1beta1":
        device = {"name": "dev-0", "basic": {"nodeName": OTHER}}
    selections: tuple[Json, ...] = (
        {"allNodes": True},
        {"nodeSelector": node_selector(OTHER)},
        {"perDeviceNodeSelection": True, "devices": [device]},
    )
    for selection in selections:
        yield from _create(no_node, version, BY_NODE_RULES, {"nodeName": None, **selection})
    row = "publishes for another driver"
    yield from _create(row, version, ((TOKEN, POLICY),), {"driver": NIC})
    row = "publishes with a token that is bound to no Node"
    yield from _create(row, version, ((UNBOUND, POLICY),), {})
    high = "gives its pool a generation that cannot be followed by a higher one"
    yield from _create(high, version, BOTH, {"pool": {"generation": ABSURD}})
    yield from _owners(version)


def _owners(version: str) -> Iterator[Attack]:
    row = "publishes a slice that outlives its Node (owners, finalizers)"
    node = reference("Node", OTHER, uid="x")
    for owners in ([], [node], [{**node, "kind": "ConfigMap", "name": OWN}]):
        yield from _create(row, version, BOTH, {"metadata": {"ownerReferences": owners}})
    yield from _create(row, version, BOTH, {"metadata": {"finalizers": ["example.com/stay"]}})
    wrong = {**node, "name": OWN}
    yield from _create(row, version, ((TOKEN, POLICY),), {"metadata": {"ownerReferences": [wrong]}})


def _updates(version: str) -> Iterator[Attack]:
    def change(name: str, **pool: Any) -> Any:
        def make(world: World) -> Request:
            body = world.get(slices(version, name))
            body["spec"]["pool"] |= pool
            body["metadata"]["labels"] = {"changed": "true"}
            return Request("PUT", slices(version, name), body)

        return make

    row = "changes or deletes a slice of another node"
    for by, held_by in BY_NODE_RULES:
        yield Attack(row, "update", version, by, held_by, change("theirs-gpu"))
    row = "gives its pool a generation that cannot be followed by a higher one"
    for by, held_by in BOTH:
        yield Attack(row, "update", version, by, held_by, change("own-gpu", generation=ABSURD))
    row = "changes or deletes another driver's slice on its node"
    yield Attack(row, "update", version, TOKEN, POLICY, change("own-nic"))


def _deletes(version: str) -> Iterator[Attack]:
    def delete(path: str) -> Any:
        return lambda world: Request("DELETE", path)

    row = "changes or deletes a slice of another node"
    theirs = delete(slices(version, "theirs-gpu"))
    for by, held_by in BY_NODE_RULES:
        yield Attack(row, "delete", version, by, held_by, theirs)
    row = "changes or deletes another driver's slice on its node"
    yield Attack(row, "delete", version, TOKEN, POLICY, delete(slices(version, "own-nic")))
    row = "deletes many slices at once"
    everything = delete(slices(version))
    yield Attack(row, "deletecollection", version, TOKEN, RBAC, everything)
    yield Attack(row, "deletecollection", version, KUBELET, NODE_RULES, everything)
    own = delete(f"{slices(version)}?fieldSelector=spec.nodeName%3D{OWN}")
    yield Attack(row, "deletecollection", version, TOKEN, RBAC, own)


def _patches(version: str) -> Iterator[Attack]:
    row = "patches a slice, its own too"
    for name in ("own-gpu", "theirs-gpu"):
        path = slices(version, name)
        label = {"metadata": {"labels": {"changed": "true"}}}
        head = {"apiVersion": f"resource.k8s.io/{version}", "kind": "ResourceSlice"}
        applied = {**head, "metadata": {"name": name, "labels": {"changed": "true"}}}
        ops = [{"op": "add", "path": "/metadata/labels", "value": {"changed": "true"}}]
        for form, body, query in (
            (MERGE, label, ""),
            (STRATEGIC, label, ""),
            (JSON_PATCH, ops, ""),
            (APPLY, applied, "?fieldManager=thief&force=true"),
        ):
            make = fixed("PATCH", path + query, body, form)
            yield Attack(row, f"patch ({SHORT[form]})", version, TOKEN, RBAC, make)


SHORT = {MERGE: "merge", STRATEGIC: "strategic", JSON_PATCH: "JSON", APPLY: "apply"}
