"""The packages, made once for all tests: one release for all, and the next for one machine's kind."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from nvdra_packages import pack, version
from nvdra_packages.layout import ARCHES
from tests.packages import standins

RELEASE, NEXT = "0.1.0", "0.2.0"


@dataclass(frozen=True)
class Packages:
    """The packages of one release by architecture and format, the deb and rpm of the next, and what they depend on."""

    release: version.Release
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


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Packages:
    """Made from this checkout."""
    place = tmp_path_factory.mktemp("packages")
    release = version.current(RELEASE)
    built = pack.make_all(place / "this", release)
    keys = [(arch.name, form) for arch in ARCHES for form in pack.FORMATS]
    later = pack.make_all(place / "next", version.current(NEXT), ARCHES[:1])
    toolkit = standins.make(place / "standins", standins.TOOLKIT)
    files = dict(zip(keys, (one.path for one in built), strict=True))
    return Packages(release, files, later[0].path, later[1].path, toolkit)
