"""Log lines: their fields, their order, and the redaction of credentials."""

import io
import json
import logging
import os
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from nvdra_core.errors import ConfigError, LockTimeoutError
from nvdra_core.runtime import log

LOGGER = log.get("nvdra_node.gpu")


@pytest.fixture
def lines() -> Iterator[Callable[..., Callable[[], list[str]]]]:
    """Logging into memory; the result reads what was written. Restores the root logger."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level

    def start(**settings: Any) -> Callable[[], list[str]]:
        stream = io.StringIO()
        log.configure(**{"verbosity": 4, "stream": stream, **settings})
        return lambda: stream.getvalue().splitlines()

    yield start
    root.handlers[:] = handlers
    root.setLevel(level)


def test_text_line_has_time_level_logger_message_and_fields(lines):
    read = lines()
    LOGGER.info("prepared claim", claim="ns/a (uid 1)", device="gpu-0", ms=3)
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z I nvdra_node\.gpu: prepared claim "
        r'claim="ns/a \(uid 1\)" device=gpu-0 ms=3',
        read()[0],
    )


def test_journal_lines_have_priority_and_no_time(lines):
    read = lines(journal=True, verbosity=7)
    LOGGER.info("a")
    LOGGER.info("b", v=6)
    LOGGER.warning("c")
    LOGGER.error("d", LockTimeoutError("busy"))
    assert [line[:5] for line in read()] == ["<6>I ", "<7>D ", "<4>W ", "<3>E "]


def test_error_line_begins_with_reason_then_operation(lines):
    read = lines(journal=True)
    with log.operation("0123abcd"):
        LOGGER.error("prepare failed", LockTimeoutError("claim ns/a: busy"), claim="ns/a")
        LOGGER.info("next", claim="ns/b")
    assert read() == [
        '<3>E nvdra_node.gpu: prepare failed reason=lock_timeout op=0123abcd claim=ns/a error="claim ns/a: busy"',
        "<6>I nvdra_node.gpu: next op=0123abcd claim=ns/b",
    ]


def test_foreign_error_is_internal_and_has_a_stack(lines):
    read = lines(journal=True)
    try:
        [][1]
    except IndexError as error:
        LOGGER.error("prepare failed", error)
    found = read()
    assert 'reason=internal error="list index out of range"' in found[0]
    assert all(line.startswith("<3>") for line in found)
    assert found[1] == "<3>  Traceback (most recent call last):"


def test_warning_with_cause_has_the_reason(lines):
    read = lines(journal=True)
    LOGGER.warning("will retry", LockTimeoutError(""))
    assert read()[0].endswith("will retry reason=lock_timeout error=LockTimeoutError")


@pytest.mark.parametrize("verbosity", range(8))
def test_verbosity_includes_lower_levels(lines, verbosity):
    read = lines(verbosity=verbosity)
    for v in range(8):
        LOGGER.info("line", v=v)
    assert len(read()) == verbosity + 1


def test_warnings_and_errors_are_written_at_any_verbosity(lines):
    read = lines(verbosity=0)
    LOGGER.warning("a")
    LOGGER.error("b", LockTimeoutError("c"))
    assert len(read()) == 2


def test_debug_lines_of_libraries_are_never_written(lines):
    read = lines(verbosity=7)
    logging.getLogger("urllib3").debug("noise")
    logging.getLogger("grpc").warning("worth it")
    assert len(read()) == 1


class Costly:
    def __str__(self) -> str:
        raise AssertionError("formatted although it is not written")


def test_line_above_verbosity_is_not_formatted(lines):
    read = lines(verbosity=2)
    LOGGER.info("line", v=3, big=Costly())
    assert read() == []


def test_user_text_cannot_start_a_line_or_a_field(lines):
    read = lines(journal=True)
    LOGGER.info("name\n<0>forged", name="a\nreason=x b=1\u2028\x1b[31m")
    assert read() == [
        '<6>I nvdra_node.gpu: name\\n<0>forged name="a\\nreason=x b=1\\u2028\\u001b[31m"'
    ]


def test_lone_surrogate_does_not_lose_the_line(lines):
    read = lines()
    LOGGER.info("odd \ud800", name="\ud800")
    assert "odd" in read()[0]


def test_json_lines_have_the_same_fields(lines):
    read = lines(style="json")
    with log.operation("0123abcd"):
        LOGGER.error("prepare failed", LockTimeoutError('it is "busy"'), claim="ns/a", n=3)
        LOGGER.info("fine", v=4)
    first, second = (json.loads(line) for line in read())
    assert list(first)[:6] == ["ts", "level", "logger", "msg", "reason", "op"]
    assert (first["level"], first["claim"], first["n"]) == ("error", "ns/a", 3)
    assert first["error"] == 'it is "busy"'
    assert (second["level"], second["v"], second["op"]) == ("info", 4, "0123abcd")


def test_json_in_the_journal_begins_with_priority(lines):
    read = lines(style="json", journal=True)
    LOGGER.warning("careful")
    assert json.loads(read()[0].removeprefix("<4>"))["msg"] == "careful"


JWT = "eyJhbGciOiJSUzI1NiIsImtpZCI6IjEifQ.eyJzdWIiOiJzeXN0ZW06bm9kZSJ9.c2lnbmF0dXJl"
SECRETS = [
    f"Authorization: Bearer {JWT}", f"authorization: bearer {JWT}", f"'Authorization': 'Bearer {JWT}'",
    f'{{"token": "{JWT}"}}', f"token={JWT}", f"got {JWT} back", f"Bearer {JWT}", f"bearer_token={JWT}",
    f"Authorization: Negotiate {JWT}", f"-----BEGIN PRIVATE KEY-----\n{JWT}\n-----END PRIVATE KEY-----",
    f"-----BEGIN EC PRIVATE KEY-----\n{JWT}", f'"password":"{JWT}"', f"client-secret: {JWT}",
]  # fmt: skip


@pytest.mark.parametrize("style", log.FORMATS)
@pytest.mark.parametrize("secret", SECRETS)
def test_credentials_are_never_written(lines, style, secret):
    read = lines(style=style)
    message = f"request {secret}"
    LOGGER.info(message)
    LOGGER.info("request", header=secret, token=JWT)
    LOGGER.error("request failed", ValueError(f"401 for {secret}"))
    logging.getLogger("library").warning("request %s", secret)
    text = "\n".join(read())
    assert text.count("request") >= 4
    assert not any(part in text for part in (JWT, *JWT.split(".")))


@pytest.mark.parametrize("style", log.FORMATS)
def test_short_credentials_are_never_written(lines, style):
    read = lines(style=style)
    LOGGER.info("password=hunter2", password="hunter2", headers={"Authorization": "Bearer hunter2"})
    assert "hunter2" not in "\n".join(read())


def test_message_about_a_token_is_not_redacted(lines):
    read = lines(journal=True)
    LOGGER.info("cannot read service account token: permission denied", path="/run/token")
    assert read()[0].endswith("token: permission denied path=/run/token")


def test_operation_id_is_new_and_ends_with_the_operation(lines):
    read = lines()
    with log.operation() as first, log.operation() as second:
        LOGGER.info("inner")
    LOGGER.info("outside")
    assert re.fullmatch(r"[0-9a-f]{8}", first) and first != second
    assert f"op={second}" in read()[0]
    assert "op=" not in read()[1]


def test_operation_id_is_per_thread_unless_passed_on(lines):
    read = lines()
    with log.operation() as op:
        for given in ("", op):
            thread = threading.Thread(target=_log_in_operation, args=(given,))
            thread.start()
            thread.join()
    assert [f"op={op}" in line for line in read()] == [False, True]


def _log_in_operation(op: str) -> None:
    if op:
        with log.operation(op):
            LOGGER.info("line")
    else:
        LOGGER.info("line")


def test_invalid_settings_are_config_errors(lines):
    with pytest.raises(ConfigError, match='"xml": not known; use text or json'):
        lines(style="xml")
    with pytest.raises(ConfigError, match="use 0 to 7"):
        lines(verbosity=-1)


def test_journal_is_detected_by_device_and_inode(tmp_path):
    with (tmp_path / "stderr").open("w") as file:
        status = os.fstat(file.fileno())
        assert log.is_journal(f"{status.st_dev}:{status.st_ino}", file.fileno())
        assert not log.is_journal("8:1", file.fileno())
        assert not log.is_journal("", file.fileno())
        fd = file.fileno()
    assert not log.is_journal(f"{status.st_dev}:{status.st_ino}", fd)
