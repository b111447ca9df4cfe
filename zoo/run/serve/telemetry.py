"""Spans of OpenTelemetry: one for each request, and inside it one for its call. Extra `telemetry`.

Off unless the packages are installed and the environment names where spans go, as for any program with OpenTelemetry:
OTEL_EXPORTER_OTLP_ENDPOINT or OTEL_EXPORTER_OTLP_TRACES_ENDPOINT, to which they are sent over HTTP.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
App = Callable[..., Awaitable[None]]

_tracer: Tracer | None = None


def start(version: str) -> Callable[[], None]:
    """Begins to send spans, if it is on; returns what sends the last ones and ends that."""
    global _tracer
    off = os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or os.environ.get("OTEL_TRACES_EXPORTER") == "none"
    if off or not any(os.environ.get(name) for name in ENDPOINTS):
        return lambda: None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        return lambda: None
    name = {} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": "zoo"}
    provider = TracerProvider(resource=Resource.create({**name, "service.version": version}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    _tracer = provider.get_tracer("zoo.serve", version)
    return provider.shutdown


@contextmanager
def span(name: str, **attributes: str | int) -> Iterator[None]:
    """A span inside that of the request, if there are spans; an error in it is recorded."""
    if _tracer is None:
        yield
        return
    with _tracer.start_as_current_span(name, attributes=attributes):
        yield


def traced(app: App) -> App:
    """An ASGI application each of whose requests is a span, part of the client's trace if it sends `traceparent`."""

    async def run(scope: Any, receive: Any, send: Any) -> None:
        if _tracer is None or scope["type"] != "http":
            await app(scope, receive, send)
            return
        from opentelemetry.trace import SpanKind, StatusCode
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        context, method = TraceContextTextMapPropagator().extract(headers), scope["method"]
        attributes = {"http.request.method": method, "url.path": scope["path"]}
        with _tracer.start_as_current_span(method, context, SpanKind.SERVER, attributes) as found:

            async def send_on(message: Any) -> None:
                if message["type"] == "http.response.start":
                    found.set_attribute("http.response.status_code", message["status"])
                    if message["status"] >= 500:
                        found.set_status(StatusCode.ERROR)
                await send(message)

            try:
                await app(scope, receive, send_on)
            finally:
                if route := getattr(scope.get("route"), "path", ""):  # not the path: names of spans must be few
                    found.update_name(f"{method} {route}")
                    found.set_attribute("http.route", route)

    return run
