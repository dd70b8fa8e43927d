"""A store that keeps what a Reflector tells it, for the tests of the Kubernetes client."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable

from nvdra_core.kube.reflector import ListerWatcher, Reflector, ReflectorSettings
from nvdra_core.kube.resources import SLICES, JsonObject
from nvdra_core.runtime.clock import SystemClock
from nvdra_node.kube.client import Client
from nvdra_node.kube.listwatch import ClientListWatch
from tests.service.kube.conftest import BRISK
from tests.service.kube.patience import PATIENCE_S


class Follower:
    """A Reflector in a thread of its own, and its calls as texts: ``LIST a,b``, ``PUT a``, ``DELETE a``."""

    def __init__(
        self, source: ListerWatcher | Client, *, version: str = "", is_streaming: bool = False
    ) -> None:
        """A client: all its ResourceSlices."""
        if isinstance(source, Client):
            source = ClientListWatch(source, SLICES)
        self.seen: list[str] = []
        self.objects: list[JsonObject] = []
        settings = ReflectorSettings(
            resource_version=version, is_streaming=is_streaming, backoff=BRISK
        )
        self.reflector = Reflector(source, self, SystemClock(), settings)
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self.reflector.run)
        self._thread.start()

    def replace(self, objects: Iterable[JsonObject]) -> None:
        items = list(objects)
        self._note("LIST " + ",".join(item["metadata"]["name"] for item in items), *items)

    def put(self, obj: JsonObject) -> None:
        self._note(f"PUT {obj['metadata']['name']}", obj)

    def delete(self, obj: JsonObject) -> None:
        self._note(f"DELETE {obj['metadata']['name']}", obj)

    def _note(self, text: str, *objects: JsonObject) -> None:
        with self._changed:
            self.seen.append(text)
            self.objects += objects
            self._changed.notify_all()

    def wait_for(self, text: str) -> None:
        with self._changed:
            found = self._changed.wait_for(lambda: text in self.seen, PATIENCE_S)
        assert found, f"{text!r} did not come, but {self.seen}"

    def stop(self) -> float:
        """Stop and join; the seconds it took."""
        started_s = time.monotonic()
        self.reflector.stop()
        return self.join(started_s)

    def join(self, started_s: float) -> float:
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()
        return time.monotonic() - started_s
