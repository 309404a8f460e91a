"""Groups of commands that suggest a name for a misspelt one."""

from collections.abc import Sequence

import click


class SuggestingGroup(click.Group):
    """A group whose error for an unknown command suggests similar names."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; raises ``UsageError`` with suggestions."""
        name = args[0]
        if (
            self.get_command(ctx, name) is None
            and not ctx.resilient_parsing
            and not name.startswith("-")
        ):
            found = nearest(name, self.list_commands(ctx))
            hint = f" Did you mean {' or '.join(map(repr, found))}?" if found else ""
            raise click.UsageError(f"No such command {name!r}.{hint}", ctx=ctx)
        return super().resolve_command(ctx, args)


def nearest(name: str, known: Sequence[str]) -> list[str]:
    """Return up to two of the ``known`` names that are similar to ``name``, nearest first."""
    from difflib import get_close_matches

    folded = name.lower()
    return get_close_matches(folded, known, n=2) or [
        each for each in known if len(folded) > 1 and each.startswith(folded)
    ]
