"""Which web pages may call a gateway without API keys (pure).

Such a gateway serves everybody on its machine, and so each page in a browser there. A page of
another origin names its own in ``Origin``. One whose name was made to resolve to this machine (DNS
rebinding) has the gateway's origin, and that name in ``Host``. With keys neither gets anything: a
browser adds no key by itself.
"""

import ipaddress
from urllib.parse import urlsplit

from berlin_worker.gateway.problems import Problem


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach ``host``."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def refuse_foreign(host: str | None, origin: str | None, listed: frozenset[str]) -> None:
    """Raise a 403 for a request by a page that is neither the gateway's own nor ``listed``.

    ``host`` and ``origin`` are the headers: a browser always sends the first, and the second with
    each POST. ``listed`` is WORKER_GATEWAY_ORIGINS.
    """
    known = {_authority(each) for each in listed} - {""}
    if host is not None and host.lower() not in known and not is_loopback(_name(host)):
        raise Problem(
            403,
            "foreign_host",
            "without API keys the gateway answers at localhost and loopback addresses only: "
            "set WORKER_GATEWAY_KEYS, or list http://<this host> in WORKER_GATEWAY_ORIGINS",
        )
    if origin is None or origin in listed:
        return
    if host is None or _authority(origin) != host.lower():
        raise Problem(
            403,
            "foreign_origin",
            "a page of another origin may not call this gateway: list its origin in "
            "WORKER_GATEWAY_ORIGINS",
        )


def _authority(origin: str) -> str:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _name(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
