"""One thread for each kind: lists in pages, follows the changes, and hands views to the cache.

Objects are trimmed to views page by page, so that 10,000 Nodes never stand in memory as JSON. After
a gap everything is listed again, and what is not in the list is dropped; so it is for a new leader, whose
watches may be behind what the last one wrote.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from nvdra_cluster.control.state import decode
from nvdra_core.errors import ApiError, NvdraError
from nvdra_core.kube.client import Client, query
from nvdra_core.kube.errors import RelistError
from nvdra_core.kube.resources import EVERYTHING, JsonObject, Resource, Selector
from nvdra_core.kube.retry import Backoff
from nvdra_core.kube.watch import Watch, watch
from nvdra_core.runtime import log
from nvdra_core.runtime.clock import Clock

_LOG = log.get(__name__)
PAGE_SIZE = 500
PAUSE_LIMIT_S = 15.0
LASTED_S = 2 * PAUSE_LIMIT_S
"""What was followed for so long was well."""
TROUBLE_S = 60.0
"""After so long without, the replica is not ready."""


class PastChangedError(NvdraError):
    """The cluster was restored from a backup; this process must start over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interest:
    """A selection of one kind, and what to do with it."""

    resource: Resource
    namespace: str = ""
    selector: Selector = EVERYTHING
    put: Callable[[JsonObject], None]
    drop: Callable[[str, str], None]
    """Takes an object's path (``namespace/name``, or the name alone without namespace) and UID; without a
    UID it means whatever has that path.
    """
    tombstone: Callable[[str, int], None]
    """Takes the UID and version of an object that is gone: the answer to an older write may come later."""
    known: Callable[[], set[str]]
    """Paths of all that is in the cache."""


class Watching:
    """See the module. ``run`` in a thread of its own; ``stop`` from any."""

    def __init__(self, client: Client, interest: Interest, clock: Clock) -> None:
        self._client = client
        self._interest = interest
        self._clock = clock
        self._backoff = Backoff(first_s=0.2, limit_s=PAUSE_LIMIT_S)
        self._failures = 0
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._watch: Watch | None = None
        self._looks = 0
        """How often somebody asked for a list that begins after the question."""
        self._newest = 0
        self._listed_at_s = math.inf
        self._trouble: tuple[float, str] | None = None
        self.synced = threading.Event()
        """Set once everything was listed."""
        self.fresh = threading.Event()
        """Set once everything was listed after the last ``look_anew``."""
        self.name = interest.resource.plural

    def stop(self) -> None:
        """End ``run``."""
        with self._lock:
            self._stopped.set()
            if self._watch is not None:
                self._watch.stop()

    def look_anew(self) -> None:
        """List everything again, and set ``fresh`` then."""
        with self._lock:
            self._looks += 1
            self.fresh.clear()
        self.interrupt()

    def interrupt(self) -> None:
        """End the watch that is open; it begins again with a list."""
        with self._lock:
            if self._watch is not None:
                self._watch.stop()

    def problem(self) -> str:
        """Why nothing has been heard for TROUBLE_S; empty while all is well."""
        if not self.synced.is_set():
            return f"{self.name}: not seen yet"
        now_s = self._clock.monotonic()
        since_s, text = self._trouble or (math.inf, "")
        is_over = now_s - self._listed_at_s > LASTED_S
        if is_over or now_s - since_s <= TROUBLE_S:
            return ""
        return f"{self.name}: not followed for {now_s - since_s:.0f} s: {text}"

    def run(self) -> None:
        """List and watch until stopped."""
        while not self._stopped.is_set():
            self._attempt()

    def _attempt(self) -> None:
        """One list, its changes, and the pause after a failure."""
        try:
            version = self._list()
            self._listed_at_s = self._clock.monotonic()
            self._follow(version)
        except ApiError as error:
            if self._stopped.is_set():
                return
            # Not at each list: where only the watch is refused, lists alone would follow each other.
            if self._clock.monotonic() - self._listed_at_s > LASTED_S:
                self._failures, self._trouble = 0, None
            self._listed_at_s = math.inf
            if self._trouble is None:
                self._trouble = (self._clock.monotonic(), "")
            self._trouble = (self._trouble[0], str(error))
            if not isinstance(error, RelistError):
                _LOG.warning("following broke off; listing again", error, kind=self.name)
            self._clock.wait(self._stopped, self._backoff.pause_s(self._failures))
            self._failures += 1

    def _list(self) -> str:
        """Take over all objects; returns the version to watch from."""
        looks = self._looks
        gone = self._interest.known()
        version = ""
        for page in self._pages():
            for obj in page.get("items") or ():
                gone.discard(path_of(obj))
                self._put(obj)
            version = str((page.get("metadata") or {}).get("resourceVersion") or "")
            self._note_version(version)
        for path in gone:
            self._interest.drop(path, "")
        self.synced.set()
        with self._lock:
            if looks == self._looks:
                self.fresh.set()
        return version

    def _note_version(self, version: str) -> None:
        """Versions only grow: one that does not is of another past, and what we know is of no use."""
        if not version.isdigit():
            return
        if int(version) < self._newest:
            raise PastChangedError(
                f"the API server went back from version {self._newest} to {version} of {self.name}: "
                "was etcd restored? Starting over"
            )
        self._newest = int(version)

    def _pages(self) -> Iterator[JsonObject]:
        interest = self._interest
        path = interest.resource.path(namespace=interest.namespace)
        parameters = {**interest.selector.parameters(), "limit": str(PAGE_SIZE)}
        while True:
            page = self._client.get_path(query(path, parameters))
            yield page
            token = (page.get("metadata") or {}).get("continue")
            if not token:
                return
            parameters["continue"] = token

    def _follow(self, version: str) -> None:
        interest = self._interest
        with self._lock:
            if self._stopped.is_set() or not self.fresh.is_set():
                return
            self._watch = watch(
                self._client,
                interest.resource,
                resource_version=version,
                namespace=interest.namespace,
                selector=interest.selector,
            )
        for event in self._watch:
            self._failures, self._trouble = 0, None
            if event.type == "DELETED":
                uid = str(event.obj["metadata"].get("uid"))
                interest.tombstone(uid, decode.version_of(event.obj))
                interest.drop(path_of(event.obj), uid)
            else:
                self._put(event.obj)
        self._note_version(self._watch.resource_version)

    def _put(self, obj: JsonObject) -> None:
        try:
            self._interest.put(obj)
        except (NvdraError, KeyError, TypeError, ValueError, AttributeError) as error:
            # One object that nobody can read must not stop the others.
            _LOG.error(
                "cannot read an object; it is left out", error, kind=self.name, path=path_of(obj)
            )


def path_of(obj: JsonObject) -> str:
    """``namespace/name``, or the name of an object without namespace."""
    metadata = obj.get("metadata") or {}
    namespace, name = metadata.get("namespace") or "", str(metadata.get("name") or "")
    return f"{namespace}/{name}" if namespace else name
