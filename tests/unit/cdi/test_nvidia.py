"""The driver's common edits: what nvidia-ctk is run for, what is kept, and when it runs again."""

import contextlib
import json
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nvdra_core.errors import CommandError, HostError, NotReadyError
from nvdra_core.runtime.clock import SystemClock
from nvdra_node.cdi.nvidia import join_links, reduce_edits
from nvdra_node.host.ports import CommandResult
from tests.beds.memory.gpu_node import CTK, HOOK, LIBRARY, GpuNode, ctk_output
from tests.fakes.host.commands import hang

ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2)
    ),
    max_leaves=4,
)


@pytest.fixture
def node():
    return GpuNode()


def edits(node):
    return json.loads(node.common.current(node.deadline()).edits)


def test_sockets_of_host_daemons_are_dropped():
    mounts = [
        {"hostPath": path, "containerPath": path}
        for path in (
            "/run/nvidia-fabricmanager/socket",
            "/var/run/nvidia-fabricmanager/socket",
            "/run/nvidia-persistenced/socket",
            "/tmp/nvidia-mps",
            LIBRARY,
            "/usr/bin/nvidia-persistenced",
        )
    ]
    kept = reduce_edits(ctk_output(mounts=mounts)["containerEdits"])["mounts"]
    assert [mount["hostPath"] for mount in kept] == [LIBRARY, "/usr/bin/nvidia-persistenced"]


def hook(*args, path="/usr/bin/nvidia-cdi-hook", name="createContainer", env=("A=1",)):
    return {"hookName": name, "path": path, "args": list(args), "env": list(env)}


LINK_A = ("nvidia-cdi-hook", "create-symlinks", "--link", "a::/usr/lib/a")
LINK_B = ("nvidia-cdi-hook", "create-symlinks", "--link", "b::/usr/lib/b", "--link", "c::/c")


def test_consecutive_link_hooks_are_joined():
    other = hook("nvidia-cdi-hook", "update-ldcache", "--folder", "/usr/lib")
    joined = join_links([hook(*LINK_A), hook(*LINK_B), other])
    assert joined == [hook(*LINK_A, *LINK_B[2:]), other]
    kept = reduce_edits({**ctk_output()["containerEdits"], "hooks": [hook(*LINK_A), hook(*LINK_B)]})
    assert len(kept["hooks"]) == 1


@pytest.mark.parametrize(
    "second",
    [
        hook(*LINK_B, name="createRuntime"),
        hook(*LINK_B, path="/opt/nvidia-cdi-hook"),
        hook(*LINK_B, env=()),
        hook("nvidia-ctk", "hook", *LINK_B[1:]),
        hook(*LINK_B, "--link"),
        hook(*LINK_B, "--other", "x"),
        {"hookName": "createContainer", "path": "/usr/bin/nvidia-cdi-hook"},
    ],
)
def test_hooks_that_differ_are_not_joined(second):
    assert join_links([hook(*LINK_A), second]) == [hook(*LINK_A), second]
    assert join_links([second, hook(*LINK_A)]) == [second, hook(*LINK_A)]


def test_link_hooks_around_another_hook_are_not_joined():
    other = hook("nvidia-cdi-hook", "update-ldcache")
    assert join_links([hook(*LINK_A), other, hook(*LINK_B)]) == [
        hook(*LINK_A),
        other,
        hook(*LINK_B),
    ]


def test_device_numbers_are_dropped(node):
    assert edits(node)["deviceNodes"][0] == {
        "path": "/dev/nvidiactl",
        "hostPath": "/dev/nvidiactl",
        "permissions": "rwm",
    }


def test_toolkit_is_run_without_devices(node):
    node.common.warm_up()
    (argv,) = [argv for argv in node.commands.history if argv[0] == str(CTK)]
    assert "--device-id=none" in argv
    assert f"--nvidia-cdi-hook-path={HOOK}" in argv


