"""What a provider is: text deltas out, contract errors up.

The runner knows this file alone. Another package adds a provider by an entry
point in the group ``berlin_worker.providers`` that names a class with this shape.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from berlin_schemas import PromptJob

if TYPE_CHECKING:
    import aiohttp

    from berlin_worker.settings import Settings


def _nothing() -> None:
    pass


@dataclass(slots=True)
class Report:
    """What a provider reports besides text. The runner reads it when the stream has ended."""

    login_s: float = 0.0
    """Seconds spent waiting for a token."""
    finish_reason: Literal["stop", "length"] = "stop"
    usage: dict[str, Any] | None = None
    alive: Callable[[], None] = _nothing
    """To call when the upstream has sent something that is no text: the idle timeout of the job
    starts anew. It does not end the wait for the first text."""


@dataclass(frozen=True, slots=True)
class Token:
    """A token of the upstream. ``gen`` tells one login from the next."""

    value: str
    gen: str

    def __repr__(self) -> str:
        return f"Token(gen={self.gen!r})"  # never the value: a repr ends in logs


Login = Callable[[], Awaitable[str]]
"""Log in at the upstream and return the token; raises ``JobError``."""


class TokenSource(Protocol):
    """The token of one account, shared by whoever uses the same source."""

    async def get(self) -> Token:
        """The token in use, after a login if there is none. Raises ``JobError``."""

    async def invalidate(self, token: Token) -> None:
        """Forget ``token``, unless a newer one has taken its place already."""


class TokenStore(Protocol):
    """Where the tokens of all accounts are kept."""

    def source(
        self, provider: str, account: str, login: Login, *, password: str = ""
    ) -> TokenSource:
        """The source for one account; ``login`` is called only where no token is shared.

        With ``password``, failed logins of another password do not count against
        this one. It is never sent on, only a slow digest of it. Make a source once for
        a process: it holds the token in use.
        """


@dataclass(frozen=True, slots=True)
class Services:
    """What the worker lends to its providers; each lives as long as the process."""

    http: "aiohttp.ClientSession"
    tokens: TokenStore
    settings: "Settings"
    environ: Mapping[str, str]


class Provider(Protocol):
    """One upstream. Built once for a process, in its event loop: ``Class(services)``."""

    def __init__(self, services: Services) -> None:
        """Raises ``SettingsError`` if the environment lacks what the provider needs."""

    def check(self, job: PromptJob) -> None:
        """Raise ``JobError(INVALID_JOB)`` for what the upstream would not take. No I/O."""

    def stream(self, job: PromptJob, report: Report) -> AsyncGenerator[list[str], None]:
        """The deltas of one attempt, as they arrive: each list came in one read.

        Deltas are never empty strings. Raises ``JobError`` and nothing else; closing
        the generator closes the connection to the upstream.
        """
