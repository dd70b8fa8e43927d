"""Service: real signals to a real process, and a real notify socket."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


class Process:
    """The sample service and its notifications."""

    def __init__(
        self, notify: socket.socket, faults: tuple[str, ...], environment: dict[str, str]
    ) -> None:
        self._notify = notify
        self.messages: list[str] = []
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.unit.core.service_program", *faults],
            cwd=ROOT,
            env={**os.environ, "NOTIFY_SOCKET": str(notify.getsockname()), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def until(self, text: str) -> str:
        """Read notifications until one has ``text``; returns it."""
        while not (self.messages and text in self.messages[-1]):
            self.messages.append(self._notify.recv(4096).decode())
        return self.messages[-1]

    def logged_until(self, text: str) -> str:
        """Read the log up to a line with ``text``; ``end`` returns the rest."""
        assert self._process.stderr is not None
        lines = [""]
        while text not in lines[-1]:
            lines.append(self._process.stderr.readline())
            assert lines[-1], f"the log ended: {lines}"
        return "".join(lines)

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def end(self) -> tuple[int, list[str], str]:
        """Exit status, words on stdout, log."""
        out, err = self._process.communicate(timeout=60)
        return self._process.returncode, out.splitlines(), err

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def run(tmp_path) -> Iterator[Callable[..., Process]]:
    processes: list[Process] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(str(tmp_path / "notify"))
        notify.settimeout(60)

        def start(*faults: str, **environment: str) -> Process:
            processes.append(Process(notify, faults, environment))
            return processes[-1]

        yield start
        for process in processes:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_stop_signal_stops_components_in_reverse_and_exits_0(run, number):
    process = run()
    assert process.until("READY=1") == "READY=1\nSTATUS=running"
    assert process.messages[:2] == ["STATUS=starting a", "STATUS=starting b"]
    process.send(number)
    status, words, _ = process.end()
    assert status == 0
    assert [w for w in words if w[:3] != "end"] == ["start a", "start b", "stop b", "stop a"]
    assert sorted(w for w in words if w[:3] == "end") == ["end a", "end b"]
    assert process.until("STOPPING=1")


@pytest.mark.parametrize(("fault", "expected"), [("start-b", 1), ("config-b", 2)])
def test_component_start_failure_stops_those_before_it(run, fault, expected):
    process = run(fault)
    status, words, err = process.end()
    assert (status, words[-2:]) == (expected, ["stop a", "end a"]) or words[-2:] == [
        "end a",
        "stop a",
    ]
    assert status == expected
    assert f"service failed reason={'host' if expected == 1 else 'config'}" in err
    process.until("STOPPING=1")
    assert not any("READY" in message for message in process.messages)


@pytest.mark.parametrize(
    ("fault", "why"),
    [("crash-a", "a crashed"), ("return-b", "worker b-loop returned unexpectedly")],
)
def test_failed_worker_stops_the_service_with_an_error(run, fault, why):
    status, words, err = run(fault).end()
    assert status == 1
    assert words.count("stop a") == 1
    assert f'worker failed reason=internal worker={fault[-1]}-loop error="{why}"' in err


@pytest.mark.parametrize(("fault", "why"), [("thread-a", "a broke"), ("exit-b", "7")])
def test_exception_in_any_thread_stops_the_service(run, fault, why):
    status, words, err = run(fault).end()
    assert status == 1
    assert words.count("stop a") == 1
    assert f'worker failed reason=internal worker={fault[-1]}-own error="{why}"' in err or (
        f"worker failed reason=internal worker={fault[-1]}-own error={why}" in err
    )


def test_component_stop_failure_does_not_keep_the_others(run):
    process = run("stop-b")
    process.until("READY=1")
    process.send(signal.SIGTERM)
    status, words, err = process.end()
    assert status == 1 and "stop a" in words
    assert "cannot stop component reason=host component=b" in err


def test_hanging_worker_is_named_and_stop_times_out(run):
    process = run("hang-a")
    process.until("READY=1")
    process.send(signal.SIGTERM)
    status, _, err = process.end()
    assert status == 1
    assert "workers did not end in time workers=a-loop" in err


def test_sighup_reloads_and_notifies_systemd(run):
    process = run()
    process.until("READY=1")
    process.send(signal.SIGHUP)
    assert "MONOTONIC_USEC=" in process.until("RELOADING=1")
    assert process.until("READY=1") == "READY=1\nSTATUS=running"
    process.send(signal.SIGTERM)
    status, words, _ = process.end()
    assert status == 0 and words[2] == "reload"


def test_failed_reload_keeps_the_service_running(run):
    process = run("reload")
    process.until("READY=1")
    process.send(signal.SIGHUP)
    assert process.until("reload failed").startswith("READY=1\nSTATUS=running; reload failed: new")
    process.send(signal.SIGTERM)
    assert process.end()[0] == 0


def test_sighup_without_reload_keeps_the_service_running(run):
    process = run("no-reload")
    process.until("READY=1")
    process.send(signal.SIGHUP)
    process.until("RELOADING=1")
    process.until("READY=1")
    process.send(signal.SIGTERM)
    status, _, err = process.end()
    assert status == 0 and "nothing to reload" in err


def test_sigusr2_writes_all_stacks_and_continues(run):
    process = run()
    process.until("READY=1")
    process.send(signal.SIGUSR2)
    err = process.logged_until("_run_module_as_main")
    process.send(signal.SIGTERM)
    assert process.end()[0] == 0
    assert err.count("most recent call first") >= 3 and "service_program.py" in err


def test_stacks_are_written_while_the_main_thread_hangs(run):
    process = run("reload-blocks")
    process.until("READY=1")
    process.send(signal.SIGHUP)
    process.until("RELOADING=1")
    err = ""
    while "in reload\n" not in err:  # it says that it reloads before it does
        process.send(signal.SIGUSR2)
        err += process.logged_until("_run_module_as_main")
    assert "[a-loop] (most recent call first)" in err and "[MainThread]" in err


def test_stacks_are_safe_while_threads_start_and_end(run):
    process = run("churn-a", "churn-b")
    process.until("READY=1")
    for _ in range(100):
        process.send(signal.SIGUSR2)
        assert "[a-loop] (most recent call first)" in process.logged_until("_run_module_as_main")
    process.send(signal.SIGTERM)
    assert process.end()[0] == 0


def test_watchdog_abort_writes_all_stacks(run):
    process = run()
    process.until("READY=1")
    process.send(signal.SIGABRT)
    status, _, err = process.end()
    assert status == -signal.SIGABRT
    assert err.count("most recent call first") >= 3 and "service_program.py" in err


def test_passing_self_check_feeds_the_watchdog(run):
    process = run(WATCHDOG_USEC="60000")
    for _ in range(3):
        process.until("WATCHDOG=1")
        process.messages.append("next")
    process.send(signal.SIGTERM)
    assert process.end()[0] == 0


def test_failing_self_check_does_not_feed_the_watchdog(run):
    process = run("sick", WATCHDOG_USEC="60000")
    process.until("unhealthy: no answer")
    process.send(signal.SIGTERM)
    _, _, err = process.end()
    process.until("STOPPING=1")
    assert process.messages.count("WATCHDOG=1") == 1
    assert "self-check failed; watchdog not fed" in err


def test_recovered_self_check_feeds_the_watchdog_again(run):
    process = run("sick-once", WATCHDOG_USEC="60000")
    process.until("unhealthy: no answer")
    process.messages.append("next")
    process.until("STATUS=running")
    process.until("WATCHDOG=1")
    process.send(signal.SIGTERM)
    assert process.end()[0] == 0


def test_service_runs_without_systemd(run):
    process = run("crash-a", NOTIFY_SOCKET="")
    assert process.end()[0] == 1


def test_missing_notify_socket_is_an_error(run):
    process = run(NOTIFY_SOCKET="/nonexistent/notify")
    status, _, err = process.end()
    assert status != 0 and "NOTIFY_SOCKET /nonexistent/notify: No such file or directory" in err
