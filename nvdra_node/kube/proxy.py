"""The proxy of a kubeconfig. Pure."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from nvdra_core.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy that tunnels with CONNECT. ``authorization`` is the value of Proxy-Authorization, or empty."""

    host: str
    port: int
    authorization: str = field(default="", repr=False)


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
