"""Which programs the cluster is made of, in which versions, and where their built files are. Builds nothing.

The sources are Go modules: `recipes/NAME/` holds a go.mod and go.sum (and main.go where the project has no main
package of its own to build). A build is kept in the cache under the version and a digest of everything that decides its
content.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path

from tests.beds.cluster.errors import ClusterError

SOURCES = Path(__file__).parent / "recipes"

KUBERNETES = {"1.34": "1.34.4", "1.35": "1.35.4", "1.36": "1.36.3"}
"""Kubernetes minor version -> the release of it that is built."""

NEWEST = "1.36"


def cache_dir() -> Path:
    """Return the directory for everything built or downloaded: $NVDRA_CACHE or ~/.cache/nvdra."""
    return Path(os.environ.get("NVDRA_CACHE") or Path.home() / ".cache" / "nvdra")


@dataclass(frozen=True, kw_only=True)
class Program:
    """One Go module to build: its sources, its flags and the files that come out."""

    name: str
    version: str
    packages: dict[str, str]
    """File that comes out -> Go package."""
    expected_s: int
    """How long a cold build takes on two cores."""
    source: Path
    """Where go.mod and go.sum are."""
    main: Path | None = None
    """A main.go to put beside them."""
    links: tuple[str, ...] = ()
    """Names that the first file is called by, too."""
    tags: tuple[str, ...] = ()
    variables: dict[str, str] = field(default_factory=dict)
    """Go variable -> value set by the linker."""
    cgo: bool = False

    def inputs(self) -> list[Path]:
        """Return the files that the build is made from."""
        files = [self.source / "go.mod", self.source / "go.sum"]
        return [*files, self.main] if self.main else files

    def home(self) -> Path:
        """Return the directory of the built files, present or not."""
        digest = hashlib.sha256()
        for path in self.inputs():
            digest.update(path.read_bytes())
        digest.update(repr((self.packages, self.links, self.tags, self.variables)).encode())
        return cache_dir() / "programs" / f"{self.name}-{self.version}-{digest.hexdigest()[:8]}"

    def is_built(self) -> bool:
        """Say whether all files are there; a build is moved into place whole."""
        return self.home().is_dir()


def kubernetes(minor: str) -> Program:
    """Return Kubernetes of one minor version ("1.36"): all its programs, kubectl included, in one file."""
    if minor not in KUBERNETES:
        raise ClusterError(
            f"no Kubernetes {minor}", next_step=f"choose one of {', '.join(KUBERNETES)}"
        )
    version = KUBERNETES[minor]
    major, number, _ = version.split(".")
    package = "k8s.io/component-base/version"
    source = SOURCES / "kubernetes"
    return Program(
        name="kubernetes",
        version=version,
        packages={"kube": "."},
        expected_s=320,
        source=source / f"v{minor}",
        main=source / "main.go",
        links=(
            "kube-apiserver",
            "kube-controller-manager",
            "kube-proxy",
            "kube-scheduler",
            "kubectl",
            "kubelet",
        ),
        variables={
            f"{package}.gitVersion": f"v{version}",
            f"{package}.gitMajor": major,
            f"{package}.gitMinor": number,
        },
    )


ETCD = Program(
    name="etcd",
    version="3.6.5",
    packages={"etcd": "."},
    expected_s=60,
    source=SOURCES / "etcd",
    main=SOURCES / "etcd" / "main.go",
)

_CONTAINERD = "github.com/containerd/containerd/v2"
CONTAINERD = Program(
    name="containerd",
    version="2.4.2",
    packages={
        "containerd": f"{_CONTAINERD}/cmd/containerd",
        "containerd-shim-runc-v2": f"{_CONTAINERD}/cmd/containerd-shim-runc-v2",
        "ctr": f"{_CONTAINERD}/cmd/ctr",
    },
    expected_s=95,
    source=SOURCES / "containerd",
    tags=("no_btrfs", "no_devmapper", "no_zfs"),
    variables={f"{_CONTAINERD}/version.Version": "v2.4.2"},
)

_CNI = "github.com/containernetworking/plugins/plugins"
CNI = Program(
    name="cni",
    version="1.9.1",
    packages={
        "bridge": f"{_CNI}/main/bridge",
        "host-local": f"{_CNI}/ipam/host-local",
        "loopback": f"{_CNI}/main/loopback",
        "portmap": f"{_CNI}/meta/portmap",
        "ptp": f"{_CNI}/main/ptp",
    },
    expected_s=10,
    source=SOURCES / "cni",
)

_TOOLKIT = "github.com/NVIDIA/nvidia-container-toolkit"
NVIDIA = Program(
    name="nvidia-container-toolkit",
    version="1.19.1",
    packages={
        "nvidia-ctk": f"{_TOOLKIT}/cmd/nvidia-ctk",
        "nvidia-cdi-hook": f"{_TOOLKIT}/cmd/nvidia-cdi-hook",
    },
    expected_s=20,
    source=SOURCES / "nvidia",
    variables={f"{_TOOLKIT}/internal/info.version": "1.19.1"},
    cgo=True,
)


def needed_for(minor: str, *, has_nodes: bool = True) -> list[Program]:
    """Return every program of a cluster of that Kubernetes minor version."""
    control_plane = [kubernetes(minor), ETCD]
    return [*control_plane, CONTAINERD, CNI, NVIDIA] if has_nodes else control_plane


def find(name: str, minor: str = NEWEST) -> Path:
    """Return the path of one built file ("kubelet", "nvidia-ctk"); `ClusterError` when nothing is built."""
    for program in needed_for(minor):
        if name in program.packages or name in program.links:
            path = program.home() / name
            if path.exists():
                return path
    raise ClusterError(
        f"{name} is not built",
        next_step=f"run: python -m tests.beds.cluster build --kubernetes {minor}",
    )
