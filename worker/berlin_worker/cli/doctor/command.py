"""`berlin doctor`: its options."""

import click


@click.command()
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print JSON lines: name, level (ok, warn, fail), message, hint.",
)
@click.option("--login/--no-login", default=True, help="Try a login at the upstream.")
def doctor(*, as_json: bool, login: bool) -> None:
    """Check Redis, broker and login, with hints.

    Nothing changes: keys that are written for a trial are deleted at once. The login is real, and
    its token is discarded.

    \b
      berlin doctor
      berlin doctor --no-login --json | jq 'select(.level != "ok")'

    Exit code 1 if a check fails. A warning is not a failure.
    """
    from berlin_worker.cli.doctor import run as work

    raise SystemExit(work.run(as_json=as_json, login=login))
