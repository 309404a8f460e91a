"""The jobs of a job with fallbacks: one for each candidate."""

import pytest

from berlin_schemas import PromptJob
from berlin_worker.jobs.candidates import candidates

pytestmark = pytest.mark.unit

OTHERS = [{"provider": "second", "model": "m-2"}, {"provider": "third", "model": "m-3"}]


def test_candidates_keep_all_else_of_the_job():
    job = PromptJob.model_validate(
        {
            "messages": [{"role": "user", "content": "Hi"}],
            "tenant": "t",
            "fallbacks": OTHERS,
        }
    )
    assert [each.tenant for each in candidates(job)] == ["t"] * 3
    assert candidates(job)[0] is job
