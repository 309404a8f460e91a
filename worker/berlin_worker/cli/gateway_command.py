"""`berlin gateway`: its options."""

import click


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8080,
    show_default=True,
    help="Port to listen on; 0 takes a free one.",
)
@click.option("--new-key", metavar="TENANT", help="Print a new API key and its entry, and exit.")
def gateway(host: str, port: int, new_key: str | None) -> None:
    """Serve jobs over HTTP, also to OpenAI's clients.

    A gateway needs Redis and the broker; workers run the jobs. Several gateways may run side by
    side. Without WORKER_GATEWAY_KEYS it listens on loopback only.

    \b
      berlin gateway
      curl -N localhost:8080/v1/chat/completions -H 'Content-Type: application/json' \\
        -d '{"model": "gpt-3.5-turbo", "stream": true,
             "messages": [{"role": "user", "content": "Hello"}]}'
      berlin gateway --new-key acme
    """
    from berlin_worker.cli import gateway as work

    if new_key is not None:
        work.print_new_key(new_key)
    else:
        raise SystemExit(work.run(host, port))
