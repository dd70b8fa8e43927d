"""Which release is built, and what time its files have: from pyproject.toml and git, never from the clock."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass

import tomllib

from nvdra_packages.layout import TOP, BuildError, run

_VERSION = re.compile(r"\d+(\.\d+)+(~[a-z0-9.]+)?")


@dataclass(frozen=True)
class Release:
    """A version, and the time that stands for "when it was made", in seconds since 1970."""

    version: str
    epoch: int

    @property
    def date(self) -> str:
        """The time as RFC 3339 has it."""
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.epoch))

    @property
    def mail_date(self) -> str:
        """The time as a Debian changelog has it."""
        return time.strftime("%a, %d %b %Y %H:%M:%S +0000", time.gmtime(self.epoch))


def project_version() -> str:
    """The version in pyproject.toml."""
    with (TOP / "pyproject.toml").open("rb") as file:
        version: str = tomllib.load(file)["project"]["version"]
    return version


def current(wanted: str | None = None) -> Release:
    """The release of this checkout: the project's version, which must be tagged ``v<version>`` to stand alone.

    Any other commit gets ``<version>~git<time>.<commit>``: below the release for apt and rpm, and above what was built
    from earlier commits. ``wanted`` replaces the version.
    """
    epoch, commit = run(["git", "log", "-1", "--format=%ct %h", "--abbrev=8"], cwd=TOP).split()
    version = project_version() if wanted is None else wanted
    if not _VERSION.fullmatch(version):
        raise BuildError(f"version {version!r}: want numbers and dots, such as 0.1.0")
    tags = run(["git", "tag", "--points-at", "HEAD"], cwd=TOP).split()
    if wanted is None and f"v{version}" not in tags:
        moment = time.strftime("%Y%m%d%H%M%S", time.gmtime(int(epoch)))
        version = f"{version}~git{moment}.{commit}"
    return Release(version, int(epoch))
