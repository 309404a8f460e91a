"""The secrets that the log hides; a provider that is built later adds its own."""

from collections.abc import Iterable
from typing import Final

from berlin_worker.telemetry.redact import hider

_SHORTEST: Final = 4
"""Secrets shorter than this are not hidden: ordinary words contain them."""


def long_enough(secrets: Iterable[str]) -> set[str]:
    """Return those of ``secrets`` that can be hidden without hiding most of the text."""
    return {secret for secret in secrets if len(secret) >= _SHORTEST}


class KnownSecrets:
    """Hides a growing set of secrets; one is shared by all handlers of a log."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._secrets = long_enough(secrets)
        self._hide = hider(self._secrets)

    def add(self, secrets: Iterable[str]) -> None:
        """Hide ``secrets`` too, from the next text on."""
        self._secrets |= long_enough(secrets)
        self._hide = hider(self._secrets)

    def hide(self, text: str) -> str:
        """Return ``text`` without the secrets, also if they are URL-, JSON- or HTML-encoded."""
        return self._hide(text)


LOG: Final = KnownSecrets()
"""The secrets of the log of this process."""
