//! Calls over HTTP.

use std::time::{Duration, Instant};

use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use reqwest::{Method, Response};
use serde_json::Value;

use super::body::HEADER_LENGTH;
use super::call::HttpCall;
use super::reply::{Reply, ReplyStatus};
use super::target::Target;

/// Most of a body that is repeated where it is no JSON.
const SHOWN: usize = 200;
/// How long a poll for a job's result waits.
const POLL: Duration = Duration::from_secs(10);
/// How long after a refused poll the next one.
const AFTER_REFUSAL: Duration = Duration::from_millis(250);

/// Sends a request, whatever it is, and reads the answer.
pub(super) async fn send(target: &Target, call: &HttpCall) -> Reply {
    let start = Instant::now();
    let mut request = reqwest::Request::new(call.method.clone(), call.url.clone());
    *request.headers_mut() = call.headers.clone();
    if let Some(bearer) = &target.bearer {
        request.headers_mut().insert(AUTHORIZATION, bearer.clone());
    }
    *request.body_mut() = Some(call.body.clone().into());
    let answer = async {
        let response = target.http.execute(request).await?;
        let head = Head::of(&response);
        Ok::<_, reqwest::Error>((head, response.bytes().await?))
    };
    let reply = |status| Reply::new(target.protocol, status, start.elapsed());
    match answer.await {
        Ok((head, body)) => {
            let mut reply = reply(ReplyStatus::Http(head.status));
            if !reply.is_success() {
                (reply.code, reply.message) = refusal(&body);
            }
            reply.template = target.settings.template.clone();
            Reply {
                body,
                retry_after: head.retry_after,
                content_type: head.content_type,
                server_timing: head.server_timing,
                header_length: head.header_length,
                ..reply
            }
        }
        Err(error) => {
            let status = if error.is_timeout() { ReplyStatus::TimedOut } else { ReplyStatus::Unreachable };
            Reply { message: chain(&error.without_url()), ..reply(status) }
        }
    }
}

/// Enqueues a job and polls until its result is there. 429 and 503 are the answers of a server
/// that did not take the job: where it refuses a poll so, the poll is repeated.
pub(super) async fn run_job(target: &Target, call: &HttpCall) -> Reply {
    let start = Instant::now();
    let accepted = send(target, call).await;
    if accepted.status != ReplyStatus::Http(202) {
        return accepted;
    }
    let Some(id) = accepted.json().and_then(|job| Some(job.get("id")?.as_str()?.to_owned())) else {
        return Reply { status: ReplyStatus::JobFailed, message: "202 without a job's id".into(), ..accepted };
    };
    let poll = HttpCall {
        method: Method::GET,
        url: target.at(&["api", "v1", "jobs", &id, "result"]),
        headers: HeaderMap::new(),
        body: Bytes::new(),
    }
    .query("wait", &format!("{}s", POLL.min(target.settings.patience).as_secs().max(1)))
    .query("form", "column");
    loop {
        let reply = send(target, &poll).await;
        let took = start.elapsed();
        let is_busy = reply.is_refused_for_now();
        if reply.status != ReplyStatus::Http(202) && !is_busy {
            return Reply { took, ..reply };
        }
        if took >= target.settings.patience {
            if is_busy {
                let message =
                    format!("the result of job {id} is not told for {} s: {}", took.as_secs(), reply.in_words());
                return Reply { status: ReplyStatus::TimedOut, message, took, ..reply };
            }
            let state = reply.json().and_then(|job| Some(job.get("state")?.as_str()?.to_owned())).unwrap_or_default();
            let message = format!("job {id} is still {state} after {} s", took.as_secs());
            return Reply { status: ReplyStatus::TimedOut, message, took, ..reply };
        }
        if is_busy {
            tokio::time::sleep(AFTER_REFUSAL).await;
        }
    }
}

/// Reads a JSON document.
pub(super) async fn get(target: &Target, segments: &[&str]) -> Result<Value, String> {
    let call =
        HttpCall { method: Method::GET, url: target.at(segments), headers: HeaderMap::new(), body: Bytes::new() };
    let reply = send(target, &call).await;
    match reply.is_success() {
        true => reply.json().ok_or_else(|| format!("{} is answered with something that is no JSON", call.url.path())),
        false => Err(reply.in_words()),
    }
}

/// What of a response's head is kept.
struct Head {
    status: u16,
    retry_after: bool,
    content_type: String,
    server_timing: Option<String>,
    header_length: Option<usize>,
}

impl Head {
    fn of(response: &Response) -> Head {
        let text = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
        Head {
            status: response.status().as_u16(),
            retry_after: response.headers().contains_key(RETRY_AFTER),
            content_type: text(CONTENT_TYPE).unwrap_or_default().to_owned(),
            server_timing: response.headers().get("server-timing").and_then(|v| Some(v.to_str().ok()?.to_owned())),
            header_length: text(HEADER_LENGTH).and_then(|length| length.parse().ok()),
        }
    }
}

/// A refusal's code and words, in whatever shape.
fn refusal(body: &[u8]) -> (Option<String>, String) {
    let Ok(json) = serde_json::from_slice::<Value>(body) else {
        let text = String::from_utf8_lossy(&body[..body.len().min(SHOWN)]).into_owned();
        return (None, text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect());
    };
    let text = |key: &str| json.get(key).and_then(Value::as_str).map(str::to_owned);
    let message = text("detail").or(text("error")).or(text("message")).or(text("title"));
    // Some servers have a list or an object there.
    let shown = || json.get("detail").or(json.get("error")).unwrap_or(&json).to_string();
    (text("code"), message.unwrap_or_else(|| shown().chars().take(SHOWN).collect()))
}

/// An error with what it came from.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        words += &format!(": {error}");
        source = error.source();
    }
    words
}
