"""Registration: GetInfo, and the kubelet's report of the outcome."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from tests.beds.services.kubelet import Kubelet, RegistrationError
from tests.beds.services.plugin import DRIVER, TestPlugin
from tests.lib.waits import until


def test_get_info_returns_name_endpoint_and_versions(plugin: TestPlugin, kubelet: Kubelet) -> None:
    seen = kubelet.register(DRIVER)
    assert seen.info.type == "DRAPlugin" and seen.info.name == DRIVER
    assert seen.info.endpoint == str(plugin.paths.dra)
    assert list(seen.info.supported_versions) == [
        "v1.DRAPlugin",
        "v1beta1.DRAPlugin",
        "v1.DRAResourceHealth",
        "v1alpha1.DRAResourceHealth",
    ]
    seen.close()
    assert plugin.registrations == [True]
    assert plugin.registration.state.is_registered is True


@pytest.mark.parametrize(
    ("versions", "expected"),
    [
        (("v1beta1.DRAPlugin",), "v1beta1.DRAPlugin"),  # 1.32, 1.33
        (("v1.DRAPlugin", "v1beta1.DRAPlugin"), "v1.DRAPlugin"),  # 1.34 and later
    ],
)
def test_old_and_new_kubelets_find_a_version(
    plugin: TestPlugin, versions: tuple[str, ...], expected: str
) -> None:
    seen = Kubelet(plugin.paths.registry_dir, versions).register(DRIVER)
    assert seen.version == expected
    assert seen.prepare(("ns", "a", "uid-a")).errors == {}
    seen.close()


def test_refused_registration_is_answered_with_error(plugin: TestPlugin, kubelet: Kubelet) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        kubelet.register(DRIVER, refuse="DRA is off")
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert plugin.registrations == [False]
    state = plugin.registration.state
    assert (state.is_registered, state.error) == (False, "DRA is off")
    kubelet.register(DRIVER).close()
    assert plugin.registration.state.is_registered is True


def test_kubelet_without_common_version_refuses(plugin: TestPlugin) -> None:
    with pytest.raises(grpc.RpcError, match="no known version"):
        Kubelet(plugin.paths.registry_dir, ("v9.DRAPlugin",)).register(DRIVER)


def test_get_info_takes_50_ms_while_prepares_wait(plugin: TestPlugin, kubelet: Kubelet) -> None:
    seen = kubelet.register(DRIVER)
    with ThreadPoolExecutor(20) as pool:
        waiting = [pool.submit(seen.prepare, ("ns", f"slow-{n}", f"uid-{n}")) for n in range(20)]
        until(lambda: plugin.ledger.running == 20)

        def is_quick() -> bool:
            kubelet.register(DRIVER).close()
            return kubelet.get_info_s[-1] < 0.05

        until(is_quick)  # at once, but for a machine that is busy
        plugin.ledger.gate.set()
        for call in waiting:
            call.result()
    seen.close()


def test_registration_error_names_a_missing_socket(plugin: TestPlugin) -> None:
    with pytest.raises(RegistrationError, match=r"other-reg\.sock did not appear"):
        Kubelet(plugin.paths.registry_dir).wait_for_socket("other", timeout_s=0.05)
