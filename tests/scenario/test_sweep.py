"""Leftovers of ended claims: what is removed, when, and what is never touched."""

import threading

import pytest

from nvdra_core.errors import ApiError
from nvdra_node.kubeletplugin.claims.sweep import Sweeper, SweepTimes
from tests.beds.memory.claim_world import CDI, PLAIN, WITH_EFFECTS, a_claim

UNNAMED = ApiError(
    'resourceclaims "c1" is forbidden: User "system:node:n" cannot get resource: no relationship found between node'
    " 'n' and this object",
    status=403,
    api_reason="Forbidden",
)
"""The node authorizer's reply to a kubelet's credential for a claim that no pod of its node names."""


def sweep_later(world, seconds):
    world.clock.advance(seconds)
    return world.sweep.run_once()


def test_existing_claim_stays(world):
    world.prepare(PLAIN)
    world.sweep_all()
    world.assert_prepared(PLAIN)
    assert world.sweep.removed == 0


@pytest.mark.parametrize("claim", [PLAIN, WITH_EFFECTS])
def test_deleted_claim_is_unprepared_after_grace_time(world, claim):
    world.prepare(claim)
    world.claims.delete(claim.ref)
    assert world.sweep.run_once() == 300.0, "checked again at the end of the grace time"
    sweep_later(world, 299)
    world.assert_prepared(claim)
    sweep_later(world, 1)
    world.assert_clean()
    assert world.sweep.removed == 1


def test_replaced_claim_is_unprepared(world):
    world.prepare(PLAIN)
    world.claims.add(a_claim("c2", name=PLAIN.ref.name))
    world.sweep_all()
    world.assert_clean()


def test_cdi_file_of_quarantined_record_stays(world):
    world.prepare(PLAIN)
    world.files.replace(world.record_path(), b"garbage")
    for _ in range(2):
        world.restart()
        world.sweep_all()
        assert world.files.read(world.cdi_path()) is not None
    world.unprepare(PLAIN)
    assert world.files.read(world.cdi_path()) is None


def test_claim_of_earlier_boot_has_no_grace_time(world):
    world.prepare(PLAIN)
    world.reboot()
    world.claims.delete(PLAIN.ref)
    world.sweep.run_once()
    world.assert_clean()


@pytest.mark.parametrize("reboots", [False, True])
def test_claim_named_by_no_pod_is_swept_after_grace_time(world, reboots):
    """An API server also says it of existing claims until it has read its pods: no boot shortens the grace time."""
    world.prepare(PLAIN)
    if reboots:
        world.reboot()
    world.claims.refusal = UNNAMED
    world.sweep.run_once()
    sweep_later(world, 299)
    assert world.deps.records.get("c1") is not None
    sweep_later(world, 1)
    world.assert_clean()


def test_claim_refused_briefly_stays(world):
    world.prepare(PLAIN)
    world.claims.refusal = UNNAMED
    world.sweep.run_once()
    world.claims.refusal = None
    world.sweep_all()
    world.assert_prepared(PLAIN)


def test_other_refusal_keeps_the_claim(world):
    world.prepare(PLAIN)
    world.claims.refusal = ApiError("nodes may not read claims", status=403, api_reason="Forbidden")
    world.sweep_all()
    world.assert_prepared(PLAIN)


def test_unavailable_api_keeps_the_claim(world):
    world.prepare(PLAIN)
    world.claims.is_down = True
    world.sweep_all()
    world.assert_prepared(PLAIN)


def test_api_failure_does_not_restart_the_grace_time(world):
    world.prepare(PLAIN)
    world.claims.delete(PLAIN.ref)
    world.sweep.run_once()
    world.claims.is_down = True
    sweep_later(world, 200)
    world.claims.is_down = False
    sweep_later(world, 100)
    world.assert_clean()


def test_reallocated_claim_stays(world):
    """Deallocated, then allocated again under the same UID."""
    world.prepare(PLAIN)
    world.claims.delete(PLAIN.ref)
    world.sweep.run_once()
    world.claims.add(PLAIN)
    sweep_later(world, 1000)
    world.claims.delete(PLAIN.ref)
    sweep_later(world, 1)
    world.assert_prepared(PLAIN)


def test_claim_reallocated_during_the_sweep_stays(world):
    world.prepare(PLAIN)
    world.claims.delete(PLAIN.ref)
    world.sweep.run_once()
    world.claims.after_read = lambda: world.claims.add(PLAIN)
    sweep_later(world, 1000)
    world.assert_prepared(PLAIN)


def test_failed_unprepare_does_not_stop_others(world):
    other = a_claim("c2", devices=("gpu-1",))
    world.prepare(WITH_EFFECTS)
    world.prepare(other)
    for claim in (WITH_EFFECTS, other):
        world.claims.delete(claim.ref)
    world.sweep.run_once()
    world.machine.is_stuck = True
    sweep_later(world, 300)
    assert [record.uid for record in world.deps.records.all()] == ["c1"]
    world.machine.is_stuck = False
    world.sweep_all()
    world.assert_clean()


def test_stray_cdi_file_is_removed_after_grace_time(world):
    world.prepare(PLAIN)
    world.files.remove(world.record_path())
    world.restart()
    world.sweep.run_once()
    assert world.files.read(world.cdi_path()) is not None
    sweep_later(world, 300)
    world.assert_clean()


def test_files_of_other_programs_stay(world):
    others = [
        CDI / "nvidia.yaml",
        CDI / "gpu.example.com-claim_up.yaml",
        CDI / "other-claim_1.json",
        CDI / ".other.tmp",
    ]
    for path in others:
        world.files.put(path, b"---\ncdiVersion: 0.5.0\n")
    world.restart()
    world.sweep_all()
    assert set(world.files.paths()) == set(others)


def test_unreadable_cdi_directory_does_not_end_the_sweep(world):
    world.files.unreadable.add(CDI)
    assert world.sweep.run_once() == 600.0


def test_run_ends_when_stopping(world):
    stopping = threading.Event()
    stopping.set()
    Sweeper(world.transaction, world.deps, SweepTimes(period_s=1)).run(stopping)


@pytest.mark.parametrize(("period_s", "grace_s"), [(600.0, 300.0), (3600.0, 300.0), (4.0, 2.0)])
def test_shorter_period_shortens_the_grace_time(period_s, grace_s):
    times = SweepTimes.every(period_s)
    assert (times.period_s, times.grace_s) == (period_s, grace_s)
