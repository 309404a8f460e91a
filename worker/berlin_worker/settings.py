"""Settings, read once from the environment into one frozen value.

Each field names its variable; a test compares the table in deploy/README.md with this
class. The unit stands in the name.
"""

import os
from collections.abc import Mapping
from typing import Annotated, Final, Literal, Self

from pydantic import ConfigDict, Field, SecretStr, ValidationError

from berlin_worker.config import celery_variables, certificates, misspelling, urls
from berlin_worker.config.checked_urls import broker_address, redis_address
from berlin_worker.config.gateway_settings import GatewaySettings
from berlin_worker.config.recovery_times import LEASE_S, RENEW_INTERVAL_S
from berlin_worker.config.setting_fields import Count, Seconds, Short, Ttl
from berlin_worker.config.setting_fields import env as _env
from berlin_worker.errors import SettingsError

_TLS_SETTINGS: Final = {
    "ssl_ca_certs": "WORKER_REDIS_CA",
    "ssl_certfile": "WORKER_REDIS_CERT",
    "ssl_keyfile": "WORKER_REDIS_KEY",
}


class Settings(GatewaySettings):
    """The settings of the environment. Its ``repr`` shows no secret."""

    model_config = ConfigDict(frozen=True, validate_by_name=True, extra="ignore")

    redis_url: str = _env(
        "REDIS_URL",
        "redis://127.0.0.1:6379/0",
        "events, log, token, limits: `redis(s)://`, `unix://`, `redis(s)+sentinel://` or "
        "`redis(s)+cluster://`",
        private=True,
    )
    event_shards: str = _env(
        "WORKER_EVENT_SHARDS",
        "",
        "Redis URLs over which logs and records are spread, comma-separated, in the same order "
        "for all services; empty: `REDIS_URL` holds them",
        private=True,
    )
    broker_url: str = _env(
        "CELERY_BROKER_URL",
        "",
        "job queue: Redis, Sentinels or RabbitMQ; if not set, `REDIS_URL`, unless that is a "
        "cluster",
        private=True,
    )
    redis_ca: str | None = _env(
        "WORKER_REDIS_CA",
        None,
        "TLS to Redis, Sentinels and clusters: file of the authorities to trust (PEM)",
    )
    redis_cert: str | None = _env(
        "WORKER_REDIS_CERT", None, "file of the client's own certificate (PEM)"
    )
    redis_key: str | None = _env(
        "WORKER_REDIS_KEY", None, "file of its key, if the file of the certificate lacks it"
    )
    queue_type: Literal["classic", "quorum"] = _env(
        "WORKER_QUEUE_TYPE",
        "classic",
        "RabbitMQ: type of the queue, `classic` or `quorum`; the same for all who declare it",
    )
    berlin_url: str = _env("BERLIN_URL", "https://ai.berlin4h.top", "upstream base URL")
    berlin_account: str | None = _env("BERLIN_ACCOUNT", None, "login at the upstream", private=True)
    berlin_password: SecretStr | None = _env("BERLIN_PASSWORD", None, "its password", private=True)
    berlin_proxy: str | None = _env(
        "BERLIN_PROXY", None, "proxy for upstream traffic", private=True
    )

    providers: str = _env(
        "WORKER_PROVIDERS", "", "providers that this worker serves, comma-separated; empty: all"
    )
    default_provider: Annotated[str, Field(max_length=128)] = _env(
        "WORKER_DEFAULT_PROVIDER", "berlin", "provider of jobs that name none"
    )
    default_model: Annotated[str, Field(max_length=128)] = _env(
        "WORKER_DEFAULT_MODEL", "", "model of jobs that name none; empty: the provider's own"
    )
    max_attempts: Count = _env(
        "WORKER_MAX_ATTEMPTS", 3, "attempts of a job, retries and restarts included"
    )
    retry_base_s: Seconds = _env(
        "WORKER_RETRY_BASE_S", 0.5, "first back-off between attempts; doubles, with jitter"
    )
    retry_max_s: Seconds = _env(
        "WORKER_RETRY_MAX_S",
        30.0,
        "longest back-off; a longer `Retry-After` is waited all the same",
    )
    lease_s: Short = _env("WORKER_LEASE_S", LEASE_S, "a worker silent for longer counts as dead")
    renew_interval_s: Short = _env(
        "WORKER_RENEW_INTERVAL_S",
        RENEW_INTERVAL_S,
        "how often a worker renews the leases of its jobs",
    )
    reap_interval_s: Short = _env(
        "WORKER_REAP_INTERVAL_S", 1.0, "how often expired leases are looked for"
    )
    log_ttl_s: Ttl = _env(
        "WORKER_LOG_TTL_S", 3600, "how long the log and record of a finished job stay"
    )
    queue_ttl_s: Ttl = _env(
        "WORKER_QUEUE_TTL_S", 604800, "how long the record of a job that waits stays"
    )
    dead_letters_max: Count = _env(
        "WORKER_DEAD_LETTERS_MAX", 10000, "length to which `worker:dead` is trimmed"
    )
    drain_timeout_s: Seconds = _env(
        "WORKER_DRAIN_TIMEOUT_S", 25.0, "at shutdown, how long running jobs may go on"
    )
    journal_buffer_bytes: Count = _env(
        "WORKER_JOURNAL_BUFFER_BYTES",
        16 * 1024 * 1024,
        "events of the process that wait for Redis; beyond it the upstream is read no further",
    )
    proxy_allowlist: str = _env(
        "WORKER_PROXY_ALLOWLIST",
        "",
        "proxies that a job may name, comma-separated",
        private=True,
    )
    connect_timeout_s: Seconds = _env(
        "WORKER_CONNECT_TIMEOUT_S", 10.0, "connecting to the upstream"
    )
    login_timeout_s: Seconds = _env("WORKER_LOGIN_TIMEOUT_S", 15.0, "one login at the upstream")
    login_backoff_max_s: Seconds = _env(
        "WORKER_LOGIN_BACKOFF_MAX_S", 60.0, "longest back-off, shared by all, after failed logins"
    )
    token_ttl_s: Ttl = _env(
        "WORKER_TOKEN_TTL_S", 86400, "how long a token is used before a new login"
    )
    token_keys: SecretStr | None = _env(
        "WORKER_TOKEN_KEYS",
        None,
        "Fernet keys, comma-separated, newest first: the token is encrypted in Redis",
        private=True,
    )
    http_port: Annotated[int, Field(ge=0, le=65535)] | None = _env(
        "WORKER_HTTP_PORT",
        None,
        "serves `/metrics`, `/livez` and `/readyz`; `0`: any free port, which the log names",
    )
    http_host: str = _env("WORKER_HTTP_HOST", "0.0.0.0", "the address it listens on")  # noqa: S104  # probes and Prometheus come from other machines
    log_format: Literal["auto", "json", "console"] = _env(
        "WORKER_LOG_FORMAT",
        "auto",
        "`json`: one object a line; `console`: for people; `auto`: `console` at a terminal",
    )
    metrics_models: str = _env(
        "WORKER_METRICS_MODELS",
        "",
        "models that metrics name, comma-separated, all others are `other`; empty: the first 16 "
        "that answer",
    )
    max_line_bytes: Count = _env(
        "WORKER_MAX_LINE_BYTES", 1024 * 1024, "longest line taken from the upstream"
    )
    max_chunks: Count = _env("WORKER_MAX_CHUNKS", 100_000, "most chunks of one attempt")
    max_text_bytes: Count = _env(
        "WORKER_MAX_TEXT_BYTES", 16 * 1024 * 1024, "most bytes read in one attempt"
    )

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> Self:
        """Read ``environ``, and the certificates that its URLs name.

        Raises :class:`SettingsError`, which repeats no secret.
        """
        # An empty variable counts as not set: that is how compose files pass one on.
        given = {name: value for name, value in environ.items() if value != ""}
        settings: Self | None
        try:
            settings = cls.model_validate(given, by_alias=True, by_name=False)
        except ValidationError as error:
            message = "; ".join(
                f"{e['loc'][0]}: {e['msg']}" for e in error.errors(include_url=False)
            )
            settings = None
        if settings is None:  # raised here, so that no chained error holds the values
            raise SettingsError(message) from None
        if settings.lease_s <= settings.renew_interval_s:
            raise SettingsError("WORKER_LEASE_S must be longer than WORKER_RENEW_INTERVAL_S")
        settings = settings.model_copy(update=_addresses(settings))
        if len({_database(url) for url in settings.shards}) < len(settings.shards):
            raise SettingsError("WORKER_EVENT_SHARDS names one database twice")
        tls = settings.redis_tls
        for name in celery_variables.BROKERS:
            if name in given and broker_address(given[name], name, tls) != settings.broker_url:
                raise SettingsError(celery_variables.another_broker(name))
        return settings

    @classmethod
    def misspelt(cls, environ: Mapping[str, str] = os.environ) -> list[str]:
        """Return a warning for each variable without effect that may be meant for us; no values."""
        known = {str(field.validation_alias) for field in cls.model_fields.values()}
        return [*celery_variables.warnings(environ), *misspelling.warnings(environ, known)]

    @property
    def redis_tls(self) -> dict[str, str]:
        """The options of TLS, by redis-py's names, for each Redis URL that lacks them."""
        paths = (self.redis_ca, self.redis_cert, self.redis_key)
        return {option: path for option, path in zip(_TLS_SETTINGS, paths, strict=True) if path}

    @property
    def proxies(self) -> frozenset[str]:
        """The proxies that a job may name."""
        return _names(self.proxy_allowlist)

    @property
    def shards(self) -> tuple[str, ...]:
        """The event stores, in their order: ``berlin_schemas.shards`` picks a job's."""
        listed = tuple(filter(None, (url.strip() for url in self.event_shards.split(","))))
        return listed or (self.redis_url,)

    @property
    def sharded(self) -> bool:
        """Whether other databases than ``REDIS_URL`` hold events."""
        return self.shards != (self.redis_url,)

    @property
    def metrics_named_models(self) -> frozenset[str]:
        """The models that metrics name; empty: the first that answer."""
        return _names(self.metrics_models)

    @property
    def served_providers(self) -> frozenset[str]:
        """The providers that this worker serves; empty: every one that is installed."""
        return _names(self.providers)


