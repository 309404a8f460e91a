"""The provider ``openai``, and one for each further endpoint: chat completions over aiohttp.

A request asks for the usage (``stream_options``). If a server refuses it because of this option, it
is sent again without the option. Once that succeeds, the worker sends no such option any more.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, ClassVar, Final

import aiohttp
from yarl import URL

from berlin_schemas import ErrorCode, PromptJob
from berlin_worker.errors import JobError
from berlin_worker.providers import http
from berlin_worker.providers.base import Provider, Report, Services
from berlin_worker.providers.body import (
    ERROR_BODY_TIMEOUT_S,
    Body,
    drain,
    read_error_body,
)
from berlin_worker.providers.deltas import Delta
from berlin_worker.providers.limits import Limits
from berlin_worker.providers.openai import endpoints, errors, models
from berlin_worker.providers.openai.redaction import Show, shower
from berlin_worker.providers.openai.reply import AnswerDecoder
from berlin_worker.providers.response import BrokenResponse
from berlin_worker.providers.status import is_success
from berlin_worker.settings import Settings

_OURS: Final = ("model", "messages", "stream", "stream_options")
# No escapes beyond ASCII: they would make a body of other scripts two or three times as long.
_dumps: Final = json.JSONEncoder(allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode
_AFTER_REASON_S: Final = 5.0
"""Seconds to wait for usage and ``[DONE]`` after a finish reason: some servers send neither."""
_DRAIN_S: Final = 0.2
_MODELS_BYTES: Final = 4 * 1024 * 1024
_MODELS_TIMEOUT_S: Final = 15.0


class OpenAIProvider(Provider):
    """The endpoint of OPENAI_BASE_URL; each of WORKER_ENDPOINTS is a subclass."""

    endpoint_name: ClassVar[str] = ""

    @classmethod
    def further(cls, settings: Settings, _: Mapping[str, str]) -> Mapping[str, type[Provider]]:
        """Return a provider for each of WORKER_ENDPOINTS, by its name."""
        return {
            name: type(cls.__name__, (cls,), {"endpoint_name": name})
            for name in endpoints.names(settings)
        }

    @classmethod
    def is_configured(cls, settings: Settings, environ: Mapping[str, str]) -> bool:
        """Return whether there is a key or a base URL."""
        return bool(cls.endpoint_name) or endpoints.is_configured(settings, environ)

    @classmethod
    def check_settings(cls, settings: Settings, environ: Mapping[str, str]) -> None:
        """Raise ``SettingsError`` for a key that no header can hold, or an unusable proxy."""
        endpoints.find(cls.endpoint_name, settings, environ)

    @classmethod
    def secrets(cls, settings: Settings, environ: Mapping[str, str]) -> list[str]:
        """Return the key, and the password of the proxy."""
        return endpoints.find(cls.endpoint_name, settings, environ).secrets

    @classmethod
    def server_url(cls, settings: Settings, environ: Mapping[str, str]) -> str:
        """Return the base URL."""
        return endpoints.find(cls.endpoint_name, settings, environ).url

    def __init__(self, services: Services) -> None:
        """Raise ``SettingsError`` as :meth:`check_settings` does."""
        endpoint = endpoints.find(self.endpoint_name, services.settings, services.environ)
        self.default_model = endpoint.model
        self._secrets, self._proxy = endpoint.secrets, endpoint.proxy
        self._completions = URL(f"{endpoint.url}/chat/completions")
        self._models = URL(f"{endpoint.url}/models")
        self._session = services.http
        self._limits = Limits.of(services.settings)
        self._takes_stream_options = True
        # Compression would delay a stream to save a few bytes.
        self._headers = {"Accept-Encoding": "identity", "User-Agent": "berlin-worker"}
        if endpoint.key:
            self._headers["Authorization"] = f"Bearer {endpoint.key}"

    def check(self, job: PromptJob) -> None:
        """Refuse options that the worker sets itself, and a proxy that is no HTTP proxy."""
        for name in _OURS:
            if name in job.options:
                message = f"the option {name} is set by the worker: remove it"
                raise JobError(ErrorCode.INVALID_JOB, message)
        count = job.options.get("n")
        if count is not None and (isinstance(count, bool) or count != 1):
            raise JobError(ErrorCode.INVALID_JOB, "the option n must be 1: a job has one answer")
        http.check_proxy(job.proxy)

    async def stream(self, job: PromptJob, report: Report) -> AsyncGenerator[list[Delta], None]:
        """Stream one completion."""
        messages = [message.model_dump(exclude_unset=True) for message in job.messages]
        proxy = job.proxy or self._proxy
        show = self._shower(lambda: messages, proxy)
        request = _body(job, messages)
        # Some servers refuse the option for the usage in the stream's first event.
        may_refuse = self._takes_stream_options
        response, body = await self._begin(request, proxy, show, asks_usage=may_refuse)
        answer = AnswerDecoder(self._limits, show)
        # Deltas are yielded outside of every `except`: closing must raise nothing.
        try:
            while True:
                data, broken = await _read_next(body, answer)
                deltas, failure = answer.feed(data) if data or broken else answer.finish()
                if not answer.is_done:
                    failure = failure or broken
                _put(report, answer)
                if failure:
                    response.close()  # before the yield: the reader may take its time
                    if may_refuse and not deltas and errors.is_for_usage(failure):
                        may_refuse = False
                        body.forget()
                        response, body = await self._begin(request, proxy, show, asks_usage=False)
                        answer = AnswerDecoder(self._limits, show)
                        continue
                if deltas:
                    may_refuse = False
                    yield deltas
                elif data:
                    report.alive()
                if failure:
                    raise failure
                if answer.is_done or not data:
                    await drain(body, _DRAIN_S)
                    return
        finally:
            body.forget()
            response.close()

    async def models(self) -> list[str]:
        """Return the names of the server's models, sorted; raises ``JobError``."""
        show = self._shower(list, self._proxy)
        try:
            async with asyncio.timeout(_MODELS_TIMEOUT_S):
                response = await self._request("GET", self._models, None, self._proxy)
                try:
                    await self._check_status(response, show)
                    data = await http.read_whole(response, _MODELS_BYTES)
                finally:
                    response.close()
        except TimeoutError:
            message = "the list of models took too long"
            raise JobError(ErrorCode.UPSTREAM_TIMEOUT, message, retryable=True) from None
        return sorted(models.names(data))

    async def check_login(self) -> None:
        """Ask for the models once; raises ``JobError`` with advice as a note."""
        try:
            await self.models()
        except JobError as error:
            if error.upstream_status in {HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED}:
                return  # a server without a list: nothing is wrong with the key
            error.add_note(
                "look at the key of the endpoint"
                if error.code is ErrorCode.AUTH_FAILED
                else "look at the base URL of the endpoint, and the network"
            )
            raise

    async def _begin(
        self, request: dict[str, Any], proxy: str, show: Show, *, asks_usage: bool
    ) -> tuple[aiohttp.ClientResponse, Body]:
        response = await self._open(request, proxy, show, asks_usage=asks_usage)
        try:
            return response, Body(response, self._limits.max_text_bytes)
        except BaseException:
            response.close()
            raise

    async def _open(
        self, request: dict[str, Any], proxy: str, show: Show, *, asks_usage: bool
    ) -> aiohttp.ClientResponse:
        """Return the response with a success status; raises ``JobError``."""
        if asks_usage:
            asking = {**request, "stream_options": {"include_usage": True}}
            response = await self._request("POST", self._completions, asking, proxy)
            refusal = await self._refusal(response, show)
            if refusal is None:
                return response
            error, text = refusal
            if not errors.names_stream_options(response.status, text):
                raise error
        response = await self._request("POST", self._completions, request, proxy)
        await self._check_status(response, show)
        self._takes_stream_options = False
        return response

    async def _check_status(self, response: aiohttp.ClientResponse, show: Show) -> None:
        if refusal := await self._refusal(response, show):
            raise refusal[0]

    async def _refusal(
        self, response: aiohttp.ClientResponse, show: Show
    ) -> tuple[JobError, str] | None:
        """Return the error of an error status and its body; the response is closed then."""
        if is_success(response.status):
            return None
        try:
            text = await read_error_body(response, ERROR_BODY_TIMEOUT_S)
        finally:
            response.close()
        return errors.refusal(response.status, response.headers, text, show), text

    async def _request(
        self, method: str, url: URL, body: dict[str, Any] | None, proxy: str
    ) -> aiohttp.ClientResponse:
        headers = self._headers
        if body is not None:
            headers = {**headers, "Content-Type": "application/json", "Accept": "text/event-stream"}
        try:
            return await self._session.request(
                method,
                url,
                data=None if body is None else _dumps(body).encode(),
                headers=headers,
                auto_decompress=False,  # providers.codings decodes, and detects a cut body
                proxy=proxy or None,
                allow_redirects=False,
            )
        except BrokenResponse as error:
            status, retry_after = error.head
            known = {} if retry_after is None else {"retry-after": retry_after}
            raise errors.refusal(status, known, "", str) from None
        except Exception as error:  # noqa: BLE001  # the edge: nothing but contract errors goes up
            raise http.transport_error(error) from None

    def _shower(self, messages: Callable[[], Sequence[Mapping[str, Any]]], proxy: str) -> Show:
        password = URL(proxy).password if proxy else None
        return shower(messages, [*self._secrets, password] if password else self._secrets)


def _body(job: PromptJob, messages: list[dict[str, Any]]) -> dict[str, Any]:
    return {**job.options, "model": job.model, "messages": messages, "stream": True}


def _put(report: Report, answer: AnswerDecoder) -> None:
    if answer.mapper.usage is not None:
        report.usage = answer.mapper.usage
    if answer.mapper.finish_reason is not None:
        report.finish_reason = answer.mapper.finish_reason


async def _read_next(body: Body, answer: AnswerDecoder) -> tuple[bytes, JobError | None]:
    """Return the next bytes, ``b""`` at the end, and the error that comes after them."""
    try:
        if answer.mapper.finish_reason is None:
            data = await body.read()
        elif (soon := await _read_soon(body)) is None:
            return b"", None  # nothing has ended but the answer
        else:
            data = soon
        if not data:
            body.finish()
    except Exception as error:  # noqa: BLE001  # the edge: nothing but contract errors goes up
        return http.broken_off(body, error)
    return data, None


async def _read_soon(body: Body) -> bytes | None:
    """Return the next bytes; ``None`` if none come soon: the answer has its finish reason."""
    try:
        async with asyncio.timeout(_AFTER_REASON_S):
            return await body.read()
    except TimeoutError:
        return None
