"""What the record of a job keeps of its job object for good, beside the object itself (pure)."""

import json
from typing import Final, NamedTuple

from berlin_schemas import PromptJob
from berlin_schemas.fingerprint import fingerprint


class Facts(NamedTuple):
    """``fingerprint`` is empty if it is not known; ``metadata`` is JSON, empty for none."""

    fingerprint: str = ""
    tenant: str = ""
    metadata: str = ""

    def script_args(self) -> list[str]:
        """Last arguments of ``submit.lua`` and ``claim.lua``: fingerprint, fields, values."""
        args = [self.fingerprint]
        if self.tenant:
            args += ("tenant", self.tenant)
        if self.metadata:
            args += ("metadata", self.metadata)
        return args


NO_FACTS: Final = Facts()


def facts_of(obj: object, job: PromptJob) -> Facts:
    """The facts of a decoded job object and the job in it."""
    return Facts(
        fingerprint=fingerprint(obj),
        tenant=job.tenant or "",
        metadata=json.dumps(job.metadata, separators=(",", ":")) if job.metadata else "",
    )
