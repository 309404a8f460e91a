"""Defaults for a job that names no provider or no model. Pure."""

from collections.abc import Callable
from dataclasses import dataclass

from berlin_schemas import PromptJob
from berlin_worker.providers.base import Provider


@dataclass(frozen=True, slots=True)
class JobDefaults:
    """The operator's choice; an empty ``model`` leaves it to the provider."""

    provider: str = "berlin"
    model: str = ""

    def provider_of(self, job: PromptJob) -> str:
        """Return the name of the provider that ``job`` names, or else the operator's choice."""
        return job.provider if "provider" in job.model_fields_set else self.provider

    def model_of(self, job: PromptJob, provider: Provider | None = None) -> str | None:
        """Return the model that ``job`` names, or else the operator's choice or the provider's own.

        Return ``None`` if none is named: the schema's default is no model of that provider.
        """
        if "model" in job.model_fields_set:
            return job.model
        own = getattr(provider, "default_model", "")
        return self.model or (own if isinstance(own, str) else "") or None

    def resolve(
        self, job: PromptJob, provider_of: Callable[[str], Provider]
    ) -> tuple[PromptJob, Provider]:
        """Return the job with provider and model filled in, and its provider.

        A name in the job always counts, even if it equals the default of the schema.
        Raises what ``provider_of`` raises.
        """
        changes: dict[str, str] = {}
        name = self.provider_of(job)
        if name != job.provider:
            changes["provider"] = name
        provider = provider_of(name)
        model = self.model_of(job, provider)
        if model is not None and model != job.model:
            changes["model"] = model
        return (job.model_copy(update=changes) if changes else job), provider
