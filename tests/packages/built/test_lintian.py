"""The deb as Debian's own checker sees it; every override has its reason in ``packaging/lintian-overrides``."""

from __future__ import annotations

import os
import subprocess

from nvdra_packages.layout import PACKAGING
from tests.beds.cluster.artifacts.build import install_packages
from tests.packages.conftest import Packages
from tests.packages.marks import needs_packages

pytestmark = needs_packages()

COMPRESSION = "malformed-deb-archive"
"""Lintian of Debian 12 does not know zstd; its dpkg does."""


def test_lintian_reports_only_reasoned_overrides(packages: Packages):
    install_packages(packages={"lintian": "lintian"})
    done = subprocess.run(
        ["lintian", "--allow-root", "--show-overrides", "--tag-display-limit", "0", packages.deb],
        capture_output=True,
        text=True,
        env={**os.environ, "LC_ALL": "C.UTF-8"},
    )
    lines = [line for line in done.stdout.splitlines() if COMPRESSION not in line]
    assert [line for line in lines if line[:2] in ("E:", "W:")] == []
    used = {line.split()[2] for line in lines if line.startswith("O:")}
    overridden = {
        line.split()[1]
        for line in (PACKAGING / "lintian-overrides").read_text().splitlines()
        if line.startswith("nvdra:")
    }
    assert overridden == used
