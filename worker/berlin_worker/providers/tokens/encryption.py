"""How a token stands in Redis: plain, or encrypted with the operator's keys."""

from typing import TYPE_CHECKING, ClassVar, Protocol

from pydantic import SecretStr

from berlin_worker.errors import SettingsError

if TYPE_CHECKING:
    from cryptography.fernet import MultiFernet


class Seal(Protocol):
    """Each way has a hash field of its own, so that none is taken for the other."""

    field: ClassVar[str]

    def seal(self, token: str) -> str:
        """What to write into the field."""

    def open(self, sealed: str) -> str | None:
        """The token; ``None`` if ``sealed`` cannot be read (no token, then)."""


class Plain:
    """The token as it is."""

    field: ClassVar[str] = "token"

    def seal(self, token: str) -> str:
        """What to write into the field."""
        return token

    def open(self, sealed: str) -> str | None:
        """The token; ``None`` where the field is empty."""
        return sealed or None


class Encrypted:
    """Fernet (AES-128-CBC, HMAC-SHA256); the newest key writes, every key reads."""

    field: ClassVar[str] = "fernet"

    def __init__(self, keys: "MultiFernet") -> None:
        self._keys = keys

    def seal(self, token: str) -> str:
        """What to write into the field."""
        return self._keys.encrypt(token.encode()).decode()

    def open(self, sealed: str) -> str | None:
        """The token; ``None`` if none of the keys fits, or ``sealed`` was tampered with."""
        from cryptography.fernet import InvalidToken  # noqa: PLC0415  # an extra

        try:
            return self._keys.decrypt(sealed.encode()).decode()
        except InvalidToken:
            return None


def seal_for(token_keys: SecretStr | None) -> Seal:
    """The seal that ``WORKER_TOKEN_KEYS`` asks for.

    Raises ``SettingsError``, which never repeats a key: a key makes no sense, or
    the package ``cryptography`` is missing.
    """
    if token_keys is None:
        return Plain()
    try:
        from cryptography.fernet import Fernet, MultiFernet  # noqa: PLC0415  # an extra
    except ImportError:
        raise SettingsError(
            "WORKER_TOKEN_KEYS needs a package: pip install 'berlin-worker[encryption]'"
        ) from None
    texts = [text.strip() for text in token_keys.get_secret_value().split(",") if text.strip()]
    if not texts:
        raise SettingsError("WORKER_TOKEN_KEYS holds no key; unset it to keep the token plain")
    keys = []
    for place, text in enumerate(texts, start=1):
        try:
            keys.append(Fernet(text))
        except ValueError:
            raise SettingsError(
                f"WORKER_TOKEN_KEYS: key {place} of {len(texts)} is no Fernet key (32 bytes in "
                "URL-safe base64); make one with cryptography.fernet.Fernet.generate_key()"
            ) from None
    return Encrypted(MultiFernet(keys))
