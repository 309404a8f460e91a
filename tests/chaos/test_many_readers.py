"""One client follows thousands of jobs, while a fault hits its connections or their servers."""

import redis

from berlin_worker.embedded.topology import Cluster, SentinelSet
from tests.support.chaos import Environment, size
from tests.support.cluster import move_slots, used_slots
from tests.support.history import READER
from tests.support.sentinel import fail_over
from tests.support.workers import wait_until


def reading(site: Environment) -> list[tuple[redis.Redis, str]]:
    """Return server and ID of each connection of the readers that has subscriptions."""
    return [
        (server, each["id"])
        for server in site.nodes
        for each in server.client_list()
        if each["name"] == READER and int(each["sub"]) + int(each.get("ssub", 0)) > 0
    ]


def disturb(site: Environment, job_ids: list[str]) -> str:
    """Do what may cost a reader events; return its name for the table."""
    if isinstance(site.servers, Cluster):
        slots = used_slots(site.servers, job_ids)[: size(20, 500)]
        move_slots(site.servers, slots)
        return f"{len(slots)} slots with jobs moved"
    if isinstance(site.servers, SentinelSet):
        fail_over(site.servers)
        return "SENTINEL FAILOVER"
    for server, client_id in reading(site):
        server.client_kill_filter(_id=client_id)
    return "its connection cut"


def test_reader_of_many_jobs_loses_nothing(make_site, report, kind):
    jobs = size(150, 5000)
    site = make_site(reread=True)
    slow = f"[[delay:{size(1, 4)}]]"  # other tests are about a start under load
    slots = str(jobs // 2 + 4)
    with site.worker("-c", slots), site.worker("-c", slots):
        job_ids = [
            site.submit(None, slow, chunks=size(8, 30), follow=True, how="bare")
            for _ in range(jobs)
        ]
        wait_until(lambda: site.streaming(job_ids), "all stream", timeout_s=size(60, 300))
        connections = len(reading(site))
        site.history.fault()
        done = disturb(site, job_ids)
        figures = site.history.check(size(60, 400))
    note = f"{jobs} jobs over {connections} connections; {done}; {figures.resets} began anew"
    report("one reader of many jobs", figures, note=note)
    assert connections == (3 if kind == "cluster" else 1)
    assert site.history.expired <= figures.resets
    assert kind == "sentinel" or site.history.expired == 0
