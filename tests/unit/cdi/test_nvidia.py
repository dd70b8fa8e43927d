"""The driver's common edits: what is asked, what is kept, when it is asked again."""

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


def test_sockets_of_host_daemons_never_reach_a_container():
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


def test_hooks_that_make_links_become_one():
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
def test_hooks_that_differ_stay_apart(second):
    assert join_links([hook(*LINK_A), second]) == [hook(*LINK_A), second]
    assert join_links([second, hook(*LINK_A)]) == [second, hook(*LINK_A)]


def test_links_stay_in_order_around_another_hook():
    other = hook("nvidia-cdi-hook", "update-ldcache")
    assert join_links([hook(*LINK_A), other, hook(*LINK_B)]) == [
        hook(*LINK_A),
        other,
        hook(*LINK_B),
    ]


def test_device_numbers_are_left_to_the_runtime(node):
    assert edits(node)["deviceNodes"][0] == {
        "path": "/dev/nvidiactl",
        "hostPath": "/dev/nvidiactl",
        "permissions": "rwm",
    }


def test_nvidias_devices_are_not_asked_for(node):
    node.common.warm_up()
    (argv,) = [argv for argv in node.commands.history if argv[0] == str(CTK)]
    assert "--device-id=none" in argv
    assert f"--nvidia-cdi-hook-path={HOOK}" in argv


def test_it_is_asked_once_for_many_prepares_and_restarts(node):
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
def test_a_restart_asks_again_when_something_changed(node, change):
    edits(node)
    change(node)
    node.restart()
    edits(node)
    assert node.ctk_runs == 2


def test_another_driver_version_is_asked_for_at_once(node):
    edits(node)
    node.machine.load_driver("590.1")
    edits(node)
    edits(node)
    assert node.ctk_runs == 2


def test_a_new_toolkit_is_asked_in_the_background_and_never_by_a_prepare(node):
    edits(node)
    node.files.put(CTK, b"newer")
    edits(node)
    assert node.ctk_runs == 1
    node.common.warm_up()
    assert node.ctk_runs == 2


def test_library_files_that_went_are_looked_for_anew_and_then_named(node):
    edits(node)
    node.files.remove(Path(LIBRARY))
    node.clock.advance(1.0)  # so long are files believed that were seen
    with pytest.raises(HostError, match=f"{LIBRARY} is gone, but the loaded driver 580"):
        edits(node)
    assert node.ctk_runs == 2


def test_a_driver_whose_cuda_library_is_not_found_is_refused_and_not_remembered(node):
    complete = node.ctk_output
    node.ctk_output = ctk_output(mounts=[])
    with pytest.raises(HostError, match=r"libcuda\.so\.580.* was not found: .* reload the driver"):
        edits(node)
    node.ctk_output = complete
    assert edits(node)["mounts"]


def test_a_driver_that_is_not_loaded_is_said(node):
    node.machine.unload_driver()
    with pytest.raises(HostError, match="not loaded"):
        edits(node)


SINCE_1_19 = ("no-all-device", "device-id")


@pytest.mark.parametrize("lacks", [SINCE_1_19, (*SINCE_1_19, "feature-flag")], ids=["1.18", "1.16"])
def test_older_toolkit_is_asked_without_newer_options(node, lacks):
    node.ctk_lacks = lacks
    assert edits(node)["mounts"]
    argv = node.commands.history[-1]
    assert not [text for text in argv if text.removeprefix("--").partition("=")[0] in lacks]
    assert f"--nvidia-cdi-hook-path={HOOK}" in argv


def test_too_old_toolkit_is_named_with_the_version_needed(node):
    node.ctk_lacks = (*SINCE_1_19, "feature-flag", "nvidia-cdi-hook-path")
    with pytest.raises(
        HostError, match=r"--nvidia-cdi-hook-path: install .*-base 1\.16\.0 or later"
    ):
        edits(node)


def test_older_toolkit_that_fails_names_the_version_that_does_not(node):
    node.ctk_lacks = SINCE_1_19
    works, fails = node.commands.programs[str(CTK)], {"now": True}

    def lost(argv):
        result = works(argv)
        return 1 if fails["now"] else result

    node.commands.programs[str(CTK)] = lost
    with pytest.raises(HostError, match=r"opens every GPU.*install .*-base 1\.19\.0 or later"):
        edits(node)


def test_missing_hook_is_named_and_not_a_reboot(node):
    node.files.remove(HOOK)
    with pytest.raises(HostError, match=f"{HOOK} is missing.*install nvidia-container-toolkit"):
        edits(node)
    assert node.ctk_runs == 0


def test_hook_that_goes_later_is_named_and_not_a_reboot(node):
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


def test_control_node_that_goes_later_is_named_with_the_command(node):
    edits(node)
    node.files.remove(Path("/dev/nvidia-uvm"))
    node.clock.advance(1.0)
    with pytest.raises(HostError, match=r"/dev/nvidia-uvm is gone.*nvidia-modprobe -c 0 -u"):
        edits(node)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda machine: machine.char_majors.pop("nvidia-uvm"), "module of /dev/nvidia-uvm is not"),
        (lambda machine: machine.char_majors.update({"nvidia-uvm": 511}), "uvm is device 510:255"),
        (lambda machine: machine.nodes.pop("/dev/nvidiactl"), "nvidiactl is no character device"),
    ],
    ids=["module", "number", "no device"],
)
def test_control_device_without_its_driver_is_named(node, change, said):
    edits(node)
    change(node.machine)
    node.clock.advance(1.0)
    with pytest.raises(HostError, match=f"{said}.*run nvidia-modprobe -c 0 -u"):
        edits(node)


def test_broken_new_toolkit_does_not_block_what_the_old_one_listed(node):
    assert node.common.warm_up() == ""
    node.files.remove(CTK)
    assert node.common.warm_up() == ""
    node.restart()
    assert "install nvidia-container-toolkit-base" in node.common.warm_up()


def test_new_hook_that_cannot_run_blocks_claims_until_it_can(node):
    assert node.common.warm_up() == ""
    node.files.put(HOOK, b"newer")
    node.hook_status = 126
    assert f"{HOOK} cannot be executed" in node.common.warm_up()
    node.hook_status = 0
    assert node.common.warm_up() == ""


def test_a_failed_prepare_tells_at_once(node):
    told = []
    node.common.on_failure(lambda: told.append(1))
    edits(node)
    assert not told
    node.files.remove(HOOK)
    node.clock.advance(1.0)
    with pytest.raises(HostError):
        edits(node)
    assert told


def test_a_missing_toolkit_is_named_with_its_package(node):
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
def test_any_json_in_any_place_of_its_output_is_used_or_refused(data):
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


def test_control_devices_that_are_not_there_yet_are_waited_for(node):
    node.ctk_output = ctk_output(deviceNodes=[{"path": "/dev/nvidiactl"}])
    with pytest.raises(NotReadyError, match=r"/dev/nvidia-uvm not there yet: run nvidia-modprobe"):
        edits(node)
    node.ctk_output = ctk_output()
    edits(node)


def test_a_hanging_toolkit_ends_with_the_deadline(node):
    node.commands.programs[str(CTK)] = hang
    with pytest.raises(CommandError):
        edits(node)


def test_warming_up_never_fails(node):
    node.files.remove(CTK)
    node.common.warm_up()


def test_a_cache_that_cannot_be_written_costs_only_the_next_start(node):
    node.files.read_only.add(node.state)
    edits(node)
    assert node.files.read(node.state / "cdi-common.json") is None


def test_many_prepares_at_the_start_ask_once():
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
