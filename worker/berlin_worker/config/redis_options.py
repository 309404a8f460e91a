"""The options that a Redis URL may have (pure): one table for worker, client and command line.

Three things may happen to an option:

- *used*: redis-py and kombu agree on its meaning.
- *ignored*: Berlin Worker sets this itself, whatever the URL asks for.
- *refused*: the error names what to do instead.
"""

import difflib
import re
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

_LONGEST_SHOWN: Final = 40
_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,40}")
_TRUE: Final = frozenset({"1", "true", "t", "yes", "y", "on"})
_FALSE: Final = frozenset({"0", "false", "f", "no", "n", "off"})


class InvalidOption(ValueError):
    """An option cannot be used; the text names the reason and holds no secret."""


class _Option(NamedTuple):
    read: Callable[[str], str | None]
    """Returns the value as redis-py and kombu both take it, or ``None`` for a wrong one."""
    expected: str
    tls: bool = False
    secret: bool = False
    sentinel: bool = False


def _number(value: str) -> str | None:
    return str(int(value)) if re.fullmatch(r"[0-9]{1,9}", value) else None


def _boolean(value: str) -> str | None:
    word = value.lower()
    return "true" if word in _TRUE else "false" if word in _FALSE else None


def _one_of(*values: str) -> Callable[[str], str | None]:
    return lambda value: value.lower() if value.lower() in values else None


def _verification(value: str) -> str | None:
    word = value.lower().removeprefix("ssl.").removeprefix("cert_")
    return word if word in {"none", "optional", "required"} else None


def _word(value: str) -> str | None:
    # CLIENT SETNAME takes nothing else.
    return value if re.fullmatch(r"[!-~]+", value) else None


def _text(value: str) -> str | None:
    return value or None


_BOOLEAN: Final = "true or false"
_FILE: Final = "the path of a file"

_USED: Final = {
    "db": _Option(_number, "the number of a database"),
    # kombu's name for the database.
    "virtual_host": _Option(_number, "the number of a database"),
    "client_name": _Option(_word, "a word of ASCII characters"),
    "sentinel_username": _Option(_text, "a user of the Sentinels", sentinel=True, secret=True),
    "sentinel_password": _Option(_text, "its password", sentinel=True, secret=True),
    "ssl_cert_reqs": _Option(_verification, "none, optional or required", tls=True),
    "ssl_check_hostname": _Option(_boolean, _BOOLEAN, tls=True),
    "ssl_ca_certs": _Option(_text, _FILE, tls=True),
    "ssl_ca_path": _Option(_text, "the path of a directory", tls=True),
    "ssl_certfile": _Option(_text, _FILE, tls=True),
    "ssl_keyfile": _Option(_text, _FILE, tls=True),
    "ssl_password": _Option(_text, "the password of ssl_keyfile", tls=True, secret=True),
}

_IGNORED: Final = {
    "protocol": _Option(_one_of("2", "3"), "2 or 3"),
    "decode_responses": _Option(_boolean, _BOOLEAN),
    "legacy_responses": _Option(_boolean, _BOOLEAN),
    "encoding": _Option(_one_of("utf-8", "utf8"), "utf-8"),
}

_OURS: Final = "Berlin Worker sets it itself: remove it"
_LOGIN: Final = "the login stands before the host: redis://user:password@host:6379/0"
_ADDRESS: Final = "the address stands in the URL itself: redis://host:6379/0"
_TLS: Final = "it is not supported: remove it, and configure it in OpenSSL or at the server"
_SENTINEL: Final = "Sentinels are named as redis+sentinel://host1:26379,host2:26379/mymaster"
_CODE: Final = "it names code, which a URL cannot: remove it"

_CODE_NAMES: Final = (
    "credential_provider",
    "connection_class",
    "connection_pool",
    "parser_class",
    "encoder_class",
    "redis_connect_func",
    "event_dispatcher",
)

