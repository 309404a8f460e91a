"""A line of the log: JSON or console format, the job that it names, and removed secrets."""

import json
import logging
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from berlin_worker.settings import Settings
from berlin_worker.telemetry import logs, redact
from berlin_worker.telemetry.log_context import JOB

pytestmark = pytest.mark.unit

PROMPT = "the-secret-prompt"
PASSWORD = 'pass"wörd'
FIELDS = [
    *("job_id", "status", "error_code", "reason", "total_ms", "attempts", "chunks", "attempt"),
    *("exc_info", "exception", "stack", "stack_info", "level", "logger", "logger_name"),
    *("timestamp", "tenant", "model", "positional_args"),
]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text() | st.tuples(st.text()) | st.binary(), inner, max_size=2)
    ),
    max_leaves=4,
)


def record(text: str, *args: object, **fields: object) -> logging.LogRecord:
    made = logging.LogRecord("worker.test", logging.WARNING, "here.py", 1, text, args, None)
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def lines(style: str, *records: logging.LogRecord, secrets: tuple[str, ...] = ()) -> list[str]:
    form = logs.formatter(style, redact.hider(secrets))  # type: ignore[arg-type]  # one of the two
    return [form.format(each) for each in records]


@contextmanager
def at_work(job_id: str, attempt: int) -> Iterator[None]:
    token = JOB.set((job_id, attempt))
    yield
    JOB.reset(token)


def test_json_line_has_time_level_and_logger():
    [line] = lines("json", record("%d things", 3))
    fields = json.loads(line)
    assert list(fields) == ["timestamp", "level", "event", "logger"]
    assert fields["event"] == "3 things"
    assert fields["level"] == "warning"
    assert fields["logger"] == "worker.test"
    assert fields["timestamp"].endswith("+00:00")


@pytest.mark.parametrize("style", ["json", "console"])
def test_line_names_the_current_job_and_attempt(style):
    with at_work("job-1", 2):
        [line] = lines(style, record("it happened"))
    assert "job-1" in line
    assert re.search(r'attempt"?[=:] ?2', line)
    assert lines(style, record("it happened"))[0].count("job") == 0


def test_celery_line_about_a_task_names_its_job_and_nothing_else():
    about = {"id": "job-9", "args": PROMPT, "kwargs": PROMPT}
    with at_work("job-1", 2):
        [line] = lines("json", record("Task received", data=about))
    assert json.loads(line)["job_id"] == "job-9"
    assert "attempt" not in json.loads(line)
    assert PROMPT not in line


def test_console_line_has_the_job_id_once():
    with at_work("job-1", 1):
        [line] = lines("console", record("job job-1: failed"))
    assert line.count("job-1") == 1
    assert "attempt" in line


def test_console_line_of_no_job_may_name_nothing():
    [line] = lines("console", record("found None"))
    assert line.partition(" ")[2] == "[warning  ] found None [worker.test]"


@pytest.mark.parametrize("style", ["json", "console"])
@given(
    name=st.none() | st.text() | st.just("job ended"),
    fields=st.dictionaries(st.sampled_from(FIELDS) | st.text(), VALUES),
    extra=st.fixed_dictionaries({}, optional=dict.fromkeys(("job_id", "data", "job_end"), VALUES)),
)
def test_no_fields_of_any_type_lose_a_line(style, name, fields, extra):
    by_structlog = record("")
    by_structlog.msg = fields | ({"event": name} if name is not None else {})
    by_structlog._logger, by_structlog._name = logging.getLogger("a"), "info"
    by_logging = record("None of the %s", "text", **extra)
    found = lines(style, by_structlog, by_logging)
    assert "None of the text" in found[1]
    if style == "json":
        assert all(isinstance(json.loads(each, parse_constant=pytest.fail), dict) for each in found)


@pytest.mark.parametrize("text", ["two\nlines", "a \x1b[31mred\x1b[0m one", 'a "quote"', "\udc80"])
def test_every_log_record_is_one_line_of_json(text):
    [line] = lines("json", record("%s", text))
    assert len(line.splitlines()) == 1
    line.encode("utf-8", "backslashreplace")
    assert json.loads(line)["event"] == text


