"""The values that are read, not counted, when the metrics are scraped. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Gauges:
    """Values at the time of a scrape. ``None``, or empty: not known, so no sample.

    ``queue``: messages by state, of the whole fleet; ``checks``: the checks of the probes;
    ``build``: version, Python, event loop.
    """

    messaging_system: str = "redis"
    jobs_in_flight: int = 0
    job_slots: int | None = None
    jobs_quarantined: int = 0
    queue: Mapping[str, int] = field(default_factory=dict)
    dead_letters: int | None = None
    journal_buffer_bytes: int = 0
    journal_limit_bytes: int = 0
    loop_age_s: float = 0.0
    consumer_age_s: float | None = None
    checks: Mapping[str, bool] = field(default_factory=dict)
    draining: bool = False
    build: tuple[str, str, str] = ("", "", "")
