"""The destination of traces: variables of the environment, and unavailable exporters."""

import sys

import pytest

from berlin_worker.telemetry import otel_setup, tracer, tracing
from berlin_worker.telemetry.tracer import open_tracer

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("environ", "wanted"),
    [
        ({}, False),
        ({"OTEL_SERVICE_NAME": "x"}, False),
        ({"OTEL_TRACES_EXPORTER": "console"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4318/v1/traces"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
        (
            {
                "OTEL_TRACES_EXPORTER": "none",
                "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318",
            },
            False,
        ),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_SDK_DISABLED": "true"}, False),
    ],
)
def test_traces_are_sent_only_to_an_endpoint_of_the_environment(
    environ: dict[str, str], wanted: bool
) -> None:
    assert tracer.asked_for(environ) is wanted


async def test_missing_extra_is_logged_once_and_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delattr("berlin_worker.telemetry.otel_setup")
    monkeypatch.setitem(sys.modules, "berlin_worker.telemetry.otel_setup", None)
    async with open_tracer({"OTEL_TRACES_EXPORTER": "otlp"}) as tracer:
        assert tracer is tracing.OFF
    assert "berlin-worker[otel]" in caplog.text


async def test_missing_exporter_is_logged_and_changes_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with open_tracer({"OTEL_TRACES_EXPORTER": "carrier_pigeon"}) as tracer:
        assert tracer is tracing.OFF
    assert "carrier_pigeon" in caplog.text


async def test_environment_names_the_service_and_else_we_do() -> None:
    for environ, name in (({}, "berlin-worker"), ({"OTEL_SERVICE_NAME": "mine"}, "mine")):
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv("OTEL_RESOURCE_ATTRIBUTES", raising=False)
            patch.delenv("OTEL_SERVICE_NAME", raising=False)
            for variable, value in environ.items():
                patch.setenv(variable, value)
            provider = otel_setup._make_provider({"OTEL_TRACES_EXPORTER": "console"})
        assert provider is not None
        assert provider.resource.attributes["service.name"] == name
        provider.shutdown()
