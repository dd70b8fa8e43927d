"""Errors: each says who must act, by a reason out of a closed list."""

import nvdra_core.errors as errors

REASONS = {
    "api", "claim", "command", "config", "deadline", "device_conflict",
    "device_moved", "effect_lost", "file", "host", "internal", "invalid_config", "lock_timeout", "malformed_text", "not_ready", "nvml",
    "nvml_hung", "nvml_slow", "record", "stale_claim", "unit_request", "unknown_device",
}  # fmt: skip


def all_errors(base: type[errors.NvdraError] = errors.NvdraError) -> list[type[errors.NvdraError]]:
    found = [base]
    for cls in base.__subclasses__():
        if cls.__module__ == errors.__name__:
            found += all_errors(cls)
    return found


def test_reasons_are_a_closed_list():
    assert {cls.reason for cls in all_errors()} == REASONS


def test_every_error_has_its_own_reason():
    reasons = [cls.reason for cls in all_errors()]
    assert len(reasons) == len(set(reasons))


def test_malformed_text_error_is_a_value_error():
    assert issubclass(errors.MalformedTextError, ValueError)
