"""The settings that `berlin gateway` alone reads."""

from pydantic import BaseModel, SecretStr

from berlin_worker.config.setting_fields import Seconds, env


class GatewaySettings(BaseModel):
    """A part of :class:`berlin_worker.settings.Settings`."""

    gateway_keys: str = env(
        "WORKER_GATEWAY_KEYS",
        "",
        "file of the gateway's API keys; empty: it listens on loopback, without keys",
    )
    gateway_ticket_secret: SecretStr | None = env(
        "WORKER_GATEWAY_TICKET_SECRET",
        None,
        "signs tickets, the same for all gateways; empty: each process has its own",
        private=True,
    )
    gateway_origins: str = env(
        "WORKER_GATEWAY_ORIGINS", "", "origins whose pages may call the gateway, comma-separated"
    )
    gateway_wait_s: Seconds = env(
        "WORKER_GATEWAY_WAIT_S", 300.0, "longest wait of a chat for a worker; then it is cancelled"
    )
    gateway_abandon_s: Seconds = env(
        "WORKER_GATEWAY_ABANDON_S",
        15.0,
        "time after which the job of a caller that went is cancelled",
    )
