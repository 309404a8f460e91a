"""Turn errors into one line on stderr and an exit code."""

from typing import IO, Any, Final

import click

from berlin_worker.cli.output import print_err, printable

FAILED: Final = 1
USAGE: Final = 2
INTERRUPTED: Final = 130
BROKEN_PIPE: Final = 141
"""128 + SIGPIPE: the exit code that shells use when the reader has closed the pipe."""


class Problem(click.ClickException):
    """One line for the user. ``hint`` is what to do; `berlin --help` lists the exit codes."""

    def __init__(self, message: str, exit_code: int = FAILED, hint: str | None = None) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]  # click reads it from the instance too
        self.hint = hint

    def show(self, file: IO[Any] | None = None) -> None:  # noqa: ARG002  # click's signature
        """Print it as ``berlin: <message>; <hint>``."""
        message = f"{self.message}; {self.hint}" if self.hint else self.message
        if message:
            print_err(f"berlin: {printable(' '.join(message.split()))}", fg="red")


def as_problem(error: BaseException) -> Problem:
    """Return the message, hint and exit code for ``error``."""
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

    message = str(error) or type(error).__name__
    match error:
        case SettingsError() | JobIdReused():
            return Problem(message, USAGE)
        case InvalidJob():
            return Problem(f"the job is not valid: {message}", USAGE)
        case Unavailable():
            return Problem(message, hint=_hint(error.__cause__))
        case RedisError():
            # Takes 0.5 s to import, which help and completion avoid.
            from berlin_worker.storage.redis_errors import refusal, reply_of

            refused = refusal(error)
            message = f"Redis {refused}" if refused else f"Redis: {reply_of(error)}"
            return Problem(message, hint=_hint(error))
        case UnsupportedVersion():
            return Problem(message, hint="install the berlin-worker version of your workers")
        case CursorExpired() | JobFailed():
            return Problem(message)
        case OSError():
            return Problem(message)
        case _:
            hint = "this is a bug: BERLIN_DEBUG=1 shows the traceback"
            return Problem(f"{type(error).__name__}: {message}", hint=hint)


def _hint(error: BaseException | None) -> str:
    from redis.exceptions import NoPermissionError

    if isinstance(error, NoPermissionError):
        return "deploy/redis/users.acl lists the rights of each user"
    if "WRONGTYPE" in str(error):
        return "another program has written to a key of the worker: delete it, and submit again"
    return "`berlin doctor` finds the cause"
