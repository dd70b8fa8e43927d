"""The project's commands, each with its whole set-up: ``python3 tests/run.py check|test|test-matrix|demo|bench|domain|packages|image|rack|format|proto|parity``.

Uses the standard library only: it runs before anything is installed. What it installs goes below
``$NVDRA_CACHE`` (default ``~/.cache/nvdra``), keyed by content, so that a second run installs nothing and asks no
registry. Every step says what it does and how long that takes; a step that cannot run here says so, loudly.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
CACHE = Path(os.environ.get("NVDRA_CACHE") or Path.home() / ".cache" / "nvdra")
REQUIREMENTS = TOP / "tests" / "requirements.txt"
TYPED = (
    "nvdra_core",
    "nvdra_node",
    "nvdra_cluster",
    "packaging/nvdra_packages",
    "packaging/imagebuild",
    "tests",
)
MAX_AGAIN = 5
"""Failed tests of a step that are run once more; more than these are no accident."""
DEBIAN_PACKAGES = {"gcc": "gcc", "cc": "libc6-dev", "make": "make", "strace": "strace"}


class StepFailedError(Exception):
    """A step failed; its own output said why."""


@dataclass(frozen=True)
class Step:
    """One command of a run: what it is for, about how long it takes once set up (seconds), and its argv."""

    title: str
    expect_s: int
    argv: tuple[str, ...]
    why_not: str | None = None


def say(text: str) -> None:
    """A line about progress, on standard error."""
    print(text, file=sys.stderr, flush=True)


def environment() -> dict[str, str]:
    """What every step runs in: this checkout importable, the tools of the virtual environment first."""
    env = dict(os.environ)
    env["PATH"] = f"{venv() / 'bin'}{os.pathsep}{env.get('PATH', '')}"
    env["PYTHONPATH"] = str(TOP)
    env["NVDRA_CACHE"] = str(CACHE)
    env.pop("PYTHONHOME", None)
    return env


def venv() -> Path:
    """The virtual environment for this requirements file and this Python."""
    text = REQUIREMENTS.read_bytes() + sys.version.encode()
    return CACHE / "venv" / hashlib.sha256(text).hexdigest()[:12]


def set_up() -> None:
    """Python tools and the compiler; what the cluster needs is built by the step that needs it."""
    if sys.version_info < (3, 11):
        raise StepFailedError(
            f"this is Python {sys.version.split()[0]}; development needs 3.11 or later: "
            "run  make PYTHON=/path/to/python3.11 ..."
        )
    missing = sorted(
        {package for tool, package in DEBIAN_PACKAGES.items() if not shutil.which(tool)}
    )
    if missing and os.geteuid() == 0:
        say(f"-- installing {' '.join(missing)} (about 30 s)")
        run_quietly(["apt-get", "update", "-q"])
        run_quietly(["apt-get", "install", "-qy", "--no-install-recommends", *missing])
    elif missing:
        raise StepFailedError(
            f"needs {' '.join(missing)}: run  sudo apt-get install {' '.join(missing)}"
        )
    target = venv()
    if (target / "ready").exists():
        return
    say(f"-- Python tools into {target} (about 60 s, once)")
    run_quietly([sys.executable, "-m", "venv", "--clear", str(target)])
    python = str(target / "bin" / "python")
    run_quietly([python, "-m", "pip", "install", "-q", "--no-deps", "-r", str(REQUIREMENTS)])
    run_quietly([python, "-m", "compileall", "-q", str(target / "lib")], allowed=(0, 1))
    (target / "ready").touch()


def run_quietly(argv: Sequence[str], allowed: Sequence[int] = (0,)) -> None:
    """Run a set-up command; its output is shown only when it fails."""
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(
        argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env
    )
    if done.returncode not in allowed:
        say(done.stdout)
        raise StepFailedError(f"{' '.join(argv)}: exit status {done.returncode}; see above")


def run_steps(steps: Sequence[Step]) -> None:
    """Run all, one after another; a failed step does not hide the next one's result."""
    failed: list[str] = []
    not_run: list[str] = []
    for number, step in enumerate(steps, 1):
        head = f"[{number}/{len(steps)}] {step.title}"
        if step.why_not:
            not_run.append(f"{step.title}: {step.why_not}")
            say(f"== {head}: NOT RUN: {step.why_not}")
            continue
        say(f"== {head} (about {step.expect_s} s)")
        started = time.monotonic()
        code = subprocess.run(step.argv, cwd=TOP, env=environment()).returncode
        if code == 1 and Path(step.argv[0]).name == "pytest":
            code = again_alone(step)
        say(
            f"== {head}: {'ok' if code == 0 else f'FAILED ({code})'} after {time.monotonic() - started:.0f} s"
        )
        if code != 0:
            failed.append(step.title)
    for line in not_run:
        say(f"!! NOT RUN: {line}")
    if not_run and os.environ.get("NVDRA_REQUIRE_CLUSTER") == "1":
        failed.append("NVDRA_REQUIRE_CLUSTER=1, but not everything could run")
    if failed:
        raise StepFailedError("failed: " + "; ".join(failed))


def again_alone(step: Step) -> int:
    """Run the failed tests of a step once more, one after the other: a machine that is busy fails some that wait for
    processes. The exit status; what passes only then is named. Many failures are not tried again."""
    cache = TOP / ".pytest_cache" / "v" / "cache" / "lastfailed"
    try:
        failed = sorted(json.loads(cache.read_text()))
    except (OSError, ValueError):
        return 1
    if not 0 < len(failed) <= MAX_AGAIN:
        return 1
    argv = (step.argv[0], "--timeout", "900", *failed)
    say(f"-- {len(failed)} failed; once more, one after the other: {' '.join(failed)}")
    code = subprocess.run(argv, cwd=TOP, env=environment()).returncode
    if code == 0:
        say(f"!! UNSTEADY, passed when run alone: {' '.join(failed)}")
    return code


