"""The one error of the test cluster: what went wrong, and what to do next."""

from __future__ import annotations


class ClusterError(Exception):
    """Something of the cluster could not be built, started, found or removed."""

    def __init__(self, message: str, *, next_step: str = "") -> None:
        super().__init__(f"{message}; {next_step}" if next_step else message)
        self.next_step = next_step


class CommandError(ClusterError):
    """A command ended with another status than 0."""

    def __init__(self, argv: list[str], returncode: int, stdout: str, stderr: str) -> None:
        said = (stderr or stdout).strip()[-2000:]
        super().__init__(f"{' '.join(argv)[:400]} ended with {returncode}: {said}")
        self.argv = argv
        self.returncode = returncode
        self.stdout = stdout
        self.stderr = stderr
