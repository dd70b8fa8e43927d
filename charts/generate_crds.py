"""Writes charts/nvdra/crds from the types of nvdra_core.api: ``python charts/generate_crds.py``.

Names, types, required fields and enums come from the types, descriptions from the texts under their
fields; what only the API server can do (immutability, list keys, bounds on what nodes write, columns
of kubectl) stands here. ``tests/unit/chart/test_crds.py`` fails when the files are not up to date.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from pathlib import Path
from typing import Any

import msgspec
import yaml
from msgspec import inspect as types

from nvdra_core import api
from nvdra_core.api import compute_domain, fabric

TARGET = Path(__file__).resolve().parent / "nvdra" / "crds"
JsonObject = dict[str, Any]

CLIQUE_ID = r"^$|^[0-9a-z]([0-9a-z.-]{0,61}[0-9a-z])?$"
OBJECT_NAME = "^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$"
WORDS: dict[type[types.Type], str] = {
    types.StrType: "string",
    types.IntType: "integer",
    types.BoolType: "boolean",
}


def list_map(*keys: str) -> JsonObject:
    """A list of the type map, with its keys."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": list(keys)}


WHOLE: JsonObject = {"x-kubernetes-list-type": "atomic"}
"""A list of the controller's that is written as a whole. As a map it has an entry in managedFields for each
field of each element: half of a FabricNode, and a fifth of the CPU time that the API server needs while a
domain forms.
"""

PEER_ADDRESS: JsonObject = {
    "rule": "isIP(self) && ip(self).isGlobalUnicast()",
    "message": "must be an IP address that another host can reach: no host name, loopback or link-local address",
}
"""Its peers write it into their hosts files. The same as nvdra_core.api.addresses."""
FEW_CLAIMS: JsonObject = {
    "rule": "self.map(domain, has(domain.claims) ? domain.claims.size() : 0).sum() <= 1024",
    "message": "at most 1024 claims in all domains of a node",
}

OVERRIDES: dict[str, JsonObject] = {
    "ComputeDomain.spec": {
        "x-kubernetes-validations": [
            {"rule": "self == oldSelf", "message": "A computeDomain.spec is immutable"}
        ]
    },
    "ComputeDomain.spec.numNodes": {"minimum": 0, "default": 0},
    "ComputeDomain.spec.channel.allocationMode": {"default": "Single"},
    "ComputeDomain.status": {"required": ["status"]},
    "ComputeDomain.status.status": {"default": "NotReady"},
    "ComputeDomain.status.nodes": list_map("name"),
    "ComputeDomain.status.nodes[]": {"required": ["cliqueID", "ipAddress", "name"]},
    "ComputeDomain.status.nodes[].status": {"default": "NotReady"},
    "ComputeDomain.status.conditions": list_map("type"),
    "ComputeDomain.status.conditions[].status": {"enum": ["True", "False", "Unknown"]},
    "ComputeDomain.status.conditions[].lastTransitionTime": {"format": "date-time"},
    "ComputeDomainClique.daemons": list_map("nodeName"),
    "ComputeDomainClique.daemons[].status": {"default": "NotReady"},
    "FabricNode.spec.slot": {"minimum": 0, "maximum": 4095},
    "FabricNode.spec.slots": {**WHOLE, "maxItems": 4096},
    "FabricNode.spec.slots[].nodeName": {"maxLength": 253},
    # A pattern: with 4096 entries a rule in CEL would cost more than the whole write.
    "FabricNode.spec.slots[].address": {"maxLength": 45, "pattern": "^[0-9a-fA-F:.]*$"},
    "FabricNode.spec.formerSlots": WHOLE,
    "FabricNode.spec.domains": WHOLE,
    "FabricNode.spec.domains[].port": {"minimum": 0, "maximum": 65535},
    "FabricNode.spec.domains[].channel": {"minimum": 0, "maximum": 1048575},
    "FabricNode.spec.domains[].slotCount": {"minimum": 0, "maximum": 4096},
    "FabricNode.spec.sharedPort": {"minimum": 0, "maximum": 65535},
    "FabricNode.spec.heartbeatSeconds": {"minimum": 1},
    "FabricNode.spec.lostHeartbeat": {"maxLength": 64},
    "FabricNode.status.bootID": {"maxLength": 64},
    "FabricNode.status.clusterUUID": {"maxLength": 64},
    "FabricNode.status.cliqueID": {"pattern": CLIQUE_ID},
    "FabricNode.status.addresses": {"maxItems": 16},
    "FabricNode.status.addressMessage": {"maxLength": 512},
    "FabricNode.status.addresses[]": {"maxLength": 45, "x-kubernetes-validations": [PEER_ADDRESS]},
    "FabricNode.status.driverVersion": {"maxLength": 64},
    "FabricNode.status.imexVersion": {"maxLength": 64},
    "FabricNode.status.channelCount": {"minimum": 0, "maximum": 1048576},
    "FabricNode.status.fabricMessage": {"maxLength": 1024},
    "FabricNode.status.imex.message": {"maxLength": 1024},
    "FabricNode.status.imex.certificateRequest": {"maxLength": 8192},
    "FabricNode.status.imex.incarnation.bootID": {"maxLength": 64},
    "FabricNode.status.imex.incarnation.invocationID": {"maxLength": 64},
    "FabricNode.status.imex.incarnation.configHash": {"maxLength": 128},
    "FabricNode.status.imex.incarnation.slot": {"minimum": 0, "maximum": 4095},
    "FabricNode.status.imex.incarnation.domainUID": {"maxLength": 64},
    "FabricNode.status.imex.incarnation.slotCount": {"minimum": 0, "maximum": 4096},
    "FabricNode.status.imex.incarnation.version": {"maxLength": 64},
    "FabricNode.status.domains": {
        **list_map("uid"),
        "maxItems": 256,
        "x-kubernetes-validations": [FEW_CLAIMS],
    },
    "FabricNode.status.domains[].uid": {"maxLength": 64},
    "FabricNode.status.domains[].reason": {"pattern": "^([A-Z][A-Za-z0-9]{0,63})?$"},
    "FabricNode.status.domains[].message": {"maxLength": 1024},
    "FabricNode.status.domains[].claims": {**list_map("uid"), "maxItems": 256},
    "FabricNode.status.domains[].peers": {**WHOLE, "maxItems": 32},
    "FabricNode.status.domains[].peers[].slot": {"minimum": 0, "maximum": 4095},
    "FabricNode.status.domains[].peers[].problem": {"maxLength": 64},
    "FabricNode.status.domains[].peers[].version": {"maxLength": 64},
    "FabricNode.status.domains[].claims[].namespace": {"maxLength": 63, "pattern": OBJECT_NAME},
    "FabricNode.status.domains[].claims[].name": {"maxLength": 253, "pattern": OBJECT_NAME},
    "FabricNode.status.domains[].claims[].uid": {"maxLength": 64, "minLength": 1},
    "FabricNode.status.heartbeatTime": {"maxLength": 64},
}
"""Path in an object to what is laid over its schema. Everything a node writes has a bound."""


