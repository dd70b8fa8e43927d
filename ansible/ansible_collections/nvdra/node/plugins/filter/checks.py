"""What the preflight decides about a host beside its package: Kubernetes, container runtime, IMEX. Pure functions.

In: facts of ``nvdra.node.node_facts`` and the role's variables. Out: sentences for the operator, none when all is well.
Called by the tasks of role ``nvdra``.
"""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

MIN_KUBERNETES = (1, 34)
CDI_BY_DEFAULT = 2
"""Major version of containerd from which CDI is on unless the configuration turns it off; 2.4 has no setting for it."""

Facts = Mapping[str, Any]


def cluster_problems(facts: Facts, cdi_root: str) -> list[str]:
    """Whether the kubelet and the container runtime of a host can do Dynamic Resource Allocation.

    What a host does not tell (a kubelet that does not run, a runtime that is not known) is no problem.
    """
    return _kubelet(facts["kubelet_version"]) + _runtimes(facts["runtimes"], cdi_root)


def _kubelet(version: str) -> list[str]:
    if not version or _numbers(version) >= MIN_KUBERNETES:
        return []
    wanted = ".".join(map(str, MIN_KUBERNETES))
    return [f"the kubelet is {version}; Kubernetes {wanted} or later is needed: upgrade the node"]


def _runtimes(runtimes: Sequence[Facts], cdi_root: str) -> list[str]:
    """One that can is enough: Docker may run a containerd of its own beside the kubelet's."""
    found = [_runtime(runtime, cdi_root) for runtime in runtimes]
    return [] if "" in found or not found else [found[0]]


def _runtime(runtime: Facts, cdi_root: str) -> str:
    name = f"{runtime['name']} {runtime['version']}".strip()
    if runtime["name"] == "containerd" and not _has_cdi(runtime):
        return f"CDI is off in {name}: set enable_cdi = true in its configuration and restart it"
    directories = runtime["cdi_spec_dirs"]
    if directories and _real(cdi_root) not in map(_real, directories):
        names = ", ".join(directories)
        return f"{name} reads CDI files in {names} and not in {cdi_root}: add it to cdi_spec_dirs"
    return ""


def _has_cdi(runtime: Facts) -> bool:
    if runtime["enable_cdi"] is None:
        return not runtime["version"] or _numbers(runtime["version"])[0] >= CDI_BY_DEFAULT
    return bool(runtime["enable_cdi"])


def _real(path: str) -> str:
    """/var/run is a link to /run on every host with systemd."""
    path = posixpath.normpath(path)
    return path.removeprefix("/var") if path.startswith("/var/run/") else path


def _numbers(version: str) -> tuple[int, ...]:
    """The first two numbers of a version; what follows in a distribution's name for it is left out."""
    parts = version.lstrip("v").split(".")[:2]
    digits = ("".join(c for c in part if c.isdigit()) for part in parts)
    return tuple(int(part or 0) for part in digits)


def imex_problems(facts: Facts, hosts: Iterable[str], hostvars: Mapping[str, Facts]) -> list[str]:
    """What a host lacks for ComputeDomains with an IMEX daemon of nvdra's.

    ``hosts``: those of its rack. All must have the same number of channels, as a job gets the same one on each.
    """
    found = []
    if facts["missing_imex"]:
        names = ", ".join(facts["missing_imex"])
        found.append(f"no {names}: install the package nvidia-imex of the NVIDIA driver's version")
    count = facts["imex_channels"]
    if count is None:
        return found
    if count == 0:
        return [
            *found,
            "the NVIDIA driver has no IMEX channels: load it with NVreg_ImexChannelCount above 0",
        ]
    others = (hostvars[host].get("nvdra_node", {}).get("imex_channels") for host in hosts)
    most, _ = Counter(other for other in others if other).most_common(1)[0]
    if count != most:
        found.append(
            f"the NVIDIA driver has {count} IMEX channels, and {most} on most hosts of the rack: "
            "load it with the same NVreg_ImexChannelCount on all"
        )
    return found


def metrics_problems(services: Sequence[Mapping[str, Any]]) -> list[str]:
    """Services of which the gate shall count the devices, and which tell no metrics."""
    return [
        f"metricsPath is empty, and the gate counts the devices of {service['unit']} in the metrics: "
        "set a path, or nvdra_min_devices and nvdra_min_channels to 0"
        for service in services
        if service["endpoint"] and not service["metrics_path"] and service.get("min_devices", 0) > 0
    ][:1]


class FilterModule:
    """The filters under their names."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name -> function."""
        return {
            "cluster_problems": cluster_problems,
            "imex_problems": imex_problems,
            "metrics_problems": metrics_problems,
        }
