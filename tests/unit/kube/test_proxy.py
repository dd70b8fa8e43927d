"""The proxy of a kubeconfig, and that its password is never shown."""

from __future__ import annotations

import pytest

from nvdra_core.errors import ConfigError
from nvdra_node.kube.proxy import parse


@pytest.mark.parametrize("address", ["https://p:1", "socks5://p:1", "http://p:x", "http://"])
def test_unusable_proxy_is_a_config_error(address: str) -> None:
    with pytest.raises(ConfigError):
        parse(address)


def test_password_is_not_shown() -> None:
    proxy = parse("http://u:sesame@p:1")
    assert proxy.authorization == "Basic dTpzZXNhbWU="
    assert "sesame" not in repr(proxy)
    assert "dTpz" not in repr(proxy)