def tool(*argv: str) -> tuple[str, ...]:
    """A program of the virtual environment, with its arguments."""
    return (str(venv() / "bin" / argv[0]), *argv[1:])


def pytest(*argv: str) -> tuple[str, ...]:
    """A pytest run."""
    return tool("pytest", *argv)


def side_by_side() -> tuple[str, ...]:
    """Many tests wait for processes and servers: three for each CPU; an idle worker takes over tests of another."""
    return ("-n", str(min(3 * (os.cpu_count() or 1), 16)), "--dist", "worksteal")


def check_steps() -> list[Step]:
    """What needs neither root nor a cluster."""
    return [
        Step("format", 2, tool("ruff", "format", "--check", "-q", ".")),
        Step("lint", 2, tool("ruff", "check", "-q", ".")),
        Step("types", 25, tool("mypy", *TYPED)),
        Step("layers", 3, tool("lint-imports", "--no-cache")),
        Step(
            "unit, scenario, crash and service tests",
            120,
            pytest("-m", "not cluster and not gpu", *side_by_side()),
        ),
    ]


def test_steps() -> list[Step]:
    """Everything: the programs to test with, what ``check`` does, then the real cluster."""
    why_not = cluster_obstacle()
    return [
        Step("the cluster's programs (20 minutes on a fresh machine)", 5,
             tool("python", "-m", "tests.beds.cluster", "build"), why_not),
        *check_steps(),
        Step("real Kubernetes", 1400,
             pytest("-m", "cluster and not packages", "--timeout", "900"), why_not),
        Step("packages and racks", 1300, pytest("-m", "packages", "--timeout", "900"), why_not),
        Step("the demo", 60, tool("python", "-m", "tests.demo"), why_not),
        Step("benchmarks, quick", 60, tool("python", "-m", "tests.bench", "plugin", "--quick")),
    ]  # fmt: skip


def cluster_obstacle() -> str | None:
    """Why this machine cannot run the cluster; None when it can."""
    program = "from tests.beds.cluster import capability; print(capability.why_not() or '', end='')"
    done = subprocess.run(
        tool("python", "-c", program), cwd=TOP, env=environment(), stdout=subprocess.PIPE, text=True
    )
    return done.stdout or (None if done.returncode == 0 else "the check for it failed; see above")


def command_check() -> None:
    """Run the quick set."""
    run_steps(check_steps())


def command_test() -> None:
    """Run the whole set."""
    run_steps(test_steps())


def command_matrix() -> None:
    """Run what is too long for every run: the package under every systemd."""
    argv = pytest("tests/packages/installed/matrix.py", "-s", "--timeout", "1200")
    run_steps([Step("packages under every systemd", 600, argv, cluster_obstacle())])


def command_demo() -> None:
    """Run the demo."""
    run_steps([Step("demo", 60, tool("python", "-m", "tests.demo"), cluster_obstacle())])


def command_bench() -> None:
    """Run all benchmarks."""
    run_steps(
        [Step("benchmarks", 300, tool("python", "-m", "tests.bench", "all"), cluster_obstacle())]
    )


def command_domain() -> None:
    """Run a job over a whole rack with a ComputeDomain, and without."""
    argv = tool("python", "-m", "tests.bench.domain", "--nodes", "18")
    run_steps([Step("18 nodes", 240, argv, cluster_obstacle())])


def command_packages() -> None:
    """Make the packages."""
    run_steps([Step("packages", 20, tool("python", "packaging/build.py"))])


def command_image() -> None:
    """Make the controller's image."""
    run_steps([Step("controller's image", 40, tool("python", "packaging/image.py"))])


def command_rack() -> None:
    """Show the Ansible collection on a whole rack."""
    argv = tool("python", "-m", "tests.rack", "show", "--hosts", "18")
    run_steps([Step("18 hosts", 1800, argv, cluster_obstacle())])


def command_format() -> None:
    """Format and sort imports."""
    run_steps([
        Step("sort imports", 1, tool("ruff", "check", "-q", "--fix", "--select", "I", ".")),
        Step("format", 1, tool("ruff", "format", "-q", ".")),
    ])  # fmt: skip


def command_proto() -> None:
    """Generate the protobuf code."""
    run_steps([Step("protobuf code", 3, tool("python", "proto/generate.py"))])


def command_parity() -> None:
    """Generate docs/parity.md from its data."""
    run_steps([Step("docs/parity.md", 1, tool("python", "-m", "tests.parity"))])


COMMANDS: dict[str, Callable[[], None]] = {
    "check": command_check,
    "test": command_test,
    "test-matrix": command_matrix,
    "demo": command_demo,
    "bench": command_bench,
    "domain": command_domain,
    "packages": command_packages,
    "image": command_image,
    "rack": command_rack,
    "format": command_format,
    "proto": command_proto,
    "parity": command_parity,
}


def main() -> int:
    """Run one command; 1 when something failed."""
    parser = argparse.ArgumentParser(
        description="set up what is missing, then run one of the project's commands"
    )
    parser.add_argument("command", choices=[*COMMANDS, "setup"])
    arguments = parser.parse_args()
    try:
        set_up()
        COMMANDS.get(arguments.command, lambda: None)()
    except StepFailedError as error:
        say(f"!! {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
