"""The two calls of the Berlin protocol over aiohttp: login and completion.

A completion that is answered 401 before its first chunk is replayed once with a
new token. A 403 is not: the account may not do this, and no login changes that. If
every job with a 403 logged in again, a ban would become a flood of logins.
"""

import asyncio
import contextlib
import random
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

import aiohttp
from yarl import URL

from berlin_schemas import ErrorCode
from berlin_worker.errors import JobError, SettingsError
from berlin_worker.providers import http
from berlin_worker.providers.base import Report, Token, TokenSource, TokenStore
from berlin_worker.providers.berlin import protocol as wire
from berlin_worker.providers.body import (
    ERROR_BODY_BYTES,
    ERROR_BODY_TIMEOUT_S,
    Body,
    charset_of,
    read_error_body,
    text_of,
)
from berlin_worker.providers.codings import ACCEPT_ENCODING
from berlin_worker.providers.limits import Limits
from berlin_worker.providers.ndjson import ReplyDecoder, bad_chunk
from berlin_worker.providers.status import AUTH_STATUSES, is_success, status_error
from berlin_worker.settings import Settings
from berlin_worker.telemetry.redact import hide, words

_LOGIN_ANSWER_BYTES: Final = 65536
_SHOWN_CHARS: Final = 200
_MORE_WORDS_S: Final = 0.5
"""Seconds to wait for the rest of an error of several lines, a page or formatted JSON."""
# Some services answer wrong credentials with 400.
_LOGIN_REFUSALS: Final = AUTH_STATUSES | {HTTPStatus.BAD_REQUEST}


@dataclass(frozen=True, slots=True)
class Prompt:
    """The request of one completion; ``options`` are merged over the defaults."""

    text: str
    model: str
    options: Mapping[str, Any]

    def body(self) -> bytes:
        """Return the body of one call, with a new message ID."""
        # Not uuid4: its system call would let another thread run.
        message_id = uuid.UUID(int=random.getrandbits(128), version=4)
        return wire.completion_body(self.text, self.model, self.options, str(message_id))


