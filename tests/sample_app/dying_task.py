"""A fault for one test: the background task that reads the control channel dies."""

from berlin_worker.storage import cancel_listener

_parse = cancel_listener.parse


class Dies(BaseException):
    """Nothing catches it."""


def parse(data: object) -> tuple[str, str] | None:
    found = _parse(data)
    if found is not None and found[0] == "the-end":
        raise Dies
    return found


cancel_listener.parse = parse
