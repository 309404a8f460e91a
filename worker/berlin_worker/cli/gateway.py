"""Run a gateway, or make an API key for one."""

import asyncio
import logging
import sys

import click
from pydantic import ValidationError

from berlin_worker.cli.interrupts import Interrupts
from berlin_worker.cli.output import print_err
from berlin_worker.cli.preflight import load_settings
from berlin_worker.gateway.keys import new_key
from berlin_worker.gateway.server import open_gateway, serving
from berlin_worker.pool.thread import loop_factory


def print_new_key(tenant: str) -> None:
    """Print a new key on stdout, and on stderr the entry for the file of keys.

    Raises ``click.BadParameter`` if no tenant can have this name.
    """
    try:
        key, entry = new_key(tenant)
    except ValidationError:
        message = "a tenant is a text of 1 to 128 characters"
        raise click.BadParameter(message, param_hint="'--new-key'") from None
    click.echo(key)
    print_err('entry for the file that WORKER_GATEWAY_KEYS names, in its list "keys":')
    print_err(entry.model_dump_json())


def run(host: str, port: int) -> int:
    """Serve until a signal, and return the exit code: 0 after SIGTERM or Ctrl-C."""
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s"
    )
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(_run(host, port))


async def _run(host: str, port: int) -> int:
    with Interrupts() as interrupts:
        gateway = open_gateway(
            load_settings(needs_broker=True), host, warn=logging.getLogger(__name__).warning
        )
        async with serving(gateway, host, port) as bound:
            print_err(f"gateway   http://{_shown(host)}:{bound}/v1   (Ctrl-C stops it)")
            await interrupts.wait()
    return 0


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host
