"""Spans of `zoo serve`, as a collector of OpenTelemetry receives them."""

import signal
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests import tiny

from .server import SECONDS, serving

pytestmark = pytest.mark.slow

PATH = "/v1/models/tiny/tasks/double"
TRACE = "0af7651916cd43dd8448eb211c80319c"


class Collector:
    """Keeps the spans that are sent to it."""

    def __enter__(self):
        spans = self.spans = []
        self.resources = {}
        resources = self.resources

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                for one in ExportTraceServiceRequest.FromString(body).resource_spans:
                    resources.update({a.key: a.value.string_value for a in one.resource.attributes})
                    spans.extend(span for scope in one.scope_spans for span in scope.spans)
                self.send_response(200)
                self.end_headers()

            def log_message(self, *words):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        return self

    def __exit__(self, *error):
        self._server.shutdown()
        self._server.server_close()


def attributes(span):
    return {a.key: a.value.string_value or a.value.int_value for a in span.attributes}


def stopped(server):
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(SECONDS) == 0


def test_a_request_and_its_call_are_spans_of_the_clients_trace(tmp_path):
    tiny.bundle(tmp_path / "tiny")
    with Collector() as collector:
        settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_BSP_SCHEDULE_DELAY": "100"}
        with serving(tmp_path, tmp_path / "tiny", **settings) as server:
            headers = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}
            assert server.post(PATH, json={"image": [[[[3]]]]}, headers=headers).status_code == 200
            assert server.post(PATH, json={}).status_code == 400
            stopped(server)
    assert collector.resources["service.name"] == "zoo"
    route = "/v1/models/{name}/tasks/{task}"
    request, wrong = sorted(
        (one for one in collector.spans if one.name == f"POST {route}"), key=lambda one: one.start_time_unix_nano
    )
    (call,) = (one for one in collector.spans if one.name == "call")
    assert request.trace_id == call.trace_id == bytes.fromhex(TRACE) and call.parent_span_id == request.span_id
    assert request.parent_span_id.hex() == "b7ad6b7169203331"
    found = attributes(request)
    assert (found["http.route"], found["url.path"], found["http.response.status_code"]) == (route, PATH, 200)
    assert attributes(call) == {"zoo.model": "tiny:1", "zoo.task": "double"}
    assert attributes(wrong)["http.response.status_code"] == 400 and wrong.trace_id != request.trace_id
    assert request.start_time_unix_nano <= call.start_time_unix_nano <= call.end_time_unix_nano


def test_nothing_is_sent_unless_it_is_asked_for(tmp_path):
    tiny.bundle(tmp_path / "tiny")
    with Collector() as collector:
        settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "OTEL_SDK_DISABLED": "true"}
        with serving(tmp_path, tmp_path / "tiny", **settings) as server:
            assert server.post(PATH, json={"image": [[[[3]]]]}).status_code == 200
            stopped(server)
    assert not collector.spans


def test_a_collector_that_is_not_there_changes_no_answer(tmp_path):
    tiny.bundle(tmp_path / "tiny")
    settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_EXPORTER_OTLP_TIMEOUT": "1"}
    with serving(tmp_path, tmp_path / "tiny", **settings) as server:
        assert server.post(PATH, json={"image": [[[[3]]]]}).status_code == 200
        stopped(server)
