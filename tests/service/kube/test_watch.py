"""Watches survive what happens to connections, and end when told to."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from nvdra_core.errors import ApiError
from nvdra_core.kube import watch
from nvdra_core.kube.client import Client
from nvdra_core.kube.config import KubeConfig
from nvdra_core.kube.errors import RelistError
from nvdra_core.kube.resources import EVERYTHING, SLICES, JsonObject, ObjectList
from nvdra_core.runtime.clock import FakeClock
from tests.fakes.apiserver.faults import Fault
from tests.fakes.apiserver.server import FakeApiServer, FakeSettings
from tests.lib.waits import until
from tests.service.kube.objects import a_slice
from tests.service.kube.patience import PATIENCE_S

SOON_S = 10.0
"""Far below what a watch or an attempt may last, and far above what a busy machine needs."""


class Collector:
    """Follows in a thread and keeps what came."""

    def __init__(self, stream: watch.Follow | watch.Watch) -> None:
        self.stream = stream
        self.seen: list[str] = []
        self.error: BaseException | None = None
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            for found in self.stream:
                text = (
                    "LIST " + ",".join(item["metadata"]["name"] for item in found.items)
                    if isinstance(found, watch.Listing)
                    else f"{found.type} {found.obj['metadata']['name']}"
                )
                with self._changed:
                    self.seen.append(text)
                    self._changed.notify_all()
        except ApiError as error:
            self.error = error

    def wait_for(self, text: str) -> None:
        with self._changed:
            found = self._changed.wait_for(lambda: text in self.seen, PATIENCE_S)
        assert found, f"{text!r} did not come, but {self.seen}"

    def stop(self) -> float:
        started_s = time.monotonic()
        self.stream.stop()
        return self.join(started_s)

    def join(self, started_s: float) -> float:
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()
        return time.monotonic() - started_s


@pytest.fixture
def follower(server: FakeApiServer, client: Client) -> Iterator[Collector]:
    """It has listed and watches."""
    collector = Collector(watch.follow(client, SLICES))
    until(lambda: server.api.log.count("watch"))
    yield collector
    collector.stop()


def test_follow_lists_first_and_then_tells_changes(
    server: FakeApiServer, follower: Collector
) -> None:
    server.add(a_slice("a"))
    follower.wait_for("ADDED a")
    assert follower.seen[0] == "LIST "


def test_closed_watch_goes_on_where_it_was(server: FakeApiServer, follower: Collector) -> None:
    server.add(a_slice("a"))
    follower.wait_for("ADDED a")
    server.api.reader.end_watches()
    server.add(a_slice("b"))
    follower.wait_for("ADDED b")
    assert follower.seen == ["LIST ", "ADDED a", "ADDED b"]


@pytest.mark.parametrize("action", ["no_answer", "reset", "cut", "status"])
def test_failing_watch_goes_on_where_it_was(
    server: FakeApiServer, follower: Collector, action: str
) -> None:
    server.api.faults.add(Fault(verb="watch", action=action, count=2))
    server.end_connections()
    server.add(a_slice("a"))
    follower.wait_for("ADDED a")
    assert follower.seen == ["LIST ", "ADDED a"]


def test_outage_is_waited_out(server: FakeApiServer, follower: Collector) -> None:
    server.stop()
    server.add(a_slice("a"))
    time.sleep(0.3)
    server.start()
    follower.wait_for("ADDED a")


def test_forgotten_version_means_a_new_list(server: FakeApiServer, follower: Collector) -> None:
    server.stop()
    server.add(a_slice("a"))
    server.api.store.compact()
    server.start()
    follower.wait_for("LIST a")


def test_compaction_under_an_open_watch_is_harmless(
    server: FakeApiServer, follower: Collector
) -> None:
    server.api.store.compact()
    server.add(a_slice("a"))
    follower.wait_for("ADDED a")


def test_forbidden_watch_raises(server: FakeApiServer, client: Client) -> None:
    server.api.faults.add(Fault(verb="watch", code=403))
    with pytest.raises(ApiError) as caught:
        list(watch.watch(client, SLICES, resource_version="1"))
    assert caught.value.status == 403


def test_version_from_another_life_of_the_server_means_a_new_list(client: Client) -> None:
    with pytest.raises(RelistError):
        list(watch.watch(client, SLICES, resource_version="999999"))


def test_bookmark_moves_the_version_and_is_no_event(connect: Callable[..., Client]) -> None:
    with FakeApiServer(FakeSettings(bookmark_interval_s=0.05)) as server:
        stream = watch.watch(connect(server.config()), SLICES, resource_version="1")
        collector = Collector(stream)
        server.add({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "other-kind"}})
        version = str(server.api.store.version)
        until(lambda: stream.resource_version == version)
        collector.stop()
        assert collector.seen == []


class TestInitialWatch:
    """A watch that begins with the current state."""

    def begin(self, client: Client) -> tuple[Collector, list[list[str]]]:
        told: list[list[str]] = []

        def tell(found: ObjectList) -> None:
            told.append([item["metadata"]["name"] for item in found.items])

        return Collector(watch.InitialWatch(client, SLICES, EVERYTHING, tell)), told

    def test_the_state_is_told_once_and_then_changes(
        self, server: FakeApiServer, client: Client
    ) -> None:
        server.add(a_slice("a"))
        collector, told = self.begin(client)
        until(lambda: told)
        server.add(a_slice("b"))
        collector.wait_for("ADDED b")
        server.api.reader.end_watches()
        server.add(a_slice("c"))
        collector.wait_for("ADDED c")
        collector.stop()
        assert (told, collector.seen) == ([["a"]], ["ADDED b", "ADDED c"])
        assert server.api.log.count("list") == 0

    @pytest.mark.parametrize("action", ["no_answer", "reset", "cut", "status"])
    def test_a_connection_lost_at_the_beginning_begins_anew(
        self, server: FakeApiServer, client: Client, action: str
    ) -> None:
        server.add(a_slice("a"))
        server.api.faults.add(Fault(verb="watch", action=action, count=2))
        collector, told = self.begin(client)
        until(lambda: told)
        collector.stop()
        assert told == [["a"]]

    @pytest.mark.parametrize("code", [400, 422])
    def test_a_server_that_cannot_refuses(
        self, server: FakeApiServer, client: Client, code: int
    ) -> None:
        server.api.faults.add(Fault(verb="watch", code=code))
        collector, told = self.begin(client)
        collector.join(time.monotonic())
        assert isinstance(collector.error, ApiError) and collector.error.status == code
        assert told == []


def test_stop_ends_a_quiet_watch_soon(follower: Collector) -> None:
    assert follower.stop() < SOON_S


def test_stop_ends_a_waiting_retry_soon(server: FakeApiServer, follower: Collector) -> None:
    server.stop()
    time.sleep(0.2)  # it now waits for its next try
    assert follower.stop() < SOON_S


def test_stop_ends_a_connecting_watch_soon(connect: Callable[..., Client]) -> None:
    silent = socket.create_server(("127.0.0.1", 0))
    config = KubeConfig(server=f"https://127.0.0.1:{silent.getsockname()[1]}")
    collector = Collector(watch.watch(connect(config), SLICES, resource_version="1"))
    time.sleep(0.2)  # it now waits for the TLS handshake
    assert collector.stop() < SOON_S
    silent.close()


def test_close_of_the_client_ends_watches_soon(client: Client, follower: Collector) -> None:
    started_s = time.monotonic()
    client.close()
    assert follower.join(started_s) < SOON_S


def serve_once(pieces: list[bytes]) -> int:
    """A server for one connection that answers with the pieces, apart from each other; returns its port."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        with listening, listening.accept()[0] as sock:
            sock.recv(65536)
            for piece in pieces:
                sock.sendall(piece)
                time.sleep(0.002)

    threading.Thread(target=serve, daemon=True).start()
    return int(listening.getsockname()[1])


