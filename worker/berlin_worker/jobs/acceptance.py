"""Checks a delivery before it is claimed: its job object, its proxy, its provider and options."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from berlin_schemas import ErrorCode, InvalidJob, PromptJob
from berlin_schemas.jobs import MAX_JOB_BYTES, parse_job
from berlin_worker.errors import JobError
from berlin_worker.jobs.candidates import candidates
from berlin_worker.jobs.failures import internal_error
from berlin_worker.providers.base import Provider
from berlin_worker.providers.defaults import JobDefaults
from berlin_worker.telemetry import log_context


@dataclass(frozen=True, slots=True)
class Acceptance:
    """The rules of one worker; ``proxies`` is the operator's allow-list."""

    provider: Callable[[str], Provider]
    proxies: frozenset[str]
    defaults: JobDefaults
    max_job_bytes: int = MAX_JOB_BYTES

    def check(
        self, job_id: str, args: Sequence[object], kwargs: Mapping[str, object]
    ) -> tuple[PromptJob, bytes]:
        """Return the job with the worker's defaults, and its job object as JSON.

        Raises ``JobError`` if this worker cannot run it.
        """
        try:
            return self._check(job_id, args, kwargs)
        except InvalidJob as error:
            raise JobError(ErrorCode.INVALID_JOB, str(error)) from None

    def _check_fallback(self, place: str, job: PromptJob) -> None:
        try:
            self.provider(job.provider).check(job)
        except JobError as error:
            raise JobError(error.code, f"{place}: {error.message}") from None

    def _check(
        self, job_id: str, args: Sequence[object], kwargs: Mapping[str, object]
    ) -> tuple[PromptJob, bytes]:
        if len(args) != 1 or kwargs:
            raise InvalidJob("worker.generate takes one positional argument: the job object")
        job, data = parse_job(args[0], job_id, max_bytes=self.max_job_bytes)
        log_context.ABOUT.set(
            log_context.About(
                self.defaults.provider_of(job), self.defaults.model_of(job), job.tenant
            )
        )
        if job.proxy is not None and job.proxy not in self.proxies:
            raise InvalidJob("proxy: not on the operator's allow-list")
        try:
            named, (job, provider) = job, self.defaults.resolve(job, self.provider)
            if "model" not in named.model_fields_set:
                model = self.defaults.model_of(named, provider)
                log_context.ABOUT.set(log_context.About(job.provider, model, job.tenant))
            provider.check(job)
            for place, fallback in enumerate(candidates(job)[1:]):
                self._check_fallback(f"fallbacks.{place}", fallback)
        except JobError:
            raise
        except Exception as error:  # noqa: BLE001  # a provider may be third-party code
            raise internal_error(error, job_id) from None
        return job, data
