"""Which paths the sandbox of the services hides (``ProtectHome=yes``, ``PrivateTmp=yes`` of the units in ``systemd``).

A file below one of them looks missing or unreadable to a service although an administrator sees it. Pure.
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
    """What hides a path from the services; empty when nothing does."""
    for directory, setting in HIDDEN.items():
        if path.is_relative_to(directory):
            return f"the sandbox of the services hides {directory} ({setting})"
    return ""