def chunked(data: bytes, size: int) -> bytes:
    parts = [data[start : start + size] for start in range(0, len(data), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)


@pytest.mark.parametrize("size", [1, 7, 100_000], ids=["bytes", "sevens", "whole"])
@pytest.mark.parametrize("cut", [1, 3, 50])
def test_events_may_be_split_anywhere(connect: Callable[..., Client], size: int, cut: int) -> None:
    events: list[dict[str, Any]] = [
        {"type": "ADDED", "object": {"metadata": {"name": f"grün-{n}", "resourceVersion": str(n)}}}
        for n in range(4)
    ]
    lines = b"".join(json.dumps(event, ensure_ascii=False).encode() + b"\n" for event in events)
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    stream = head + chunked(lines, size) + b"0\r\n\r\n"
    step = len(stream) // cut
    pieces = [stream[start : start + step] for start in range(0, len(stream), step)]
    client = connect(KubeConfig(server=f"http://127.0.0.1:{serve_once(pieces)}"))
    watching = watch.watch(client, SLICES, resource_version="0")
    names = []
    for event in watching:
        names.append(event.obj["metadata"]["name"])
        if len(names) == 4:
            watching.stop()
    assert names == [f"grün-{n}" for n in range(4)]
    assert watching.resource_version == "3"


def test_error_event_is_raised(connect: Callable[..., Client]) -> None:
    status = {"kind": "Status", "code": 410, "message": "too old", "reason": "Expired"}
    line = json.dumps({"type": "ERROR", "object": status}).encode() + b"\n"
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    port = serve_once([head + chunked(line, 1000)])
    client = connect(KubeConfig(server=f"http://127.0.0.1:{port}"))
    with pytest.raises(RelistError):
        list(watch.watch(client, SLICES, resource_version="1"))


class _RefusingSource:
    """Lists are answered, watches are not: what a role that lacks the verb ``watch`` makes of a cluster."""

    def __init__(self) -> None:
        self.is_refusing = True

    def list_now(self) -> ObjectList:
        return ObjectList([], "7")

    def watch_from(self, version: str) -> watch.Watch:
        source = self

        class Refused(watch.Watch):
            def __iter__(self) -> Iterator[watch.Event]:
                if source.is_refusing:
                    raise ApiError("cannot watch", status=403, api_reason="Forbidden")
                self._transport.clock.wait(threading.Event(), 300.0)
                raise RelistError("compacted")

        return Refused(CLOCKED, SLICES, "", EVERYTHING, version)

    def convert(self, obj: JsonObject) -> JsonObject:
        return obj


CLOCKED = Client(KubeConfig(server="http://127.0.0.1:1"), clock=FakeClock())


def test_a_watch_that_is_always_refused_does_not_make_lists_follow_each_other_without_a_rest():
    source = _RefusingSource()
    clock = CLOCKED.transport.clock
    following = iter(watch.Follow(CLOCKED, source, "slices"))
    begun_s = clock.monotonic()
    for _ in range(20):
        assert isinstance(next(following), watch.Listing)
    assert clock.monotonic() - begun_s > 60.0
    source.is_refusing = False
    next(following)
    before_s = clock.monotonic()
    next(following)  # after a watch that lasted, the first pause is short again
    assert clock.monotonic() - before_s < 301.0


def test_a_server_that_ends_each_watch_at_once_is_asked_with_growing_pauses():
    clock = FakeClock()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = KubeConfig(server=f"http://127.0.0.1:{listener.getsockname()[1]}")
        client = Client(config, clock=clock)
        stream = watch.watch(client, SLICES, resource_version="7")

        def serve() -> None:
            for _ in range(20):
                peer, _address = listener.accept()
                with peer:
                    peer.recv(65536)
                    peer.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
            stream.stop()

        begun_s = clock.monotonic()
        server = threading.Thread(target=serve)
        server.start()
        assert list(stream) == []
        server.join()
        client.close()
    assert clock.monotonic() - begun_s > 60.0
