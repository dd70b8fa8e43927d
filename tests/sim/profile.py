"""Profiles: from a YAML file to one node's hardware, as frozen values and as the text that the C library reads.

In: the name of a file in `profiles/` (or a path), the node's number and seed, and changes to the YAML.
Out: `Profile`, the expected truth that tests compare with, and `render()`.
Called by: `api.SimRoot`, the command line, tests. Nodes differ in UUIDs, serials and board ids only.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

PROFILES = Path(__file__).parent / "profiles"
NO_CLUSTER = "00000000-0000-0000-0000-000000000000"
_NOT_RENDERED = {"mig", "bars_mb", "sriov_vfs"}
_NAMESPACE = uuid.UUID("b9e4c8de-0d5c-4f37-9c3e-6d3f7a2f51aa")


@dataclass(frozen=True)
class MigProfile:
    """One GPU instance profile: `number` is NVML's enum, `id` the hardware's."""

    number: int
    id: int
    name: str
    slices: int
    count: int
    sms: int
    memory_mb: int
    copy: int
    dec: int
    enc: int
    jpeg: int
    ofa: int
    size: int
    starts: tuple[int, ...]


@dataclass(frozen=True)
class Model:
    """A GPU model. `values` holds every number and text under the key that the C library uses."""

    name: str
    values: Mapping[str, str | int]
    bars_mb: tuple[int, ...]
    sriov_vfs: int
    mig_slices: int
    mig_needs_reset: bool
    mig_profiles: tuple[MigProfile, ...]

    @property
    def memory_bytes(self) -> int:
        return int(self.values["memory_mb"]) << 20

    @property
    def vendor_id(self) -> int:
        return int(self.values["pci_device"]) & 0xFFFF

    @property
    def device_id(self) -> int:
        return int(self.values["pci_device"]) >> 16


@dataclass(frozen=True)
class Gpu:
    """One GPU of a node. `bdf` is in the kernel's form, `path` goes from the PCI root to the last bridge."""

    index: int
    minor: int
    uuid: str
    serial: str
    bdf: str
    path: tuple[str, ...]
    numa_node: int
    memory_numa: int
    cpus: str
    module_id: int
    iommu_group: int
    board_id: int
    pdi: int
    model: Model

    @property
    def pcie_root(self) -> str:
        return self.path[0]

    @property
    def nvml_bus_id(self) -> str:
        return f"0000{self.bdf}".upper()

    @property
    def address(self) -> tuple[int, int, int]:
        """Domain, bus, device."""
        domain, bus, rest = self.bdf.split(":")
        return int(domain, 16), int(bus, 16), int(rest.split(".")[0], 16)


@dataclass(frozen=True)
class Fabric:
    cluster_uuid: str = NO_CLUSTER
    clique_id: int = 0

    @property
    def is_multi_node(self) -> bool:
        return self.cluster_uuid != NO_CLUSTER


@dataclass(frozen=True)
class Profile:
    """What one node's hardware and driver are."""

    name: str
    driver_version: str
    nvml_version: str
    driver_branch: str
    cuda_version: int
    imex_channels: int
    gpus: tuple[Gpu, ...]
    fabric: Fabric = field(default_factory=Fabric)
    node: int = 0

    @property
    def uuids(self) -> tuple[str, ...]:
        return tuple(gpu.uuid for gpu in self.gpus)


def names() -> list[str]:
    """Profiles that come with the simulator."""
    return sorted(path.stem for path in PROFILES.glob("*.yaml"))


def load(
    name: str, seed: int = 0, node: int = 0, change: Mapping[str, Any] | None = None
) -> Profile:
    """The profile `name` (or a path to a YAML file) as node number `node` has it.

    `change` is laid over the YAML: mappings are merged, everything else is replaced.
    """
    path = Path(name) if name.endswith(".yaml") else PROFILES / f"{name}.yaml"
    raw = _merge(yaml.safe_load(path.read_text()), change or {})
    model = _model(raw["model"])
    driver = raw["driver"]
    return Profile(
        name=path.stem,
        driver_version=str(driver["version"]),
        nvml_version=str(driver["nvml"]),
        driver_branch=str(driver["branch"]),
        cuda_version=driver["cuda"],
        imex_channels=raw["imex_channels"],
        gpus=tuple(
            _gpu(i, spec, model, f"{path.stem}/{seed}/{node}") for i, spec in enumerate(raw["gpus"])
        ),
        fabric=Fabric(**raw.get("fabric", {})),
        node=node,
    )


