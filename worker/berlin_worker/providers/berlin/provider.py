"""Berlin: the provider of the worker, and a class for use without a worker.

Both make the same calls (:mod:`berlin_worker.providers.berlin.api`). The service that
first had this protocol has been gone since 2023. Address and credentials are
configuration, and any server with the protocol can be used.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from berlin_schemas import ErrorCode, Message, PromptJob
from berlin_worker.errors import JobError, SettingsError
from berlin_worker.providers import http
from berlin_worker.providers.base import Provider, Report, Services, TokenSource
from berlin_worker.providers.berlin import protocol as wire
from berlin_worker.providers.berlin.api import Account, Prompt, check_account
from berlin_worker.providers.tokens.local import LocalTokens
from berlin_worker.settings import Settings

# The default idle timeout of a job (PromptJob).
_STANDALONE_READ_TIMEOUT_S: Final = 60.0


class BerlinProvider(Provider):
    """The provider ``berlin``."""

    default_model = wire.DEFAULT_MODEL

    @classmethod
    def is_configured(cls, settings: Settings, _: Mapping[str, str]) -> bool:
        """Return whether there is an account."""
        return bool(settings.berlin_account)

    @classmethod
    def check_settings(cls, settings: Settings, _: Mapping[str, str]) -> None:
        """Raise ``SettingsError`` if credentials, address or proxy cannot be used."""
        check_account(settings)
        _default_proxy(settings)

    @classmethod
    def secrets(cls, settings: Settings, _: Mapping[str, str]) -> list[str]:
        """Return the passwords of the account and of the proxy."""
        password = settings.berlin_password
        proxy = urlsplit(settings.berlin_proxy or "").password
        return [password.get_secret_value() if password else "", unquote(proxy or "")]

    @classmethod
    def server_url(cls, settings: Settings, _: Mapping[str, str]) -> str:
        """Return BERLIN_URL."""
        return settings.berlin_url

    def __init__(self, services: Services) -> None:
        """Raise ``SettingsError`` as :meth:`check_settings` does."""
        self._tokens = services.tokens
        self._proxy = _default_proxy(services.settings)
        self._account = Account(services.http, services.settings)
        self._sources = {self._proxy: self._account.source(self._tokens, self._proxy)}

    def check(self, job: PromptJob) -> None:
        """Refuse unknown options, wrong types, parts that are no text, and an unusable proxy."""
        wire.check_options(job.options)
        if not all(isinstance(message.content, str) for message in job.messages):
            wire.format_prompt(job.messages)
        http.check_proxy(job.proxy)

    def stream(self, job: PromptJob, report: Report) -> AsyncGenerator[list[str], None]:
        """Stream one completion; login and call go through one proxy."""
        proxy = job.proxy or self._proxy
        prompt = Prompt(wire.format_prompt(job.messages), job.model, job.options)
        return self._account.stream(prompt, self._source(proxy), proxy, report)

    async def check_login(self) -> None:
        """Log in once, through the configured proxy; raises ``JobError`` with advice as a note."""
        try:
            await self._account.login(self._proxy)
        except JobError as error:
            error.add_note(
                {
                    ErrorCode.AUTH_FAILED: "look at BERLIN_ACCOUNT and BERLIN_PASSWORD",
                    ErrorCode.RATE_LIMITED: "wait; the account logs in too often",
                }.get(error.code, "look at BERLIN_URL, BERLIN_PROXY and the network")
            )
            raise

    def _source(self, proxy: str | None) -> TokenSource:
        # One for each proxy that the operator allows. All share the token; each logs in
        # through the proxy of its completions.
        if proxy not in self._sources:
            self._sources[proxy] = self._account.source(self._tokens, proxy)
        return self._sources[proxy]


class Berlin:
    """Berlin without a worker: no queue, no Redis, the settings from the environment."""

    _tokens = LocalTokens()

    @classmethod
    async def create_async_generator(
        cls,
        model: str,
        messages: Sequence[Message | Mapping[str, Any]],
        proxy: str | None = None,
        **kwargs: Any,
    ) -> AsyncGenerator[str, None]:
        """Stream the reply to ``messages``, delta by delta.

        ``messages`` are objects with ``role`` and ``content``; ``kwargs`` are merged last
        into the options of the call. The first call of a process logs in, later ones
        use its token. Closing the generator closes the connection.

        Raises ``SettingsError`` without ``BERLIN_ACCOUNT`` and ``BERLIN_PASSWORD``, and
        ``JobError``, a ``RuntimeError``, for each failure of the upstream. The message
        about a bad chunk has the line unchanged.
        """
        settings = Settings.from_env()
        prompt = Prompt(wire.format_prompt(messages), model, kwargs)
        http.check_proxy(proxy)
        proxy = proxy or _default_proxy(settings)
        async with http.open_session(
            settings, read_timeout_s=_STANDALONE_READ_TIMEOUT_S
        ) as session:
            account = Account(session, settings)
            # Another server is another upstream, even with the same account.
            tokens = account.source(cls._tokens, proxy, provider=f"berlin {account.url}")
            stream = account.stream(prompt, tokens, proxy, Report(), raw_errors=True)
            async with aclosing(stream):
                async for deltas in stream:
                    for delta in deltas:
                        yield delta


def _default_proxy(settings: Settings) -> str | None:
    proxy = settings.berlin_proxy
    if proxy and (problem := http.proxy_problem(proxy)):
        raise SettingsError(f"BERLIN_PROXY: {problem}")
    return proxy
