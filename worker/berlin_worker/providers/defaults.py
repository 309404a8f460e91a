"""What a job means that names no provider or no model. Pure."""

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

    def resolve(
        self, job: PromptJob, provider_of: Callable[[str], Provider]
    ) -> tuple[PromptJob, Provider]:
        """The job with provider and model filled in, and its provider.

        What the job names itself always counts, also if it is what the schema has as default.
        Raises what ``provider_of`` raises.
        """
        changes: dict[str, str] = {}
        name = self.provider_of(job)
        if name != job.provider:
            changes["provider"] = name
        provider = provider_of(name)
        if "model" not in job.model_fields_set:
            model = self.model or getattr(provider, "default_model", "")
            if isinstance(model, str) and model and model != job.model:
                changes["model"] = model
        return (job.model_copy(update=changes) if changes else job), provider
