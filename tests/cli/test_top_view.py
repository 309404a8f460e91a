"""The view of `berlin top` from status messages; no server, no terminal."""

import io
import json

import pytest
from rich.console import Console

from berlin_worker.cli.output import age
from berlin_worker.cli.top.view import FleetView, seconds
from berlin_worker.storage.fleet import Fleet, FleetReading, TokenAge
from berlin_worker.storage.heartbeat import Recent, WorkerStatus
from berlin_worker.storage.survey import ServerState, Survey

pytestmark = pytest.mark.unit

NOW = 10_000.0


def said(worker: str = "w1", **changes: object) -> str:
    fields: dict[str, object] = {
        "worker": worker,
        "host": "host-1",
        "pid": 1,
        "version": "1.2.3",
        "started_ts": NOW - 3600,
        **changes,
    }
    return WorkerStatus.model_validate(fields).model_dump_json()


def fleet(*statuses: str, **raw: object) -> Fleet:
    return Fleet.of(FleetReading(NOW, statuses, **raw))  # type: ignore[arg-type]  # as the test says


def shown(of: Fleet, problem: str | None = None, width: int = 160) -> str:
    console = Console(
        file=io.StringIO(), width=width, record=True, force_terminal=True, color_system=None
    )
    console.print(FleetView(of, problem))
    return console.export_text()


TWO = (
    said(
        "w1",
        in_flight=3,
        capacity=10,
        chunks=100,
        jobs={"completed": 5, "cancelled": 1, "failed:rate_limited": 2},
        retries={"rate_limited": 4},
        logins={"berlin": 1, "berlin:auth_failed": 3},
        token_issued={"berlin": NOW - 7200},
        recent=Recent(
            chunks_per_s=20, jobs_per_s=0.5, first_chunks=1, first_chunk_s=1.0, waits=3,
            queue_wait_s=2.0, loop_lag_s=0.3,
        ),
    ),
    said(
        "w2",
        pid=2,
        draining=True,
        in_flight=1,
        capacity=10,
        chunks=11,
        jobs={"completed": 1, "failed:rate_limited": 1, "failed:internal": 1},
        logins={"berlin": 1},
        token_issued={"berlin": NOW - 60, "other": NOW},
        recent=Recent(chunks_per_s=2.5, first_chunks=3, first_chunk_s=0.2, waits=1, queue_wait_s=6),
    ),
)  # fmt: skip


def test_fleet_is_the_sum_of_its_workers() -> None:
    of = fleet(*TWO, waiting=7, dead_letters=2)
    assert [row.worker for row in of.workers] == ["w1", "w2"]
    assert (of.in_flight, of.capacity, of.draining) == (4, 20, 1)
    assert (of.chunks, of.chunks_per_s, of.jobs_per_s) == (111, 22.5, 0.5)
    assert (of.completed, of.cancelled, of.failed) == (6, 1, 4)
    assert of.errors == {"rate_limited": 3, "internal": 1}
    assert of.retries == 4
    assert (of.logins, of.logins_failed) == (2, 3)
    assert (of.waiting, of.dead_letters) == (7, 2)


def test_means_are_weighted_by_their_counts() -> None:
    of = fleet(*TWO)
    assert of.first_chunk_s == pytest.approx((1 * 1.0 + 3 * 0.2) / 4)
    assert of.queue_wait_s == pytest.approx((3 * 2.0 + 1 * 6.0) / 4)


def test_newest_token_of_a_provider_counts() -> None:
    assert fleet(*TWO).tokens == {"berlin": TokenAge(NOW - 60, 60.0), "other": TokenAge(NOW, 0.0)}


def test_empty_fleet_has_zeros_and_unknown_means() -> None:
    of = fleet()
    assert (of.in_flight, of.chunks, of.failed) == (0, 0, 0)
    assert (of.capacity, of.first_chunk_s, of.waiting) == (None, None, None)
    assert "no worker is running" in shown(of)


def test_age_of_a_worker_with_a_fast_clock_is_zero() -> None:
    of = fleet(said(started_ts=NOW + 5, token_issued={"berlin": NOW + 1}))
    assert of.workers[0].up_s == 0
    assert of.tokens["berlin"].age_s == 0


def test_capacities_that_are_not_known_yet_are_left_out_of_the_sum() -> None:
    assert fleet(said("w1", capacity=5), said("w2")).capacity == 5


@pytest.mark.parametrize("text", ["", "{}", "null", "garbage", said().replace('"v":1', '"v":2')])
def test_unreadable_status_is_only_counted(text: str) -> None:
    of = fleet(text, said())
    assert (len(of.workers), of.unreadable) == (1, 1)
    assert "1 more workers of a version" in shown(of)


