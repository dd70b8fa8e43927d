"""What a broken or busy API server does to callers: nothing, as long as their deadline allows."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from nvdra_core.errors import ApiError
from nvdra_core.kube.errors import ClosedError
from nvdra_core.kube.resources import NAMESPACES, SLICES
from nvdra_core.kube.transport import TransportSettings
from nvdra_core.runtime.clock import Deadline, SystemClock
from nvdra_node.kube.client import Client
from nvdra_node.kube.config import KubeConfig
from tests.fakes.apiserver.faults import Fault
from tests.fakes.apiserver.server import FakeApiServer
from tests.service.kube.conftest import BRISK, FAST
from tests.service.kube.objects import a_device, a_slice


def a_deadline(timeout_s: float) -> Deadline:
    return Deadline(timeout_s, SystemClock())


def get_default(client: Client, timeout_s: float = 60.0) -> str:
    found = client.get(NAMESPACES, "default", deadline=a_deadline(timeout_s))
    return str(found["metadata"]["name"])


@pytest.fixture
def silent() -> Iterator[int]:
    """A port that takes connections and never answers, like a half-open connection."""
    listening = socket.create_server(("127.0.0.1", 0))
    yield listening.getsockname()[1]
    listening.close()


def test_retry_after_of_a_busy_server_is_honoured(server: FakeApiServer, client: Client) -> None:
    server.api.faults.add(Fault(code=429, retry_after_s=1))
    started_s = time.monotonic()
    assert get_default(client) == "default"
    assert time.monotonic() - started_s >= 1.0


def test_retry_after_beyond_the_deadline_ends_at_once(
    server: FakeApiServer, client: Client
) -> None:
    server.api.faults.add(Fault(code=429, retry_after_s=120))
    started_s = time.monotonic()
    with pytest.raises(ApiError) as caught:
        get_default(client)
    assert (caught.value.status, caught.value.retry_after_s) == (429, 120.0)
    assert time.monotonic() - started_s < 30.0


@pytest.mark.parametrize("code", [429, 500, 502, 503, 504])
def test_burst_of_server_errors_is_survived(
    server: FakeApiServer, client: Client, code: int
) -> None:
    server.api.faults.add(Fault(code=code, count=3))
    assert get_default(client) == "default"
    assert server.api.log.count("get", "namespaces") == 4


@pytest.mark.parametrize("action", ["no_answer", "reset", "cut"])
def test_read_without_answer_is_repeated(
    server: FakeApiServer, client: Client, action: str
) -> None:
    get_default(client)
    server.api.faults.add(Fault(action=action, count=2))
    assert get_default(client) == "default"


@pytest.mark.parametrize("action", ["no_answer", "reset", "cut"])
def test_create_without_answer_is_not_repeated(
    server: FakeApiServer, client: Client, action: str
) -> None:
    server.api.faults.add(Fault(verb="create", action=action, is_executed=True))
    with pytest.raises(ApiError) as caught:
        client.create(SLICES, a_slice())
    assert caught.value.status == 0
    assert server.api.log.count("create") == 1
    assert len(server.objects("resourceslices")) == 1


def test_create_is_repeated_after_503(server: FakeApiServer, client: Client) -> None:
    server.api.faults.add(Fault(verb="create", code=503))
    client.create(SLICES, a_slice())
    assert len(server.objects("resourceslices")) == 1


def test_create_is_not_repeated_after_500(server: FakeApiServer, client: Client) -> None:
    server.api.faults.add(Fault(verb="create", code=500))
    with pytest.raises(ApiError) as caught:
        client.create(SLICES, a_slice())
    assert caught.value.status == 500


def test_conflict_is_never_repeated(server: FakeApiServer, client: Client) -> None:
    server.api.faults.add(Fault(verb="update", code=409, count=2))
    with pytest.raises(ApiError):
        client.update(SLICES, a_slice())
    assert server.api.log.count("update") == 1


def test_closed_idle_connection_is_replaced(server: FakeApiServer, client: Client) -> None:
    for _ in range(5):
        get_default(client)
        server.end_connections()
    assert server.api.log.count("get", "namespaces", 200) == 5


def test_returning_server_is_reconnected(server: FakeApiServer, client: Client) -> None:
    get_default(client)
    server.stop()
    timer = threading.Timer(0.2, server.start)
    timer.start()
    assert get_default(client) == "default"
    timer.join()


def test_unreachable_server_is_named_in_the_error(server: FakeApiServer, client: Client) -> None:
    server.stop()
    with pytest.raises(ApiError, match=r"cannot reach the API server 127\.0\.0\.1:\d+") as caught:
        get_default(client, timeout_s=0.3)
    assert caught.value.status == 0


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_silent_server_is_given_up_at_the_deadline(
    silent: int, connect: Callable[..., Client], scheme: str
) -> None:
    client = connect(KubeConfig(server=f"{scheme}://127.0.0.1:{silent}"))
    started_s = time.monotonic()
    with pytest.raises(ApiError) as caught:
        get_default(client, timeout_s=0.3)
    assert caught.value.status == 0
    assert time.monotonic() - started_s < FAST.attempt_timeout_s


def test_trickling_answer_ends_at_the_deadline(connect: Callable[..., Client]) -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    done = threading.Event()

    def trickle() -> None:
        sock, _ = listening.accept()
        with sock:
            for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n" + b" " * 2000:
                if done.wait(0.02):
                    return
                try:
                    sock.sendall(bytes([byte]))
                except OSError:
                    return

    thread = threading.Thread(target=trickle)
    thread.start()
    client = connect(KubeConfig(server=f"http://127.0.0.1:{listening.getsockname()[1]}"))
    started_s = time.monotonic()
    with pytest.raises(ApiError):
        get_default(client, timeout_s=0.3)
    assert time.monotonic() - started_s < 20.0, "it trickles for longer"
    done.set()
    thread.join()
    listening.close()


def test_hanging_attempt_is_repeated_within_the_deadline(
    server: FakeApiServer, connect: Callable[..., Client]
) -> None:
    settings = TransportSettings(attempt_timeout_s=0.3, backoff=BRISK)
    server.api.faults.add(Fault(action="hang"))
    assert get_default(connect(server.config(), settings)) == "default"
    assert server.api.log.count("get", "namespaces") >= 2


def test_close_ends_a_waiting_request_at_once(server: FakeApiServer, client: Client) -> None:
    server.api.faults.add(Fault(action="hang"))
    timer = threading.Timer(0.2, client.close)
    timer.start()
    started_s = time.monotonic()
    with pytest.raises(ClosedError):
        get_default(client)
    assert time.monotonic() - started_s < FAST.attempt_timeout_s
    timer.join()


def test_megabyte_object_is_stored_unchanged(client: Client) -> None:
    text = "x" * 60
    attributes = {f"a{n}": {"string": f"{n}{text}"[:64]} for n in range(32)}
    body = a_slice(devices=[a_device(f"gpu-{n}", attributes=attributes) for n in range(128)])
    body["metadata"]["annotations"] = {"big": "y" * 700_000}
    stored = client.create(SLICES, body)
    assert stored["spec"] == body["spec"]
    assert client.get(SLICES, "slice")["metadata"]["annotations"] == body["metadata"]["annotations"]


def test_threads_share_the_client(server: FakeApiServer, client: Client) -> None:
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(50):
                assert get_default(client) == "default"
        except BaseException as error:  # noqa: BLE001  handed to the test's own thread
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert server.api.log.count("get", "namespaces", 200) == 24 * 50


def test_expired_pages_restart_the_list(server: FakeApiServer, client: Client) -> None:
    for number in range(501):
        server.add(a_slice(f"slice-{number}"))
    server.api.faults.add(Fault(verb="list", action="slow"))  # the first page comes
    server.api.faults.add(Fault(verb="list", code=410))  # the second does not
    found = client.list(SLICES)
    assert len({item["metadata"]["name"] for item in found.items}) == 501
    assert len(found.items) == 501
    assert server.api.log.count("list") == 4


def test_each_warning_of_the_server_is_logged_once(
    server: FakeApiServer, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    warning = 'unknown field "spec.colour"\nunknown field "spec.colours"'
    server.api.faults.add(Fault(verb="create", action="slow", warning=warning, count=2))
    for name in ("one", "two"):
        client.create(SLICES, a_slice(name))
    warnings = [record for record in caplog.records if "colour" in record.getMessage()]
    assert len(warnings) == 2


def test_user_agent_names_the_program_and_its_version(
    server: FakeApiServer, client: Client
) -> None:
    get_default(client)
    assert server.api.log.lines()[-1].user_agent.startswith("nvdra/")
