"""The deb of this checkout, and three made from it: the next release, one whose service does not start, and one before the
unit broker.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from nvdra_packages import pack, version
from nvdra_packages.layout import ARCHES
from tests.beds.cluster import commands

OLDER, THIS, NEXT, BROKEN = "0.0.9", "0.1.0", "0.2.0", "0.3.0"
_LAUNCHER = "usr/bin/nvdra-node"
_FAULT = "import sys\nif sys.argv[1:2] == ['gpu']:\n    sys.exit('broken on purpose')\n"


@dataclass(frozen=True)
class Releases:
    """Directories with one package file each, as ``nvdra_package_dir`` wants them."""

    this: Path
    next: Path
    broken: Path
    older: Path


def make(place: Path) -> Releases:
    """Make all four."""
    shutil.rmtree(place, ignore_errors=True)
    (deb,) = pack.make_all(place / THIS, version.current(THIS), ARCHES[:1], ["deb"])
    return Releases(
        place / THIS,
        _variant(deb.path, place / NEXT, NEXT, lambda root: None),
        _variant(deb.path, place / BROKEN, BROKEN, _break),
        _variant(deb.path, place / OLDER, OLDER, _without_broker),
    )


def _break(root: Path) -> None:
    launcher = root / _LAUNCHER
    first, _, rest = launcher.read_text().partition("\n")
    launcher.write_text(f"{first}\n{_FAULT}{rest}")


def _without_broker(root: Path) -> None:
    """Remove the broker's units and all references to them."""
    units = root / "usr/lib/systemd/system"
    for path in (*units.glob("nvdra-unit-broker.*"), *units.glob("*.wants/nvdra-unit-broker.*")):
        path.unlink()
    for path in (*units.glob("*.service"), *(root / "DEBIAN").iterdir()):
        text = re.sub(r" ?\bnvdra-unit-broker\.(service|socket)\b", "", path.read_text())
        path.write_text(text)


def _variant(deb: Path, out: Path, release: str, change: Callable[[Path], None]) -> Path:
    """Make the same package with another version, and a change."""
    out.mkdir()
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch, "root")
        commands.run(["dpkg-deb", "-R", deb, root])
        control = root / "DEBIAN" / "control"
        control.write_text(
            re.sub("^Version: .*$", f"Version: {release}", control.read_text(), flags=re.MULTILINE)
        )
        change(root)
        target = out / deb.name.replace(THIS, release)
        commands.run(["dpkg-deb", "--root-owner-group", "-Znone", "-b", root, target])
    return out