def test_json_of_a_fleet_has_stable_names() -> None:
    of = json.loads(json.dumps(fleet(*TWO, waiting=7).as_json()))
    assert list(of) == [
        "v", "ts", "waiting", "dead_letters", "queue_wait_s", "in_flight", "capacity",
        "draining", "chunks", "chunks_per_s", "jobs_per_s", "first_chunk_s", "completed",
        "cancelled", "failed", "errors", "retries", "logins", "logins_failed", "tokens",
        "tokens_per_min", "models", "unreadable", "workers",
    ]  # fmt: skip
    assert list(of["workers"][0]) == [
        "worker", "host", "pid", "version", "up_s", "draining", "in_flight", "capacity", "chunks",
        "chunks_per_s", "jobs_per_s", "first_chunk_s", "queue_wait_s", "loop_lag_s", "completed",
        "cancelled", "failed", "errors", "retries", "logins", "logins_failed", "tokens",
        "tokens_per_min", "models",
    ]  # fmt: skip
    assert of["v"] == 1
    assert of["tokens"]["berlin"] == {"issued_ts": NOW - 60, "age_s": 60.0}


def test_view_shows_all_figures() -> None:
    text = shown(fleet(*TWO, waiting=1234, dead_letters=2))
    for part in (
        "2, 1 draining", "1,234 waiting, recently for 3.0 s", "2 dead letters",
        "4/20 in flight", "6 completed, 1 cancelled, 4 failed", "22 chunks/s", "after 0.4 s",
        "rate_limited 3, internal 1, retries 4", "berlin: token is 1.0 min old",
        "logins 2, 3 failed", "host-1:1 ", "host-1:2 (draining)", "3/10", "1/10", "2.0 h",
    ):  # fmt: skip
        assert part in text


def test_columns_that_do_not_fit_are_left_out_whole() -> None:
    for width in (60, 80, 100, 120, 160):
        text = shown(fleet(*TWO), width=width)
        [header] = [line for line in text.splitlines() if line.startswith("worker ")]
        assert "…" not in text
        assert "in flight  chunks/s" in header
        assert sum("host-1:" in line for line in text.splitlines()) == 2
    assert "lag" in header


def test_screen_shows_only_as_many_workers_as_fit() -> None:
    many = fleet(*(said(f"w{n}", pid=n) for n in range(100)))
    console = Console(file=io.StringIO(), width=100, height=30, color_system=None)
    lines = console.render_lines(FleetView(many), console.options.update(height=30))
    assert len(lines) == 30
    text = "\n".join("".join(segment.text for segment in line) for line in lines)
    assert text.count("host-1:") == 18
    assert "and 82 more" in text
    assert shown(many).count("host-1:") == 100


def test_status_of_a_worker_cannot_control_the_terminal() -> None:
    text = shown(fleet(said(host="\x1b[2Jevil[bold]", token_issued={"\x1b[2J": NOW})))
    assert "\x1b[2J" not in text
    assert "evil[bold]" in text


def test_view_with_old_figures_shows_the_reason() -> None:
    assert "Redis is away" in shown(fleet(*TWO), problem="Redis is away")


@pytest.mark.parametrize(
    ("value", "expected"),
    [(None, "-"), (0.0, "0 ms"), (0.0994, "99 ms"), (0.1, "0.1 s"), (75, "75.0 s")]
)  # fmt: skip
def test_short_times(value: float | None, expected: str) -> None:
    assert seconds(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0, "0 s"), (59, "59 s"), (90, "1.5 min"), (7200, "2.0 h"), (9e4, "1.0 d")],
)
def test_long_times(value: float, expected: str) -> None:
    assert age(value) == expected


def test_tokens_a_minute_are_summed_by_model_the_largest_first() -> None:
    def rates(**by_model: float) -> Recent:
        rate = {model: {"input": 2 * n, "output": n} for model, n in by_model.items()}
        return Recent.model_validate({"tokens_per_min": rate})

    of = fleet(said("w1", recent=rates(small=10)), said("w2", recent=rates(small=5, large=1000)))
    assert of.tokens_per_min == {
        "large": {"input": 2000.0, "output": 1000.0},
        "small": {"input": 30.0, "output": 15.0},
    }
    assert "large: 2,000 in, 1,000 out a minute; small: 30 in, 15 out a minute" in shown(of)
    many = fleet(said(recent=rates(**{f"m{n}": n + 1 for n in range(5)})))
    assert "and 2 more models" in shown(many)


def test_topology_is_shown_with_servers_that_are_away():
    assert "redis" not in shown(fleet(topology=Survey("single")))
    servers = [ServerState("a:1", primary=True), ServerState("b:2", primary=False, away=True)]
    of_sentinels = Survey("sentinel", tuple(servers), (("s:1", True), ("s:2", False)))
    text = shown(fleet(topology=of_sentinels))
    assert "redis    2 Sentinels, 1 primary and 1 replica, away: b:2, s:2" in text
    of_cluster = fleet(topology=Survey("cluster", (*servers, ServerState("c:3", primary=True))))
    assert "redis    cluster of 2 primaries and 1 replica, away: b:2" in shown(of_cluster)
    assert of_cluster.as_json()["topology"] == {
        "kind": "cluster",
        "primaries": 2,
        "replicas": 1,
        "sentinels": 0,
        "away": ("b:2",),
    }
