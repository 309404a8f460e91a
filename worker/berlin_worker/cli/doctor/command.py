"""`berlin doctor`: its options."""

import click


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.option("--login/--no-login", default=True, help="Try a login at the upstream.")
def doctor(*, as_json: bool, login: bool) -> None:
    """Check Redis, broker and login, and say what to do.

    Nothing is changed: what is written for a trial is gone a moment later. The login is a real
    one, and its token is thrown away.

    \b
      berlin doctor
      berlin doctor --no-login --json | jq 'select(.level != "ok")'

    Exit code 1 if a check fails; a warning is none.
    """
    from berlin_worker.cli.doctor import run as work

    raise SystemExit(work.run(as_json=as_json, login=login))
