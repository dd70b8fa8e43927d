"""What a stolen node could do to ResourceClaims and their status, in every version of the API that is served."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

from tests.beds.services.attackbed import (
    APPLY,
    CHANNEL,
    GPU,
    JSON_PATCH,
    KUBELET,
    LABEL,
    MERGE,
    NIC,
    NIC_MANAGER,
    NODE_RULES,
    OTHER,
    OTHER_MANAGER,
    OWN,
    POLICY,
    RBAC,
    RESOURCE_API,
    STRATEGIC,
    TEAM,
    TOKEN,
    UNBOUND,
    VERSIONS,
    Attack,
    Json,
    Request,
    World,
    a_claim,
    device_status,
    fixed,
)
from tests.lib.objects import node_selector
from tests.service.realapi.sliceattacks import SHORT

Change = Callable[[Json], Json]
"""A claim's status to what a thief makes of it."""
RESULT = {"request": "gpu", "driver": GPU, "pool": OWN, "device": "dev-0"}
ALLOCATION = {"nodeSelector": node_selector(OWN), "devices": {"results": [RESULT]}}
ON_OTHER = device_status(GPU, OTHER)
THIEF = {"resource": "pods", "name": "thief", "uid": "thief"}


def claims(version: str = "v1", name: str = "", sub: str = "") -> str:
    """The path of claims, of one, or of its subresource."""
    parts = [f"{RESOURCE_API}/{version}/namespaces/{TEAM}/resourceclaims", name, sub]
    return "/".join(part for part in parts if part)


def of_claim_statuses() -> Iterator[Attack]:
    """``status.devices`` is for the own driver's devices on the own node, and nothing else of the status."""
    for version in VERSIONS:
        of_nic = "adds, changes or removes another driver's entry in `status.devices`, of a claim on its node"
        yield from _entries(of_nic, version, NIC, OWN, NIC_MANAGER)
        of_peer = "adds, changes or removes an entry of its driver for another node's pool"
        yield from _entries(of_peer, version, CHANNEL, OTHER, OTHER_MANAGER)
        row = "allocates a claim, or takes its allocation away"
        yield from _statuses(row, version, lambda s: {**s, "allocation": None}, "idle")
        yield from _statuses(row, version, lambda s: {**s, "allocation": ALLOCATION}, "free")
        row = "changes who uses a claim (`reservedFor`)"
        yield from _statuses(row, version, lambda s: {**s, "reservedFor": None})
        yield from _statuses(
            row, version, lambda s: {**s, "reservedFor": [*s["reservedFor"], THIEF]}
        )
        row = "writes the status of a claim on another node"
        yield from _statuses(
            row, version, lambda s: {**s, "devices": [*s["devices"], ON_OTHER]}, "theirs"
        )
        yield _applied(row, version, "theirs", {"devices": [ON_OTHER]}, "thief")
        fields: Json = {"metadata": {"managedFields": [{}]}}
        make = fixed("PATCH", claims(version, "theirs", "status"), fields, MERGE)
        yield Attack(row, "patch (merge)", version, TOKEN, POLICY, make)
        row = "writes a status with a token that is bound to no Node"
        mine = {"devices": [device_status(GPU, OWN)]}
        yield _applied(row, version, "mine", mine, "thief", by=UNBOUND)


def _entries(row: str, version: str, driver: str, pool: str, manager: str) -> Iterator[Attack]:
    new, changed = device_status(driver, pool, "dev-1"), device_status(driver, pool, status="False")

    def without(status: Json) -> list[Json]:
        return [d for d in status["devices"] if (d["driver"], d["pool"]) != (driver, pool)]

    yield from _statuses(row, version, lambda s: {**s, "devices": [*s["devices"], new]})
    yield from _statuses(row, version, lambda s: {**s, "devices": [*without(s), changed]})
    yield from _statuses(row, version, lambda s: {**s, "devices": without(s)})
    for devices in ([new], [changed]):
        yield _applied(row, version, "mine", {"devices": devices}, "thief")
    # The name of a field manager is free: under that of the owner an apply without its entries removes them.
    yield _applied(row, version, "mine", {"devices": [device_status(GPU, OWN)]}, manager)


def _statuses(row: str, version: str, change: Change, name: str = "mine") -> Iterator[Attack]:
    """One change by all forms of a patch but apply, and by an update, for which a node has no right."""
    path = claims(version, name, "status")

    def changed(world: World) -> tuple[Json, Json]:
        claim = world.get(claims(version, name))
        return claim, change(claim["status"])

    def merged(world: World, form: str) -> Request:
        before, after = changed(world)
        patch = {key: value for key, value in after.items() if value != before["status"].get(key)}
        return Request("PATCH", path, {"status": patch}, form)

    def by_operations(world: World) -> Request:
        status = {key: value for key, value in changed(world)[1].items() if value is not None}
        return Request(
            "PATCH", path, [{"op": "replace", "path": "/status", "value": status}], JSON_PATCH
        )

    def updated(world: World) -> Request:
        before, after = changed(world)
        return Request("PUT", path, {**before, "status": after})

    for form in (MERGE, STRATEGIC):
        make = functools.partial(merged, form=form)
        yield Attack(row, f"patch ({SHORT[form]})", version, TOKEN, POLICY, make)
    yield Attack(row, "patch (JSON)", version, TOKEN, POLICY, by_operations)
    yield Attack(row, "update", version, TOKEN, RBAC, updated)


def _applied(
    row: str, version: str, name: str, status: Json, manager: str, by: str = TOKEN
) -> Attack:
    body = a_claim(name, {"status": status}, version)
    path = claims(version, name, "status") + f"?fieldManager={manager}&force=true"
    return Attack(row, "patch (apply)", version, by, POLICY, fixed("PATCH", path, body, APPLY))


def of_claims() -> Iterator[Attack]:
    """Claims themselves are never written, and only read by their names."""
    row = "changes, deletes or lists claims"
    ops = [{"op": "add", "path": "/metadata/labels", "value": {"changed": "true"}}]
    for version in VERSIONS:
        path = claims(version, "mine")
        head = a_claim("mine", {}, version)
        head["metadata"]["labels"] = {"changed": "true"}
        makes = {
            "patch (merge)": fixed("PATCH", path, LABEL, MERGE),
            "patch (JSON)": fixed("PATCH", path, ops, JSON_PATCH),
            "patch (apply)": fixed("PATCH", f"{path}?fieldManager=thief&force=true", head, APPLY),
            "delete": fixed("DELETE", path),
            "deletecollection": fixed("DELETE", claims(version)),
            "list": fixed("GET", f"{RESOURCE_API}/{version}/resourceclaims"),
            "watch": fixed(
                "GET", f"{RESOURCE_API}/{version}/resourceclaims?watch=true&timeoutSeconds=1"
            ),
        }
        for form, make in makes.items():
            yield Attack(row, form, version, TOKEN, RBAC, make)
            yield Attack(row, form, version, KUBELET, NODE_RULES, make)
    for form in (MERGE, STRATEGIC):
        status = {"status": {"devices": None}}
        make = fixed("PATCH", claims("v1", "mine", "status"), status, form)
        yield Attack(
            "writes the status of any claim",
            f"patch ({SHORT[form]})",
            "v1",
            KUBELET,
            NODE_RULES,
            make,
        )
