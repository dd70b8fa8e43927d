"""The image: a layer with Debian's Python and the wheels, which seldom changes, and a small one with our code."""

from __future__ import annotations

import tarfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import tomllib

from imagebuild import debian, oci, wheels
from nvdra_packages import pyc, tree
from nvdra_packages.layout import ARCHES, LIBRARY, SITE_PACKAGES, TOP, Arch, BuildError
from nvdra_packages.version import Release

REPOSITORY = "ghcr.io/nvdra/nvdra-controller"
COMMAND = "nvdra-controller"
USER = 65532
SHIPPED_PACKAGES = ("nvdra_core", "nvdra_cluster")
"""The API server for tests."""

_STDLIB = f"usr/lib/python{wheels.PYTHON}"
_FILES = {
    "etc/passwd": f"root:x:0:0:root:/:/nonexistent\nnonroot:x:{USER}:{USER}:nonroot:/:/nonexistent\n",
    "etc/group": f"root:x:0:\nnonroot:x:{USER}:\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}


@dataclass(frozen=True)
class Built:
    """One image: its archive, its name with the tag, the digest of its index."""

    path: Path
    name: str
    digest: str


def make(out: Path, release: Release, arches: tuple[Arch, ...] = ARCHES) -> Built:
    """Make the archive in ``out``; one that lay there before is replaced."""
    python = pyc.interpreters().get(wheels.PYTHON)
    if python is None:
        raise BuildError(f"no CPython {wheels.PYTHON} here, which compiles the image's modules")
    with TemporaryDirectory(prefix="nvdra-image-") as scratch, ThreadPoolExecutor(2) as pool:
        home = Path(scratch)
        ours = home / "ours"
        stage_ours(ours, release, python)
        layer = oci.Layer.of(ours, release.epoch)
        bases = pool.map(
            lambda arch: _base_layer(home / arch.name, arch, release.epoch, python), arches
        )
        pairs = zip(arches, bases, strict=True)
        platforms = [oci.Platform(arch.deb, (base, layer)) for arch, base in pairs]
    name = f"{REPOSITORY}:{tag(release)}"
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{COMMAND}-{tag(release).removeprefix('v')}.oci.tar"
    new = path.with_suffix(".new")
    digest = oci.write(new, name, platforms, _config(release), release.date)
    for old in out.glob(f"{COMMAND}-*.oci.tar"):
        old.unlink()
    new.rename(path)
    return Built(path, name, digest)


def tag(release: Release) -> str:
    """The tag of a release: ``v`` and its version, in the letters that a tag may have."""
    return "v" + release.version.replace("~", "-")


def names(archive: Path) -> list[str]:
    """Paths of the files of every layer of an archive."""
    found: list[str] = []
    with tarfile.open(archive) as outer:
        for member in outer:
            content = outer.extractfile(member)
            if content is not None and content.read(2) == b"\x1f\x8b":
                content.seek(0)
                with tarfile.open(fileobj=content, mode="r:gz") as layer:
                    found += layer.getnames()
    return found


def _base_layer(root: Path, arch: Arch, epoch: int, python: Path) -> oci.Layer:
    """Debian's packages and the wheels; all modules compiled, as nothing can be written later."""
    debian.unpack(debian.fetch(arch), root)
    wheels.unpack(arch, root / SITE_PACKAGES)
    for place in (_STDLIB, SITE_PACKAGES):
        pyc.compile_tree(root / place, f"/{place}", {wheels.PYTHON: python})
    (root / "usr/bin/python3").symlink_to(f"python{wheels.PYTHON}")
    for name, text in _FILES.items():
        _write(root / name, text)
    for name in ("tmp", "proc", "sys", "dev", "run"):
        (root / name).mkdir(exist_ok=True)
    _set_modes(root)
    return oci.Layer.of(root, epoch)


def stage_ours(root: Path, release: Release, python: Path) -> None:
    """Our code and the command that starts it."""
    for package in SHIPPED_PACKAGES:
        for path in sorted((TOP / package).rglob("*.py")):
            name = str(path.relative_to(TOP))
            _write(root / LIBRARY / name, path.read_text())
    tree.set_version(root / LIBRARY / "nvdra_core" / "__init__.py", release)
    pyc.compile_tree(root / LIBRARY, f"/{LIBRARY}", {wheels.PYTHON: python})
    tree.launcher(root, COMMAND, *_command())
    _set_modes(root)


def _command() -> tuple[str, str]:
    """Module and function of the command."""
    with (TOP / "pyproject.toml").open("rb") as file:
        scripts: dict[str, str] = tomllib.load(file)["project"]["scripts"]
    module, _, function = scripts[COMMAND].partition(":")
    return module, function


def _config(release: Release) -> dict[str, object]:
    return {
        "User": f"{USER}:{USER}",
        "Entrypoint": [f"/usr/bin/{COMMAND}"],
        "WorkingDir": "/",
        "Env": ["PATH=/usr/bin", "LANG=C.UTF-8"],
        "ExposedPorts": {"8080/tcp": {}},
        "Labels": {
            "org.opencontainers.image.title": COMMAND,
            "org.opencontainers.image.version": release.version,
            "org.opencontainers.image.licenses": "Apache-2.0",
        },
    }


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _set_modes(root: Path) -> None:
    """Modes whatever the umask says: only commands and the loader are executable, and /tmp is everybody's."""
    for path in root.rglob("*"):
        if path.is_symlink():
            continue
        is_executable = (
            path.is_dir() or path.parent == root / "usr/bin" or path.name.startswith("ld-linux")
        )
        path.chmod(0o755 if is_executable else 0o644)
    if (root / "tmp").is_dir():
        (root / "tmp").chmod(0o1777)
