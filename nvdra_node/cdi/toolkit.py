"""Runs NVIDIA's container toolkit: ``nvidia-ctk cdi generate``, and its hook as a check. Used by ``nvidia``.

Supports versions from 1.16.0. Newer options are dropped for a version that does not know them: the program names the
first unknown option and exits, so a current version takes one run and an older one two or three.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

import msgspec

from nvdra_core.errors import CommandError, HostError
from nvdra_core.runtime import log
from nvdra_core.runtime.clock import Deadline
from nvdra_node.host.ports import Commands, Files, HostRoots

PACKAGE = "nvidia-container-toolkit-base"
OLDEST = "1.16.0"
"""The first version with nvidia-cdi-hook and --nvidia-cdi-hook-path."""

NEWER_OPTIONS = {
    # Otherwise nvidia-ctk loads one more library of the driver, for device edits that are not used here.
    "feature-flag": "--feature-flag=disable-nvsandbox-utils",  # since 1.18.0
    # Without these two it opens all GPUs, and one that fell off the bus fails the run.
    "no-all-device": "--no-all-device",  # since 1.19.0
    "device-id": "--device-id=none",  # since 1.19.0
}
_UNKNOWN = re.compile(r"flag provided but not defined: -+([a-z-]+)")
_LOG = log.get(__name__)


class Toolkit(msgspec.Struct, frozen=True, kw_only=True):
    """Paths of NVIDIA's programs and of the cache of their output."""

    ctk: Path
    hook: Path
    """``nvidia-cdi-hook`` as the container runtime sees it."""
    roots: HostRoots
    cache: Path


def missing_hook(path: Path) -> str:
    """Error text for a missing hook."""
    return (
        f"{path} is missing, and no container with a GPU can start without it: install {PACKAGE}"
        f" {OLDEST} or later, or set nvidiaCdiHookPath"
    )


class ToolkitRunner:
    """Runs the programs of one toolkit."""

    def __init__(self, kit: Toolkit, commands: Commands, files: Files) -> None:
        self.kit = kit
        self._commands = commands
        self._files = files

    def fingerprint(self) -> str:
        """Changes with each upgrade of the programs."""
        programs = (self.kit.ctk, self.kit.hook)
        return " ".join(f"{path} {self._files.fingerprint(path)}" for path in programs)

    def generate(self, deadline: Deadline) -> str:
        """The CDI specification that nvidia-ctk writes. Raises CommandError, HostError."""
        self._check_installed()
        self.run_hook(deadline)
        dropped: list[str] = []
        while True:
            output, unknown = self._try_generate(dropped, deadline)
            if not unknown:
                return output
            _LOG.info("nvidia-ctk does not know an option; running without it", option=unknown)
            dropped.append(unknown)

    def run_hook(self, deadline: Deadline) -> None:
        """Check that the hook can be executed. Raises HostError."""
        try:
            self._commands.run([str(self.kit.hook), "--version"], deadline)
        except CommandError as error:
            raise HostError(
                f"{self.kit.hook} cannot be executed, and no container with a GPU can start without it"
                f" ({error}); reinstall {PACKAGE}"
            ) from error

    def _check_installed(self) -> None:
        if self._files.first_missing([str(self.kit.ctk)]) is not None:
            raise HostError(f"{self.kit.ctk} is missing: install {PACKAGE}, or set nvidiaCtkPath")
        if self._files.first_missing([str(self.kit.hook)]) is not None:
            raise HostError(missing_hook(self.kit.hook))

    def _try_generate(self, dropped: Collection[str], deadline: Deadline) -> tuple[str, str]:
        """The output, or the newer option that this version does not know."""
        try:
            return self._commands.run(_argv(self.kit, dropped), deadline).stdout, ""
        except CommandError as error:
            found = _UNKNOWN.search(error.output)
            if found is not None and found[1] in set(NEWER_OPTIONS).difference(dropped):
                return "", found[1]
            if found is not None:
                raise HostError(
                    f"{self.kit.ctk} does not know --{found[1]}: install {PACKAGE} {OLDEST} or later"
                ) from error
            if "device-id" in dropped:
                raise HostError(
                    f"{error}; this version opens every GPU, so that one faulty GPU fails it: install"
                    f" {PACKAGE} 1.19.0 or later"
                ) from error
            raise


def _argv(kit: Toolkit, dropped: Collection[str]) -> list[str]:
    return [
        str(kit.ctk),
        "--quiet",
        "cdi",
        "generate",
        "--mode=nvml",
        "--format=json",
        f"--driver-root={kit.roots.driver}",
        f"--dev-root={kit.roots.dev.parent}",
        f"--nvidia-cdi-hook-path={kit.hook}",
        *(text for option, text in NEWER_OPTIONS.items() if option not in dropped),
    ]
