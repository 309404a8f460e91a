"""Numbers on the command line: each within what the program can use."""

from math import isnan
from typing import Any, Final

import click

_LONGEST_S: Final = 10 * 365 * 86400.0


class Seconds(click.FloatRange):
    """A number of seconds, at most ten years; click accepts NaN and infinity."""

    name = "seconds"

    def __init__(self, *, at_least: float = 0.0, above: bool = False) -> None:
        super().__init__(min=at_least, min_open=above, max=_LONGEST_S)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number; raises ``BadParameter`` for NaN, which fits every range."""
        number = super().convert(value, param, ctx)
        if isnan(number):
            self.fail("a number of seconds is needed", param, ctx)
        return number


MOST: Final = 1_000_000
"""The largest count of an option."""
COUNT: Final = click.IntRange(1, MOST)
SEQ: Final = click.IntRange(0, 10**15 - 1)
"""The number of an event."""
