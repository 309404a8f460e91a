"""Encrypt the token that is stored in Redis with the operator's keys, if there are any."""

from typing import TYPE_CHECKING, ClassVar, Protocol

from pydantic import SecretStr

from berlin_worker.errors import SettingsError

if TYPE_CHECKING:
    from cryptography.fernet import MultiFernet


class TokenCipher(Protocol):
    """Encrypts the stored token. Each cipher has a hash field of its own, and reads no other."""

    field: ClassVar[str]

    def encrypt(self, token: str) -> str:
        """Return the stored form of a token, the value of the field."""

    def decrypt(self, stored: str) -> str | None:
        """Return the token; ``None`` if the field is empty or cannot be decrypted."""


class PlainText:
    """Store the token as it is."""

    field: ClassVar[str] = "token"

    def encrypt(self, token: str) -> str:
        """Return ``token``."""
        return token

    def decrypt(self, stored: str) -> str | None:
        """Return the token; ``None`` if the field is empty."""
        return stored or None


class FernetCipher:
    """Fernet (AES-128-CBC, HMAC-SHA256); the newest key encrypts, each key decrypts."""

    field: ClassVar[str] = "fernet"

    def __init__(self, keys: "MultiFernet") -> None:
        self._keys = keys

    def encrypt(self, token: str) -> str:
        """Return the token, encrypted with the newest key."""
        return self._keys.encrypt(token.encode()).decode()

    def decrypt(self, stored: str) -> str | None:
        """Return the token; ``None`` if no key fits, or if ``stored`` was tampered with."""
        from cryptography.fernet import InvalidToken  # noqa: PLC0415  # an extra

        try:
            return self._keys.decrypt(stored.encode()).decode()
        except InvalidToken:
            return None


def cipher_for(token_keys: SecretStr | None) -> TokenCipher:
    """Return the cipher that ``WORKER_TOKEN_KEYS`` asks for.

    Raises ``SettingsError``, which repeats no key, if a key cannot be used or the package
    ``cryptography`` is missing.
    """
    if token_keys is None:
        return PlainText()
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
    return FernetCipher(MultiFernet(keys))