class Account:
    """One account at one Berlin server, over a session that the caller owns."""

    def __init__(self, session: aiohttp.ClientSession, settings: Settings) -> None:
        """Raise ``SettingsError`` for missing credentials or an unusable address."""
        self._name, self._password = _credentials(settings)
        self.url = _base_url(settings)
        self._login_url = self.url.joinpath(wire.LOGIN_PATH)
        self._completion_url = self.url.joinpath(wire.COMPLETION_PATH)
        self._session = session
        self._settings = settings
        self._headers = wire.request_headers(self.url, ACCEPT_ENCODING)

    def source(
        self, tokens: TokenStore, proxy: str | None, *, provider: str = "berlin"
    ) -> TokenSource:
        """Return the source of the account's token; a login goes through ``proxy``."""
        return tokens.source(
            provider, self._name, lambda: self.login(proxy), password=self._password
        )

    async def login(self, proxy: str | None) -> str:
        """Log in and return the token; raises ``JobError``."""
        body = wire.login_body(self._name, self._password)
        deadline = time.monotonic() + self._settings.login_timeout_s
        try:
            async with asyncio.timeout(self._settings.login_timeout_s):
                response = await self._post(self._login_url, body, {}, proxy, _LOGIN_REFUSALS)
                if is_success(response.status):
                    with contextlib.closing(response):
                        answer = await http.read_whole(response, _LOGIN_ANSWER_BYTES)
                    return wire.read_token(answer)
        except TimeoutError:
            message = "the login at the upstream took too long (WORKER_LOGIN_TIMEOUT_S)"
            raise JobError(ErrorCode.UPSTREAM_TIMEOUT, message, retryable=True) from None
        # Outside of the timeout: a body that does not arrive must not hide the status.
        with contextlib.closing(response):
            left_s = max(0.0, deadline - time.monotonic())
            raise await self._refusal(response, proxy, None, _LOGIN_REFUSALS, timeout_s=left_s)

    async def stream(
        self,
        prompt: Prompt,
        tokens: TokenSource,
        proxy: str | None,
        report: Report,
        *,
        raw_errors: bool = False,
    ) -> AsyncGenerator[list[str], None]:
        """Yield the deltas of one completion, in a list for each read. Raises ``JobError``.

        The error of a bad line shows 200 characters of what the upstream sent there, without
        markup, secrets and prompt. With ``raw_errors`` it shows the whole line without secrets.
        Closing the generator closes the connection.
        """
        response, body, quote = await self._begin(prompt, tokens, proxy, report, raw_errors)
        reply, read = ReplyDecoder(Limits.of(self._settings), quote), body.read
        # Chunks are yielded outside of every `except`: closing must raise nothing.
        try:
            while True:
                broken = None
                try:
                    if not (data := await read()):
                        body.finish()
                except Exception as error:  # noqa: BLE001  # the edge, as in _post
                    data, broken = http.broken_off(body, error)
                deltas, bad = reply.feed(data) if data or broken else reply.finish()
                failure = bad or broken
                if failure:
                    if reply.bad and not raw_errors:
                        shown = reply.bad if broken else await _with_more(reply.bad, body)
                        failure = bad_chunk(quote(shown))
                    response.close()  # before the yield: the reader may take its time
                if deltas:
                    yield deltas
                elif data:
                    report.alive()
                if failure:
                    raise failure
                if not data:
                    return
        finally:
            body.forget()
            response.close()

    async def _begin(
        self,
        prompt: Prompt,
        tokens: TokenSource,
        proxy: str | None,
        report: Report,
        raw_errors: bool,
    ) -> tuple[aiohttp.ClientResponse, Body, Callable[[bytes], str]]:
        """Return the response to a completion, its body, and a function that quotes a bad line."""
        response, token = await self._open(prompt, tokens, proxy, report)

        def quote(line: bytes) -> str:
            secrets = self._secrets(proxy, token)
            if raw_errors:
                return hide(line.decode(errors="replace"), secrets)
            return words(text_of(line, charset_of(response)), secrets, prompt.text, _SHOWN_CHARS)

        try:
            if is_success(response.status):
                return response, Body(response, self._settings.max_text_bytes), quote
            refusal = await self._refusal(response, proxy, token, prompt=prompt.text)
        except BaseException:
            response.close()
            raise
        response.close()
        raise refusal

    async def _open(
        self, prompt: Prompt, tokens: TokenSource, proxy: str | None, report: Report
    ) -> tuple[aiohttp.ClientResponse, Token]:
        """Return the response to a completion, and the token of the request."""
        token = await _timed(tokens.get, report)
        try:
            response = await self._complete(prompt, token, proxy)
        except JobError as error:
            if error.upstream_status != HTTPStatus.UNAUTHORIZED:
                raise
        else:
            if response.status != HTTPStatus.UNAUTHORIZED:
                return response, token
            response.close()
        await tokens.invalidate(token)
        token = await _timed(tokens.get, report)
        return await self._complete(prompt, token, proxy), token

    async def _complete(
        self, prompt: Prompt, token: Token, proxy: str | None
    ) -> aiohttp.ClientResponse:
        headers = {"token": token.value}
        return await self._post(self._completion_url, prompt.body(), headers, proxy)

    async def _post(
        self,
        url: URL,
        body: bytes,
        headers: Mapping[str, str],
        proxy: str | None,
        auth_statuses: frozenset[int] = AUTH_STATUSES,
    ) -> aiohttp.ClientResponse:
        try:
            return await self._session.post(
                url,
                data=body,
                headers={**self._headers, **headers},
                auto_decompress=False,  # providers.codings decodes, and detects a cut body
                proxy=proxy or None,
                allow_redirects=False,
            )
        except Exception as error:  # noqa: BLE001  # the edge: nothing but contract errors goes up
            raise http.transport_error(error, auth_statuses=auth_statuses) from None

    async def _refusal(
        self,
        response: aiohttp.ClientResponse,
        proxy: str | None,
        token: Token | None,
        auth_statuses: frozenset[int] = AUTH_STATUSES,
        *,
        prompt: str = "",
        timeout_s: float = ERROR_BODY_TIMEOUT_S,
    ) -> JobError:
        body = await read_error_body(response, timeout_s)
        detail = words(body, self._secrets(proxy, token), prompt, _SHOWN_CHARS)
        return status_error(
            response.status,
            detail,
            response.headers.get("Retry-After"),
            auth_statuses=auth_statuses,
        )

    def _secrets(self, proxy: str | None, token: Token | None) -> list[str]:
        secrets = [self._name, self._password]
        if token is not None:
            secrets.append(token.value)
        if proxy and (password := URL(proxy).password):
            secrets.append(password)
        return secrets


def check_account(settings: Settings) -> None:
    """Raise ``SettingsError`` if credentials are missing or the address cannot be used."""
    _credentials(settings)
    _base_url(settings)


def _credentials(settings: Settings) -> tuple[str, str]:
    password = settings.berlin_password
    if not settings.berlin_account or password is None or not password.get_secret_value():
        raise SettingsError("set BERLIN_ACCOUNT and BERLIN_PASSWORD: berlin logs in with them")
    return settings.berlin_account, password.get_secret_value()


def _base_url(settings: Settings) -> URL:
    message = "BERLIN_URL must be of the form https://host"
    try:
        url = URL(settings.berlin_url)
    except ValueError:
        raise SettingsError(message) from None
    if url.scheme not in {"http", "https"} or not url.host or url.user or url.query_string:
        raise SettingsError(message)
    return url


async def _timed(get: Callable[[], Awaitable[Token]], report: Report) -> Token:
    started = time.monotonic()
    try:
        return await get()
    finally:
        report.login_s += time.monotonic() - started


async def _with_more(line: bytes, body: Body) -> bytes:
    """Return ``line`` and the bytes that follow soon, 16 KiB at most: the words of one error."""
    data = bytearray(line)
    with contextlib.suppress(Exception):  # the bytes so far are enough
        async with asyncio.timeout(_MORE_WORDS_S):
            while len(data) < ERROR_BODY_BYTES and (piece := await body.read()):
                data += piece
    return bytes(data[:ERROR_BODY_BYTES])