def test_toolkit_runs_once_for_prepares_and_restarts(node):
    for _ in range(3):
        edits(node)
        node.restart()
    assert node.ctk_runs == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda node: setattr(node.machine, "boot_id", "another"),
        lambda node: node.files.put(CTK, b"newer"),
        lambda node: node.files.put(node.state / "cdi-common.json", b"garbage"),
        lambda node: node.files.put(node.state / "cdi-common.json", b'{"key":[]}'),
    ],
    ids=["boot", "toolkit", "garbled cache", "odd cache"],
)
def test_restart_after_a_change_runs_the_toolkit_again(node, change):
    edits(node)
    change(node)
    node.restart()
    edits(node)
    assert node.ctk_runs == 2


def test_new_driver_version_is_listed_at_once(node):
    edits(node)
    node.machine.load_driver("590.1")
    edits(node)
    edits(node)
    assert node.ctk_runs == 2


def test_new_toolkit_is_run_in_the_background_only(node):
    edits(node)
    node.files.put(CTK, b"newer")
    edits(node)
    assert node.ctk_runs == 1
    node.common.warm_up()
    assert node.ctk_runs == 2


def test_missing_library_is_listed_again_then_named(node):
    edits(node)
    node.files.remove(Path(LIBRARY))
    node.clock.advance(1.0)  # files are checked once a second
    with pytest.raises(HostError, match=f"{LIBRARY} is missing, but the loaded driver 580"):
        edits(node)
    assert node.ctk_runs == 2


def test_driver_without_cuda_library_is_refused_and_not_cached(node):
    complete = node.ctk_output
    node.ctk_output = ctk_output(mounts=[])
    with pytest.raises(HostError, match=r"libcuda\.so\.580.* was not found: .* reload the driver"):
        edits(node)
    node.ctk_output = complete
    assert edits(node)["mounts"]


def test_driver_not_loaded_is_named(node):
    node.machine.unload_driver()
    with pytest.raises(HostError, match="not loaded"):
        edits(node)


SINCE_1_19 = ("no-all-device", "device-id")


@pytest.mark.parametrize("lacks", [SINCE_1_19, (*SINCE_1_19, "feature-flag")], ids=["1.18", "1.16"])
def test_older_toolkit_runs_without_newer_options(node, lacks):
    node.ctk_lacks = lacks
    assert edits(node)["mounts"]
    argv = node.commands.history[-1]
    assert not [text for text in argv if text.removeprefix("--").partition("=")[0] in lacks]
    assert f"--nvidia-cdi-hook-path={HOOK}" in argv


def test_too_old_toolkit_error_names_required_version(node):
    node.ctk_lacks = (*SINCE_1_19, "feature-flag", "nvidia-cdi-hook-path")
    with pytest.raises(
        HostError, match=r"--nvidia-cdi-hook-path: install .*-base 1\.16\.0 or later"
    ):
        edits(node)


def test_failure_of_older_toolkit_names_version_to_install(node):
    node.ctk_lacks = SINCE_1_19
    works, fails = node.commands.programs[str(CTK)], {"now": True}

    def lost(argv):
        result = works(argv)
        return 1 if fails["now"] else result

    node.commands.programs[str(CTK)] = lost
    with pytest.raises(HostError, match=r"opens every GPU.*install .*-base 1\.19\.0 or later"):
        edits(node)


def test_missing_hook_error_suggests_installation(node):
    node.files.remove(HOOK)
    with pytest.raises(HostError, match=f"{HOOK} is missing.*install nvidia-container-toolkit"):
        edits(node)
    assert node.ctk_runs == 0


def test_hook_removed_later_error_suggests_no_reboot(node):
    edits(node)
    node.files.remove(HOOK)
    node.clock.advance(1.0)
    with pytest.raises(HostError, match=f"{HOOK} is missing") as caught:
        edits(node)
    assert "reboot" not in str(caught.value)


def test_hook_that_cannot_run_is_refused(node):
    node.hook_status = 126
    with pytest.raises(HostError, match=f"{HOOK} cannot be executed.*status 126"):
        edits(node)


