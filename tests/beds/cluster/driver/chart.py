"""Installs the chart as an administrator does: imports the image, applies CRDs and rendered objects unchanged."""

from __future__ import annotations

import hashlib
import platform
import tempfile
from pathlib import Path
from typing import Any

from imagebuild import image
from nvdra_packages import version
from nvdra_packages.layout import ARCHES, TOP, Arch, made_once
from tests.beds.cluster.api import Cluster
from tests.beds.cluster.artifacts.programs import cache_dir
from tests.unit.chart import helm

NAMESPACE = "nvdra"
RELEASE = "0.1.0"
"""The chart's appVersion, which is its default image tag."""

RESTRICTED = f"""
apiVersion: v1
kind: Namespace
metadata:
  name: {NAMESPACE}
  labels:
    pod-security.kubernetes.io/enforce: restricted
    pod-security.kubernetes.io/enforce-version: latest
"""
_SOURCES = ("nvdra_core", "nvdra_cluster", "packaging/imagebuild", "packaging/nvdra_packages")
_FILES = ("packaging/requirements-controller.txt", "packaging/launcher.in")


def native() -> Arch:
    """The architecture of this machine."""
    return next(arch for arch in ARCHES if arch.name == platform.machine())


def archive() -> Path:
    """The controller's image for this machine, built once per state of its sources (15 s)."""
    digest = hashlib.sha256()
    paths = [path for name in _SOURCES for path in sorted((TOP / name).rglob("*.py"))]
    for path in [*paths, *(TOP / name for name in _FILES)]:
        digest.update(str(path).encode() + path.read_bytes())
    home = cache_dir() / "images" / f"controller-{digest.hexdigest()[:12]}"
    made_once(home, lambda place: _make(place))
    return next(home.iterdir())


def _make(place: Path) -> None:
    image.make(place, version.current(RELEASE), (native(),))


def install(cluster: Cluster, values: dict[str, Any] | None = None) -> None:
    """Apply the CRDs, a namespace that enforces PodSecurity ``restricted``, and the rendered chart."""
    for path in sorted((helm.CHART / "crds").iterdir()):
        cluster.apply(path.read_text())
    cluster.kubectl("wait", "--for=condition=Established", "--timeout=60s", "crd", "--all")
    cluster.apply(RESTRICTED)
    cluster.apply(rendered(values or {}))


def rendered(values: dict[str, Any]) -> str:
    """Output of ``helm template``; RuntimeError with its errors."""
    with tempfile.TemporaryDirectory() as home:
        words = ["template", "nvdra", str(helm.CHART), "-n", NAMESPACE]
        words += ["--kube-version", helm.KUBERNETES]
        done = helm.run(Path(home), *words, values=values)
    if done.returncode:
        raise RuntimeError(f"helm template: {done.stderr}")
    return done.stdout
