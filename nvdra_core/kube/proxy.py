"""Which proxy a connection goes through, from HTTPS_PROXY, HTTP_PROXY and NO_PROXY as the cli read them. Pure."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from nvdra_core.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxySettings:
    """The values of the environment variables of these names; empty means unset."""

    https_proxy: str = field(default="", repr=False)
    http_proxy: str = field(default="", repr=False)
    no_proxy: str = ""


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy that tunnels with CONNECT. ``authorization`` is the value of Proxy-Authorization, or empty."""

    host: str
    port: int
    authorization: str = field(default="", repr=False)


def choose(server: str, settings: ProxySettings) -> Proxy | None:
    """The proxy for the API server's URL, or None. Loopback is always reached directly. Raises ConfigError."""
    url = urlsplit(server)
    host = (url.hostname or "").rstrip(".")
    address = settings.https_proxy if url.scheme == "https" else settings.http_proxy
    port = url.port or (443 if url.scheme == "https" else 80)
    if not address or is_exempt(host, port, settings.no_proxy):
        return None
    return parse(address)


def parse(address: str) -> Proxy:
    """Decode ``[http://][user[:password]@]host[:port]``. Raises ConfigError, which never quotes the password."""
    url = urlsplit(address if "://" in address else f"http://{address}")
    try:
        port = url.port or 80
    except ValueError:
        raise ConfigError("proxy: the port is not a number") from None
    if url.scheme != "http" or not url.hostname:
        raise ConfigError(
            f"proxy {url.scheme}://{url.hostname}: only http:// proxies (CONNECT) are supported"
        )
    authorization = ""
    if url.username is not None:
        pair = f"{unquote(url.username)}:{unquote(url.password or '')}".encode()
        authorization = "Basic " + base64.b64encode(pair).decode()
    return Proxy(url.hostname, port, authorization)


def is_exempt(host: str, port: int, no_proxy: str) -> bool:
    """Whether NO_PROXY (names, .suffixes, addresses, networks, ``*``; each with an optional :port) covers the host."""
    if host in {"localhost", "::1"} or host.startswith("127."):
        return True
    return any(
        _covers(entry.strip().lower(), host.lower(), port)
        for entry in no_proxy.split(",")
        if entry.strip()
    )


def _covers(entry: str, host: str, port: int) -> bool:
    if entry == "*":
        return True
    if "/" in entry:
        return _in_network(entry, host)
    name, colon, wanted_port = entry.rpartition(":")
    if colon and wanted_port.isdigit() and (":" not in name or name.endswith("]")):
        if int(wanted_port) != port:
            return False
        entry = name
    entry = entry.strip("[]").removeprefix("*")
    if entry.startswith("."):
        return host.endswith(entry)
    return host == entry or host.endswith("." + entry)


def _in_network(entry: str, host: str) -> bool:
    # Imported here: most nodes name no network, and the module costs 0.2 MB.
    import ipaddress

    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return False
