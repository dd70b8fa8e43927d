"""Whether the API server lets this node do something that it can do without. Used by ``claimstatus`` and ``waiting``.

One refusal says nothing: policies refuse a write about a claim that was deallocated a moment ago, and a namespace that
is going takes no new objects. Several without a success between them are the rule, and whoever asks on is a nuisance.
"""

from __future__ import annotations

from nvdra_core.errors import ApiError

STATUSES = frozenset({403, 405})
"""Not 401: a credential that is refused is about to be renewed, and says nothing of what it may do."""
LIMIT = 5


class Permission:
    """Counts refusals. For one thread; ``is_granted`` may be read by others."""

    def __init__(self) -> None:
        self.is_granted = True
        """False once the API server forbade it; until the next start."""
        self._refusals = 0

    def succeeded(self) -> None:
        """A write went through."""
        self._refusals = 0

    def failed(self, error: ApiError) -> bool:
        """A write did not; whether the API server forbade it."""
        if error.status not in STATUSES:
            return False
        self._refusals += 1
        self.is_granted = self._refusals < LIMIT
        return True