def test_control_node_removed_later_error_names_command(node):
    edits(node)
    node.files.remove(Path("/dev/nvidia-uvm"))
    node.clock.advance(1.0)
    with pytest.raises(HostError, match=r"/dev/nvidia-uvm is missing.*nvidia-modprobe -c 0 -u"):
        edits(node)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda machine: machine.char_majors.pop("nvidia-uvm"), "module of /dev/nvidia-uvm is not"),
        (lambda machine: machine.char_majors.update({"nvidia-uvm": 511}), "uvm is device 510:255"),
        (lambda machine: machine.nodes.pop("/dev/nvidiactl"), "nvidiactl is no character device"),
    ],
    ids=["module", "number", "no device"],
)
def test_control_device_without_its_driver_is_named(node, change, message):
    edits(node)
    change(node.machine)
    node.clock.advance(1.0)
    with pytest.raises(HostError, match=f"{message}.*run nvidia-modprobe -c 0 -u"):
        edits(node)


def test_broken_new_toolkit_keeps_the_old_list(node):
    assert node.common.warm_up() == ""
    node.files.remove(CTK)
    assert node.common.warm_up() == ""
    node.restart()
    assert "install nvidia-container-toolkit-base" in node.common.warm_up()


def test_new_hook_that_cannot_run_blocks_until_it_can(node):
    assert node.common.warm_up() == ""
    node.files.put(HOOK, b"newer")
    node.hook_status = 126
    assert f"{HOOK} cannot be executed" in node.common.warm_up()
    node.hook_status = 0
    assert node.common.warm_up() == ""


def test_failed_prepare_calls_subscribers(node):
    failures = []
    node.common.on_failure(lambda: failures.append(1))
    edits(node)
    assert not failures
    node.files.remove(HOOK)
    node.clock.advance(1.0)
    with pytest.raises(HostError):
        edits(node)
    assert failures


def test_missing_toolkit_error_names_package(node):
    node.files.remove(CTK)
    with pytest.raises(HostError, match="install nvidia-container-toolkit-base"):
        edits(node)


@pytest.mark.parametrize("output", ["", "[]", "{}", '{"containerEdits":[],"cdiVersion":"0.5.0"}'])
def test_output_that_is_no_spec_is_refused(node, output):
    node.commands.programs[str(CTK)] = lambda argv: CommandResult(stdout=output, stderr="")
    with pytest.raises(HostError):
        edits(node)


@settings(deadline=None)
@given(st.data())
def test_any_json_in_toolkit_output_is_used_or_refused(data):
    node = GpuNode()
    output = ctk_output()
    *path, last = data.draw(st.sampled_from(places(output)))
    inner = output
    for key in path:
        inner = inner[key]
    inner[last] = data.draw(ANY_JSON)
    node.ctk_output = output
    with contextlib.suppress(HostError, NotReadyError):
        edits(node)


def places(value, path=()):
    """Paths of all values inside."""
    keys = (
        range(len(value)) if isinstance(value, list) else value if isinstance(value, dict) else ()
    )
    return [p for key in keys for p in [(*path, key), *places(value[key], (*path, key))]]


def test_missing_control_devices_are_waited_for(node):
    node.ctk_output = ctk_output(deviceNodes=[{"path": "/dev/nvidiactl"}])
    with pytest.raises(NotReadyError, match=r"/dev/nvidia-uvm missing: run nvidia-modprobe"):
        edits(node)
    node.ctk_output = ctk_output()
    edits(node)


def test_hanging_toolkit_ends_with_the_deadline(node):
    node.commands.programs[str(CTK)] = hang
    with pytest.raises(CommandError):
        edits(node)


def test_warm_up_without_toolkit_does_not_raise(node):
    node.files.remove(CTK)
    node.common.warm_up()


def test_unwritable_cache_is_ignored(node):
    node.files.read_only.add(node.state)
    edits(node)
    assert node.files.read(node.state / "cdi-common.json") is None


def test_concurrent_first_prepares_run_the_toolkit_once():
    node = GpuNode(clock=SystemClock())
    inside, go_on = threading.Event(), threading.Event()

    def slow(argv):
        inside.set()
        go_on.wait(60)
        return node._nvidia_ctk(argv)

    node.commands.programs[str(CTK)] = slow
    results = []
    threads = [threading.Thread(target=lambda: results.append(edits(node))) for _ in range(8)]
    for thread in threads:
        thread.start()
    inside.wait(60)
    with pytest.raises(NotReadyError, match="still listing"):
        node.common.current(node.deadline(0.01))
    go_on.set()
    for thread in threads:
        thread.join(60)
    assert len(results) == 8
    assert node.ctk_runs == 1