REFUSED: Final = {
    **dict.fromkeys(
        (
            "socket_timeout",
            "socket_connect_timeout",
            "socket_read_size",
            "socket_keepalive",
            "socket_keepalive_options",
            "socket_type",
            "retry",
            "retry_on_timeout",
            "retry_on_error",
            "max_connections",
            "timeout",
            "health_check_interval",
            "encoding_errors",
            "lib_name",
            "lib_version",
            "driver_info",
            "single_connection_client",
            "auto_close_connection_pool",
            "visibility_timeout",
            "global_keyprefix",
        ),
        _OURS,
    ),
    **dict.fromkeys(("username", "user", "password"), _LOGIN),
    **dict.fromkeys(("host", "port", "path"), _ADDRESS),
    **dict.fromkeys(("ssl", "tls"), "rediss:// asks for TLS: remove it"),
    **dict.fromkeys(
        (
            "ssl_ca_data",
            "ssl_ciphers",
            "ssl_min_version",
            "ssl_include_verify_flags",
            "ssl_exclude_verify_flags",
            "ssl_validate_ocsp",
            "ssl_validate_ocsp_stapled",
            "ssl_ocsp_context",
            "ssl_ocsp_expected_cert",
        ),
        _TLS,
    ),
    **dict.fromkeys(("master_name", "service_name", "sentinel_kwargs"), _SENTINEL),
    **dict.fromkeys(_CODE_NAMES, _CODE),
}

SECRETS: Final = frozenset(
    {"password", "sentinel_kwargs", *(name for name, option in _USED.items() if option.secret)}
)
"""Options whose values no log, error or report shows."""
_UNSHOWN: Final = SECRETS | {"username", "user", *_CODE_NAMES}


def read(
    pairs: Sequence[tuple[str, str]], *, tls: bool, sentinel: bool, show: bool
) -> dict[str, str]:
    """Return the options that are used, by name, with values that redis-py and kombu read alike.

    ``tls``: the URL asks for TLS; ``sentinel``: it names Sentinels. Raises :class:`InvalidOption`.
    The error repeats an unknown name, or a value, only if ``show`` is set: both may be a part of a
    password that was not percent-encoded.
    """
    found: dict[str, str] = {}
    seen: set[str] = set()
    for name, value in pairs:
        if name in seen:
            raise InvalidOption(f"the option {name} is given twice: keep one")
        option = _option(name, value, show=show)
        seen.add(name)
        # After an "&" that is not percent-encoded, the rest of a password looks like options.
        show = show and not option.secret
        if option.tls and not tls:
            raise InvalidOption(f"the option {name} needs TLS: write rediss:// instead of redis://")
        if option.sentinel and not sentinel:
            raise InvalidOption(f"the option {name} needs Sentinels: {_SENTINEL}")
        usable = option.read(value)
        if usable is None:
            message = _shown(value) if show else ""
            raise InvalidOption(f"the option {name} must be {option.expected}{message}")
        if name in _USED:
            found[name] = usable
    if "ssl_keyfile" in found and "ssl_certfile" not in found:
        raise InvalidOption(
            "the option ssl_keyfile needs ssl_certfile, the certificate of that key"
        )
    if "sentinel_username" in found and "sentinel_password" not in found:
        raise InvalidOption("the option sentinel_username needs sentinel_password")
    if "ssl_password" in found and "ssl_certfile" not in found:
        raise InvalidOption("the option ssl_password needs ssl_certfile and ssl_keyfile")
    return found


def _option(name: str, value: str, *, show: bool) -> _Option:
    if option := _USED.get(name) or _IGNORED.get(name):
        return option
    if reason := REFUSED.get(name):
        named = f"{name}={_cut(value)}" if show and name not in _UNSHOWN else name
        raise InvalidOption(f"the option {named} cannot be used, for {reason}")
    if not show or not _NAME.fullmatch(name):
        raise InvalidOption("it has an option that does not exist: remove it")
    near = difflib.get_close_matches(name.lower(), _USED, n=1)
    hint = f"did you mean {near[0]}?" if near else "remove it"
    raise InvalidOption(f"the option {name} does not exist: {hint}")


def _shown(value: str) -> str:
    if not value:
        return ", and is empty"
    return f", not {_cut(value)}"


def _cut(value: str) -> str:
    text = ascii(value)[1:-1]
    return text if len(text) <= _LONGEST_SHOWN else text[:_LONGEST_SHOWN] + "..."
