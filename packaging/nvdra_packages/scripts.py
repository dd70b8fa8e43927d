"""The maintainer scripts: the texts of ``packaging/scripts`` with what the build knows filled in."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from nvdra_packages.layout import PACKAGING, PYTHONS

TEXTS = PACKAGING / "scripts"
PURGE = PACKAGING / "purge.sh"

KEPT_RUNNING = frozenset({"nvdra-imex.service"})
"""Running workloads need it, and it is NVIDIA's program, not ours: only a purge stops it. So it is with every
instance of a template (``nvdra-mps@``)."""


def write(target: Path, units: Path, compiled: Collection[str]) -> None:
    """Write ``deb/`` and ``rpm/`` below ``target``.

    ``units``: a directory with all unit files; ``compiled``: the Pythons whose compiled files are shipped.
    """
    known = {
        "PYTHONS": " ".join(PYTHONS),
        "NOT_COMPILED": " ".join(p for p in PYTHONS if p not in compiled),
        "SOCKETS": " ".join(path.name for path in sorted(units.glob("*.socket"))),
        "SERVICES": " ".join(services_of(units)),
        "OTHERS": " ".join(
            path.name
            for kind in ("target", "timer", "path", "socket")
            for path in sorted(units.glob(f"*.{kind}"))
        ),
        "PURGE": PURGE.read_text(),
    }
    functions = (TEXTS / "functions.sh").read_text()
    for path in sorted(TEXTS.glob("*/*")):
        text = f"#!/bin/sh\n{functions}\n{path.read_text()}"
        for name, value in known.items():
            text = text.replace(f"@{name}@", value)
        place = target / path.parent.name / path.name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
        place.chmod(0o755)


def services_of(units: Path) -> list[str]:
    """The services that run on and are ours alone: not those that do something once, nor what workloads need."""
    return [
        path.name
        for path in sorted(units.glob("*.service"))
        if "@" not in path.name
        and path.name not in KEPT_RUNNING
        and "\nType=oneshot\n" not in path.read_text()
    ]