@pytest.mark.parametrize("style", ["json", "console"])
def test_traceback_shows_no_variables(style):
    def fail(prompt: str) -> None:
        raise ValueError("it broke")

    try:
        fail(PROMPT[::-1][::-1])
    except ValueError:
        broken = record("failed")
        broken.exc_info = sys.exc_info()
    [line] = lines(style, broken)
    assert "it broke" in line
    assert "ValueError" in line
    assert PROMPT not in line


@pytest.mark.parametrize("style", ["json", "console"])
def test_secrets_are_hidden_in_text_arguments_and_tracebacks(style):
    try:
        raise ValueError(f"cannot log in with {PASSWORD}")
    except ValueError:
        broken = record("tried %s", f"redis://u:{PASSWORD}@host")
        broken.exc_info = sys.exc_info()
    [line] = lines(style, broken, secrets=(PASSWORD,))
    assert line.count("[hidden]") == 2
    assert "rd" not in line.partition("tried")[2].replace("record", "").partition("File")[0]
    assert PASSWORD not in line


def test_secrets_of_the_settings_are_known():
    settings = Settings.from_env(
        {
            "BERLIN_PASSWORD": "berlin-pass",
            "REDIS_URL": "redis+sentinel://u:redis%40pass@[::1],b/m?sentinel_password=watch-pass",
            "CELERY_BROKER_URL": "amqp://u:first-pass@a:1;amqp://u:second-pass@b:2",
            "WORKER_TOKEN_KEYS": "key-one,key-two",
            "BERLIN_PROXY": "http://u:proxy-pass@host",
            "WORKER_PROXY_ALLOWLIST": "http://u:job-pass@host,http://u:abc@host",
        }
    )
    assert logs.secrets_of(settings) >= {
        "berlin-pass", "redis@pass", "first-pass", "second-pass", "key-one",
        "watch-pass", "key-two", "proxy-pass", "job-pass",
    }  # fmt: skip
    assert "abc" not in logs.secrets_of(settings)
    assert "" not in logs.secrets_of(settings)


@pytest.mark.parametrize(
    ("asked", "terminal", "style"),
    [
        ("auto", True, "console"),
        ("auto", False, "json"),
        ("json", True, "json"),
        ("console", False, "console"),
    ],
)
def test_style_is_what_is_asked_for_or_fits_the_output(asked, terminal, style):
    assert logs.style_of(asked, terminal=terminal) == style


@pytest.fixture
def log_file(tmp_path, secrets_of_this_test):
    """The path of a log, set up as a worker does; all is as before afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    path = tmp_path / "worker.log"
    settings = Settings.from_env({"BERLIN_PASSWORD": PASSWORD})
    assert logs.set_up(settings, level=logging.INFO, logfile=str(path), colors=None) == "json"
    yield path
    root.handlers[0].close()
    root.handlers, root.level = handlers, level
    structlog.reset_defaults()


def test_structlog_and_logging_write_the_same_lines(log_file):
    with at_work("job-1", 3):
        logging.getLogger("a").info("by logging, not %s", PASSWORD)
        structlog.get_logger("a").info("by structlog", size=7, note=PASSWORD)
        structlog.get_logger("a").debug("too fine")
    # Call the handler itself: pytest captures what the root logger gets, which must be UTF-8.
    logging.getLogger().handlers[0].handle(record("half a \udc80 character"))
    one, other, half = map(json.loads, log_file.read_text().splitlines())
    assert one.keys() == other.keys() - {"size", "note"}
    assert {**one, "event": "", "timestamp": ""} == {name: other[name] for name in one} | {
        "event": "",
        "timestamp": "",
    }
    assert one["event"] == "by logging, not [hidden]"
    assert other["size"] == 7
    assert other["note"] == "[hidden]"
    assert other["attempt"] == 3
    assert half["event"] == "half a \udc80 character"


def test_celery_output_of_a_signal_handler_is_a_log_line(capfd):
    logs.say_json("\nworker: Warm shutdown (MainProcess)\n", sys.__stdout__)
    fields = json.loads(capfd.readouterr().err)
    assert fields["event"] == "worker: Warm shutdown (MainProcess)"
