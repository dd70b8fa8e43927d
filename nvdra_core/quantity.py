"""Kubernetes quantities (``10Gi``, ``1500m``, ``1e3``): parsing, exact values, canonical text of bytes. Pure.

As k8s.io/apimachinery ``resource.Quantity``: exact down to nano, rounded away from zero below. Values are integers of
nano-units. Invalid text raises MalformedTextError.
"""

from __future__ import annotations

import re

import msgspec

from nvdra_core.errors import MalformedTextError

_NANO = 10**9
_MAX_TEXT = 64
_MAX_EXPONENT = 64
"""Bounds the integers that a hostile ``1e999999999`` would make; Kubernetes itself ends at 2^63."""

_BINARY = {"Ki": 1, "Mi": 2, "Gi": 3, "Ti": 4, "Pi": 5, "Ei": 6}
_DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_PATTERN = re.compile(
    r"(?P<sign>[+-]?)(?:(?P<whole>[0-9]+)(?:\.(?P<part>[0-9]*))?|\.(?P<bare>[0-9]+))"
    r"(?:(?P<suffix>[KMGTPE]i|[numkMGTPE]?)|[eE](?P<exponent>[+-]?[0-9]+))"
)


class Quantity(msgspec.Struct, frozen=True, order=True):
    """An exact amount; equal and ordered by value, however it was written."""

    nano: int

    def ceil(self) -> int:
        """The amount as an integer, rounded up: what Go's ``Quantity.Value()`` answers."""
        return -(-self.nano // _NANO)

    def floor(self) -> int:
        """The amount as an integer, rounded down."""
        return self.nano // _NANO

    def __str__(self) -> str:
        """Canonical text: one per value (not Kubernetes' own, which remembers the notation)."""
        if self.nano % _NANO == 0:
            return format_bytes(self.nano // _NANO)
        for suffix, digits in (("m", 6), ("u", 3)):
            if self.nano % 10**digits == 0:
                return f"{self.nano // 10**digits}{suffix}"
        return f"{self.nano}n"


def parse(text: str) -> Quantity:
    """Read a quantity. Raises MalformedTextError with the text and an example."""
    match = _PATTERN.fullmatch(text) if len(text) <= _MAX_TEXT else None
    if match is None:
        raise MalformedTextError(
            f"{text[:_MAX_TEXT]!a} is no quantity; write a number and a suffix, such as 512Mi or 10Gi"
        )
    part = match["part"] or match["bare"] or ""
    digits = int((match["whole"] or "") + part)
    if match["sign"] == "-":
        digits = -digits
    if match["suffix"] in _BINARY:
        return Quantity(_scaled(digits * 1024 ** _BINARY[match["suffix"]], -len(part)))
    exponent = _DECIMAL[match["suffix"]] if match["exponent"] is None else int(match["exponent"])
    if abs(exponent) > _MAX_EXPONENT:
        raise MalformedTextError(
            f"{text} is out of range; the exponent must lie within {_MAX_EXPONENT}"
        )
    return Quantity(_scaled(digits, exponent - len(part)))


def _scaled(digits: int, exponent: int) -> int:
    """``digits * 10**exponent`` in nano-units, rounded away from zero."""
    shift = exponent + 9
    if shift >= 0:
        return int(digits * 10**shift)
    divisor = int(10**-shift)
    return -(-digits // divisor) if digits >= 0 else digits // divisor


def format_bytes(count: int) -> str:
    """``count`` in canonical binary-SI form: the largest suffix that divides it (``1024`` is
    ``1Ki``, ``1000`` is ``1000``). The API server stores this form, so writing another one would
    be taken for a change."""
    if count == 0:
        return "0"
    for suffix, power in reversed(_BINARY.items()):
        if count % 1024**power == 0:
            return f"{count // 1024**power}{suffix}"
    return str(count)
