"""The broker's socket server: requests, invalid ones, and restarts."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from nvdra_core.errors import HostError, UnitRequestError
from nvdra_core.runtime.clock import Deadline, SystemClock
from nvdra_node.broker import caller
from nvdra_node.broker.policy import SUPERVISOR
from nvdra_node.broker.server import MAX_CALLS, REQUEST_TIMEOUT_S, Server
from nvdra_node.host.units import MAX_REQUEST_BYTES, BrokerUnits
from tests.fakes.host.units import FakeUnits
from tests.lib.waits import until

IMEX = "nvdra-imex.service"
PATIENCE_S = 60.0


class Bed:
    """A broker whose callers are all the supervisor, or all refused (``refusal``)."""

    def __init__(self, path) -> None:
        self.path = path
        self.units = FakeUnits()
        self.refusal = ""
        self.client = BrokerUnits(path, SystemClock())
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen(16)
        self.begin()

    def begin(self, request_timeout_s: float = REQUEST_TIMEOUT_S) -> None:
        self.stopping = threading.Event()
        # A duplicate, as systemd keeps the socket over a restart of the service.
        self.held = self.listener.dup()
        self.server = Server(
            self.held, self.units, self._identify, SystemClock(), request_timeout_s
        )
        self.thread = threading.Thread(target=self.server.run, args=(self.stopping,))
        self.thread.start()

    def end(self) -> None:
        self.stopping.set()
        self.server.close()
        self.thread.join(PATIENCE_S)
        assert not self.thread.is_alive()
        self.held.close()

    def _identify(self, connection: socket.socket) -> str:
        if self.refusal:
            raise UnitRequestError(self.refusal)
        return SUPERVISOR

    def connect(self) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(self.path))
        connection.settimeout(PATIENCE_S)
        return connection

    def send(self, data: bytes) -> dict[str, str]:
        """Send anything, and nothing more; the answer."""
        with self.connect() as connection:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            with connection.makefile("rb") as answer:
                found: dict[str, str] = json.loads(answer.readline())
        return found


@pytest.fixture
def bed(tmp_path) -> Iterator[Bed]:
    made = Bed(tmp_path / "units.sock")
    yield made
    made.units.may_finish.set()
    made.end()
    made.listener.close()


def deadline(seconds: float = PATIENCE_S) -> Deadline:
    return Deadline(seconds, SystemClock())


def is_serving(bed: Bed) -> bool:
    bed.client.ping(deadline())
    return True


def test_unit_is_started_read_and_stopped(bed: Bed) -> None:
    bed.client.start(IMEX, deadline())
    assert bed.client.show([IMEX], deadline())[IMEX]["ActiveState"] == "active"
    bed.client.reload(IMEX, deadline())
    bed.client.stop(IMEX, deadline())
    bed.client.reset_failed(IMEX, deadline())
    assert bed.client.show([IMEX], deadline())[IMEX]["ActiveState"] == "inactive"
    verbs = [call[0] for call in bed.units.history]
    assert verbs == ["start", "show", "reload", "stop", "reset-failed", "show"]


def test_units_failure_is_the_callers_error(bed: Bed) -> None:
    bed.units.error = "systemctl start nvdra-imex.service: ended with status 1"
    with pytest.raises(HostError, match="ended with status 1"):
        bed.client.start(IMEX, deadline())


def test_unit_without_permission_is_not_touched(bed: Bed) -> None:
    with pytest.raises(HostError, match="not permitted"):
        bed.client.start("sshd.service", deadline())
    assert bed.units.history == []


@pytest.mark.parametrize(
    "data",
    [
        b"\n", b"", b"{}\n", b"x" * (MAX_REQUEST_BYTES + 2) + b"\n", b"{" * 100, b"\0" * 64 + b"\n",
        b'{"verb": "start", "units": ["nvdra-imex.service"]}',
    ],
)  # fmt: skip
def test_invalid_request_gets_an_error_and_serving_goes_on(bed: Bed, data: bytes) -> None:
    assert bed.send(data)["error"].startswith("invalid request")
    assert bed.units.history == []
    assert is_serving(bed)


def test_slow_request_times_out(bed: Bed) -> None:
    bed.end()
    bed.begin(request_timeout_s=0.2)
    with bed.connect() as connection:
        connection.sendall(b'{"verb"')
        assert b"no complete line" in connection.recv(4096)
    assert is_serving(bed)


def test_caller_that_leaves_early_is_tolerated(bed: Bed) -> None:
    for _ in range(20):
        bed.connect().close()
    assert is_serving(bed)


def test_caller_without_permission_is_refused_at_once(bed: Bed) -> None:
    bed.refusal = "caller: not permitted"
    with bed.connect() as connection:
        assert b"not permitted" in connection.recv(4096)
    bed.refusal = ""
    assert is_serving(bed)


def test_calls_beyond_the_limit_are_refused(bed: Bed) -> None:
    bed.units.may_finish.clear()
    calls = [
        threading.Thread(target=bed.client.start, args=(IMEX, deadline())) for _ in range(MAX_CALLS)
    ]
    for call in calls:
        call.start()
    until(lambda: len(bed.units.history) >= MAX_CALLS)
    with pytest.raises(HostError, match="at once"):
        bed.client.show([IMEX], deadline())
    bed.units.may_finish.set()
    for call in calls:
        call.join(PATIENCE_S)
    assert is_serving(bed)


def test_restart_of_the_broker_is_hidden_from_callers(bed: Bed) -> None:
    bed.units.may_finish.clear()
    bed.units.error = "was killed, as the service ends"
    call = threading.Thread(target=bed.client.start, args=(IMEX, deadline()))
    call.start()
    until(lambda: bed.units.history)
    bed.end()  # its systemctl is killed with it
    bed.units.may_finish.set()
    time.sleep(0.2)
    bed.units.error = ""
    bed.begin()
    call.join(PATIENCE_S)
    assert bed.units.states == {IMEX: "active"}


def test_missing_broker_is_an_error_with_its_unit(tmp_path) -> None:
    client = BrokerUnits(tmp_path / "units.sock", SystemClock())
    with pytest.raises(HostError, match=r"units\.sock: No such file .*nvdra-unit-broker\.socket"):
        client.show([IMEX], deadline(0.3))


def test_missing_answer_is_an_error_at_the_deadline(bed: Bed) -> None:
    bed.units.may_finish.clear()
    began = time.monotonic()
    with pytest.raises(HostError, match="no answer to start"):
        bed.client.start(IMEX, deadline(0.3))
    assert time.monotonic() - began < PATIENCE_S / 2


# --- who asks


def test_process_outside_our_units_is_refused_by_its_cgroup(tmp_path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen(1)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(tmp_path / "s"))
            connection, _ = listener.accept()
            with connection, pytest.raises(UnitRequestError, match="not permitted"):
                caller.unit_of_peer(connection)


def test_ended_caller_is_refused(tmp_path) -> None:
    script = (
        "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]);"
        " s.sendall(b'x'); sys.stdin.read()"
    )
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen(1)
        process = subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path / "s")], stdin=subprocess.PIPE
        )
        connection, _ = listener.accept()
        with connection:
            process.kill()
            process.communicate()
            expected = "cannot be read" if os.getuid() == 0 else "only root"
            with pytest.raises(UnitRequestError, match=expected):
                caller.unit_of_peer(connection)
