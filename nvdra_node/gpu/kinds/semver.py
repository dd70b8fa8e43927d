"""Versions for device attributes: NVIDIA's loose texts in (``580.65.06``), semantic versions out (``580.65.6``). Pure.

The API server accepts only strict semantic versions of at most 64 characters in a ``version`` attribute.
"""

from __future__ import annotations

import re

from nvdra_core.errors import MalformedTextError

_MAX_LENGTH = 64
_MAX_NUMBER = 2**64 - 1
"""Go's semver packages hold each number in 64 bits; the API server refuses a larger one."""

_TAIL = r"(?:-[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*)?(?:\+[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*)?"
_LOOSE = re.compile(rf"v?([0-9]+)(?:\.([0-9]+))?(?:\.([0-9]+))?({_TAIL})")
_NUMBER = r"(0|[1-9][0-9]*)"
_IDENTIFIER = r"(?:0|[1-9][0-9]*|[0-9]*[A-Za-z-][0-9A-Za-z-]*)"
_STRICT = re.compile(
    rf"{_NUMBER}\.{_NUMBER}\.{_NUMBER}(?:-{_IDENTIFIER}(?:\.{_IDENTIFIER})*)?"
    r"(?:\+[0-9A-Za-z-]+(?:\.[0-9A-Za-z-]+)*)?"
)


def normalize(text: str) -> str:
    """A strict version: missing parts become 0, leading zeros and ``v`` are dropped. Raises MalformedTextError."""
    match = _LOOSE.fullmatch(text) if len(text) <= _MAX_LENGTH else None
    if match is not None:
        version = ".".join(str(int(part or "0")) for part in match.groups()[:3]) + match[4]
        if is_strict(version):
            return version
    raise MalformedTextError(
        f"{text[:_MAX_LENGTH]!a} is not a version; expected up to three numbers, as in 580.65.06"
    )


def is_strict(text: str) -> bool:
    """Whether the API server accepts ``text`` as a version attribute (semver.org 2.0.0)."""
    match = _STRICT.fullmatch(text) if len(text) <= _MAX_LENGTH else None
    return match is not None and all(int(part) <= _MAX_NUMBER for part in match.groups())
