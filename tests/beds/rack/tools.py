"""Ansible and its linters, in a virtual environment of their own, as their pins conflict with the project's."""

from __future__ import annotations

import fcntl
import hashlib
import os
import sys
from pathlib import Path

from nvdra_packages.layout import TOP
from tests.beds.cluster import commands
from tests.beds.cluster.artifacts import programs

REQUIREMENTS = TOP / "tests" / "ansible-requirements.txt"


def home() -> Path:
    """The directory of its programs; made when it is not there (about 60 s)."""
    key = hashlib.sha256(REQUIREMENTS.read_bytes() + sys.version.encode()).hexdigest()[:12]
    place = programs.cache_dir() / "ansible" / key
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.with_name(f".{key}.lock").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        if not (place / "ready").exists():
            commands.run([sys.executable, "-m", "venv", "--clear", str(place)])
            python = str(place / "bin" / "python")
            argv = [python, "-m", "pip", "install", "-q", "--no-deps", "-r", str(REQUIREMENTS)]
            commands.run(argv, timeout_s=600)
            (place / "ready").touch()
    return place / "bin"


def environment(scratch: Path) -> dict[str, str]:
    """Environment of its programs: our collection, no settings of this user, writes below ``scratch``."""
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")},
        "PATH": f"{home()}{os.pathsep}{os.environ.get('PATH', commands.BASE_PATH)}",
        "ANSIBLE_CONFIG": str(TOP / "ansible" / "ansible.cfg"),
        "ANSIBLE_COLLECTIONS_PATH": str(TOP / "ansible"),
        "ANSIBLE_COLLECTIONS_SCAN_SYS_PATH": "false",
        "ANSIBLE_HOME": str(scratch / "ansible"),
        "ANSIBLE_LOCAL_TEMP": str(scratch / "ansible" / "tmp"),
        "ANSIBLE_NOCOLOR": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "LC_ALL": "C.UTF-8",
    }