def _merge(base: Any, change: Any) -> Any:
    if not isinstance(base, dict) or not isinstance(change, Mapping):
        return change
    return {**base, **{key: _merge(base.get(key), value) for key, value in change.items()}}


def _model(raw: Mapping[str, Any]) -> Model:
    mig = raw.get("mig") or {"slices": 0, "needs_reset": False, "sms_per_slice": 0, "profiles": []}
    values = {key: value for key, value in raw.items() if key not in _NOT_RENDERED}
    values |= {
        "mig": int(bool(mig["profiles"])),
        "mig_slices": mig["slices"],
        "mig_needs_reset": int(mig["needs_reset"]),
        "sms_per_slice": mig["sms_per_slice"],
    }
    return Model(
        name=raw["name"],
        values=values,
        bars_mb=tuple(raw["bars_mb"]),
        sriov_vfs=raw["sriov_vfs"],
        mig_slices=mig["slices"],
        mig_needs_reset=mig["needs_reset"],
        mig_profiles=tuple(
            MigProfile(**{**p, "starts": tuple(p["starts"])}) for p in mig["profiles"]
        ),
    )


def _gpu(index: int, spec: Mapping[str, Any], model: Model, node_key: str) -> Gpu:
    own = uuid.uuid5(_NAMESPACE, f"{node_key}/{index}")
    return Gpu(
        index=index,
        minor=spec.get("minor", index),
        uuid=f"GPU-{own}",
        serial=str(1_650_000_000_000 + own.int % 99_999_999),
        bdf=spec["bdf"],
        path=tuple(spec["path"]),
        numa_node=spec["numa"],
        memory_numa=spec.get("memory_numa", -1),
        cpus=spec["cpus"],
        module_id=spec["module_id"],
        iommu_group=spec.get("iommu_group", 10 + index),
        board_id=own.int & 0xFFFFFF,
        pdi=own.int & (1 << 64) - 1,
        model=model,
    )


def render(profile: Profile) -> str:
    """The text that nvml/profile.c parses: one `key value` a line."""
    lines = [
        f"driver {profile.driver_version}",
        f"nvml {profile.nvml_version}",
        f"branch {profile.driver_branch}",
        f"cuda {profile.cuda_version}",
        f"fabric_clique {profile.fabric.clique_id}",
        f"cluster_uuid {profile.fabric.cluster_uuid.replace('-', '')}",
        f"tray {profile.node}",
        f"slot_number {profile.node + 1}",
        "chassis_serial 182310000001",
    ]
    models = list({id(gpu.model): gpu.model for gpu in profile.gpus}.values())
    for number, model in enumerate(models):
        lines += [f"model {number}", *_model_lines(model)]
    switches: dict[tuple[str, ...], int] = {}
    roots: dict[str, int] = {}
    for gpu in profile.gpus:
        domain, bus, slot = gpu.address
        switch = switches.setdefault(gpu.path[:3], len(switches) + 1) if len(gpu.path) > 3 else 0
        lines += [
            f"gpu {gpu.index}",
            f"model_index {models.index(gpu.model)}",
            f"minor {gpu.minor}",
            f"uuid {gpu.uuid}",
            f"serial {gpu.serial}",
            f"cpus {gpu.cpus}",
            f"module_id {gpu.module_id}",
            f"domain {domain}",
            f"bus {bus}",
            f"slot {slot}",
            f"pcie_switch {switch}",
            f"pcie_root {roots.setdefault(gpu.pcie_root, len(roots))}",
            f"board_id {gpu.board_id}",
            f"numa {gpu.numa_node}",
            f"memory_numa {gpu.memory_numa}",
            f"pdi {gpu.pdi}",
        ]
    return "\n".join(lines) + "\n"


def _model_lines(model: Model) -> list[str]:
    lines = [f"{key} {value}" for key, value in model.values.items()]
    for p in model.mig_profiles:
        numbers = (
            p.number,
            p.id,
            p.slices,
            p.count,
            p.sms,
            p.copy,
            p.dec,
            p.enc,
            p.jpeg,
            p.ofa,
            p.memory_mb,
        )
        starts = " ".join(map(str, p.starts))
        lines.append(f"gi {' '.join(map(str, numbers))} 0 0 {p.size} {p.name} {starts}")
    return lines
