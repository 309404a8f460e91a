"""List the models of one upstream."""

import asyncio
import os

from berlin_worker.cli.errors import Problem
from berlin_worker.cli.output import print_out, printable
from berlin_worker.cli.preflight import load_settings
from berlin_worker.errors import JobError
from berlin_worker.providers.offered import built_in_with_models, models_of


def run(provider: str | None) -> int:
    """Print the models of ``provider``, one a line. Return the exit code.

    Raises ``Problem`` if it offers no list or its upstream does not answer, ``SettingsError``
    if it lacks a setting.
    """
    settings = load_settings()
    name = provider or settings.default_provider
    try:
        models = asyncio.run(models_of(name, settings, os.environ))
    except JobError as error:
        raise Problem(f"provider {name}: {error.message}") from None
    if models is None:
        raise Problem(
            f"provider {name} offers no list of models",
            hint=f"name a provider that does, with --provider: {', '.join(built_in_with_models())}",
        )
    for model in models:
        print_out(printable(model).replace("\n", " "))
    return 0
