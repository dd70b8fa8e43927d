"""Small writers for fake host trees: text files, symlinks, device nodes."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path


def write(path: Path, text: str, mode: int = 0o644) -> None:
    """A file with this text; missing directories are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    if mode != 0o644:
        path.chmod(mode)


def link(path: Path, target: str) -> None:
    """A symlink, in place of whatever is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.symlink_to(target)


def relative_link(path: Path, target: Path) -> None:
    """A symlink to `target` by a relative path, so that the tree can be mounted elsewhere."""
    link(path, os.path.relpath(target, path.parent))


def node(path: Path, major: int, minor: int, mode: int = 0o666) -> None:
    """A character device; a plain file where making one is not permitted."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    try:
        os.mknod(path, stat.S_IFCHR | mode, os.makedev(major, minor))
    except PermissionError:
        path.touch()
    path.chmod(mode)


def place(source: Path, target: Path) -> None:
    """`target` with the content of `source`: a hard link where both are on one file system, else a copy."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def remove(path: Path) -> None:
    """Removes a file, a symlink, a node or a tree; nothing there is fine."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