def _names(listed: str) -> frozenset[str]:
    return frozenset(filter(None, (name.strip() for name in listed.split(","))))


def _addresses(settings: Settings) -> dict[str, str]:
    """Return every Redis and the broker as :mod:`berlin_worker.config.urls` spells them."""
    tls = settings.redis_tls
    certificates.check(tls, "", labels=_TLS_SETTINGS)
    redis_url = redis_address(settings.redis_url, "REDIS_URL", tls)
    listed = settings.shards if settings.event_shards.strip(", ") else ()
    shards = (
        redis_address(url, f"WORKER_EVENT_SHARDS ({place} of {len(listed)})", tls)
        for place, url in enumerate(listed, start=1)
    )
    urls.http(settings.berlin_url, "BERLIN_URL", login=False)
    if settings.berlin_proxy:
        urls.http(settings.berlin_proxy, "BERLIN_PROXY", login=True)
    for proxy in settings.proxies:
        urls.http(proxy, "WORKER_PROXY_ALLOWLIST", login=True)
    found = {
        "redis_url": redis_url,
        "event_shards": ",".join(shards),
        "broker_url": broker_address(settings.broker_url, "CELERY_BROKER_URL", tls)
        if settings.broker_url
        else urls.broker_of(redis_url),
    }
    if tls and not any(url.startswith("rediss") for url in found.values()):
        name = _TLS_SETTINGS[next(iter(tls))]
        raise SettingsError(f"{name} is set, but no URL asks for TLS: begin REDIS_URL with rediss")
    return found


def _database(url: str) -> tuple[object, ...]:
    """Return what identifies the database of a Redis URL."""
    parsed = urls.parse_redis(url, "WORKER_EVENT_SHARDS")
    host, colon, port = parsed.place.rpartition(":")
    place = (host.lower(), int(port)) if colon and port.isdigit() else (parsed.place.lower(), 6379)
    return (parsed.place if parsed.scheme == "unix" else place), parsed.db or 0


def table() -> str:
    """Return all settings as a Markdown table (``python -m berlin_worker.settings`` prints it)."""
    # The fields of a base class come first in model_fields; the reader wants REDIS_URL first.
    fields = sorted(
        Settings.model_fields.items(), key=lambda item: item[0] not in Settings.__annotations__
    )
    rows = (
        f"| `{field.validation_alias}` | {field.description} | {_shown(field.default)} |"
        for _, field in fields
    )
    return "\n".join(["| variable | meaning | default |", "| --- | --- | --- |", *rows])


def _shown(default: object) -> str:
    if default in {None, ""}:
        return "none"
    return f"`{default:g}`" if isinstance(default, float) else f"`{default}`"


if __name__ == "__main__":
    print(table())  # noqa: T201  # printing it is the purpose
