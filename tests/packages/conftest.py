"""The packages, made once for all tests: one release for all, and the next for one machine's kind."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import pytest

from nvdra_packages import pack, version
from nvdra_packages.layout import ARCHES, TOP
from tests.beds.host import standins

RELEASE, NEXT = "0.1.0", "0.2.0"


@dataclass(frozen=True)
class Packages:
    """The packages of one release by architecture and format, the deb and rpm of the next, and what they depend on.

    ``sources`` is the fingerprint of what they were made of.
    """

    release: version.Release
    sources: str
    files: dict[tuple[str, str], Path]
    next_deb: Path
    next_rpm: Path
    toolkit: Path

    @property
    def deb(self) -> Path:
        return self.files["x86_64", "deb"]

    @property
    def rpm(self) -> Path:
        return self.files["x86_64", "rpm"]


def fingerprint() -> str:
    """A digest of the checkout's files that packages are made of."""
    digest = hashlib.sha256()
    for name in ("nvdra_core", "nvdra_node", "systemd", "packaging", "docs/user"):
        for path in sorted((TOP / name).rglob("*.*")):
            if path.is_file() and path.suffix != ".pyc":
                digest.update(str(path).encode() + path.read_bytes())
    return digest.hexdigest()


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Packages:
    """Made from this checkout."""
    place = tmp_path_factory.mktemp("packages")
    release, sources = version.current(RELEASE), fingerprint()
    built = pack.make_all(place / "this", release)
    keys = [(arch.name, form) for arch in ARCHES for form in pack.FORMATS]
    later = pack.make_all(place / "next", version.current(NEXT), ARCHES[:1])
    toolkit = standins.make(place / "standins", standins.TOOLKIT, version=standins.TOOLKIT_VERSION)
    files = dict(zip(keys, (one.path for one in built), strict=True))
    return Packages(release, sources, files, later[0].path, later[1].path, toolkit)
