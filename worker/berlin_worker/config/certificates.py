"""Check the certificates that a Redis URL names, before anything connects."""

import ssl
from collections.abc import Mapping
from pathlib import Path

from berlin_worker.errors import SettingsError


def check(
    options: Mapping[str, str], setting: str, *, labels: Mapping[str, str] | None = None
) -> None:
    """Read the files that the ``ssl_`` options of a URL name, as a connection will.

    Raises ``SettingsError`` with one line that names ``setting``, the option and the file;
    ``labels`` are the settings of options that come from no URL.
    """
    names = labels or {name: f"{setting}: {name}" for name in options}
    for option in ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile"):
        if path := options.get(option):
            _check_readable(path, f"{names[option]} {path!r}")
    if "ssl_keyfile" in options and "ssl_certfile" not in options:
        raise SettingsError(
            f"{names['ssl_keyfile']} needs the certificate of that key: set "
            f"{names.get('ssl_certfile', 'ssl_certfile')}"
        )
    if path := options.get("ssl_ca_path"):
        _check_readable(path, f"{setting}: ssl_ca_path {path!r}", is_folder=True)
    if path := options.get("ssl_ca_certs"):
        _check_authorities(path, f"{names['ssl_ca_certs']} {path!r}")
    if path := options.get("ssl_certfile"):
        _check_own(path, options, names)


def _check_readable(path: str, what: str, *, is_folder: bool = False) -> None:
    try:
        if is_folder:
            next(Path(path).iterdir(), None)
            return
        with Path(path).open("rb"):
            return
    except OSError as error:
        message = f"{what} cannot be read: {error.strerror or type(error).__name__}"
    except ValueError:  # a null byte
        message = f"{what} cannot be read: it is no path"
    raise SettingsError(message)


def _check_authorities(path: str, what: str) -> None:
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=path)
    except (ssl.SSLError, OSError, ValueError):
        message = f"{what} holds no certificate of an authority in PEM"
    else:
        return
    raise SettingsError(message)


def _check_own(path: str, options: Mapping[str, str], names: Mapping[str, str]) -> None:
    what = f"{names['ssl_certfile']} {path!r} cannot be used"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        # Without a password OpenSSL would ask for one at the terminal.
        context.load_cert_chain(path, options.get("ssl_keyfile"), options.get("ssl_password", ""))
    except ssl.SSLError as error:
        message = what
        if error.reason == "KEY_VALUES_MISMATCH":
            key = names["ssl_keyfile"].rpartition(" ")[2]
            message += f": {key} is the key of another certificate"
        else:
            message += (
                " with its key: both must be PEM, and ssl_password that of the key if it has one"
            )
    except (OSError, ValueError) as error:
        message = f"{what} ({type(error).__name__})"
    else:
        return
    raise SettingsError(message)
