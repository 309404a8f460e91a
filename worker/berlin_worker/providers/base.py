"""The interface of a provider: it yields deltas and raises errors of the contract.

The runner depends on this file alone. Another package adds a provider by an entry
point in the group ``berlin_worker.providers`` that names a class with this shape.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from berlin_schemas import PromptJob
from berlin_worker.providers.deltas import Deltas

if TYPE_CHECKING:
    import aiohttp

    from berlin_worker.settings import Settings


def _nothing() -> None:
    pass


@dataclass(slots=True)
class Report:
    """Facts that a provider reports besides deltas. The runner reads them when the stream ends."""

    login_s: float = 0.0
    """Seconds spent waiting for a token."""
    finish_reason: str = "stop"
    """``stop``, ``length``, ``tool_calls`` or ``content_filter``; another counts as ``stop``."""
    usage: dict[str, Any] | None = None
    """Usage that the upstream has reported, by OpenAI's names. Set it as soon as it arrives: the
    runner reads it also if the stream ends by an error or a cancellation."""
    alive: Callable[[], None] = _nothing
    """Call it when the upstream sends anything but deltas: it restarts the idle timeout of the
    job, and does not end the wait for the first delta."""


@dataclass(frozen=True, slots=True)
class Token:
    """A token of the upstream. ``gen`` differs for each login."""

    value: str
    gen: str

    def __repr__(self) -> str:
        return f"Token(gen={self.gen!r})"  # never the value: a repr ends in logs


Login = Callable[[], Awaitable[str]]
"""Log in at the upstream and return the token; raises ``JobError``."""


class TokenSource(Protocol):
    """The token of one account, shared by all that use the same source."""

    async def get(self) -> Token:
        """Return the token in use, after a login if there is none. Raises ``JobError``."""

    async def invalidate(self, token: Token) -> None:
        """Forget ``token``, unless a newer one has taken its place already."""


class TokenStore(Protocol):
    """Stores the tokens of all accounts."""

    def source(
        self, provider: str, account: str, login: Login, *, password: str = ""
    ) -> TokenSource:
        """Return the source for one account; ``login`` is called only if no token is stored.

        With ``password``, failed logins of another password do not count against
        this one. It is never sent on, only a slow digest of it. Make a source once for
        a process: it holds the token in use.
        """


@dataclass(frozen=True, slots=True)
class Services:
    """Services of the worker for its providers; each exists as long as the process."""

    http: "aiohttp.ClientSession"
    tokens: TokenStore
    settings: "Settings"
    environ: Mapping[str, str]


class Provider(Protocol):
    """One upstream. Built once for a process, in its event loop: ``Class(services)``.

    Everything here runs in that loop, for thousands of jobs at once: no call may block, and
    nothing of one job may be kept in the provider. :class:`OptionalParts` lists what a class may
    offer in addition.
    """

    def __init__(self, services: Services) -> None:
        """Raise ``SettingsError``, in one line, if the environment lacks what the provider needs.

        No I/O: a worker must start while the upstream is away. ``services`` exists as long as
        the process; the provider closes none of it.
        """

    def check(self, job: PromptJob) -> None:
        """Raise ``JobError(INVALID_JOB)`` for a job that the upstream would not take.

        The message names the field or option at fault, never its value. The method raises nothing
        else, does no I/O and takes well under a millisecond: it runs before the job is claimed.
        If it accepts a job, :meth:`stream` must not refuse that job as ``invalid_job``.
        """

    def stream(self, job: PromptJob, report: Report) -> AsyncGenerator[Deltas, None]:
        """Yield the reply of one attempt as it arrives: each list holds the deltas of one read.

        - A text delta is a ``str``; reasoning and tool calls have the types of ``deltas``. Their
          order in the lists is that of their events.
        - No list is empty, no text or reasoning is an empty string, each encodes as UTF-8; the
          texts of all lists, joined, are the reply.
        - The end of the generator is the end of the reply. A reply that was cut is an error:
          ``JobError(UPSTREAM_ERROR, retryable=True)``.
        - ``job`` is the job as this provider is to run it: of a fallback, with the provider, model
          and options of that fallback.
        - It raises ``JobError`` and nothing else. ``retryable`` means that another attempt may
          succeed; whether one follows is the runner's decision, so it does not retry by itself
          once a delta has been yielded. No message holds a secret or the prompt.
        - A refusal with status 429 is ``JobError(RATE_LIMITED, upstream_status=429)``; its
          ``retry_after_s`` is how long no worker sends jobs to that model.
        - It calls ``report.alive()`` for data of the upstream that is no delta. It puts usage and
          finish reason into ``report`` before the generator ends.
        - Every call makes a request of its own, also for the same job.
        - ``aclose()`` and a cancellation close the connection to the upstream within a second, at
          any point, and raise nothing but ``CancelledError``. Timeouts are the runner's:
          it cancels.
        - While the runner does not ask for more, it reads only a bounded amount ahead.
        """


class OptionalParts(Protocol):
    """Optional parts of a provider's class: each part alone, and none of them is required.

    The class methods are called before a provider is built, without an event loop. They do no I/O.
    """

    default_model: str
    """The model of jobs that name none (the operator's WORKER_DEFAULT_MODEL takes precedence)."""

    @classmethod
    def is_configured(cls, settings: "Settings", environ: Mapping[str, str]) -> bool:
        """Return whether the environment has what the provider needs, its login for example.

        Called for built-in providers alone. A worker builds those that are configured when it
        starts, so that wrong settings end the start instead of the first job.
        """

    @classmethod
    def further(
        cls, settings: "Settings", environ: Mapping[str, str]
    ) -> "Mapping[str, type[Provider]]":
        """Return further providers that the environment names, each with its class.

        Called for built-in providers alone. Raises ``SettingsError``. The name of an installed
        provider cannot be used again.
        """

    @classmethod
    def check_settings(cls, settings: "Settings", environ: Mapping[str, str]) -> None:
        """Raise ``SettingsError``, in one line without secrets, for settings that cannot work.

        Called at the start of a worker and by ``berlin doctor``.
        """

    @classmethod
    def secrets(cls, settings: "Settings", environ: Mapping[str, str]) -> Iterable[str]:
        """Return the secrets of the environment that no line of the log may show."""

    @classmethod
    def server_url(cls, settings: "Settings", environ: Mapping[str, str]) -> str | None:
        """Return the URL of the upstream, without a login: traces and ``berlin doctor`` name it."""

    async def check_login(self) -> None:
        """Log in at the upstream, for ``berlin doctor``; raises ``JobError``.

        A note of the error (``add_note``) is shown as advice.
        """

    async def models(self) -> list[str]:
        """Return the names of the models that the upstream offers, for ``berlin models``.

        Raises ``JobError``.
        """
