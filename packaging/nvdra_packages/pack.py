"""Makes the package files: stages what all share once, then runs nfpm for each architecture and format."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from string import Template
from tempfile import TemporaryDirectory

from nvdra_packages import pyc, sbom, scripts, tree, wheels
from nvdra_packages.layout import ARCHES, LIBRARY, NAME, PACKAGING, Arch, BuildError, run
from nvdra_packages.version import Release
from tests.beds.cluster.artifacts import build, programs

FORMATS = ("deb", "rpm")

NFPM = programs.Program(
    name="nfpm",
    version="2.45.0",
    packages={"nfpm": "github.com/goreleaser/nfpm/v2/cmd/nfpm"},
    expected_s=45,
    source=PACKAGING / "nfpm",
)
"""Later releases need modules that the Go proxy does not have."""


@dataclass(frozen=True)
class Built:
    """One package file, and how many bytes it puts on a host."""

    path: Path
    installed_size: int


def make_all(
    out: Path,
    release: Release,
    arches: Sequence[Arch] = ARCHES,
    formats: Sequence[str] = FORMATS,
    key: Path | None = None,
) -> list[Built]:
    """Make a package for each architecture and format in ``out``; whatever lay there before is removed.

    ``key``: the OpenPGP private key that signs the rpms. Debs are not signed: apt verifies their repository.
    """
    if key and not key.is_file():
        raise BuildError(
            f"{key}: there is no such key file; export one with gpg --export-secret-keys"
        )
    nfpm = build.ensure_program(NFPM) / "nfpm"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    with (
        TemporaryDirectory(prefix="nvdra-packages-") as scratch,
        ThreadPoolExecutor(os.cpu_count()) as pool,
    ):
        home = Path(scratch)
        tree.stage(home / "root", release)
        scripts.write(home / "scripts", home / "root" / tree.UNIT_DIR, pyc.interpreters())
        trees = dict(zip(arches, pool.map(tree.site_packages, arches), strict=True))
        jobs = [
            _Job(home, nfpm, arch, form, trees[arch], key) for arch in arches for form in formats
        ]
        return list(pool.map(lambda job: job.run(out, release), jobs))


@dataclass(frozen=True)
class _Job:
    """One run of nfpm in the directory ``home``."""

    home: Path
    nfpm: Path
    arch: Arch
    form: str
    site_packages: Path
    key: Path | None

    def run(self, out: Path, release: Release) -> Built:
        """Write the bill of materials and nfpm's settings, then the package into ``out``."""
        materials = self.home / f"{self.arch.name}.{self.form}.cdx.json"
        materials.write_text(sbom.document(wheels.fetch(self.arch), self.arch, release))
        materials.chmod(0o644)
        settings = self.home / f"{self.arch.name}.{self.form}.yaml"
        known = {
            "arch": self.arch.deb,
            "version": release.version,
            "date": release.date,
            "site_packages": self.site_packages,
            "sbom": materials,
            "files": _entries(self.home / "root"),
            "license": "Apache-2.0" if self.form == "rpm" else "",
            "signature": _signature(self.key) if self.key else "",
        }
        settings.write_text(Template((PACKAGING / "nfpm.yaml").read_text()).substitute(known))
        target = out / self._file_name(release)
        argv = [str(self.nfpm), "package", "-f", str(settings), "-p", self.form, "-t", str(target)]
        env = {**os.environ, "SOURCE_DATE_EPOCH": str(release.epoch)}
        run(argv, cwd=self.home, env=env)
        files = [*(self.home / "root").rglob("*"), *self.site_packages.rglob("*"), materials]
        return Built(target, sum(path.stat().st_size for path in files if path.is_file()))

    def _file_name(self, release: Release) -> str:
        if self.form == "deb":
            return f"{NAME}_{release.version}_{self.arch.deb}.deb"
        return f"{NAME}-{release.version}-1.{self.arch.name}.rpm"


def _signature(key: Path) -> str:
    """Nfpm's entry for the key; nfpm reads its passphrase from NFPM_RPM_PASSPHRASE or NFPM_PASSPHRASE."""
    return f"signature: {{key_file: {json.dumps(str(key.resolve()))}}}"


def _entries(root: Path) -> str:
    """Nfpm's entries for what lies outside our own directories.

    A directory is ours, and goes with us, only where its name says so: others own /usr/bin.
    """
    lines = []
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if name == LIBRARY or name.startswith((f"{LIBRARY}/", "etc/")):
            continue
        if path.is_symlink():
            lines.append(f"  - {{src: {path.readlink()}, dst: /{name}, type: symlink}}")
        elif path.is_file():
            lines.append(f"  - {{src: root/{name}, dst: /{name}}}")
        elif NAME in name:
            lines.append(f"  - {{dst: /{name}, type: dir, file_info: {{mode: 0755}}}}")
    return "\n".join(lines)