class Documented:
    """The texts that stand under the fields of a module's classes."""

    def __init__(self, *modules: Any) -> None:
        self._texts: dict[tuple[str, str], str] = {}
        for module in modules:
            for node in ast.parse(inspect.getsource(module)).body:
                if isinstance(node, ast.ClassDef):
                    self._read(node)

    def _read(self, cls: ast.ClassDef) -> None:
        for field, text in zip(cls.body, cls.body[1:], strict=False):
            is_text = isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
            if is_text and isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                value = str(text.value.value)  # type: ignore[attr-defined]
                self._texts[cls.name, field.target.id] = one_line(value)

    def text(self, cls: str, field: str) -> str:
        """The text under a field; empty when there is none."""
        return self._texts.get((cls, field), "")


def one_line(text: str) -> str:
    """A docstring as a description."""
    return " ".join(textwrap.dedent(text).split())


class Schemas:
    """Schemas of one kind's parts."""

    def __init__(self, kind: str, documented: Documented) -> None:
        self._kind = kind
        self._documented = documented
        self.used: set[str] = set()
        """Overrides that applied."""

    def of(self, cls: type[msgspec.Struct], path: str) -> JsonObject:
        """The schema of a struct at ``path`` (``.spec``)."""
        return self._schema(types.type_info(cls), self._kind + path)

    def _schema(self, kind: types.Type, path: str) -> JsonObject:
        if isinstance(kind, types.UnionType):
            (kind,) = (arm for arm in kind.types if not isinstance(arm, types.NoneType))
        if isinstance(kind, types.StructType):
            found = self._struct(kind, path)
        elif isinstance(kind, types.VarTupleType):
            found = {"type": "array", "items": self._schema(kind.item_type, f"{path}[]")}
        elif isinstance(kind, types.EnumType):
            values = sorted(member.value for member in kind.cls if member.value)
            found = {"type": "string", "enum": values}
        else:
            found = {"type": WORDS[type(kind)]}
        if path in OVERRIDES:
            self.used.add(path)
            found |= OVERRIDES[path]
        return found

    def _struct(self, kind: types.StructType, path: str) -> JsonObject:
        properties: JsonObject = {}
        for field in kind.fields:
            text = self._documented.text(kind.cls.__name__, field.name)
            schema = self._schema(field.type, f"{path}.{field.encode_name}")
            properties[field.encode_name] = ({"description": text} if text else {}) | schema
        found: JsonObject = {
            "type": "object",
            "description": one_line(kind.cls.__doc__ or ""),
            "properties": properties,
        }
        required = sorted(field.encode_name for field in kind.fields if field.required)
        if required:
            found["required"] = required
        return found


