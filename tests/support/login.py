"""An upstream without HTTP for tests of tokens: it counts logins, which wait for a gate."""

import asyncio


class Upstream:
    """Counts logins; each waits for ``gate``, and then returns a token or raises ``error``."""

    def __init__(self) -> None:
        self.logins = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.started = asyncio.Event()
        self.error: BaseException | None = None

    async def login(self) -> str:
        self.logins += 1
        turn = self.logins
        self.started.set()
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return f"secret-{turn}"
