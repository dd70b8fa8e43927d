"""Whether the API server lets this node do something that it can do without. Used by ``claimstatus`` and ``waiting``.

That the node has no right to it is said once for all: the server's words tell. Any other refusal says nothing alone:
policies refuse a write about a claim that was deallocated a moment ago, and a namespace that is going takes no new
objects. Several of them without a success between are the rule. Whoever has no permission is quiet for a while, and
then asks once: rights are given to nodes that run.
"""

from __future__ import annotations

import re

from nvdra_core.errors import ApiError
from nvdra_core.runtime.clock import Clock

STATUSES = frozenset({403, 405})
"""Not 401: a credential that is refused is about to be renewed, and says nothing of what it may do."""
LIMIT = 5
RETEST_S = 600.0
_NO_RIGHT = re.compile(r'User ".*" cannot \w+ resource')
"""Kubernetes' words where no authorizer allowed it (apiserver/pkg/endpoints/handlers/responsewriters/errors.go)."""
_OF_THIS_OBJECT = "no relationship found"
"""The node authorizer's, of an object that is none of this node's."""


class Permission:
    """Learns from refusals. For one thread; ``is_granted`` may be read by others."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._refusals = 0
        self._quiet_until_s = float("-inf")

    @property
    def is_granted(self) -> bool:
        """Whether it may be tried."""
        return self._clock.monotonic() >= self._quiet_until_s

    @property
    def quiet_s(self) -> float:
        """Seconds until it may be tried; 0: now."""
        return max(0.0, self._quiet_until_s - self._clock.monotonic())

    def succeeded(self) -> None:
        """A write went through."""
        self._refusals = 0

    def failed(self, error: ApiError) -> bool:
        """A write did not; whether the API server forbade it."""
        if error.status not in STATUSES:
            return False
        self._refusals = LIMIT if is_of_right(error) else self._refusals + 1
        if self._refusals >= LIMIT:
            self._quiet_until_s = self._clock.monotonic() + RETEST_S
            self._refusals = LIMIT - 1  # the one try after that is enough to know
        return True


def with_remedy(error: ApiError, node: str) -> ApiError:
    """An error about the Node ``node`` or its objects, with what to do about a 403 or 404; other errors unchanged."""
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


def is_of_right(error: ApiError) -> bool:
    """Whether a refusal says that the node may not do such a thing at all. Pure."""
    text = str(error)
    return _NO_RIGHT.search(text) is not None and _OF_THIS_OBJECT not in text