def column(name: str, path: str, kind: str = "string", priority: int = 0) -> JsonObject:
    """A column of ``kubectl get``."""
    found: JsonObject = {"name": name, "type": kind, "jsonPath": path}
    return {**found, "priority": priority} if priority else found


AGE = column("Age", ".metadata.creationTimestamp", "date")
DOMAIN_COLUMNS = [
    column("Status", ".status.status"),
    column("Ready", ".status.readyNodes", "integer"),
    column("Nodes", ".status.totalNodes", "integer"),
    column("Reason", ".status.conditions[?(@.type=='Ready')].reason"),
    column("Template", ".spec.channel.resourceClaimTemplate.name", priority=1),
    column("Degraded", ".status.conditions[?(@.type=='Degraded')].status", priority=1),
    column("Port", ".status.assignment.port", "integer", 1),
    column("Channel", ".status.assignment.channel", "integer", 1),
    AGE,
]
CLIQUE_COLUMNS = [
    column("Domain", r".metadata.labels.resource\.nvidia\.com/computeDomain", priority=1),
    column("Clique", r".metadata.labels.resource\.nvidia\.com/computeDomain\.cliqueID"),
    AGE,
]
FABRIC_COLUMNS = [
    column("Clique", ".status.cliqueID"),
    column("Slot", ".spec.slot", "integer"),
    column("Fabric", ".status.fabricState"),
    column("IMEX", ".status.imex.state"),
    column("Driver", ".status.driverVersion"),
    column("Heartbeat", ".status.heartbeatTime", "date"),
    column("Addresses", ".status.addresses", priority=1),
    column("Message", ".status.imex.message", priority=1),
    AGE,
]


def crd(
    kind: str, api_version: str, scope: str, schema: JsonObject, columns: list[JsonObject]
) -> JsonObject:
    """The CustomResourceDefinition of one kind; with a status when the schema has one."""
    group, _, version = api_version.partition("/")
    meta = {
        "apiVersion": {"type": "string"},
        "kind": {"type": "string"},
        "metadata": {"type": "object"},
    }
    served: JsonObject = {
        "name": version,
        "served": True,
        "storage": True,
        "schema": {
            "openAPIV3Schema": {
                "type": "object",
                **schema,
                "properties": {**meta, **schema["properties"]},
            }
        },
        "additionalPrinterColumns": columns,
    }
    if "status" in schema["properties"]:
        served["subresources"] = {"status": {}}
    plural = kind.lower() + "s"
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group,
            "names": {
                "kind": kind,
                "listKind": f"{kind}List",
                "plural": plural,
                "singular": kind.lower(),
            },
            "scope": scope,
            "versions": [served],
        },
    }


def all_crds() -> dict[str, JsonObject]:
    """File name to definition."""
    documented = Documented(compute_domain, fabric)
    kinds = ("ComputeDomain", "ComputeDomainClique", "FabricNode")
    domain, clique, node = (Schemas(kind, documented) for kind in kinds)
    domain_schema = {
        "description": "A set of nodes whose GPUs reach each other's memory over NVLink.",
        "required": ["spec"],
        "properties": {
            "spec": domain.of(api.ComputeDomainSpec, ".spec"),
            "status": domain.of(api.ComputeDomainStatus, ".status"),
        },
    }
    clique_schema = clique.of(api.ComputeDomainClique, "")
    node_schema = {
        "description": one_line((fabric.__doc__ or "").partition(". ")[2]),
        "properties": {
            "spec": node.of(api.FabricNodeSpec, ".spec"),
            "status": node.of(api.FabricNodeStatus, ".status"),
        },
    }
    used = domain.used | clique.used | node.used
    if used != OVERRIDES.keys():
        raise SystemExit(f"overrides of fields that are not there: {OVERRIDES.keys() - used}")
    found = [
        crd("ComputeDomain", api.API_VERSION, "Namespaced", domain_schema, DOMAIN_COLUMNS),
        crd("ComputeDomainClique", api.API_VERSION, "Namespaced", clique_schema, CLIQUE_COLUMNS),
        crd("FabricNode", api.FABRIC_API_VERSION, "Cluster", node_schema, FABRIC_COLUMNS),
    ]
    return {f"{one['spec']['group']}_{one['spec']['names']['plural']}.yaml": one for one in found}


def text_of(definition: JsonObject) -> str:
    """The file."""
    body = yaml.safe_dump(definition, sort_keys=False, width=100, allow_unicode=True)
    return f"# Made by charts/generate_crds.py from nvdra_core.api; do not edit.\n{body}"


def main() -> None:
    """Write all files."""
    TARGET.mkdir(parents=True, exist_ok=True)
    for name, definition in all_crds().items():
        (TARGET / name).write_text(text_of(definition))


if __name__ == "__main__":
    main()
