"""The marks of tests that start a cluster: they run where the machine can, and say why where it
cannot; with NVDRA_REQUIRE_CLUSTER=1 they fail there.
"""

from __future__ import annotations

import os

import pytest

from tests.beds.cluster import capability
from tests.beds.cluster.artifacts import programs


def is_required() -> bool:
    """Return whether a test that cannot run must fail."""
    return os.environ.get("NVDRA_REQUIRE_CLUSTER") == "1"


def _why_not_built(minor: str, *, has_nodes: bool) -> str | None:
    if all(program.is_built() for program in programs.needed_for(minor, has_nodes=has_nodes)):
        return None
    return (
        f"Kubernetes {minor} is not built: python -m tests.beds.cluster build --kubernetes {minor}"
    )


def needs_cluster(
    minor: str = programs.NEWEST, *, timeout_s: int = 300, has_nodes: bool = True
) -> list[pytest.MarkDecorator]:
    """Return what a module assigns to `pytestmark`, or a parameter takes as marks, to run with that
    version; without nodes a control plane is all that must be built.
    """
    reason = None
    if not is_required():
        reason = capability.why_not() or _why_not_built(minor, has_nodes=has_nodes)
    return [
        pytest.mark.cluster,
        pytest.mark.timeout(timeout_s),
        pytest.mark.skipif(reason is not None, reason=reason or ""),
    ]


VERSIONS = [
    pytest.param(minor, id=f"kubernetes-{minor}", marks=needs_cluster(minor))
    for minor in programs.KUBERNETES
]
"""For `pytest.fixture(params=VERSIONS)`: each version that is built."""
