"""Parsers of single settings: a raw value from the file, a flag or the environment to a typed one.

Each raises ValueError with the expected form; ``load`` adds the setting's name.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nvdra_core import gates
from nvdra_core.errors import ConfigError


def as_text(value: Any) -> str:
    """Any text."""
    if not isinstance(value, str):
        raise ValueError("a text")
    return value


def as_path(value: Any) -> Path:
    """An absolute path."""
    text = as_text(value)
    if not text.startswith("/"):
        raise ValueError("an absolute path")
    return Path(text)


def as_optional_path(value: Any) -> Path | None:
    """An absolute path, or None for empty."""
    return None if value in (None, "") else as_path(value)


def number(least: float) -> Callable[[Any], float]:
    """A parser of seconds, at least ``least`` and below a year."""

    def parse(value: Any) -> float:
        wanted = f"a number of seconds, at least {least:g}"
        if isinstance(value, bool) or not isinstance(value, (int, float, str)):
            raise ValueError(wanted)
        try:
            number = float(value)
        except ValueError:
            raise ValueError(wanted) from None
        if not least <= number < 86_400 * 365:
            raise ValueError(wanted)
        return number

    return parse


def as_verbosity(value: Any) -> int:
    """0 to 7."""
    if isinstance(value, bool) or str(value) not in tuple("01234567"):
        raise ValueError("a whole number from 0 (errors and lifecycle) to 7 (everything)")
    return int(value)


def one_of(*allowed: str) -> Callable[[Any], str]:
    """A parser of one of the allowed words."""

    def parse(value: Any) -> str:
        if value not in allowed:
            raise ValueError(" or ".join(allowed))
        return str(value)

    return parse


def as_switch(value: Any) -> bool:
    """true or false."""
    if isinstance(value, bool):
        return value
    if str(value).lower() in ("true", "false"):
        return str(value).lower() == "true"
    raise ValueError("true or false")


def as_optional_address(value: Any) -> str:
    """An IP address, or empty."""
    if value in (None, ""):
        return ""
    try:
        return str(ipaddress.ip_address(as_text(value)))
    except ValueError:
        raise ValueError("an IP address of this host") from None


def as_gates(value: Any) -> Mapping[str, bool]:
    """A map of gates, or upstream's text form ``A=true,B=false,``; names are checked by ``FeatureGates``."""
    wanted = "a map of gate name to true or false, or a text like A=true,B=false"
    if isinstance(value, Mapping):
        if not all(isinstance(k, str) and isinstance(v, bool) for k, v in value.items()):
            raise ValueError(wanted)
        return dict(value)
    try:
        return gates.parse_words(as_text(value))
    except ConfigError as error:
        raise ValueError(f"{wanted} ({error})") from None


def as_xids(value: Any) -> tuple[int, ...]:
    """XID numbers, sorted, each once."""
    parts = value if isinstance(value, list) else [p for p in str(value).split(",") if p.strip()]
    try:
        xids = tuple(sorted({int(p) for p in parts}))
    except (TypeError, ValueError):
        raise ValueError("XID numbers, as a list or separated by commas") from None
    if any(x < 0 for x in xids):
        raise ValueError("XID numbers, none of them negative")
    return xids


def as_shares(value: Any) -> str:
    """``disabled``, ``memory``, ``unlimited`` or a positive number."""
    text = str(value).strip()
    if text in ("disabled", "memory", "unlimited"):
        return text
    if text.isdecimal() and int(text) > 0:
        return str(int(text))
    raise ValueError("disabled, memory, unlimited, or a positive whole number")


def as_node_name(value: Any) -> str:
    """A DNS subdomain, the form of Node names."""
    text = as_text(value)
    allowed = set("abcdefghijklmnopqrstuvwxyz0123456789-.")
    if not text or len(text) > 253 or set(text) - allowed:
        raise ValueError(
            "the name of this host's Node object (lower-case letters, digits, - and .)"
        )
    return text


def as_endpoint(value: Any) -> str:
    """``address:port``, ``:port``, or empty for off."""
    text = as_text(value)
    if not text:
        return ""
    from nvdra_core.runtime.endpoint import (
        Address,  # loads prometheus_client; the unit broker has no endpoint
    )

    try:
        return str(Address.parse(text))
    except ConfigError:
        raise ValueError(
            "address:port (127.0.0.1:8080, [::1]:8080, :8080 for all addresses), or empty for off"
        ) from None
