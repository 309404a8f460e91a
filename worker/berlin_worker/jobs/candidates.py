"""Candidates for a job: its provider and model, then its fallbacks in their order (pure)."""

from collections.abc import Sequence

from berlin_schemas import PromptJob


def candidates(job: PromptJob) -> Sequence[PromptJob]:
    """Return one job for each candidate: the form in which that candidate runs it.

    ``job`` names its provider and model. A fallback without options runs with those of the job.
    """
    if not job.fallbacks:
        return (job,)
    return [
        job,
        *(
            job.model_copy(
                update={
                    "provider": fallback.provider,
                    "model": fallback.model,
                    "options": job.options if fallback.options is None else fallback.options,
                }
            )
            for fallback in job.fallbacks
        ),
    ]
