"""Names of NVML's enumerators, as upstream publishes them. Pure."""

from __future__ import annotations

from collections.abc import Mapping

ARCHITECTURES: Mapping[int, str] = {
    2: "Kepler",
    3: "Maxwell",
    4: "Pascal",
    5: "Volta",
    6: "Turing",
    7: "Ampere",
    8: "Ada Lovelace",
    9: "Hopper",
    10: "Blackwell",
    13: "Rubin",
}
BRANDS: Mapping[int, str] = {
    0: "Unknown",
    1: "Quadro",
    2: "Tesla",
    3: "NVS",
    4: "Grid",
    5: "GeForce",
    6: "Titan",
    7: "NvidiaVApps",
    8: "NvidiaVPC",
    9: "NvidiaVCS",
    10: "NvidiaVWS",
    11: "NvidiaCloudGaming",
    12: "QuadroRTX",
    13: "NvidiaRTX",
    14: "Nvidia",
    15: "GeForceRTX",
    16: "TitanRTX",
}
ADDRESSING_MODES: Mapping[int, str] = {0: "None", 1: "HMM", 2: "ATS"}


def pci_address(bus_id: str) -> str:
    """NVML's bus id (``00000000:3B:00.0``) as the kernel writes it: lower case, at least four digits of domain."""
    domain, _, function = bus_id.lower().partition(":")
    try:
        return f"{int(domain, 16):04x}:{function}"
    except ValueError:
        return bus_id.lower()


def named(names: Mapping[int, str], value: int | None) -> str:
    """Name of an NVML enumerator; ``Unknown`` when it is missing or newer than this release."""
    return "Unknown" if value is None else names.get(value, "Unknown")
