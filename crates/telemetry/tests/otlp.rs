//! Traces as a collector gets them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    thread,
    time::Duration,
};

use edgewise_telemetry::{OtlpOptions, Phases, TelemetryOptions, begin_trace, init, trace_headers};
use opentelemetry_proto::tonic::{collector::trace::v1::ExportTraceServiceRequest, trace::v1::Span as Exported};
use prost::Message;

/// A collector: gives the path and the body of every request.
fn collector() -> (String, mpsc::Receiver<(String, Vec<u8>)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let (sender, requests) = mpsc::channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let sender = sender.clone();
            thread::spawn(move || while answer(&mut stream.as_ref().unwrap().try_clone().unwrap(), &sender) {});
        }
    });
    (address, requests)
}

/// Reads a request and says it is fine; whether there was one.
fn answer(stream: &mut TcpStream, sender: &mpsc::Sender<(String, Vec<u8>)>) -> bool {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let (mut path, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return false;
        }
        match line.trim_end().split_once(": ") {
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => length = value.parse().unwrap(),
            Some(_) => {}
            None if line.trim().is_empty() => break,
            None => path = line.split_whitespace().nth(1).unwrap().to_owned(),
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n").unwrap();
    sender.send((path, body)).is_ok()
}

#[test]
fn a_collector_gets_the_spans_of_a_request_below_its_callers() {
    let (endpoint, requests) = collector();
    let otlp = Some(OtlpOptions { endpoint, sample: 1.0, version: "9.9.9".to_owned() });
    let guard = init(&TelemetryOptions { filter: "error".to_owned(), otlp, ..TelemetryOptions::default() }).unwrap();
    let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let span = tracing::info_span!(target: "edgewise_gateway", "request", id = "r1");
    let trace = begin_trace(&span, Some(parent), None).unwrap();
    assert_eq!(format!("{:032x}", trace.trace_id), "4bf92f3577b34da6a3ce929d0e0e4736");
    span.in_scope(|| {
        tracing::info_span!(target: "edgewise_planner", "plan").in_scope(|| {
            tracing::info_span!(target: "edgewise_planner", "retrieve").in_scope(|| {});
            tracing::debug_span!(target: "edgewise_planner", "detail").in_scope(|| {});
            tracing::info_span!(target: "hyper", "connection").in_scope(|| {});
        });
        let headers: HashMap<_, _> = trace_headers().into_iter().collect();
        assert!(headers["traceparent"].starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-"));
        let mut phases = Phases::queued();
        phases.started(7);
        phases.token();
        phases.token();
    });
    drop(span);
    drop(guard);

    let mut spans: HashMap<String, Exported> = HashMap::new();
    let mut resources = Vec::new();
    while let Ok((path, body)) = requests.recv_timeout(Duration::from_secs(if spans.is_empty() { 20 } else { 1 })) {
        assert_eq!(path, "/v1/traces");
        for batch in ExportTraceServiceRequest::decode(body.as_slice()).unwrap().resource_spans {
            resources
                .extend(batch.resource.unwrap().attributes.into_iter().map(|a| format!("{}={:?}", a.key, a.value)));
            let of_scopes = batch.scope_spans.into_iter().flat_map(|scope| scope.spans);
            spans.extend(of_scopes.map(|span| (span.name.clone(), span)));
        }
    }
    let mut names: Vec<&str> = spans.keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["decode", "plan", "prefill", "queue", "request", "retrieve"]);
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    assert_eq!(hex(&spans["request"].parent_span_id), "00f067aa0ba902b7");
    for (child, parent) in
        [("plan", "request"), ("retrieve", "plan"), ("queue", "request"), ("prefill", "request"), ("decode", "request")]
    {
        assert_eq!(spans[child].parent_span_id, spans[parent].span_id, "{child} is below {parent}");
        assert_eq!(hex(&spans[child].trace_id), "4bf92f3577b34da6a3ce929d0e0e4736");
    }
    for (earlier, later) in [("queue", "prefill"), ("prefill", "decode")] {
        assert!(spans[earlier].end_time_unix_nano <= spans[later].start_time_unix_nano + 1_000_000, "{earlier}");
    }
    let resources = resources.join(" ");
    assert!(resources.contains("edgewise") && resources.contains("9.9.9"), "{resources}");
}
