"""Prepare and unprepare over real sockets: a result for every claim."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import grpc

from tests.beds.services.kubelet import Kubelet, Plugin
from tests.beds.services.plugin import DRIVER, TestPlugin
from tests.lib.waits import until

A, B = ("ns", "a", "uid-a"), ("ns", "b", "uid-b")


def test_response_has_main_request_and_cdi_id(registered: Plugin) -> None:
    answers = registered.prepare(A)
    (device,) = answers.devices["uid-a"]
    assert device.requests == ["gpu"]
    assert (device.pool, device.device, device.share_id) == ("node-1", "gpu-0", None)
    assert device.cdi_ids == ["k8s.gpu.nvidia.com/claim=uid-a-gpu-0"]


def test_share_id_is_in_v1_only(plugin: TestPlugin, kubelet: Kubelet) -> None:
    share = ("ns", "share", "uid-s")
    for versions, expected in ((("v1.DRAPlugin",), "5e1f"), (("v1beta1.DRAPlugin",), None)):
        seen = Kubelet(plugin.paths.registry_dir, versions).register(DRIVER)
        assert seen.prepare(share).devices["uid-s"][0].share_id == expected
        assert seen.version == versions[0]
        seen.close()


def test_failed_claim_does_not_fail_others(registered: Plugin, plugin: TestPlugin) -> None:
    answers = registered.prepare(A, ("ns", "bad", "uid-x"), B)
    assert set(answers.devices) == {"uid-a", "uid-b"}
    assert answers.errors == {"uid-x": "claim bad is deleted; delete the pod"}
    assert ("prepare", "stale_claim") in plugin.counts.finished


def test_unexpected_error_is_reported_without_details(registered: Plugin) -> None:
    errors = registered.prepare(("ns", "bug", "uid-x"), A).errors
    assert list(errors) == ["uid-x"]
    assert "KeyError" in errors["uid-x"] and "0x7f3a" not in errors["uid-x"]


def test_empty_request_returns_empty_map(registered: Plugin, plugin: TestPlugin) -> None:
    assert registered.prepare().devices == {}
    assert registered.unprepare().errors == {}
    assert plugin.counts.finished == []


def test_duplicate_uid_is_handled_once(registered: Plugin, plugin: TestPlugin) -> None:
    assert set(registered.prepare(A, A).devices) == {"uid-a"}
    assert plugin.ledger.calls == ["uid-a"]


def test_unprepare_of_unknown_claim_succeeds(registered: Plugin, plugin: TestPlugin) -> None:
    assert registered.unprepare(("ns", "never", "uid-n")).errors == {}
    assert plugin.counts.finished == [("unprepare", "success")]


def test_claims_of_one_call_run_in_parallel(registered: Plugin, plugin: TestPlugin) -> None:
    slow = [("ns", f"slow-{n}", f"uid-{n}") for n in range(4)]
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(registered.prepare, *slow)
        until(lambda: plugin.ledger.running == 4)
        plugin.ledger.gate.set()
        assert len(call.result().devices) == 4
    assert plugin.ledger.most_running == 4


def test_call_deadline_is_passed_on_less_reply_margin(
    registered: Plugin, plugin: TestPlugin
) -> None:
    claims = ("ns", "slow", "uid-a"), ("ns", "slow-bad", "uid-b")
    for timeout_s in (0.5, 1.0, 2.0, 4.0, 8.0):  # a busy machine may need more for the answer
        plugin.ledger.deadlines_s.clear()
        try:
            answers = registered.prepare(*claims, timeout_s=timeout_s)
        except grpc.RpcError as error:
            assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        else:
            break
    assert len(answers.errors) + len(answers.devices) == 2  # answered, and not DEADLINE_EXCEEDED
    assert all(0 < seconds <= 0.97 * timeout_s for seconds in plugin.ledger.deadlines_s)


def test_deadline_is_cut_to_45_s(registered: Plugin, plugin: TestPlugin) -> None:
    registered.prepare(A, timeout_s=500.0)
    assert 40 < plugin.ledger.deadlines_s[0] <= 45


def test_stop_drains_running_calls_and_refuses_new(registered: Plugin, plugin: TestPlugin) -> None:
    with ThreadPoolExecutor(2) as pool:
        running = pool.submit(registered.prepare, ("ns", "slow", "uid-a"))
        until(lambda: plugin.ledger.running)
        stopped = pool.submit(plugin.stop, 60.0)
        until(lambda: "stopping" in registered.prepare(B).errors.get("uid-b", ""))
        assert plugin.paths.registration.is_socket()  # the kubelet must not cut the running call
        plugin.ledger.gate.set()
        assert set(running.result().devices) == {"uid-a"}
        stopped.result()
    assert not plugin.paths.registration.exists() and not plugin.paths.dra.exists()
