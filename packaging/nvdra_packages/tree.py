"""Lays out what a package installs: a directory tree as it will be on a host.

``site_packages`` is made once per architecture and kept in the cache; ``stage`` makes the rest in each build.
"""

from __future__ import annotations

import gzip
import hashlib
import re
import shutil
from pathlib import Path

import tomllib

from nvdra_packages import man, notices, pyc, wheels
from nvdra_packages.layout import (
    ARCHES,
    CONFIG,
    DOCS,
    LIBRARY,
    LOCK,
    NAME,
    NEEDRESTART,
    PACKAGING,
    SHIPPED_PACKAGES,
    SITE_PACKAGES,
    TOP,
    Arch,
    BuildError,
    cache,
    made_once,
)
from nvdra_packages.version import Release

UNITS = TOP / "systemd"
UNIT_DIR = "usr/lib/systemd/system"
TARGET = "nvdra.target"
_UNIT_KINDS = (".service", ".target", ".socket", ".path", ".timer", ".mount", ".slice")
_PLACES = {
    ".preset": "usr/lib/systemd/system-preset",
    ".rules": "usr/lib/udev/rules.d",
}
"""Other kinds of files of ``systemd/`` and where they go."""
_CONF_PLACES = {
    "tmpfiles.d": "usr/lib/tmpfiles.d",
    "sysusers.d": "usr/lib/sysusers.d",
    "modules-load.d": "usr/lib/modules-load.d",
}
"""Where ``.conf`` files go, by the directory of ``systemd/`` they lie in."""


def site_packages(arch: Arch) -> Path:
    """The merged and compiled wheels of an architecture, from the cache (about 15 s the first time)."""
    pythons = pyc.interpreters()
    makers = [Path(str(module.__file__)).read_bytes() for module in (wheels, pyc)]
    facts = (LOCK.read_bytes(), sorted(map(str, pythons.values())), makers)
    key = hashlib.sha256(repr(facts).encode()).hexdigest()[:12]
    home = cache() / "packages" / f"site-packages-{arch.name}-{key}"
    return made_once(home, lambda target: merge_and_compile(target, arch))


def merge_and_compile(target: Path, arch: Arch) -> None:
    """Make what ``site_packages`` keeps."""
    wheels.merge(wheels.fetch(arch), target, arch)
    pyc.compile_tree(target, f"/{SITE_PACKAGES}", pyc.interpreters())
    normalise(target)


def stage(root: Path, release: Release) -> None:
    """Make everything that is the same for all architectures below ``root``."""
    for package in SHIPPED_PACKAGES:
        for path in sorted((TOP / package).rglob("*.py")):
            _copy(path, root / LIBRARY / path.relative_to(TOP))
    set_version(root / LIBRARY / "nvdra_core" / "__init__.py", release)
    pyc.compile_tree(root / LIBRARY, f"/{LIBRARY}", pyc.interpreters())
    for script in scripts_of_the_node():
        launcher(root, *script)
        manual = root / "usr/share/man/man8" / f"{script[0]}.8.gz"
        manual.parent.mkdir(parents=True, exist_ok=True)
        manual.write_bytes(gzip.compress(man.page(*script, release).encode(), 9, mtime=0))
    for path in sorted(UNITS.rglob("*")):
        if path.is_file():
            _copy(path, root / place_of(path.relative_to(UNITS)))
    make_target_want(root)
    _copy(PACKAGING / "etc" / "config.yaml", root / CONFIG)
    _copy(PACKAGING / "etc" / "needrestart.conf", root / NEEDRESTART)
    _copy(PACKAGING / "purge.sh", root / LIBRARY / "purge.sh")
    _documents(root, release)
    normalise(root)


def scripts_of_the_node() -> list[tuple[str, str, str]]:
    """Command, module and function of every script of pyproject.toml that is the node's."""
    with (TOP / "pyproject.toml").open("rb") as file:
        scripts: dict[str, str] = tomllib.load(file)["project"]["scripts"]
    split = [(name, *target.split(":")) for name, target in sorted(scripts.items())]
    return [s for s in split if s[1].partition(".")[0] in SHIPPED_PACKAGES]  # type: ignore[misc]


def place_of(path: Path) -> str:
    """Where a file of ``systemd/`` goes, by its kind. Raises BuildError for a kind that is not known."""
    if path.suffix in _UNIT_KINDS:
        return f"{UNIT_DIR}/{path.name}"
    if path.suffix in _PLACES:
        return f"{_PLACES[path.suffix]}/{path.name}"
    if path.suffix == ".conf" and path.parent.name.endswith(".d"):
        if path.parent.stem.endswith(_UNIT_KINDS):
            return f"{UNIT_DIR}/{path.parent.name}/{path.name}"
        if path.parent.name in _CONF_PLACES:
            return f"{_CONF_PLACES[path.parent.name]}/{path.name}"
    if path.suffix == ".conf" and path.parent == Path():
        return f"{_CONF_PLACES['tmpfiles.d']}/{path.name}"
    raise BuildError(
        f"systemd/{path}: it is not known where this kind of file goes; see {__name__}"
    )


def make_target_want(root: Path) -> None:
    """Let the target start the services that the preset names, enabled or not: enabling it is all there is to do.

    Others that are for the target join it when they are enabled themselves.
    """
    units = root / UNIT_DIR
    presets = "".join(path.read_text() for path in (root / _PLACES[".preset"]).glob("*"))
    for path in sorted(units.glob("*.service")):
        is_for_it = re.search(rf"^WantedBy=.*\b{re.escape(TARGET)}", path.read_text(), re.MULTILINE)
        if is_for_it and f"enable {path.name}\n" in presets:
            link = units / f"{TARGET}.wants" / path.name
            link.parent.mkdir(exist_ok=True)
            link.symlink_to(f"../{path.name}")


def set_version(path: Path, release: Release) -> None:
    """Write the release's version into a copy of our code."""
    line = re.compile(r'^__version__ = ".*"$', re.MULTILINE)
    path.write_text(line.sub(f'__version__ = "{release.version}"', path.read_text()))


def launcher(root: Path, command: str, module: str, function: str) -> None:
    """Write the command that calls a function of our code below ``root``."""
    text = (PACKAGING / "launcher.in").read_text()
    for name, value in (("LIBRARY", f"/{LIBRARY}"), ("MODULE", module), ("FUNCTION", function)):
        text = text.replace(f"@{name}@", value)
    path = root / "usr/bin" / command
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def _documents(root: Path, release: Release) -> None:
    docs = root / DOCS
    _copy(TOP / "README.md", docs / "README.md")
    for path in sorted((TOP / "docs" / "user").glob("*.md")):
        _copy(path, docs / "docs" / "user" / path.name)
    (docs / "copyright").write_text(notices.copyright_text(wheels.fetch(ARCHES[0])))
    changelog = notices.changelog((TOP / "CHANGELOG.md").read_text(), release)
    _copy(PACKAGING / "lintian-overrides", root / "usr/share/lintian/overrides" / NAME)
    (docs / "changelog.gz").write_bytes(gzip.compress(changelog.encode(), 9, mtime=0))


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def normalise(root: Path) -> None:
    """Give everything the modes of a package, whatever the wheels and the umask say: only commands are executable."""
    root.chmod(0o755)
    for path in root.rglob("*"):
        if path.is_symlink():
            continue
        is_command = path.parent == root / "usr/bin" or path.suffix == ".sh"
        path.chmod(0o755 if path.is_dir() or is_command else 0o644)
