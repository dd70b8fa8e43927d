"""Writes to the fake's store: names, versions, preconditions, patches, and the rules that a test has set.

Raises StatusError for what needs no knowledge of a kind: missing and existing objects, conflicts, preconditions.
"""

from __future__ import annotations

import copy
import secrets
import time
import uuid
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from tests.fakes.apiserver import apply, status
from tests.fakes.apiserver.admission import Rule
from tests.fakes.apiserver.auth import User
from tests.fakes.apiserver.kinds import Kind, Route
from tests.fakes.apiserver.status import StatusError
from tests.fakes.apiserver.store import Entry, Store
from tests.fakes.apiserver.versions import to_stored, to_version

JsonObject = dict[str, Any]
SERVER_METADATA = ("uid", "creationTimestamp", "generation", "deletionTimestamp", "selfLink")
RANDOM_CHARACTERS = "bcdfghjklmnpqrstvwxz2456789"
GENERATED_PREFIX_LIMIT = 58
APPLY_TYPES = frozenset({"application/apply-patch+yaml", "application/apply-patch+cbor"})
MERGE_TYPES = frozenset({"application/merge-patch+json", "application/strategic-merge-patch+json"})


@dataclass(frozen=True, slots=True)
class Write:
    """One write request; ``body`` is decoded JSON in ``route.version``."""

    user: User
    route: Route
    kind: Kind
    body: JsonObject
    manager: str = ""
    content_type: str = ""

    @property
    def is_dry_run(self) -> bool:
        """Whether to stop before committing."""
        return self.route.query.get("dryRun") == "All"


