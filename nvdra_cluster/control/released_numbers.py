"""Ports and channels of recently deleted domains, in a ConfigMap, so that their reuse delay survives a restart.

``controller`` reads it before the first decision; ``reconciler`` adds a number before the finalizer is removed. Times
only expire old entries: a process that reads an entry starts the full delay again. If the ConfigMap cannot be read,
no number is allocated until the longest delay has passed.
"""

from __future__ import annotations

from nvdra_cluster.control.state.heartbeats import parse_time
from nvdra_cluster.decide.number_allocator import NUMBER_REUSE_DELAY_S
from nvdra_cluster.decide.writes import CONFIG_MAPS, Create, Merge, Write
from nvdra_core.errors import ApiError
from nvdra_core.kube.client import ResourceClient
from nvdra_core.kube.resources import JsonObject
from nvdra_core.runtime import log
from nvdra_core.runtime.clock import Clock, Deadline

_LOG = log.get(__name__)
NAME = "nvdra-imex-released"
READ_TIMEOUT_S = 5.0
SAME_S = 60.0
OLD_S = 5 * NUMBER_REUSE_DELAY_S
"""Entries older than this, or in the future, are dropped."""


class ReleasedNumbers:
    """See the module. One thread."""

    def __init__(self, namespace: str, *, is_used: bool = True) -> None:
        """``is_used``: False where domains share the host's IMEX."""
        self._namespace = namespace
        self._is_used = is_used
        self._entries: dict[str, str] = {}
        """Number (``port-24001``) to when it was released."""
        self._is_there = False

    def read(self, client: ResourceClient, clock: Clock) -> bool:
        """Load the entries, and create a missing ConfigMap; whether it could be read."""
        if not self._is_used:
            return True
        deadline = Deadline(READ_TIMEOUT_S, clock)
        try:
            found = client.get(CONFIG_MAPS, NAME, namespace=self._namespace, deadline=deadline)
        except ApiError as error:
            if error.status == 404:
                self._create(client, deadline)
                return True
            _LOG.warning(
                "cannot read recently released ports; allocating none for a while",
                error, config_map=f"{self._namespace}/{NAME}", wait_s=NUMBER_REUSE_DELAY_S,
            )  # fmt: skip
            return False
        self.note(found)
        wall_s = clock.wall()
        self._entries = {k: v for k, v in self._entries.items() if not _is_old(v, wall_s)}
        return True

    def _create(self, client: ResourceClient, deadline: Deadline) -> None:
        """Create it now, as two domains deleted at the same time would both try to."""
        try:
            self.note(client.create(CONFIG_MAPS, self._body({}), deadline=deadline))
        except ApiError as error:
            _LOG.info("cannot create the record of released ports; retrying", error=error)

    def _body(self, data: dict[str, str]) -> JsonObject:
        metadata = {"name": NAME, "namespace": self._namespace}
        return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}

    def note(self, stored: JsonObject | None) -> None:
        """Take over the stored ConfigMap; None: it does not exist."""
        self._is_there = stored is not None
        if stored is None:
            return
        data = {str(k): str(v) for k, v in (stored.get("data") or {}).items()}
        # Responses to concurrent writes arrive in any order: entries missing in one are kept.
        newest_s = max((parse_time(text) or 0.0 for text in data.values()), default=0.0)
        kept = {k: v for k, v in self._entries.items() if not _is_old(v, newest_s)}
        self._entries = kept | data

    def recent(self) -> list[str]:
        """Numbers that were released recently."""
        return list(self._entries)

    def has(self, number: str, now: str) -> bool:
        """Whether this release is recorded already: a domain's deletion takes several decisions."""
        at_s, now_s = parse_time(self._entries.get(number, "")), parse_time(now)
        return at_s is not None and now_s is not None and abs(now_s - at_s) <= SAME_S

    def add(self, number: str, now: str) -> Write:
        """The write that records a number as released ``now`` (RFC 3339)."""
        wall_s = parse_time(now) or 0.0
        new = {number: now}
        old = {number for number, text in self._entries.items() if _is_old(text, wall_s)}
        if self._is_there:
            patch = {"metadata": {}, "data": {**dict.fromkeys(sorted(old)), **new}}
            return Merge(CONFIG_MAPS, self._namespace, NAME, patch)
        kept = {k: v for k, v in self._entries.items() if k not in old}
        return Create(CONFIG_MAPS, self._body(kept | new))


def _is_old(text: str, wall_s: float) -> bool:
    at_s = parse_time(text)
    return at_s is None or abs(wall_s - at_s) > OLD_S
