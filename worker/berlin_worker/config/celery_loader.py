"""Celery's loader without a configuration module: the settings alone configure our apps."""

from typing import Any

from celery.loaders.app import AppLoader


class SettingsLoader(AppLoader):  # type: ignore[misc]  # Celery has no types
    """A loader that ignores ``CELERY_CONFIG_MODULE``; ``CELERY_LOADER`` does not replace it.

    Both variables may belong to another app of the same environment. Its routes, eager mode or
    compression must not become those of a worker or a client.
    """

    def read_configuration(self, *_: Any, **__: Any) -> dict[str, Any]:
        """Return no settings."""
        return {}
