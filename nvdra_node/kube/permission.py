"""Circuit breaker for optional writes: pauses them while the API server refuses this node the right to them.

A refusal by RBAC opens it at once. Others do so only after several in a row: policies refuse the status of a claim that
was deallocated a moment ago, and a terminating namespace refuses new objects. After RETEST_S one attempt is made again,
as rights may be granted later. Also texts for refused Nodes (``with_remedy``).
"""

from __future__ import annotations

import re

from nvdra_core.errors import ApiError
from nvdra_core.runtime.clock import Clock

STATUSES = frozenset({403, 405})
"""Not 401: a refused credential is about to be renewed."""
LIMIT = 5
RETEST_S = 600.0
_NO_RIGHT = re.compile(r'User ".*" cannot \w+ resource')
"""The API server's message when no authorizer allows a request
(apiserver/pkg/endpoints/handlers/responsewriters/errors.go)."""
_OTHER_NODES_OBJECT = "no relationship found"
"""The node authorizer's message for an object of another node."""


class Permission:
    """See the module. For one thread; the properties may be read by others."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._refusals = 0
        self._paused_until = float("-inf")

    @property
    def is_granted(self) -> bool:
        """Whether an attempt may be made now."""
        return self._clock.monotonic() >= self._paused_until

    @property
    def retry_in_s(self) -> float:
        """Seconds until the next attempt; 0: now."""
        return max(0.0, self._paused_until - self._clock.monotonic())

    def succeeded(self) -> None:
        """A write succeeded."""
        self._refusals = 0

    def failed(self, error: ApiError) -> bool:
        """A write failed; returns whether it was refused."""
        if error.status not in STATUSES:
            return False
        self._refusals = LIMIT if is_missing_right(error) else self._refusals + 1
        if self._refusals >= LIMIT:
            self._paused_until = self._clock.monotonic() + RETEST_S
            self._refusals = LIMIT - 1  # one refusal of the next attempt is enough
        return True


def with_remedy(error: ApiError, node: str) -> ApiError:
    """An error about the Node ``node`` or its objects, with the remedy for a 403 or 404; other errors unchanged."""
    if error.status == 404:
        remedy = f"if this host's Node is not named {node}, set nodeName in /etc/nvdra/config.yaml"
    elif error.status == 403:
        remedy = (
            f"if the credential is not of node {node}, correct nodeName in /etc/nvdra/config.yaml or the"
            " credential (nvdra-node check-config shows both); otherwise install the chart nvdra, which"
            " grants the rights, and to the kubelet's credential with node.allowKubeletCredential=true"
        )
    else:
        return error
    return ApiError(
        f"{error}; {remedy}",
        status=error.status,
        api_reason=error.api_reason,
        retry_after_s=error.retry_after_s,
    )


def is_missing_right(error: ApiError) -> bool:
    """Whether the node lacks the right to such requests at all."""
    text = str(error)
    return _NO_RIGHT.search(text) is not None and _OTHER_NODES_OBJECT not in text
