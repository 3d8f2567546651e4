//! Spans at a collector: a request, and the run of its job as its child.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::time::Duration;

use nobat_runtime::traces::{self, Span};

/// Takes one export and returns its body.
fn collect(listener: &TcpListener) -> Vec<u8> {
    let (stream, _) = listener.accept().expect("an export");
    let mut reader = BufReader::new(stream);
    let (mut line, mut first, mut length) = (String::new(), String::new(), 0);
    while reader.read_line(&mut line).is_ok_and(|read| read > 2) {
        if first.is_empty() {
            first.clone_from(&line);
        }
        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().expect("a length");
        }
        line.clear();
    }
    assert!(first.starts_with("POST /v1/traces "), "{first}");
    let mut body = vec![0; length];
    reader.read_exact(&mut body).expect("a body");
    reader.get_mut().write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").expect("answered");
    body
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hex")).collect()
}

#[test]
fn a_request_and_the_run_of_its_job_arrive_as_parent_and_child() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    // Alone in its process: no other thread reads the environment.
    #[allow(unsafe_code)]
    unsafe {
        std::env::set_var("OTEL_EXPORTER_OTLP_ENDPOINT", url);
    }
    let collector = std::thread::spawn(move || collect(&listener));
    let exporting = traces::start("nobat-test").expect("starts");
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let request = Span::request(&format!("00-{trace}-b7ad6b7169203331-01"));
    let own = request.traceparent().expect("it has a span");
    assert!(own.starts_with(&format!("00-{trace}-")) && !own.contains("b7ad6b7169203331"), "{own}");
    Span::run(&own, Duration::from_millis(5), &[("nobat.model", "echo")]);
    request.note("nobat.job", "J");
    request.end(200);
    drop(exporting);

    let body = collector.join().expect("collected");
    let holds = |what: &[u8]| body.windows(what.len()).filter(|window| *window == what).count();
    assert_eq!(holds(&hex(trace)), 2, "both spans are of the caller's trace");
    assert_eq!(holds(&hex("b7ad6b7169203331")), 1, "the request is the caller's child");
    assert_eq!(holds(&hex(&own[36..52])), 2, "the run is the request's child");
    for text in ["nobat-test", "request", "run", "nobat.model", "echo", "nobat.job"] {
        assert!(holds(text.as_bytes()) >= 1, "{text}");
    }
}
