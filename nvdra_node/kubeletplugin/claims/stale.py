"""Whether a claim still lives, as the API server says. Used by ``transaction`` and ``sweep``."""

from __future__ import annotations

from typing import Protocol

from nvdra_core.errors import ApiError, StaleClaimError
from nvdra_core.runtime.clock import Deadline
from nvdra_node.checkpoint.claim import Claim, ClaimRef

_NO_POD_NAMES_IT = "no relationship found between node"
"""The node authorizer's words (kubernetes plugin/pkg/auth/authorizer/node)."""


class ClaimSource(Protocol):
    """Where claims are read (``claims``)."""

    def fetch(self, ref: ClaimRef, deadline: Deadline) -> Claim:
        """The claim of exactly this UID. Raises StaleClaimError, ApiError, DeadlineError."""


class UnnamedClaimError(StaleClaimError):
    """No pod on this node names the claim, says the API server. It says so for a moment after its own start, too."""


def why_gone(claims: ClaimSource, ref: ClaimRef, deadline: Deadline) -> StaleClaimError | None:
    """Why nothing may be prepared for a claim any more; None while it lives. Raises NvdraError if nobody can tell.

    With the kubelet's credential a node may read only the claims that its pods name: one that is gone is forbidden
    then, and not unknown. An UnnamedClaimError is to be believed only when it was heard for a while.
    """
    try:
        claims.fetch(ref, deadline)
    except StaleClaimError as error:
        return error
    except ApiError as error:
        if error.status != 403 or _NO_POD_NAMES_IT not in str(error):
            raise
        return UnnamedClaimError(f"no pod on this node names claim {ref}")
    return None
