"""A Reflector on the lean client: resumes, relists, backs off, and ends soon."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from nvdra_core.errors import ApiError
from nvdra_core.kube.reflector import (
    DEFAULT_SETTINGS,
    INITIAL_EVENTS_END,
    Reflector,
    ReflectorSettings,
    WatchEvent,
    WatchStream,
)
from nvdra_core.kube.resources import SLICES, JsonObject
from nvdra_node.kube.client import Client
from nvdra_node.kube.config import KubeConfig
from nvdra_node.kube.listwatch import ClientListWatch
from nvdra_node.kube.pool import CONNECT_TIMEOUT_S
from tests.fakes.apiserver.faults import Fault
from tests.fakes.apiserver.server import FakeApiServer, FakeSettings
from tests.fakes.clock import FakeClock
from tests.lib.objects import obj
from tests.lib.waits import until
from tests.service.kube.conftest import ONCE
from tests.service.kube.following import Follower
from tests.service.kube.objects import a_slice

SOON_S = 10.0
"""Far below what a watch or an attempt may last, and far above what a busy machine needs."""


@pytest.fixture
def follower(server: FakeApiServer, client: Client) -> Iterator[Follower]:
    """It has listed and watches."""
    follower = Follower(client)
    until(lambda: server.api.log.count("watch"))
    yield follower
    follower.stop()


@pytest.fixture(params=[False, True], ids=["pages", "streaming"])
def started(
    request: pytest.FixtureRequest, server: FakeApiServer, client: Client
) -> Iterator[Follower]:
    """It has listed one object, in either way, and watches."""
    server.add(a_slice("a"))
    follower = Follower(client, is_streaming=request.param)
    follower.wait_for("LIST a")
    until(lambda: server.api.log.count("watch"))
    assert server.api.log.count("list") == (0 if request.param else 1)
    yield follower
    follower.stop()


def test_list_comes_first_and_then_changes(server: FakeApiServer, started: Follower) -> None:
    server.add(a_slice("b"))
    started.wait_for("PUT b")
    server.api.reader.end_watches()
    server.add(a_slice("c"))
    started.wait_for("PUT c")
    assert started.seen == ["LIST a", "PUT b", "PUT c"]
    assert started.reflector.synced.is_set()


@pytest.mark.parametrize("action", ["no_answer", "reset", "cut", "status"])
def test_failing_watch_resumes_without_list(
    server: FakeApiServer, started: Follower, action: str
) -> None:
    lists = server.api.log.count("list")
    server.api.faults.add(Fault(verb="watch", action=action, count=2))
    server.end_connections()
    server.add(a_slice("b"))
    started.wait_for("PUT b")
    assert started.seen == ["LIST a", "PUT b"]
    assert server.api.log.count("list") == lists


@pytest.mark.parametrize("action", ["no_answer", "reset", "cut", "status"])
def test_interrupted_streaming_list_is_repeated(
    server: FakeApiServer, client: Client, action: str
) -> None:
    server.add(a_slice("a"))
    server.api.faults.add(Fault(verb="watch", action=action, count=2))
    follower = Follower(client, is_streaming=True)
    follower.wait_for("LIST a")
    follower.stop()
    assert follower.seen == ["LIST a"]


@pytest.mark.parametrize("code", [400, 404, 422])
def test_refused_streaming_list_falls_back_to_pages(
    server: FakeApiServer, client: Client, code: int
) -> None:
    server.api.faults.add(Fault(verb="watch", code=code))
    follower = Follower(client, is_streaming=True)
    follower.wait_for("LIST ")
    until(lambda: server.api.log.count("watch", "resourceslices", 200))
    server.add(a_slice("a"))
    follower.wait_for("PUT a")
    follower.stop()
    assert server.api.log.count("list") == 1


def test_given_version_needs_no_list(server: FakeApiServer, client: Client) -> None:
    version = client.list(SLICES).resource_version
    server.add(a_slice("a"))
    server.api.log.clear()
    follower = Follower(client, version=version)
    assert follower.reflector.synced.is_set()
    follower.wait_for("PUT a")
    follower.stop()
    assert server.api.log.count("list") == 0


def test_outage_is_waited_out(server: FakeApiServer, follower: Follower) -> None:
    server.stop()
    server.add(a_slice("a"))
    time.sleep(0.3)
    server.start()
    follower.wait_for("PUT a")


def test_compacted_version_is_relisted(server: FakeApiServer, follower: Follower) -> None:
    server.stop()
    server.add(a_slice("a"))
    server.api.store.compact()
    server.start()
    follower.wait_for("LIST a")


def test_compaction_during_open_watch_is_harmless(
    server: FakeApiServer, follower: Follower
) -> None:
    server.api.store.compact()
    server.add(a_slice("a"))
    follower.wait_for("PUT a")


def test_refused_watch_is_relisted_and_reported(server: FakeApiServer, client: Client) -> None:
    server.api.faults.add(Fault(verb="watch", code=403, count=0))
    follower = Follower(client)
    until(lambda: server.api.log.count("list") > 2)
    failure = follower.reflector.failure()
    assert failure is not None and "403" in failure.message
    server.api.faults.clear()
    until(lambda: follower.reflector.failure() is None)
    follower.stop()


def test_unknown_version_is_relisted(client: Client) -> None:
    follower = Follower(client, version="999999")
    follower.wait_for("LIST ")
    follower.stop()


def test_bookmark_moves_the_version_only(connect: Callable[..., Client]) -> None:
    with FakeApiServer(FakeSettings(bookmark_interval_s=0.05)) as server:
        follower = Follower(connect(server.config()), version="1")
        server.add(obj("Node", "other-kind"))
        version = str(server.api.store.version)
        until(lambda: follower.reflector.resource_version == version)
        follower.stop()
        assert follower.seen == []


def test_relist_ends_the_open_watch(server: FakeApiServer, started: Follower) -> None:
    reflector = started.reflector
    assert reflector.relisted.wait(SOON_S)
    reflector.relist()
    until(reflector.relisted.is_set)
    server.add(a_slice("b"))
    started.wait_for("PUT b")
    assert started.seen == ["LIST a", "LIST a", "PUT b"]
    assert reflector.failure() is None


def test_relist_during_a_list_is_done_after_it(server: FakeApiServer, client: Client) -> None:
    server.api.faults.add(Fault(verb="list", action="slow", delay_s=0.3))
    follower = Follower(client)
    time.sleep(0.1)
    follower.reflector.relist()
    follower.wait_for("LIST ")
    until(follower.reflector.relisted.is_set)
    follower.stop()
    assert follower.seen == ["LIST ", "LIST "]


def test_stop_ends_a_quiet_watch_soon(follower: Follower) -> None:
    assert follower.stop() < SOON_S


def test_stop_ends_a_pause_soon(server: FakeApiServer, follower: Follower) -> None:
    server.stop()
    time.sleep(0.2)  # it now waits for its next attempt
    assert follower.stop() < SOON_S


def test_stop_ends_a_connecting_watch_soon(connect: Callable[..., Client]) -> None:
    silent = socket.create_server(("127.0.0.1", 0))
    config = KubeConfig(server=f"https://127.0.0.1:{silent.getsockname()[1]}")
    follower = Follower(connect(config), version="1")
    time.sleep(0.2)  # it now waits for the TLS handshake
    assert follower.stop() < CONNECT_TIMEOUT_S / 2
    silent.close()


@pytest.mark.parametrize("host", ["api..example", "a" * 64])
def test_impossible_host_name_is_an_outage(connect: Callable[..., Client], host: str) -> None:
    with pytest.raises(ApiError, match="cannot reach the API server") as caught:
        connect(KubeConfig(server=f"https://{host}"), ONCE).list(SLICES)
    assert caught.value.status == 0


def test_closed_client_ends_the_reflector_soon(client: Client, follower: Follower) -> None:
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


def open_watch(client: Client) -> WatchStream:
    stream = ClientListWatch(client, SLICES).watch({"resourceVersion": "0"}, 60.0)
    stream.open()
    return stream


@pytest.mark.parametrize("size", [1, 7, 100_000], ids=["bytes", "sevens", "whole"])
@pytest.mark.parametrize("cut", [1, 3, 50])
def test_events_may_be_split_anywhere(connect: Callable[..., Client], size: int, cut: int) -> None:
    events: list[dict[str, Any]] = [
        {"type": "ADDED", "object": {"metadata": {"name": f"grün-{n}", "resourceVersion": str(n)}}}
        for n in range(4)
    ]
    lines = b"".join(json.dumps(event, ensure_ascii=False).encode() + b"\n" for event in events)
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    sent = head + chunked(lines, size) + b"0\r\n\r\n"
    step = len(sent) // cut
    pieces = [sent[start : start + step] for start in range(0, len(sent), step)]
    stream = open_watch(connect(KubeConfig(server=f"http://127.0.0.1:{serve_once(pieces)}")))
    assert [event.object["metadata"]["name"] for event in stream] == [f"grün-{n}" for n in range(4)]
    stream.close()


@pytest.mark.parametrize(
    "line", [b"{", b"[]\n", b'{"type": "ADDED"}\n', b'{"type": "ADDED", "object": 1}\n']
)
def test_malformed_event_is_a_transport_error(connect: Callable[..., Client], line: bytes) -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    port = serve_once([head + chunked(line, 1000)])
    stream = open_watch(connect(KubeConfig(server=f"http://127.0.0.1:{port}")))
    with pytest.raises(ApiError) as caught:
        list(stream)
    assert caught.value.status == 0
    stream.close()


class ScriptedStream:
    """A watch without a server."""

    def __init__(self, script: Script) -> None:
        self._script = script

    def open(self) -> None:
        if self._script.is_refusing:
            raise ApiError("cannot watch", status=403, api_reason="Forbidden")

    def __iter__(self) -> Iterator[WatchEvent]:
        self._script.clock.advance(self._script.lasts_s)
        yield from self._script.events

    def cancel(self) -> None:
        pass

    def close(self) -> None:
        pass


class Script:
    """A source whose lists are answered; and a store that stops the reflector after some lists or watches."""

    name = "slices"

    def __init__(self, settings: ReflectorSettings = DEFAULT_SETTINGS) -> None:
        self.listed: list[JsonObject] = []
        self.clock = FakeClock()
        self.is_refusing = False
        self.lasts_s = 0.0
        self.events: list[WatchEvent] = []
        self.watches = 0
        self.reflector = Reflector(self, self, self.clock, settings)
        self.lists_left = 0

    def run(self, lists: int) -> float:
        """Until the reflector has listed so often; the seconds that took."""
        self.lists_left = lists
        begun_s = self.clock.monotonic()
        self.reflector.run()
        return self.clock.monotonic() - begun_s

    def list_page(self, parameters: Mapping[str, str]) -> JsonObject:
        return {"metadata": {"resourceVersion": "7"}, "items": []}

    def watch(self, parameters: Mapping[str, str], timeout_s: float) -> WatchStream:
        self.watches += 1
        return ScriptedStream(self)

    def replace(self, objects: Any) -> None:
        self.listed = list(objects)
        self.lists_left -= 1
        if self.lists_left <= 0:
            self.reflector.stop()

    def put(self, obj: JsonObject) -> None:
        pass

    def delete(self, obj: JsonObject) -> None:
        pass


def event(kind: str, name: str, version: int) -> WatchEvent:
    return WatchEvent(kind, {"metadata": {"name": name, "resourceVersion": str(version)}})


def test_changes_before_the_end_of_a_streaming_list_count() -> None:
    script = Script(ReflectorSettings(is_streaming=True))
    end = {"metadata": {"resourceVersion": "9", "annotations": {INITIAL_EVENTS_END: "true"}}}
    script.events = [
        *(event("ADDED", name, 1) for name in ("kept", "changed", "deleted")),
        event("MODIFIED", "changed", 7),
        event("DELETED", "deleted", 8),
        WatchEvent("BOOKMARK", end),
    ]
    script.run(1)
    versions = [o["metadata"]["resourceVersion"] for o in script.listed]
    assert (versions, script.reflector.resource_version) == (["1", "7"], "9")


GONE = WatchEvent("ERROR", {"kind": "Status", "code": 410, "message": "too old"})


def test_refused_watch_backs_off_before_relist() -> None:
    script = Script()
    script.is_refusing = True
    assert script.run(20) > 60.0


def test_expiring_watch_backs_off_before_relist() -> None:
    script = Script()
    script.events = [GONE]
    assert script.run(20) > 60.0


def test_lasting_watch_resets_the_backoff() -> None:
    script = Script()
    script.events, script.lasts_s = [GONE], 300.0
    assert script.run(20) < 20 * 301.0


def test_watch_ended_at_once_backs_off() -> None:
    script = Script()
    timer = script.clock.monotonic() + 60.0
    begun = script.clock.wait

    def wait(event: threading.Event, timeout_s: float) -> bool:
        if script.clock.monotonic() > timer:
            script.reflector.stop()
        return begun(event, timeout_s)

    script.clock.wait = wait  # type: ignore[method-assign]  # ends the test after a minute of its clock
    script.run(100)
    assert script.watches < 20
