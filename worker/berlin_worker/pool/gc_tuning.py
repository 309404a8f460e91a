"""The garbage collector of a process that holds thousands of streams.

Python counts how many objects were made more than freed, and looks for cycles among all
of them now and then: with 1,000 streams in flight that was half of the CPU, and it held up
every stream for up to a third of a second (measured: Python 3.11, its own thresholds). A
job that ends leaves no cycles behind, so there is little to find.
"""

import contextlib
import gc
from collections.abc import Iterator
from typing import Final

_THRESHOLDS: Final = (20_000, 5, 20)
"""Young objects are looked at every 20,000, which takes a millisecond; all of them every
2,000,000, some thousands of jobs."""


@contextlib.contextmanager
def relaxed_gc() -> Iterator[None]:
    """Collect seldom while the block runs, and leave alone what was there before it."""
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_THRESHOLDS)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
