"""Which paths the sandbox of the services hides (``ProtectHome=yes``, ``PrivateTmp=yes`` of the units in ``systemd``).

A file below one of them is missing or unreadable for a service, although an administrator sees it.
"""

from __future__ import annotations

from pathlib import Path

HIDDEN = {
    Path("/home"): "ProtectHome=yes",
    Path("/root"): "ProtectHome=yes",
    Path("/run/user"): "ProtectHome=yes",
    Path("/tmp"): "PrivateTmp=yes",  # noqa: S108  named, not used
    Path("/var/tmp"): "PrivateTmp=yes",  # noqa: S108
}
"""Directory and the unit setting that hides it (systemd.exec(5))."""


def why_hidden(path: Path) -> str:
    """Why a path is hidden from the services; empty: it is not."""
    for directory, setting in HIDDEN.items():
        if path.is_relative_to(directory):
            return f"the sandbox of the services hides {directory} ({setting})"
    return ""
