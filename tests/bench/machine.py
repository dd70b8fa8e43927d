"""The simulated machine that a plugin runs on: a fresh 8-GPU driver root for every run, and NVIDIA's CDI programs."""

from __future__ import annotations

from pathlib import Path

from tests.beds.cluster import commands
from tests.beds.cluster.artifacts import build, programs
from tests.sim.api import SimRoot

PROFILE = "h100x8"


class Machine:
    """A simulated driver root while the context is open."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> Machine:
        self._sim = SimRoot.create(self._path, PROFILE)
        return self

    def __exit__(self, *_: object) -> None:
        self._sim.destroy()

    def values(self) -> dict[str, str]:
        """Return the placeholders of command templates that this machine fills in."""
        return {"root": str(self._sim.path)}

    def env(self) -> dict[str, str]:
        """Return the environment of a plugin on it: a plain one, so that nothing of the caller's speeds it up.

        The variable is upstream's own for simulated hardware.
        """
        return commands.base_env({"ALT_PROC_DEVICES_PATH": str(self._sim.proc / "devices")})


def cdi_programs() -> dict[str, str]:
    """Return the placeholders {ctk} and {cdi_hook}: NVIDIA's own programs, built when the cache has none."""
    home = build.ensure_program(programs.NVIDIA)
    return {"ctk": str(home / "nvidia-ctk"), "cdi_hook": str(home / "nvidia-cdi-hook")}
