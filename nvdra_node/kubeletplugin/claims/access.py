"""Whether the API server lets this node read ResourceClaims: without that no claim can be prepared.

A refused prepare reports it, and the devices are withheld, so no further prepare would notice when reading is allowed
again. Until then ``probe``, called every few seconds by ``app``, reads a claim that need not exist.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from nvdra_core.errors import ApiError
from nvdra_core.runtime.clock import Clock, Deadline
from nvdra_node.kube.permission import is_missing_right
from nvdra_node.kubeletplugin.claims.reader import ClaimApi

PROBE = ("default", "nvdra-probe")
"""Namespace and name of the claim that is read. Whether it exists does not matter."""
PROBE_S = 5.0


class ClaimAccess:
    """Thread safe; ``probe`` is called by one thread."""

    def __init__(self, claims: ClaimApi, report: Callable[[str], None], clock: Clock) -> None:
        """``report`` gets the cause why claims cannot be read; empty: they can."""
        self._claims = claims
        self._report = report
        self._clock = clock
        self._lock = threading.Lock()
        """Held while reporting: a refusal reported after the end of an earlier one would never be retracted."""
        self._is_refused = False

    def failed(self, error: ApiError) -> None:
        """A prepare ended with this error."""
        if not is_refusal(error):
            return
        with self._lock:
            self._is_refused = True
            self._report(
                f"the API server refuses this node to read ResourceClaims ({error.status}): renew its credential, or"
                " install the chart nvdra, which grants the right"
            )

    def probe(self) -> None:
        """While refused: read again. No answer, or a server error, changes nothing."""
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
    """Whether the credential is invalid, or may read no claim. Pure.

    A 403 of the node authorizer concerns one claim only and is no such refusal.
    """
    return error.status == 401 or (error.status == 403 and is_missing_right(error))
