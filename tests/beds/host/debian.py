"""apt and dpkg on a host of a bed."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from typing import Protocol


class Host(Protocol):
    """What is needed of a host."""

    def run(
        self, argv: Sequence[str], *, check: bool = True, timeout_s: float = 60
    ) -> subprocess.CompletedProcess[str]:
        """Run a command there to its end."""


def apt(host: Host, packages_dir: str, *words: str, check: bool = True) -> str:
    """Run apt-get and return its output and errors; package files are named relative to ``packages_dir``."""
    options = ["-y", "--allow-downgrades", "-o", "APT::Sandbox::User=root"]
    names = [f"{packages_dir}/{word}" if word.endswith(".deb") else word for word in words]
    argv = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", *options, *names]
    done = host.run(argv, check=check, timeout_s=300)
    return f"{done.stdout}{done.stderr}"


def installed_version(host: Host, package: str = "nvdra") -> str:
    """Version of an installed package; empty when it is not installed."""
    argv = ["dpkg-query", "-W", "-f", "${db:Status-Status} ${Version}", package]
    state, _, version = host.run(argv, check=False).stdout.partition(" ")
    return version if state == "installed" else ""
