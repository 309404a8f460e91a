"""The list of further OpenAI-compatible endpoints, WORKER_ENDPOINTS. Pure."""

import re
from collections.abc import Mapping
from typing import Final

from berlin_worker.config import urls
from berlin_worker.errors import SettingsError

SETTING: Final = "WORKER_ENDPOINTS"
_KEY: Final = "WORKER_ENDPOINT_KEY_"
_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}", re.ASCII)
_FORM: Final = "name=https://host/v1, comma-separated"


def key_variable(name: str) -> str:
    """Return the variable of an endpoint's key: capitals, and ``_`` for ``-``."""
    return _KEY + name.upper().replace("-", "_")


def parse(listed: str) -> Mapping[str, str]:
    """Return the URL of each endpoint, by its name.

    Raises ``SettingsError``, without the URL, for an entry that cannot be used, and for two
    names that share the variable of their key.
    """
    found: dict[str, str] = {}
    variables: dict[str, str] = {}
    for place, entry in enumerate(filter(None, map(str.strip, listed.split(","))), start=1):
        name, equals, url = (part.strip() for part in entry.partition("="))
        if not equals or not _NAME.fullmatch(name):
            message = f"{SETTING}: entry {place} must be of the form {_FORM}; a name has letters, "
            raise SettingsError(message + "digits, - and _, and begins with a letter")
        variable = key_variable(name)
        if variable in variables:
            message = f"{SETTING}: {variables[variable]} and {name} share the variable {variable}"
            raise SettingsError(f"{message}: rename one")
        variables[variable] = name
        found[name] = urls.api(url, f"{SETTING} ({name})")
    return found


def key_variables(listed: str) -> set[str]:
    """Return the variables of the keys that ``listed`` may need, also if it cannot be used."""
    return {key_variable(entry.partition("=")[0].strip()) for entry in listed.split(",") if entry}
