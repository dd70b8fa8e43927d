"""Time slices that cannot be reset when their claim ends, and time slices lost in a driver reload."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from msgspec.structs import replace

from nvdra_core.errors import EffectLostError, FileError, HostError
from nvdra_node.gpu.effects.debts import Debt, DebtStore
from nvdra_node.gpu.effects.timeslice import UNDO_S
from nvdra_node.kubeletplugin.claims import effects as effect_rules
from nvdra_node.kubeletplugin.claims.sweep import Sweeper, SweepTimes
from tests.beds.memory.gpu_node import GpuNode, a_claim
from tests.beds.memory.gpu_objects import interval
from tests.fakes.host.commands import hang
from tests.fakes.host.files import FakeFiles
from tests.fakes.host.smi import FakeSmi

LONG = a_claim(configs=[interval("Long")])
PLAIN = a_claim("next")


@pytest.fixture
def node() -> GpuNode:
    node = GpuNode(gpus=2)
    node.machine.gpus[0].compute_mode = 3
    node.prepare(LONG)
    assert (node.machine.gpus[0].time_slice, node.machine.gpus[0].compute_mode) == (3, 0)
    return node


def settings(node: GpuNode) -> tuple[int, int]:
    return node.machine.gpus[0].time_slice, node.machine.gpus[0].compute_mode


def smi_runs(node: GpuNode) -> int:
    return sum(argv[0] == "nvidia-smi" for argv in node.commands.history)


def owed_files(node: GpuNode) -> list[str]:
    return list(node.files.names(node.state / "owed"))


def owe(node: GpuNode) -> None:
    """The claim ends while its GPU hangs; then the GPU recovers."""
    node.machine.hang(0)
    node.unprepare(LONG)
    node.machine.heal(0)
    assert settings(node) == (3, 0)


class TestUnprepare:
    def test_hung_gpu_costs_seconds_and_owes_reset(self, node: GpuNode) -> None:
        node.machine.hang(0)
        began_s = node.clock.monotonic()
        node.unprepare(LONG)
        assert node.clock.monotonic() - began_s <= UNDO_S + 0.1
        assert node.deps.records.all() == () and node.cdi_spec() is None
        assert owed_files(node) == [f"{node.uuid(0)}.json"]

    @pytest.mark.parametrize("sickness", ["hang", "lose"])
    def test_unhealthy_gpu_is_not_asked(self, node: GpuNode, sickness: str) -> None:
        getattr(node.machine, sickness)(0)
        node.rescan()
        runs, began_s = smi_runs(node), node.clock.monotonic()
        node.unprepare(LONG)
        assert smi_runs(node) == runs and node.clock.monotonic() == began_s
        assert len(owed_files(node)) == 1

    def test_gpu_unknown_to_this_process_is_not_asked(self, node: GpuNode) -> None:
        node.machine.remove(0)
        node.restart()
        runs = smi_runs(node)
        node.unprepare(LONG)
        assert smi_runs(node) == runs and len(owed_files(node)) == 1

    def test_failing_gpu_owes_the_reset(self, node: GpuNode) -> None:
        node.machine.fail(0, 999)
        node.unprepare(LONG)
        assert len(owed_files(node)) == 1

    def test_without_driver_nothing_is_owed(self, node: GpuNode) -> None:
        runs = smi_runs(node)
        node.machine.unload_driver()
        node.unprepare(LONG)
        assert owed_files(node) == [] and smi_runs(node) == runs

    def test_answering_gpu_owes_nothing(self, node: GpuNode) -> None:
        node.unprepare(LONG)
        assert settings(node) == (0, 3) and owed_files(node) == []

    def test_debt_that_cannot_be_written_keeps_the_claim(self, node: GpuNode) -> None:
        node.machine.hang(0)
        assert isinstance(node.files, FakeFiles)
        node.files.full.add(node.state / "owed")
        with pytest.raises(FileError, match="owed"):
            node.unprepare(LONG)
        assert node.deps.records.get("c1") is not None
        node.files.full.clear()
        node.unprepare(LONG)
        assert node.deps.records.get("c1") is None

    def test_claim_without_time_slice_never_owes(self, node: GpuNode) -> None:
        other = a_claim("other", devices=("gpu-1",), configs=[interval("Default")])
        node.prepare(other)
        node.machine.hang(1)
        node.unprepare(other)
        assert owed_files(node) == []


class TestNextClaim:
    @pytest.mark.parametrize("configs", [[], [interval("Default")], [interval("Short")]])
    def test_claim_never_inherits_the_slice(self, node: GpuNode, configs: list[object]) -> None:
        owe(node)
        claim = a_claim("next", configs=configs)
        node.prepare(claim)
        assert node.machine.gpus[0].time_slice in (0, 1)
        assert owed_files(node) == []
        node.unprepare(claim)
        assert settings(node) == (0, 3)

    def test_claim_waits_while_the_reset_fails(self, node: GpuNode) -> None:
        owe(node)
        del node.commands.programs["nvidia-smi"]
        with pytest.raises(HostError, match=f"{node.uuid(0)} has the time slice of a claim that"):
            node.prepare(PLAIN)
        node.prepare(a_claim("beside", devices=("gpu-1",)))
        node.commands.programs["nvidia-smi"] = FakeSmi(node.machine)
        node.prepare(PLAIN)
        assert settings(node) == (0, 3)

    def test_unhealthy_gpu_is_settled_when_it_answers(self, node: GpuNode) -> None:
        node.machine.hang(0)
        node.rescan()
        node.unprepare(LONG)
        node.prepare(PLAIN)
        node.machine.heal(0)
        node.rescanner.reload()
        node.rescanner.rescan_if_due()
        assert node.transaction.settle(5.0)
        assert settings(node) == (0, 3)

    def test_monitoring_claim_resets_nothing(self, node: GpuNode) -> None:
        owe(node)
        node.prepare(a_claim("admin", admin=True))
        assert settings(node) == (3, 0)


class TestBackground:
    def test_sweep_settles_and_retries_soon_on_failure(self, node: GpuNode) -> None:
        sweep = Sweeper(node.transaction, node.deps, SweepTimes())
        owe(node)
        node.commands.programs["nvidia-smi"] = hang
        assert sweep.run_once() == 60.0
        assert settings(node) == (3, 0)
        node.commands.programs["nvidia-smi"] = FakeSmi(node.machine)
        assert sweep.run_once() == 600.0
        assert settings(node) == (0, 3) and owed_files(node) == []

    def test_debt_survives_a_restart(self, node: GpuNode) -> None:
        owe(node)
        node.restart()
        assert node.transaction.settle(5.0)
        assert settings(node) == (0, 3)

    @pytest.mark.parametrize("event", ["reboot", "reload_driver"])
    def test_debt_ends_with_the_driver(self, node: GpuNode, event: str) -> None:
        owe(node)
        getattr(node.machine, event)()
        node.restart()
        runs = smi_runs(node)
        assert node.transaction.settle(5.0)
        assert owed_files(node) == [] and smi_runs(node) == runs
        assert settings(node) == (0, 0)

    @pytest.mark.parametrize("sickness", ["lose", "remove"])
    def test_debt_of_gpu_that_never_answers_ends_with_the_boot(
        self, node: GpuNode, sickness: str
    ) -> None:
        owe(node)
        node.machine.reboot()
        getattr(node.machine, sickness)(0)
        node.restart()
        node.rescan()
        assert node.transaction.settle(5.0)
        assert owed_files(node) == []

    def test_gpu_with_another_claims_slice_is_left_alone(self, node: GpuNode) -> None:
        debt = Debt(
            uuid=node.uuid(0),
            boot_id=node.machine.boot_id,
            driver=str(node.host.sysfs.driver_instance()),
        )
        DebtStore(node.state / "owed", node.files).add(debt)
        node.restart()
        assert not node.transaction.settle(5.0)
        assert settings(node) == (3, 0)
        node.unprepare(LONG)
        assert node.transaction.settle(5.0)

    @pytest.mark.parametrize("content", [b"", b"garbage", b"[]", b"{}", b'{"bootId":1}'])
    def test_garbled_debt_resets_the_time_slice(self, node: GpuNode, content: bytes) -> None:
        owe(node)
        node.files.replace(node.state / "owed" / f"{node.uuid(0)}.json", content)
        node.restart()
        assert node.transaction.settle(5.0)
        assert node.machine.gpus[0].time_slice == 0 and owed_files(node) == []

    def test_debt_of_earlier_release_is_read(self, node: GpuNode) -> None:
        """Its file has no UUID but in its name."""
        path = node.state / "owed" / f"{node.uuid(0)}.json"
        node.files.replace(path, b'{"bootId":"b","driver":"d","computeMode":3}\n')
        assert DebtStore(node.state / "owed", node.files).get(node.uuid(0)) == Debt(
            uuid=node.uuid(0), boot_id="b", driver="d", compute_mode=3
        )

    def test_two_debts_of_one_gpu_keep_the_compute_mode(self, node: GpuNode) -> None:
        owed = DebtStore(node.state / "owed", node.files)
        debt = Debt(uuid=node.uuid(0), boot_id="b", driver="d", compute_mode=3)
        owed.add(debt)
        owed.add(Debt(uuid=node.uuid(0), boot_id="b", driver="d"))
        assert DebtStore(node.state / "owed", node.files).get(node.uuid(0)) == debt


class TestDriverReload:
    def reload(self, node: GpuNode) -> None:
        node.machine.reload_driver()
        assert settings(node) == (0, 0)
        node.rescanner.rescan_if_due()

    def test_repeated_prepare_puts_the_slice_back(self, node: GpuNode) -> None:
        self.reload(node)
        node.prepare(LONG)
        assert node.machine.gpus[0].time_slice == 3
        runs = smi_runs(node)
        node.prepare(LONG)
        assert smi_runs(node) == runs, "it is known to be in effect"

    def test_renewal_puts_the_slice_back(self, node: GpuNode) -> None:
        self.reload(node)
        (record,) = node.deps.records.all()
        assert node.transaction.renew_file(record, node.deadline())
        assert node.machine.gpus[0].time_slice == 3
        (record,) = node.deps.records.all()
        assert not node.transaction.renew_file(record, node.deadline())

    def test_record_without_outcome_is_served(self, node: GpuNode) -> None:
        """Records of earlier releases: the original says under which driver the slice was set."""
        (record,) = node.deps.records.all()
        effects = tuple(effect_rules.adopt(record.effects, []))
        node.deps.records.put(replace(record, effects=effects))
        runs = smi_runs(node)
        node.prepare(LONG)
        assert smi_runs(node) == runs
        self.reload(node)
        node.prepare(LONG)
        assert node.machine.gpus[0].time_slice == 3

    def test_record_without_driver_instance_sets_slice_again(self, node: GpuNode) -> None:
        (record,) = node.deps.records.all()
        (device,) = record.devices
        details = {"uuid": node.uuid(0), "minor": 0}
        plain = effect_rules.adopt(record.effects, [])
        effects = tuple({**effect, "original": {"computeMode": 3}} for effect in plain)
        old = replace(record, devices=(replace(device, details=details),), effects=effects)
        node.deps.records.put(old)
        node.machine.gpus[0].time_slice = 0
        assert node.transaction.renew_file(old, node.deadline())
        assert settings(node) == (3, 0)
        node.unprepare(LONG)
        assert settings(node) == (0, 3)

    def test_driver_loaded_again_while_applying_is_noticed(self, node: GpuNode) -> None:
        smi = FakeSmi(node.machine)

        def set_and_reload(argv: Sequence[str]) -> Any:
            done = smi(argv)
            self.reload(node)
            return done

        claim = a_claim("beside", devices=("gpu-1",), configs=[interval("Short")])
        node.commands.programs["nvidia-smi"] = set_and_reload
        with pytest.raises(EffectLostError, match="has lost its time slice"):
            node.prepare(claim)
        node.commands.programs["nvidia-smi"] = smi
        node.prepare(claim)
        assert node.machine.gpus[1].time_slice == 1

    def test_failed_renewal_is_repeated_and_keeps_the_answer(self, node: GpuNode) -> None:
        (before,) = node.deps.records.all()
        self.reload(node)
        node.commands.programs["nvidia-smi"] = hang
        for _ in range(2):
            (record,) = node.deps.records.all()
            assert record.state is before.state and record.devices == before.devices
            with pytest.raises(HostError, match="did not end in time"):
                node.transaction.renew_file(record, node.deadline(5))
        node.commands.programs["nvidia-smi"] = FakeSmi(node.machine)
        assert node.transaction.renew_file(record, node.deadline())
        assert node.machine.gpus[0].time_slice == 3

    def test_compute_mode_of_the_old_driver_is_not_put_back(self, node: GpuNode) -> None:
        self.reload(node)
        node.unprepare(LONG)
        assert settings(node) == (0, 0)

    def test_compute_mode_is_captured_again(self, node: GpuNode) -> None:
        self.reload(node)
        node.machine.gpus[0].compute_mode = 2
        node.prepare(LONG)
        assert settings(node) == (3, 0)
        node.unprepare(LONG)
        assert settings(node) == (0, 2)

    def test_sharing_claims_restore_slice_after_reload(self) -> None:
        node = GpuNode(gpus=1)
        claims = [a_claim(u, shares=(u,), configs=[interval("Long")]) for u in ("one", "two")]
        for claim in claims:
            node.prepare(claim)
        self.reload(node)
        for claim in claims:
            node.prepare(claim)
        node.unprepare(claims[0])
        assert node.machine.gpus[0].time_slice == 3
        node.unprepare(claims[1])
        assert node.machine.gpus[0].time_slice == 0
