"""Jobs up to the largest size: producer, client, worker and upstream agree on it."""

import pytest

from berlin_schemas import InvalidJob
from berlin_schemas.jobs import LARGEST_JOB_BYTES
from berlin_worker.embedded.openai_upstream import OpenAIUpstream
from berlin_worker.embedded.stand_in import in_thread
from tests.support.checker import text_of
from tests.support.large_jobs import LARGEST, image_job, submitted

pytestmark = pytest.mark.integration


def test_largest_job_reaches_the_upstream_and_one_byte_more_is_refused(fleet):
    # Two thirds in another script: the message, ASCII in base64, is nearly three times as long.
    largest = image_job(LARGEST_JOB_BYTES, "中" * (LARGEST_JOB_BYTES * 2 // 9))
    with in_thread(OpenAIUpstream()) as upstream, fleet.worker(**upstream.environ, **LARGEST):
        assert text_of(fleet.ended(fleet.send(largest)))
        (call,) = upstream.calls
        assert call.body["messages"] == largest["messages"]
        (end,) = fleet.ended(fleet.send(image_job(LARGEST_JOB_BYTES + 1)))
        assert end["error"]["code"] == "invalid_job"
        assert f"at most {LARGEST_JOB_BYTES}" in end["error"]["message"]
        with pytest.raises(InvalidJob, match=f"at most {LARGEST_JOB_BYTES}"):
            submitted(fleet.env, image_job(LARGEST_JOB_BYTES + 1))
        assert len(upstream.calls) == 1
