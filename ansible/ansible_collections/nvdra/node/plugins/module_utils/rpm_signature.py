"""Which key signed an rpm, read from the file itself: the control machine of a rollout need not have rpm.

Called by the filters of the rollout. Formats: the lead and the signature header of an rpm (format.md of rpm), OpenPGP
signature packets (RFC 4880, 5.2).
"""

from __future__ import annotations

import struct
from pathlib import Path

LEAD_BYTES = 96
HEADER_MAGIC = b"\x8e\xad\xe8\x01"
SIGNATURE_TAGS = (268, 267, 1002, 1005)
"""RSAHEADER, DSAHEADER (of the header alone), SIGPGP, SIGGPG (of header and payload)."""
SIGNATURE_PACKET = 2
ISSUER, ISSUER_FINGERPRINT = 16, 33
MAX_HEADER_BYTES = 1 << 20


def signer(path: str) -> str:
    """Id of the key that signed an rpm, 16 hexadecimal digits; empty when it is not signed or no rpm."""
    try:
        with Path(path).open("rb") as file:
            data = file.read(LEAD_BYTES + MAX_HEADER_BYTES)
        return next((key for packet in _signatures(data) if (key := _issuer(packet))), "")
    except (OSError, struct.error, IndexError):
        return ""


def _signatures(data: bytes) -> list[bytes]:
    """The signature packets of an rpm's signature header, in the order in which rpm prefers them."""
    magic, _, entries, size = struct.unpack_from(">4s4sII", data, LEAD_BYTES)
    if magic != HEADER_MAGIC:
        return []
    index = LEAD_BYTES + 16
    store = data[index + 16 * entries : index + 16 * entries + size]
    found = {}
    for number in range(entries):
        tag, _, offset, count = struct.unpack_from(">IIII", data, index + 16 * number)
        found[tag] = store[offset : offset + count]
    return [found[tag] for tag in SIGNATURE_TAGS if tag in found]


def _issuer(packet: bytes) -> str:
    """The issuer of one signature packet."""
    tag, body = _body(packet)
    if tag != SIGNATURE_PACKET:
        return ""
    if body[0] == 3:
        return body[7:15].hex()
    at, key = 4, ""
    for _ in ("hashed", "unhashed"):
        (length,) = struct.unpack_from(">H", body, at)
        key = key or _issuer_in(body[at + 2 : at + 2 + length])
        at += 2 + length
    return key


def _body(packet: bytes) -> tuple[int, bytes]:
    """Tag and content of a packet, in the old format or the new one."""
    first = packet[0]
    if first & 0x40:
        _, start = _new_length(packet, 1)
        return first & 0x3F, packet[start:]
    return (first >> 2) & 0xF, packet[1 + (1 << (first & 3)) :]


def _new_length(data: bytes, at: int) -> tuple[int, int]:
    """A length in the new format, and where what it measures begins."""
    first = data[at]
    if first < 192:
        return first, at + 1
    if first < 255:
        return ((first - 192) << 8) + data[at + 1] + 192, at + 2
    (length,) = struct.unpack_from(">I", data, at + 1)
    return length, at + 5


def _issuer_in(area: bytes) -> str:
    """The issuer's key id in a list of subpackets."""
    at = 0
    while at < len(area):
        length, start = _new_length(area, at)
        kind, value = area[start] & 0x7F, area[start + 1 : start + length]
        if kind == ISSUER:
            return value.hex()
        if kind == ISSUER_FINGERPRINT:
            return value[-8:].hex()
        at = start + length
    return ""
