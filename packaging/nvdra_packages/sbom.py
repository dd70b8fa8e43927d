"""The bill of materials: what a package carries beside our code, from the lock file and the wheels. CycloneDX 1.6."""

from __future__ import annotations

import hashlib
import json
import uuid
from pathlib import Path
from typing import Any

from nvdra_packages import lock, notices
from nvdra_packages.layout import NAME, Arch
from nvdra_packages.version import Release


def document(wheels: Path, arch: Arch, release: Release) -> str:
    """The JSON text for the package of one architecture; the same input gives the same text."""
    found = notices.projects(wheels)
    refs = {project.name: f"pkg:pypi/{project.name}@{project.version}" for project in found}
    own = f"pkg:generic/{NAME}@{release.version}?arch={arch.name}"
    uses = {own: [refs[name] for name in lock.wanted()]}
    uses |= {refs[p.name]: [refs[need] for need in p.needs if need in refs] for p in found}
    body: dict[str, Any] = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"timestamp": release.date, "component": _own(own, release)},
        "components": [_component(p, refs[p.name], wheels) for p in found],
        "dependencies": [{"ref": ref, "dependsOn": uses[ref]} for ref in uses],
    }
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    body["serialNumber"] = uuid.uuid5(uuid.NAMESPACE_OID, digest).urn
    return json.dumps(body, indent=1, sort_keys=True) + "\n"


def _own(ref: str, release: Release) -> dict[str, Any]:
    return {
        "type": "application",
        "bom-ref": ref,
        "purl": ref,
        "name": NAME,
        "version": release.version,
        "licenses": [{"license": {"id": "Apache-2.0"}}],
    }


def _license(identifier: str) -> dict[str, Any]:
    """CycloneDX has identifiers and expressions such as ``A AND B`` in different fields."""
    return {"expression": identifier} if " " in identifier else {"license": {"id": identifier}}


def _component(project: notices.Project, ref: str, wheels: Path) -> dict[str, Any]:
    files = sorted(
        p for p in wheels.iterdir() if lock.normal(p.name).startswith(f"{project.name}-")
    )
    return {
        "type": "library",
        "bom-ref": ref,
        "purl": ref,
        "name": project.name,
        "version": project.version,
        "description": project.summary,
        "licenses": [_license(project.license)],
        "externalReferences": [
            {
                "type": "distribution",
                "url": f"{ref}?file_name={path.name}",
                "hashes": [
                    {"alg": "SHA-256", "content": hashlib.sha256(path.read_bytes()).hexdigest()}
                ],
            }
            for path in files
        ],
    }
