"""Stand-ins for packages of other registries: name, version, provides, a few files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from nvdra_packages.pack import NFPM
from tests.beds.cluster import commands

TOOLKIT = "nvidia-container-toolkit-base"
TOOLKIT_VERSION = "1.16.0-1"
"""The oldest that our packages install with."""


def make(
    out: Path,
    name: str,
    *,
    form: str = "deb",
    version: str = "1.0",
    provides: Sequence[str] = (),
    files: Mapping[str, Path] | None = None,
) -> Path:
    """Make one in the directory ``out``. ``files``: path on the host -> file of this machine."""
    settings = {
        "name": name,
        "arch": "amd64",
        "version": version,
        "version_schema": "none",
        "maintainer": "tests <tests@nvdra.example>",
        "description": f"stands in for {name}",
        "provides": list(provides),
        "contents": [{"src": str(src), "dst": dst} for dst, src in (files or {}).items()],
    }
    out.mkdir(parents=True, exist_ok=True)
    description = out / f"{name}.json"
    description.write_text(json.dumps(settings))
    target = out / f"{name}.{form}"
    nfpm = str(NFPM.home() / "nfpm")
    argv = [nfpm, "package", "-f", str(description), "-p", form, "-t", str(target)]
    commands.run(argv, cwd=out)
    return target