class Writer:
    """See the module. ``rules``, by plural, are applied to every object that is written; a test may change them."""

    def __init__(self, store: Store) -> None:
        self.rules: dict[str, list[Rule]] = defaultdict(list)
        self._store = store

    def create(self, write: Write) -> Entry:
        """POST to a collection."""
        kind = write.kind
        obj = self._decode(write, write.body)
        metadata = obj["metadata"]
        if metadata.get("resourceVersion"):
            raise StatusError(400, "resourceVersion should not be set on objects to be created")
        self._settle_namespace(write, metadata)
        with self._store.lock:
            self._settle_name(metadata)
            if self._store.find(kind, metadata.get("namespace", ""), metadata["name"]):
                raise status.already_exists(kind.plural, metadata["name"], kind.group)
            for key in SERVER_METADATA:
                metadata.pop(key, None)
            metadata["uid"] = str(uuid.uuid4())
            metadata["creationTimestamp"] = now()
            if kind.counts_generation:
                metadata["generation"] = 1
            if kind.has_status and kind.plural not in {"nodes", "namespaces", "pods"}:
                obj.pop("status", None)
            obj = self._admit(write, obj)
            owners = {write.manager: write.body} if write.content_type in APPLY_TYPES else {}
            return self._commit(write, Entry(obj, 0, owners))

    def update(self, write: Write) -> Entry:
        """PUT of an object or of its status."""
        obj = self._decode(write, write.body)
        metadata = obj["metadata"]
        if metadata.get("name") != write.route.name:
            raise StatusError(
                400,
                f"the name of the object ({metadata.get('name')}) does not match the name on the URL",
            )
        with self._store.lock:
            old = self.existing(write)
            self._check_version(write, metadata, old)
            return self._replace(write, obj, old)

    def patch(self, write: Write) -> Entry:
        """PATCH: apply or merge, of an object or of its status."""
        if write.content_type in APPLY_TYPES:
            return self._apply(write)
        if write.content_type not in MERGE_TYPES:
            raise StatusError(
                415, f"the body of the request was in an unknown format: {write.content_type}"
            )
        with self._store.lock:
            old = self.existing(write)
            current = to_version(old.obj, write.kind, write.route.version)
            merged = apply.merge_patch(copy.deepcopy(current), write.body)
            obj = self._decode(write, merged)
            self._check_version(write, obj["metadata"], old)
            return self._replace(write, obj, old)

    def delete(self, write: Write) -> tuple[Entry, bool]:
        """DELETE of one object: the last state, and whether it was removed (finalizers keep it)."""
        with self._store.lock:
            old = self.existing(write)
            wanted = write.body.get("preconditions") or {}
            for key in ("uid", "resourceVersion"):
                if wanted.get(key) and wanted[key] != old.obj["metadata"].get(key):
                    raise status.conflict(
                        write.kind.plural, write.route.name, write.kind.group,
                        f"Precondition failed: {key} in precondition: {wanted[key]}, "
                        f"{key} in object meta: {old.obj['metadata'].get(key)}",
                    )  # fmt: skip
            return self._delete(write, old)

    def _delete(self, write: Write, old: Entry) -> tuple[Entry, bool]:
        metadata = old.obj["metadata"]
        if write.is_dry_run:
            return old, True
        if not metadata.get("finalizers"):
            return self._store.remove(write.kind, old.key), True
        if metadata.get("deletionTimestamp"):
            return old, False
        marked = {**old.obj, "metadata": {**metadata, "deletionTimestamp": now()}}
        return self._store.put(write.kind, Entry(marked, 0, old.owners)), False

    def existing(self, write: Write) -> Entry:
        """The object that the URL names; raises StatusError (404)."""
        route = write.route
        found = self._store.find(write.kind, route.namespace, route.name)
        if found is None:
            raise status.not_found(write.kind.plural, route.name, write.kind.group)
        return found

    def _apply(self, write: Write) -> Entry:
        if not write.manager:
            raise StatusError(400, "fieldManager is required for apply patch")
        applied = self._decode(write, write.body)
        with self._store.lock:
            route = write.route
            old = self._store.find(write.kind, route.namespace, route.name)
            if old is None and not route.subresource:
                return self.create(write)
            old = self.existing(write)
            self._check_version(write, applied["metadata"], old)
            if route.subresource == "status":
                applied = {"status": applied.get("status") or {}}
            merged = apply.apply(old.obj, applied, old.owners.get(write.manager, {}))
            obj = self._settle_update(write, merged, old)
            owners = {**old.owners, write.manager: applied}
            if obj == old.obj and owners == old.owners:
                return old
            return self._commit(write, Entry(obj, 0, owners))

    def _replace(self, write: Write, obj: JsonObject, old: Entry) -> Entry:
        obj = self._settle_update(write, obj, old)
        if obj == old.obj:
            return old  # the real server writes nothing either
        entry = self._commit(write, Entry(obj, 0, old.owners))
        metadata = entry.obj["metadata"]
        if metadata.get("deletionTimestamp") and not metadata.get("finalizers"):
            return self._store.remove(write.kind, entry.key)
        return entry

    def _settle_update(self, write: Write, obj: JsonObject, old: Entry) -> JsonObject:
        """Keep what the caller cannot change through this URL."""
        kind = write.kind
        metadata = (
            dict(obj["metadata"]) if not write.route.subresource else dict(old.obj["metadata"])
        )
        for key in (*SERVER_METADATA, "resourceVersion", "name", "namespace"):
            metadata.pop(key, None)
            if key in old.obj["metadata"]:
                metadata[key] = old.obj["metadata"][key]
        obj = {**obj, "metadata": metadata}
        if write.route.subresource == "status":
            obj = {**old.obj, "metadata": metadata, "status": obj.get("status") or {}}
        elif kind.has_status:
            obj.pop("status", None)
            if "status" in old.obj:
                obj["status"] = old.obj["status"]
        obj = self._admit(write, obj)
        if kind.counts_generation and obj.get("spec") != old.obj.get("spec"):
            metadata["generation"] = old.obj["metadata"].get("generation", 1) + 1
        return obj

    def _admit(self, write: Write, obj: JsonObject) -> JsonObject:
        for rule in self.rules[write.kind.plural]:
            obj = rule(obj)
        return obj

    def _decode(self, write: Write, body: JsonObject) -> JsonObject:
        kind, version = write.kind, write.route.version
        for key, want in (("apiVersion", kind.api_version(version)), ("kind", kind.kind)):
            if body.get(key, want) != want:
                raise StatusError(
                    400, f"{key} {body[key]!r} of the object does not match {want!r} of the URL"
                )
        metadata = body.get("metadata")
        obj = {"apiVersion": "", "kind": "", **body, "metadata": dict(metadata or {})}
        obj["metadata"].pop("managedFields", None)
        obj["apiVersion"], obj["kind"] = kind.api_version(version), kind.kind
        return to_stored(obj, kind, version)

    def _settle_namespace(self, write: Write, metadata: JsonObject) -> None:
        if not write.kind.namespaced:
            metadata.pop("namespace", None)
            return
        namespace = write.route.namespace
        if metadata.get("namespace", namespace) != namespace:
            raise StatusError(
                400, "the namespace of the object does not match the namespace on the URL"
            )
        if self._store.find(NAMESPACES, "", namespace) is None:
            raise status.not_found("namespaces", namespace, "")
        metadata["namespace"] = namespace

    def _settle_name(self, metadata: JsonObject) -> None:
        if metadata.get("name"):
            return
        prefix = metadata.get("generateName")
        if not prefix:
            raise StatusError(422, "metadata.name: name or generateName is required")
        suffix = "".join(secrets.choice(RANDOM_CHARACTERS) for _ in range(5))
        metadata["name"] = prefix[:GENERATED_PREFIX_LIMIT] + suffix

    def _check_version(self, write: Write, metadata: JsonObject, old: Entry) -> None:
        for key, text in (("resourceVersion", "the object has been modified; please apply your "
                           "changes to the latest version and try again"),
                          ("uid", "Precondition failed: UID in precondition differs")):  # fmt: skip
            if metadata.get(key) and metadata[key] != old.obj["metadata"].get(key):
                raise status.conflict(write.kind.plural, write.route.name, write.kind.group, text)

    def _commit(self, write: Write, entry: Entry) -> Entry:
        return entry if write.is_dry_run else self._store.put(write.kind, entry)


NAMESPACES = Kind(
    group="", versions=("v1",), plural="namespaces", kind="Namespace", namespaced=False
)


def now() -> str:
    """The time as the API writes it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
