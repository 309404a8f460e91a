"""Standard output: a slow reader blocks no loop, and one that has left is noticed."""

import asyncio
import contextlib
import io
import os
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from berlin_worker.cli.stdout import Stdout

pytestmark = pytest.mark.unit

Pair = tuple[socket.socket, socket.socket]


def unix_pair() -> Pair:
    return socket.socketpair()


def tcp_pair() -> Pair:
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = socket.create_connection(server.getsockname())
        return near, server.accept()[0]


@contextlib.contextmanager
def output_to(near: socket.socket) -> Iterator[Stdout]:
    with near, near.makefile("wb") as stream, Stdout(stream) as out:
        yield out


async def one_turn() -> None:
    """Let the loop look at its descriptors once."""
    for _ in range(3):
        await asyncio.sleep(0)


async def test_output_works_without_a_file_descriptor() -> None:
    stream = io.BytesIO()
    with Stdout(stream) as out:
        await out.write(b"text")
    assert stream.getvalue() == b"text"
    assert not out.is_terminal


async def test_full_pipe_does_not_block_the_loop() -> None:
    reading, writing = os.pipe()
    data = b"x" * 300_000
    with (
        os.fdopen(reading, "rb") as reader,
        os.fdopen(writing, "wb") as stream,
        Stdout(stream) as out,
    ):
        # The reader reads in this very loop: a write that blocked it would never end.
        task = asyncio.create_task(out.write(data))
        got = b""
        while len(got) < len(data):
            await asyncio.sleep(0)
            os.set_blocking(reader.fileno(), False)
            got += reader.read(65536) or b""
        await task
    assert got == data


async def test_closed_pipe_is_noticed_without_writing() -> None:
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb") as stream, Stdout(stream) as out:
        os.close(reading)
        await asyncio.wait_for(asyncio.shield(out.gone), 30)
        with pytest.raises(BrokenPipeError):
            await out.write(b"x")


@pytest.mark.parametrize("pair", [unix_pair, tcp_pair])
@pytest.mark.parametrize(
    "happens",
    [
        pytest.param(lambda near, _: near.shutdown(socket.SHUT_RD), id="as systemd does"),
        pytest.param(lambda _, far: far.shutdown(socket.SHUT_WR), id="half closed by the reader"),
        pytest.param(lambda _, far: far.sendall(b"input"), id="stdin on the same socket"),
    ],
)
async def test_reader_of_a_socket_stays_whatever_comes_the_other_way(
    pair: Callable[[], Pair], happens: Callable[[socket.socket, socket.socket], None]
) -> None:
    near, far = pair()
    with far, output_to(near) as out:
        happens(near, far)
        await one_turn()
        await out.write(b"text")
        assert not out.gone.done()
        assert far.recv(4) == b"text"


async def test_pipe_that_is_open_for_reading_too_has_a_reader(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    fd = os.open(tmp_path / "fifo", os.O_RDWR)  # as a shell does for 1<>fifo
    with os.fdopen(fd, "wb", buffering=0) as stream, Stdout(stream) as out:
        await out.write(b"text")
        await one_turn()
        assert not out.gone.done()


async def test_closed_socket_is_noticed_without_writing() -> None:
    near, far = unix_pair()
    with output_to(near) as out:
        far.close()
        await asyncio.wait_for(asyncio.shield(out.gone), 30)
        with pytest.raises(BrokenPipeError):
            await out.write(b"x")


async def test_reset_socket_is_noticed_and_counts_as_a_closed_pipe() -> None:
    near, far = tcp_pair()
    with output_to(near) as out:
        far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        far.close()
        await asyncio.wait_for(asyncio.shield(out.gone), 30)
        with pytest.raises(BrokenPipeError):
            await out.write(b"x")


async def test_socket_that_the_reader_half_closes_for_good_ends_the_output() -> None:
    near, far = unix_pair()
    with far, output_to(near) as out:
        far.shutdown(socket.SHUT_RD)
        with pytest.raises(BrokenPipeError):
            await out.write(b"x")
        assert out.gone.done()
