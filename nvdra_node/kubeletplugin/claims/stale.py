"""Whether the API server still has a claim. Used by ``transaction`` and ``sweep``."""

from __future__ import annotations

from typing import Protocol

from nvdra_core.errors import ApiError, StaleClaimError
from nvdra_core.runtime.clock import Deadline
from nvdra_node.checkpoint.claim import Claim, ClaimRef

_NO_POD_NAMES_IT = "no relationship found between node"
"""Text of the node authorizer (kubernetes plugin/pkg/auth/authorizer/node)."""


class ClaimSource(Protocol):
    """Reads claims (``reader.ClaimReader``)."""

    def fetch(self, ref: ClaimRef, deadline: Deadline) -> Claim:
        """The claim of exactly this UID. Raises StaleClaimError, ClaimError, ApiError, DeadlineError."""


class UnnamedClaimError(StaleClaimError):
    """The API server says that no pod on this node names the claim: it does so also briefly after its own start."""


def why_stale(claims: ClaimSource, ref: ClaimRef, deadline: Deadline) -> StaleClaimError | None:
    """Why nothing may be prepared for a claim any more; None: it exists. Raises NvdraError when that is unknown.

    With the kubelet's credential a node may read only the claims that its pods name: reading a deleted one is
    forbidden (403) then. An UnnamedClaimError counts only after a grace time.
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
