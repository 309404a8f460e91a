"""The Redis that tests and demo start by themselves."""

import tempfile

import redis

from worker.embedded.redis import RedisProcess, find_server


async def test_answers_and_runs_lua(redis_client):
    await redis_client.set("k", "v", ex=10)
    assert await redis_client.eval("return redis.call('GET', KEYS[1])", 1, "k") == b"v"


def test_killed_server_comes_back_with_what_was_persisted():
    binary = find_server()
    assert binary is not None
    with RedisProcess(binary, {"appendonly": "yes", "appendfsync": "always"}) as server:
        with redis.Redis.from_url(server.url) as client:
            client.set("kept", "yes")
        server.kill()
        server.start()
        with redis.Redis.from_url(server.url) as client:
            assert client.get("kept") == b"yes"


def test_a_server_starts_where_the_temporary_directory_has_a_space(tmp_path, monkeypatch):
    place = tmp_path / "my files"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    binary = find_server()
    assert binary is not None
    with RedisProcess(binary) as server, redis.Redis.from_url(server.url) as client:
        assert client.config_get("dir")["dir"].startswith(str(place))
