"""A fault for one test: the background task that reads the control channel dies."""

from berlin_worker import control

_parse = control.parse


class Dies(BaseException):
    """Nothing catches it."""


def parse(data: object) -> tuple[str, str] | None:
    found = _parse(data)
    if found is not None and found[0] == "the-end":
        raise Dies
    return found


control.parse = parse
