"""Whether the API server lets this node read ResourceClaims at all: without that no claim can be prepared.

A prepare that was refused reports it, and the devices are withheld, so that no further prepare would find out when it
is over: until then a claim that need not exist is asked for every few seconds. Driven by ``app``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from nvdra_core.errors import ApiError
from nvdra_core.kube.permission import is_of_right
from nvdra_core.runtime.clock import Clock, Deadline
from nvdra_node.kubeletplugin.claims.reader import ClaimApi

PROBE = ("default", "nvdra-probe")
"""Namespace and name of the claim that is asked for. Whether it exists does not matter."""
PROBE_S = 5.0


class ClaimAccess:
    """See the module. ``failed`` from any thread, ``probe`` from one."""

    def __init__(self, claims: ClaimApi, report: Callable[[str], None], clock: Clock) -> None:
        """``report`` gets why claims cannot be read; empty: they can."""
        self._claims = claims
        self._report = report
        self._clock = clock
        self._lock = threading.Lock()
        """A refusal that is reported after the end of an earlier one would last: nothing asks whether it is over."""
        self._is_refused = False

    def failed(self, error: ApiError) -> None:
        """A prepare ended with this error."""
        if not is_refusal(error):
            return
        with self._lock:
            self._is_refused = True
            self._report(
                f"the API server lets this node read no ResourceClaim ({error.status}): renew its credential, or"
                " install the chart nvdra, which grants the right"
            )

    def probe(self) -> None:
        """While refused: ask again. An API server that does not answer changes nothing."""
        if not self._is_refused:
            return
        try:
            self._claims.get_claim(*PROBE, deadline=Deadline(PROBE_S, self._clock))
        except ApiError as error:
            if is_refusal(error) or error.status not in (403, 404):
                return
        with self._lock:
            self._is_refused = False
            self._report("")


def is_refusal(error: ApiError) -> bool:
    """Whether the credential is worth nothing, or may read no claim. Pure.

    That this claim is none of the node's (the node authorizer) is a refusal of another kind.
    """
    return error.status == 401 or (error.status == 403 and is_of_right(error))
