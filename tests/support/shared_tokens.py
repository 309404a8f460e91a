"""Account, keys and failures of the tests of shared tokens."""

from collections.abc import Callable

import pytest

from berlin_schemas import ErrorCode, names
from berlin_worker.errors import JobError
from berlin_worker.settings import Settings
from berlin_worker.storage.shared_tokens import RedisSource

ACCOUNT = "someone@example.org"
PASSWORD = "a password"
SETTINGS = Settings(login_timeout_s=5, login_backoff_max_s=60, token_ttl_s=100)
KEY = names.token_key("berlin", ACCOUNT)
LOCK = f"token:{{{KEY}}}:lock"
REFUSALS = f"token:{{{KEY}}}:refusals"


WRONG_PASSWORD = JobError(ErrorCode.AUTH_FAILED, "the login was refused", upstream_status=401)
BUSY = JobError(
    ErrorCode.UPSTREAM_ERROR, "busy", retryable=True, upstream_status=503, retry_after_s=20
)

MakeSource = Callable[..., RedisSource]


async def failure(source: RedisSource) -> JobError:
    with pytest.raises(JobError) as caught:
        await source.get()
    return caught.value
