"""One place that turns errors into a line on stderr and an exit code."""

from typing import IO, Any, Final

import click

from berlin_worker.cli.output import printable, say

FAILED: Final = 1
USAGE: Final = 2
INTERRUPTED: Final = 130
BROKEN_PIPE: Final = 141
"""128 + SIGPIPE: what a shell says of a program whose reader has gone."""


class Problem(click.ClickException):
    """One line for the user. ``exit_code`` as in the help of `berlin`."""

    def __init__(self, message: str, exit_code: int = FAILED, advice: str | None = None) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]  # click reads it from the instance too
        self.advice = advice

    def show(self, file: IO[Any] | None = None) -> None:  # noqa: ARG002  # click's signature
        """Print it as ``berlin: <what happened>; <what to do>``."""
        told = f"{self.message}; {self.advice}" if self.advice else self.message
        if told:
            say(f"berlin: {printable(' '.join(told.split()))}", fg="red")


def problem(error: BaseException) -> Problem:
    """What the user is told of ``error``."""
    if isinstance(error, KeyboardInterrupt):
        return Problem("interrupted", INTERRUPTED)
    if isinstance(error, BrokenPipeError):
        return Problem("", BROKEN_PIPE)
    from redis.exceptions import RedisError

    from berlin_schemas import InvalidJob
    from berlin_worker.errors import (
        CursorExpired,
        JobFailed,
        JobIdReused,
        SettingsError,
        Unavailable,
        UnsupportedVersion,
    )

    told = str(error) or type(error).__name__
    match error:
        case SettingsError() | JobIdReused():
            return Problem(told, USAGE)
        case InvalidJob():
            return Problem(f"the job breaks the contract: {told}", USAGE)
        case Unavailable():
            return Problem(told, advice=_advice(error.__cause__))
        case RedisError():
            # Half a second of import that help and completion save.
            from berlin_worker.storage.redis_errors import refusal, reply_of

            refused = refusal(error)
            told = f"Redis {refused}" if refused else f"Redis: {reply_of(error)}"
            return Problem(told, advice=_advice(error))
        case UnsupportedVersion():
            return Problem(told, advice="install the berlin-worker that your workers have")
        case CursorExpired() | JobFailed():
            return Problem(told)
        case OSError():
            return Problem(told)
        case _:
            advice = "this is a bug: BERLIN_DEBUG=1 shows where"
            return Problem(f"{type(error).__name__}: {told}", advice=advice)


def _advice(error: BaseException | None) -> str:
    from redis.exceptions import NoPermissionError

    if isinstance(error, NoPermissionError):
        return "deploy/redis/users.acl says who needs which rights"
    return "`berlin doctor` says what is wrong"
