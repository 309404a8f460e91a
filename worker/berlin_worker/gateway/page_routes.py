"""The page at ``/``: three files that the browser may load, and nothing else."""

from collections.abc import Awaitable, Callable
from importlib import resources
from typing import Final

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_FILES: Final = {
    "/": ("index.html", "text/html"),
    "/page/page.css": ("page.css", "text/css"),
    "/page/page.js": ("page.js", "text/javascript"),
}
PATHS: Final = frozenset(_FILES)


def add_routes(app: web.Application) -> None:
    """Serve the page; the files are read once."""
    folder = resources.files("berlin_worker.gateway") / "page"
    for path, (name, content_type) in _FILES.items():
        body = (folder / name).read_bytes()
        app.router.add_get(path, _handler(body, content_type))


def _handler(body: bytes, content_type: str) -> Handler:
    async def handle(_: web.Request) -> web.Response:
        headers = {
            "Content-Security-Policy": _POLICY,
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-cache",
        }
        return web.Response(body=body, content_type=content_type, charset="utf-8", headers=headers)

    return handle
