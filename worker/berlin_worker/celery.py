"""The Celery app: configuration only. ``celery -A berlin_worker worker`` finds it by this name."""

import os

from celery import Celery

from berlin_schemas import names
from berlin_worker.broker import (
    celery_cli,
    purge,
    refused_commands,
    shown_settings,
    transport,
    worker_options,
)
from berlin_worker.broker.broker_info import BrokerInfo
from berlin_worker.broker.command_arguments import MOST_SLOTS
from berlin_worker.broker.consumer_heartbeat import ConsumerHeartbeat
from berlin_worker.broker.visibility import ExtendVisibility
from berlin_worker.config import celery_variables
from berlin_worker.config.broker_url import for_kombu
from berlin_worker.config.celery_loader import SettingsLoader
from berlin_worker.config.recovery_times import VISIBILITY_TIMEOUT_S
from berlin_worker.errors import SettingsError
from berlin_worker.pool import AsyncioTask, file_limit
from berlin_worker.settings import Settings
from berlin_worker.telemetry import celery_log

try:
    celery_variables.check_broker_option(celery_cli.broker_variable(os.environ))
    _settings = Settings.from_env()
except SettingsError as error:
    # Each command of Celery prints the traceback of any other exception.
    raise SystemExit(f"berlin: {error}") from None
# Settings has found both equal to CELERY_BROKER_URL. Celery would prefer them, untranslated.
for _variable in celery_variables.BROKERS:
    os.environ.pop(_variable, None)
transport.install()
celery_cli.install()
_broker = for_kombu(_settings.broker_url)

app = Celery(
    "worker",
    task_cls=AsyncioTask,
    loader=SettingsLoader,
    backend="disabled://",  # ahead of CELERY_RESULT_BACKEND: there are no results
    control=purge.PromptControl,
    include=["berlin_worker.tasks"],
)
app.conf.update(
    broker_url=_broker.url,
    # Without these two Celery would use CELERY_BROKER_URL as it is, not translated for kombu.
    broker_read_url=_broker.url,
    broker_write_url=_broker.url,
    broker_use_ssl=_broker.use_ssl,
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    # A broker that refuses commands for a while, for instance a full one, must end no worker.
    broker_channel_error_retry=True,
    # Without these a half-open connection to the broker is never noticed.
    broker_transport_options={
        "socket_timeout": 5,
        "socket_connect_timeout": 5,
        "socket_keepalive": True,
        "health_check_interval": 3,
        # After this time (s) the messages of a dead worker come back; see ExtendVisibility.
        "visibility_timeout": VISIBILITY_TIMEOUT_S,
        "unacked_restore_interval": 1,
        "unacked_restore_throttle": 1,
        # Keys of our own: with shared keys, the shortest timeout of all apps would apply.
        "unacked_key": "unacked:prompts",
        "unacked_index_key": "unacked_index:prompts",
        "dead_letters_max": _settings.dead_letters_max,
        "max_job_bytes": _settings.max_job_bytes,
        **_broker.transport_options,
    },
    task_default_queue=names.QUEUE,
    task_default_queue_type=_settings.queue_type,
    task_create_missing_queue_type=_settings.queue_type,
    task_serializer="json",
    accept_content=["json"],
    task_ignore_result=True,
    task_acks_late=True,
    task_acks_on_failure_or_timeout=True,
    worker_consumer="berlin_worker.broker.consumer:PromptConsumer",
    worker_pool="berlin_worker.pool:AsyncioPool",
    worker_pool_lifespan="berlin_worker.service:lifespan",
    worker_pool_drain_timeout=_settings.drain_timeout_s,
    worker_concurrency=1000,
    worker_prefetch_multiplier=1,
    # Each scheduled message raises the prefetch count, and for kombu more than this is no limit.
    worker_eta_task_limit=MOST_SLOTS,
    worker_cancel_long_running_tasks_on_connection_loss=False,
    worker_hijack_root_logger=True,
    # Each of these costs every job something; none is needed.
    worker_send_task_events=False,
    task_send_sent_event=False,
    task_track_started=False,
    event_queue_ttl=60,
    control_queue_ttl=300,
)
app.steps["consumer"].update({BrokerInfo, ConsumerHeartbeat, ExtendVisibility})
refused_commands.install(app)
worker_options.install(app)
file_limit.install(app, file_limit.FileLimit(proxies=len(_settings.proxies)))
purge.install(app)
celery_log.install(app, _settings)
shown_settings.install(app, _settings)
