"""Fields of a job's record that are derived from its job object (pure)."""

import json
from typing import Final, NamedTuple

from berlin_schemas import PromptJob
from berlin_schemas.fingerprint import fingerprint


class Facts(NamedTuple):
    """The derived fields: an unknown ``fingerprint`` is empty; ``metadata`` is JSON, or empty."""

    fingerprint: str = ""
    tenant: str = ""
    metadata: str = ""

    def script_args(self) -> list[str]:
        """Return the last arguments of the submit and claim scripts."""
        args = [self.fingerprint]
        if self.tenant:
            args += ("tenant", self.tenant)
        if self.metadata:
            args += ("metadata", self.metadata)
        return args


NO_FACTS: Final = Facts()


def facts_of(obj: object, job: PromptJob) -> Facts:
    """Return the facts of a decoded job object and of its job."""
    return Facts(
        fingerprint=fingerprint(obj),
        tenant=job.tenant or "",
        metadata=json.dumps(job.metadata, separators=(",", ":")) if job.metadata else "",
    )
