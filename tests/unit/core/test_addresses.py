"""Addresses that nodes report, and that their peers write into hosts files."""

from __future__ import annotations

import pytest

from nvdra_core.api.addresses import is_peer_address


@pytest.mark.parametrize(
    "text", ["10.0.0.1", "192.168.7.250", "100.64.0.1", "fd00::1", "2001:db8::1"]
)
def test_address_of_another_host_is_accepted(text: str):
    assert is_peer_address(text)


@pytest.mark.parametrize(
    "text",
    [
        "", "10.0.0.1\n10.0.0.9\timex-0001", "10.0.0.1\n", " 10.0.0.1", "10.0.0.1 x", "tray-a", "10.0.0", "010.0.0.1",
        "10.0.0.1/24", "127.0.0.1", "127.1.2.3", "::1", "0.0.0.0", "::", "169.254.1.1", "fe80::1", "fe80::1%eth0",
        "224.0.0.1", "ff02::1", "255.255.255.255", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "1" * 45,
    ],
)  # fmt: skip
def test_non_host_address_is_refused(text: str):
    assert not is_peer_address(text)
