"""The proxy of the chaos tests breaks connections on command."""

import socket
import threading
from collections.abc import Iterator

import pytest

from tests.support.proxy import TcpProxy
from tests.support.workers import wait_until

pytestmark = pytest.mark.unit


class Echo:
    """A server that sends back what it receives, and counts connections that have ended."""

    def __init__(self) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.left = 0
        self.heard = b""

    def serve(self) -> None:
        while True:
            try:
                peer, _ = self.socket.accept()
            except OSError:
                return
            threading.Thread(target=self._echo, args=(peer,), daemon=True).start()

    def _echo(self, peer: socket.socket) -> None:
        with peer:
            try:
                while data := peer.recv(1000):
                    self.heard += data
                    peer.sendall(data)
            except OSError:
                pass
        self.left += 1


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    thread = threading.Thread(target=server.serve, daemon=True)
    thread.start()
    yield server
    server.socket.shutdown(socket.SHUT_RDWR)
    server.socket.close()
    thread.join()


@pytest.fixture
def proxy(echo: Echo) -> Iterator[TcpProxy]:
    with TcpProxy("127.0.0.1", echo.port) as made:
        yield made


@pytest.fixture
def client(proxy: TcpProxy) -> Iterator[socket.socket]:
    with connected(proxy) as peer:
        yield peer


def connected(proxy: TcpProxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=10)


def ask(peer: socket.socket, data: bytes = b"hello") -> bytes:
    peer.sendall(data)
    return peer.recv(1000)


def is_reset(peer: socket.socket) -> bool:
    try:
        while True:
            ask(peer)
    except ConnectionError:
        return True


def receives_nothing(peer: socket.socket) -> bool:
    peer.settimeout(0.1)
    try:
        return peer.recv(1000) == b"never"
    except TimeoutError:
        return True
    finally:
        peer.settimeout(10)


def test_proxy_forwards_both_ways_and_passes_on_the_close(proxy, client, echo):
    assert ask(client) == b"hello"
    client.close()
    wait_until(lambda: echo.left == 1, "the server notices the close")
    wait_until(lambda: proxy.connections == 0, "the proxy has closed it, too")


def test_cut_connection_is_reset_and_a_new_one_passes(proxy, client):
    ask(client)
    proxy.cut()
    assert is_reset(client)
    with connected(proxy) as again:
        assert ask(again) == b"hello"


def test_stalled_bytes_arrive_after_healing(proxy, client):
    ask(client)
    proxy.stall()
    client.sendall(b"late")
    assert receives_nothing(client)
    proxy.heal()
    assert client.recv(1000) == b"late"


def test_connection_made_in_a_stall_goes_on_when_it_is_healed(proxy):
    proxy.stall()
    with connected(proxy) as peer:
        peer.sendall(b"late")
        assert receives_nothing(peer)
        proxy.heal()
        assert peer.recv(1000) == b"late"


def test_black_hole_swallows_bytes_and_ends_and_never_gives_them_back(proxy, client, echo):
    ask(client)
    proxy.blackhole()
    client.sendall(b"lost")
    with connected(proxy) as during:
        during.sendall(b"lost too")
        wait_until(lambda: proxy.accepted == 2, "the proxy, still a black hole, has accepted it")
        assert receives_nothing(client)
        proxy.heal()
        assert receives_nothing(client)
        assert receives_nothing(during)
    client.close()
    wait_until(lambda: proxy.connections == 0, "the proxy has seen that both left")
    with connected(proxy) as after:
        assert ask(after) == b"hello"
    assert b"lost" not in echo.heard
    wait_until(lambda: echo.left == 1, "the server notices the end of the last connection alone")


def test_refused_connections_are_reset_until_healing(proxy, client):
    ask(client)
    proxy.refuse()
    for peer in (client, connected(proxy)):
        with peer:
            assert is_reset(peer)
    proxy.heal()
    with connected(proxy) as again:
        assert ask(again) == b"hello"


def test_url_of_the_proxy_keeps_all_but_the_address(proxy, echo):
    url = f"redis://user:secret@127.0.0.1:{echo.port}/3?x=1"
    assert TcpProxy.of(url)._target == ("127.0.0.1", echo.port)
    assert proxy.url_of(url) == f"redis://user:secret@127.0.0.1:{proxy.port}/3?x=1"
