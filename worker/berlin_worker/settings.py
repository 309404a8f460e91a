"""Settings, read once from the environment into one frozen value.

Each field names its variable; a test compares the table in deploy/README.md with this
class. The unit stands in the name.
"""

import os
from collections.abc import Mapping
from typing import Annotated, Final, Literal, Self

from pydantic import ConfigDict, Field, SecretStr, ValidationError

from berlin_schemas.jobs import LARGEST_JOB_BYTES, MAX_JOB_BYTES
from berlin_worker.config import celery_variables, certificates, endpoints, misspelling, urls
from berlin_worker.config.checked_urls import broker_address, queue_address, redis_address
from berlin_worker.config.gateway_settings import GatewaySettings
from berlin_worker.config.recovery_times import LEASE_S, RENEW_INTERVAL_S
from berlin_worker.config.setting_fields import Count, Name, Seconds, Short, Ttl
from berlin_worker.config.setting_fields import env as _env
from berlin_worker.config.setting_fields import given as given_of
from berlin_worker.errors import SettingsError

_NO_SHARDS: Final = (
    "WORKER_EVENT_SHARDS is not supported any more: unset it; to spread jobs over several servers "
    "run a Redis Cluster and set REDIS_URL=redis+cluster://host:port,host:port"
)
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
    openai_url: str = _env(
        "OPENAI_BASE_URL", "https://api.openai.com/v1", "base URL of the provider `openai`"
    )
    openai_api_key: SecretStr | None = _env("OPENAI_API_KEY", None, "its key", private=True)
    openai_model: Name = _env("OPENAI_MODEL", "", "its model for jobs that name none")
    openai_proxy: str | None = _env("OPENAI_PROXY", None, "its proxy", private=True)
    endpoints: str = _env(
        endpoints.SETTING,
        "",
        "more such servers, `name=url,...`; `WORKER_ENDPOINT_KEY_<NAME>`, `_MODEL_`, `_PROXY_`",
    )

    providers: str = _env(
        "WORKER_PROVIDERS", "", "providers that this worker serves, comma-separated; empty: all"
    )
    default_provider: Name = _env(
        "WORKER_DEFAULT_PROVIDER", "berlin", "provider of jobs that name none"
    )
    default_model: Name = _env(
        "WORKER_DEFAULT_MODEL", "", "model of jobs that name none; empty: the provider's own"
    )
    max_attempts: Count = _env(
        "WORKER_MAX_ATTEMPTS",
        3,
        "attempts of a job, retries and restarts included; each fallback adds one",
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
    drain_cancelled_usage_s: Annotated[float, Field(ge=0, le=60)] = _env(
        "WORKER_DRAIN_CANCELLED_USAGE_S",
        0.0,
        "how long a cancelled job may read its upstream, unpublished, for the usage",
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
    max_job_bytes: Annotated[int, Field(gt=0, le=LARGEST_JOB_BYTES)] = _env(
        "WORKER_MAX_JOB_BYTES",
        MAX_JOB_BYTES,
        "largest job object, as compact JSON, up to 16 MiB; the same for clients and workers",
    )
    max_line_bytes: Count = _env(
        "WORKER_MAX_LINE_BYTES", 1024 * 1024, "longest line taken from the upstream"
    )
    max_chunks: Count = _env("WORKER_MAX_CHUNKS", 100_000, "most chunks of one attempt")
    max_text_bytes: Count = _env(
        "WORKER_MAX_TEXT_BYTES", 16 * 1024 * 1024, "most bytes read in one attempt"
    )

    @classmethod
    def from_env(
        cls, environ: Mapping[str, str] = os.environ, *, needs_broker: bool = True
    ) -> Self:
        """Read ``environ``, and the certificates that its URLs name.

        ``needs_broker=False``, for readers: with a cluster ``broker_url`` may be empty. Raises
        :class:`SettingsError`, which repeats no secret.
        """
        given = given_of(environ, cls.model_fields, endpoints.PREFIX)
        if "WORKER_EVENT_SHARDS" in given:
            raise SettingsError(_NO_SHARDS)
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
        settings = settings.model_copy(update=_addresses(settings, needs_broker=needs_broker))
        tls = settings.redis_tls
        for name in celery_variables.BROKERS:
            if name in given and broker_address(given[name], name, tls) != settings.broker_url:
                raise SettingsError(celery_variables.another_broker(name))
        return settings

    @classmethod
    def misspelt(cls, environ: Mapping[str, str] = os.environ) -> list[str]:
        """Return a warning for each variable that looks like a misspelt setting; no values."""
        known = {str(field.validation_alias) for field in cls.model_fields.values()}
        known |= endpoints.variables_of(environ.get(endpoints.SETTING, ""))
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
    def metrics_named_models(self) -> frozenset[str]:
        """The models that metrics name; empty: the first that answer."""
        return _names(self.metrics_models)

    @property
    def served_providers(self) -> frozenset[str]:
        """The providers that this worker serves; empty: every one that is installed."""
        return _names(self.providers)


def _names(listed: str) -> frozenset[str]:
    return frozenset(filter(None, (name.strip() for name in listed.split(","))))


def _addresses(settings: Settings, *, needs_broker: bool) -> dict[str, str]:
    """Return every Redis and the broker as :mod:`berlin_worker.config.urls` spells them."""
    tls = settings.redis_tls
    certificates.check(tls, "", labels=_TLS_SETTINGS)
    redis_url = redis_address(settings.redis_url, "REDIS_URL", tls)
    urls.http(settings.berlin_url, "BERLIN_URL", login=False)
    if settings.berlin_proxy:
        urls.http(settings.berlin_proxy, "BERLIN_PROXY", login=True)
    if settings.openai_proxy:
        urls.http(settings.openai_proxy, "OPENAI_PROXY", login=True)
    for proxy in settings.proxies:
        urls.http(proxy, "WORKER_PROXY_ALLOWLIST", login=True)
    endpoints.parse(settings.endpoints)
    found = {
        "openai_url": urls.api(settings.openai_url, "OPENAI_BASE_URL"),
        "redis_url": redis_url,
        "broker_url": queue_address(settings.broker_url, redis_url, tls, needed=needs_broker),
    }
    if tls and not any(url.startswith("rediss") for url in found.values()):
        name = _TLS_SETTINGS[next(iter(tls))]
        raise SettingsError(f"{name} is set, but no URL asks for TLS: begin REDIS_URL with rediss")
    return found


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
