"""Stages of a claim's life, each of whose steps a test can end by a crash or let fail once.

A world is ``claim_world.World`` (a driver in memory) or ``gpu_world.GpuWorld`` (the shipped GPU driver).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from msgspec.structs import replace

from nvdra_core.errors import NvdraError
from nvdra_node.checkpoint.claim import Claim
from tests.beds.memory import claim_world, gpu_world
from tests.beds.memory.claim_world import World
from tests.beds.memory.gpu_world import GpuWorld
from tests.fakes.host.files import Crash

Act = Callable[[Any, Claim], object]


def nothing(world: Any, claim: Claim) -> None:
    """The claim is not prepared yet."""


def prepare(world: Any, claim: Claim) -> None:
    world.prepare(claim)


def unprepare(world: Any, claim: Claim) -> None:
    world.unprepare(claim)


def moved(claim: Claim) -> Claim:
    """The same claim, allocated again with another device."""
    (result,) = claim.results
    return replace(claim, results=(replace(result, device="gpu-4"),))


def prepare_moved(world: Any, claim: Claim) -> None:
    world.prepare(moved(claim))


def unprepare_hung(world: Any, claim: Claim) -> None:
    """GPU 0 hangs, and no scan has noticed."""
    world.machine.hang(0)
    world.unprepare(claim)


def load_driver(world: Any, claim: Claim) -> None:
    world.prepare(claim)
    world.machine.reload_driver()
    world.set_exclusive()
    world.rescanner.rescan_if_due()


def renew(world: Any, claim: Claim) -> None:
    world.renew()


@dataclass(frozen=True)
class Stage:
    """What happens in a world before and while it crashes."""

    world: type[World | GpuWorld]
    before: Act
    act: Act
    claims: Mapping[str, Claim]
    now: Callable[[Claim], Claim] = lambda claim: claim
    """The claim as it is allocated after the crash."""

    def start(self, claim: Claim) -> Any:
        world = self.world()
        self.before(world, claim)
        world.faults.clear()
        return world

    def die(self, claim: Claim, step: int) -> Any:
        """A world whose process died before that step."""
        world = self.start(claim)
        world.faults.die_at = step
        with pytest.raises(Crash):
            self.act(world, claim)
        world.heal()
        return world

    def fail(self, claim: Claim, step: int) -> Any:
        """A world in which that step failed once."""
        world = self.start(claim)
        world.faults.fail_at = step
        with contextlib.suppress(NvdraError):
            self.act(world, claim)
        world.heal()
        world.faults.clear()
        return world

    def steps(self, claim: Claim) -> range:
        world = self.start(claim)
        self.act(world, claim)
        return range(1, world.faults.steps + 1)


CLAIMS = claim_world.CLAIMS
GPU_CLAIMS = gpu_world.CLAIMS
SLICED = {name: GPU_CLAIMS[name] for name in ("long", "mixed")}
STAGES = {
    "prepare": Stage(World, nothing, prepare, CLAIMS),
    "unprepare": Stage(World, prepare, unprepare, CLAIMS),
    "move": Stage(World, prepare, prepare_moved, CLAIMS, moved),
    "gpu prepare": Stage(GpuWorld, nothing, prepare, GPU_CLAIMS),
    "gpu unprepare": Stage(GpuWorld, prepare, unprepare, GPU_CLAIMS),
    "gpu unprepare hung": Stage(GpuWorld, prepare, unprepare_hung, SLICED),
    "gpu renew": Stage(GpuWorld, load_driver, renew, SLICED),
}
LIVES = {
    "restart": lambda world: world.restart(),
    "driver loaded again": lambda world: world.reload_driver(),
    "reboot": lambda world: world.reboot(),
    "power lost, names kept": lambda world: world.reboot(power_loss=True),
    "power lost, names lost": lambda world: world.reboot(power_loss=False),
}
"""How the next process comes about."""


def every_step() -> list[Any]:
    """Parameters (stage, claim, step)."""
    return [
        pytest.param(stage, claim, step, id=f"{name}-{kind}-{step}")
        for name, stage in STAGES.items()
        for kind, claim in stage.claims.items()
        for step in stage.steps(claim)
    ]


def every_crash() -> list[Any]:
    """Parameters (stage, claim, step, life)."""
    return [
        pytest.param(*param.values, life, id=f"{param.id}-{name}")
        for param in every_step()
        for name, life in LIVES.items()
        if hasattr(param.values[0].world, "reload_driver") or name != "driver loaded again"
    ]
