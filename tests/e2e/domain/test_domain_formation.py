"""Two cliques of nodes form a domain on a real API server: shipped controller and node agents, with their own rights."""

from __future__ import annotations

from tests.beds.cluster.marks import needs_cluster
from tests.bench.domain import formation

pytestmark = needs_cluster(timeout_s=400)

AGENTS = 36
MOST_WRITES = 8.0
"""For each node, the controller's and those of the claim's status among them; 5.6 on a quiet machine."""


def test_domain_forms_with_few_writes_and_none_refused() -> None:
    found = formation.measure(AGENTS)
    print(formation.text([found]))
    assert found["conflicts"] == 0
    assert found["refused"] == 0, found["requests"]
    assert found["requests"]["patch resourceclaims/status 200"] == AGENTS
    assert found["writesPerNode"] <= MOST_WRITES
    own = {kind for kind in found["requests"] if kind.startswith("list ")}
    assert not own & {"list fabricnodes 200", "list resourceclaims 200"}, "no lists while it forms"
