"""API keys: a file of their hashes, and what each key allows (pure, but for reading the file).

The file is JSON: ``{"keys": [{"hash": "sha256:...", "tenant": "acme", "scopes": ["submit"],
"models": ["gpt-4*"]}]}``. A key is random and long, so that one round of SHA-256 hides it well.
"""

import fnmatch
import hashlib
import hmac
import logging
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from berlin_schemas.jobs import Name
from berlin_worker.errors import SettingsError

logger = logging.getLogger(__name__)

Scope = Literal["submit", "read", "cancel", "fleet"]
SCOPES: Final[frozenset[Scope]] = frozenset({"submit", "read", "cancel", "fleet"})
DEFAULT_SCOPES: Final[tuple[Scope, ...]] = ("submit", "read", "cancel")
_PREFIX: Final = "bk_"
_BYTES: Final = 32


class Key(BaseModel):
    """One key: its tenant, and what it allows. ``models`` are shell patterns."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    hash: Annotated[str, StringConstraints(pattern="^sha256:[0-9a-f]{64}$")]
    tenant: Name
    scopes: list[Scope] = Field(default_factory=lambda: list(DEFAULT_SCOPES))
    models: list[str] = Field(default_factory=lambda: ["*"])


class KeyFile(BaseModel):
    """The file of the keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    keys: list[Key]


class Caller(BaseModel):
    """The sender of a request. Without a ``tenant`` (a gateway without keys) it sees all jobs.

    ``job_id`` is set for a ticket, which reads that job and nothing else.
    """

    model_config = ConfigDict(frozen=True)

    tenant: str | None = None
    scopes: frozenset[Scope] = SCOPES
    models: tuple[str, ...] = ("*",)
    job_id: str | None = None

    def may(self, scope: Scope) -> bool:
        """Return whether the caller has ``scope``."""
        return scope in self.scopes

    def may_use(self, provider: str, model: str) -> bool:
        """Return whether a pattern of the key fits ``model`` or ``provider/model``."""
        names = (model, f"{provider}/{model}")
        return any(fnmatch.fnmatchcase(name, pattern) for name in names for pattern in self.models)

    def owns(self, job_id: str, tenant: str | None) -> bool:
        """Return whether the caller may see a job of ``tenant``."""
        if self.job_id is not None:
            return self.job_id == job_id
        return self.tenant is None or self.tenant == tenant


class Keys:
    """The keys of one file. An empty set admits everybody, for a gateway on loopback."""

    def __init__(self, keys: Sequence[Key]) -> None:
        self._keys: list[tuple[bytes, Key]] = []
        self.replace(keys)

    def replace(self, keys: Sequence[Key]) -> None:
        """Admit ``keys`` and no others from now on."""
        self._keys = [(bytes.fromhex(key.hash.removeprefix("sha256:")), key) for key in keys]

    def __bool__(self) -> bool:
        return bool(self._keys)

    def caller(self, text: str) -> Caller | None:
        """Return the caller with the key ``text``; the time taken does not depend on the result."""
        digest = hashlib.sha256(text.encode("utf-8", "replace")).digest()
        found: Key | None = None
        for known, key in self._keys:
            if hmac.compare_digest(known, digest):
                found = key
        if found is None:
            return None
        return Caller(
            tenant=found.tenant, scopes=frozenset(found.scopes), models=tuple(found.models)
        )


class WatchedKeys(Keys):
    """The keys of a file, which is read again within ``check_s`` of a change.

    A change that cannot be read is logged once, and the keys before it stay valid. The first
    reading raises ``SettingsError``.
    """

    def __init__(self, path: str, *, check_s: float = 2.0) -> None:
        self._path = path
        self._check_s = check_s
        self._stamp = _stamp(path)
        self._due = time.monotonic() + check_s
        super().__init__(_read(path))

    def caller(self, text: str) -> Caller | None:
        """Return the caller with the key ``text``, by the file as of ``check_s`` ago or later."""
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + self._check_s
            if (stamp := _stamp(self._path)) != self._stamp:
                self._stamp = stamp
                self._read_again()
        return super().caller(text)

    def _read_again(self) -> None:
        try:
            self.replace(_read(self._path))
        except SettingsError as error:
            logger.warning("%s; the keys before this change stay valid", error)
        else:
            logger.info("WORKER_GATEWAY_KEYS: %s has changed and was read again", self._path)


def _stamp(path: str) -> tuple[int, int, int] | None:
    """Return values that change with the file or a link to it; ``None`` if no file exists."""
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size


def named_models(job: Mapping[str, Any]) -> Iterator[tuple[Any, Any]]:
    """Yield provider and model of each candidate of ``job``, which may be invalid.

    The provider `berlin` takes a model among the options, too.
    """
    fallbacks = job.get("fallbacks")
    for each in (job, *(fallbacks if isinstance(fallbacks, list) else ())):
        if isinstance(each, Mapping):
            provider, options = each.get("provider"), each.get("options")
            if options is None:  # a fallback without options, or with null, has those of the job
                options = job.get("options")
            yield provider, each.get("model")
            if isinstance(options, Mapping) and "model" in options:
                yield provider, options["model"]


def read_keys(path: str) -> Keys:
    """Read the key file at ``path``. Raises ``SettingsError``, whose text shows no hash."""
    return Keys(_read(path))


def _read(path: str) -> list[Key]:
    try:
        text = Path(path).read_bytes()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise SettingsError(f"WORKER_GATEWAY_KEYS: cannot read {path}: {reason}") from None
    try:
        keys = KeyFile.model_validate_json(text).keys
    except ValidationError as error:
        problem = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(map(str, problem["loc"])) or "the file"
        raise SettingsError(f"WORKER_GATEWAY_KEYS: {path}: {place}: {problem['msg']}") from None
    if not keys:
        raise SettingsError(
            f"WORKER_GATEWAY_KEYS: {path} has no keys, so that nobody could use the gateway"
        )
    return keys


def new_key(tenant: str) -> tuple[str, Key]:
    """Return a new key for ``tenant``, and its entry for the file."""
    text = _PREFIX + secrets.token_urlsafe(_BYTES)
    digest = hashlib.sha256(text.encode()).hexdigest()
    return text, Key(hash=f"sha256:{digest}", tenant=tenant)
