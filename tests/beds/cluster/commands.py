"""Runs commands to their end: returns their output, raises `CommandError` when they fail."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence

from tests.beds.cluster.errors import ClusterError, CommandError

BASE_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def base_env(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment of every program of a cluster: a plain one, and what the caller adds."""
    env = {"PATH": BASE_PATH, "HOME": "/root", "LANG": "C.UTF-8"}
    return {**env, **(extra or {})}


def run(
    argv: Sequence[str | os.PathLike[str]],
    *,
    input: str | None = None,
    check: bool = True,
    timeout_s: float = 120,
    env: Mapping[str, str] | None = None,
    cwd: str | os.PathLike[str] | None = None,
    shown: Sequence[str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run one command to its end and return its output as text.

    The environment is this process's own unless `env` is given. Raises `CommandError` when `check`
    is set and the status is not 0, and `ClusterError` when it takes longer than `timeout_s`
    seconds. Errors and the result name the command `shown`, where what runs it is of no interest.
    """
    words = [os.fspath(word) for word in argv]
    named = list(shown) if shown is not None else words
    try:
        done = subprocess.run(
            words,
            input=input,
            stdin=subprocess.DEVNULL if input is None else None,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=timeout_s,
            env=dict(env) if env is not None else None,
            cwd=cwd,
        )
    except subprocess.TimeoutExpired as error:
        raise ClusterError(f"{' '.join(named)[:400]} took longer than {timeout_s} s") from error
    if check and done.returncode:
        raise CommandError(named, done.returncode, done.stdout, done.stderr)
    done.args = named
    return done
