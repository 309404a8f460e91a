"""Targets of the options of ``celery worker``: a missing file, user or module is one line."""

import os
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from berlin_worker.broker.option_targets import target_refusal

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("options", "written", "expected"),
    [
        ({"logfile": "{dir}/none/w.log"}, "--logfile", "does not exist"),
        ({"logfile": "{dir}"}, "--logfile", "is a directory"),
        ({"logfile": "{dir}/none/%n.log", "hostname": "w@h"}, "--logfile", "does not exist"),
        ({"pidfile": "{dir}/none/w.pid"}, "--pidfile", "does not exist"),
        ({"pidfile": "%z.pid"}, "--pidfile", "unknown %"),
        ({"pidfile": "a\0b"}, "--pidfile", ""),
        ({"statedb": "{dir}/none/state"}, "--statedb", "does not exist"),
        ({"executable": "{dir}/none"}, "--executable", "Python interpreter"),
        ({"umask": "many"}, "--umask", "022"),
        ({"umask": "-1"}, "--umask", "022"),
        ({"umask": "08"}, "--umask", "022"),
        ({"uid": "no-such-user"}, "--uid", "does not exist"),
        ({"gid": "no-such-group"}, "--gid", "does not exist"),
        ({"uid": "root", "detach": True}, "--uid", "--detach"),
        ({"include": ["json", "nonesuch"]}, "--include", "'nonesuch'"),
        ({"include": ["nonesuch.deeper"]}, "--include", "'nonesuch.deeper'"),
        ({"include": [".x"]}, "--include", "'.x'"),
    ],
)
def test_missing_target_is_refused_in_one_line(tmp_path, options, written, expected):
    given_options = {
        name: value.format(dir=tmp_path) if isinstance(value, str) else value
        for name, value in options.items()
    }
    message = target_refusal(given_options)
    assert message is not None
    assert message.startswith(written)
    assert expected in message
    assert message.isprintable()


def test_existing_target_is_accepted(tmp_path):
    options = {
        "logfile": f"{tmp_path}/%n%I.log",
        "pidfile": f"{tmp_path}/w.pid",
        "statedb": f"{tmp_path}/state",
        "hostname": "w@h",
        "executable": sys.executable,
        "umask": "022",
        "uid": str(os.geteuid()),
        "gid": os.getegid(),
        "include": ["json", "xml.dom"],
    }
    assert target_refusal(options) is None
    assert target_refusal(dict.fromkeys(options)) is None


@given(
    st.dictionaries(
        st.sampled_from(["logfile", "pidfile", "statedb", "executable", "umask", "uid", "gid"]),
        st.text(st.characters(exclude_categories=[]), max_size=300),
    )
)
def test_target_of_any_text_is_accepted_or_refused_in_one_line(options):
    message = target_refusal(options)
    assert message is None or message.isprintable()
