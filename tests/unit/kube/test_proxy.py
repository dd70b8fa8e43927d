"""Which proxy a request goes through, and that its password is never shown."""

from __future__ import annotations

import pytest

from nvdra_core.errors import ConfigError
from nvdra_core.kube.proxy import Proxy, ProxySettings, choose, is_exempt, parse


@pytest.mark.parametrize(
    ("host", "no_proxy", "wanted"),
    [
        ("api.example.com", "", False),
        ("api.example.com", "*", True),
        ("api.example.com", "example.com", True),
        ("api.example.com", ".example.com", True),
        ("api.example.com", "*.example.com", True),
        ("example.com", ".example.com", False),
        ("notexample.com", "example.com", False),
        ("API.example.com", "api.Example.com", True),
        ("api.example.com", "api.example.com:6443", True),
        ("api.example.com", "api.example.com:443", False),
        ("10.1.2.3", "10.0.0.0/8", True),
        ("11.1.2.3", "10.0.0.0/8", False),
        ("api.example.com", "10.0.0.0/8", False),
        ("10.1.2.3", "10.1.2.3", True),
        ("fd00::1", "[fd00::1]:6443", True),
        ("fd00::1", "fd00::/8", True),
        ("10.1.2.3", "rubbish/x, 10.1.2.3", True),
        ("127.0.0.5", "", True),
        ("localhost", "", True),
    ],
)
def test_no_proxy(host: str, no_proxy: str, wanted: bool) -> None:
    assert is_exempt(host, 6443, no_proxy) is wanted


def test_proxy_is_that_of_the_scheme() -> None:
    settings = ProxySettings(https_proxy="http://s:1", http_proxy="h:2")
    assert choose("https://api:6443", settings) == Proxy("s", 1)
    assert choose("http://api:6443", settings) == Proxy("h", 2)
    assert choose("https://api:6443", ProxySettings()) is None


@pytest.mark.parametrize("address", ["https://p:1", "socks5://p:1", "http://p:x", "http://"])
def test_unusable_proxy_is_a_config_error(address: str) -> None:
    with pytest.raises(ConfigError):
        parse(address)


def test_password_is_not_shown() -> None:
    proxy = parse("http://u:sesame@p:1")
    assert proxy.authorization == "Basic dTpzZXNhbWU="
    settings = ProxySettings(https_proxy="http://u:sesame@p:1")
    assert "sesame" not in repr(proxy) + repr(settings)
    assert "dTpz" not in repr(proxy)
