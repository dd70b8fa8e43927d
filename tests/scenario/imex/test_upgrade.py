"""An upgraded supervisor that would write another configuration. (CD-L32)"""

from __future__ import annotations

from nvdra_node.imex.model import Policy
from tests.beds.memory.imex_node import CERTIFICATE_PATH, LAYOUT, ImexNode, a_claim

WITH_TLS = b"IMEX_ENABLE_AUTH_ENCRYPTION=1"


def test_new_configuration_applies_from_the_next_start():
    """Upstream's DaemonSets keep image and settings of the release that created them."""
    node = ImexNode()
    node.serve()
    before = node.files.read(LAYOUT.config) or b""
    assert WITH_TLS not in before
    node.policy = Policy(needs_encryption=True)
    node.files.put(CERTIFICATE_PATH, b"PEM")
    node.restart()
    node.reconcile()
    assert node.ask(a_claim("c1")).readiness.is_ready
    assert node.join("c2").readiness.is_ready
    assert (node.daemon.history, node.files.read(LAYOUT.config)) == (["start"], before)
    for uid in ("c1", "c2"):
        node.claims.leave(uid)
    node.reconcile()
    node.clock.advance(node.policy.linger_s + 1)
    node.reconcile()
    assert node.daemon.history == ["start", "stop"]
    assert node.join("c3").readiness.is_ready
    assert node.daemon.history == ["start", "stop", "start"]
    assert WITH_TLS in (node.files.read(LAYOUT.config) or b"")
