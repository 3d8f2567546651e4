//! What is right to answer: pure.

use super::case::BadCase;
use crate::client::{CallProtocol, Reply, ReplyStatus, ServerKind};
use crate::stage::Verdict;

/// The right answers to a bad request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Expected {
    /// Any of these.
    pub(super) statuses: Vec<ReplyStatus>,
    /// Any of nobat's codes; empty where the server is another's.
    pub(super) codes: &'static [&'static str],
}

const INVALID_ARGUMENT: i32 = 3;
const DEADLINE_EXCEEDED: i32 = 4;
const NOT_FOUND: i32 = 5;
const PERMISSION_DENIED: i32 = 7;
const RESOURCE_EXHAUSTED: i32 = 8;
const OUT_OF_RANGE: i32 = 11;
const UNAUTHENTICATED: i32 = 16;

/// What this server must answer to that over this protocol.
pub(super) fn expected(kind: &ServerKind, protocol: CallProtocol, case: BadCase) -> Expected {
    let is_nobat = *kind == ServerKind::Nobat;
    let http = |statuses: &[u16]| statuses.iter().map(|&status| ReplyStatus::Http(status)).collect::<Vec<_>>();
    let grpc = |codes: &[i32]| codes.iter().map(|&code| ReplyStatus::Grpc(code)).collect::<Vec<_>>();
    let (codes, statuses): (&'static [&'static str], Vec<ReplyStatus>) = match (case, protocol) {
        (BadCase::NotJson, _) => (&["invalid_json"], http(&[400])),
        (BadCase::WrongContentType, _) => (&["unsupported_media_type"], http(&[415])),
        // A message over the limit is refused by the transport, before nobat gives a code; one
        // that is under a larger limit does not fit the model.
        (BadCase::Oversize, CallProtocol::Grpc) => (&[], grpc(&[RESOURCE_EXHAUSTED, OUT_OF_RANGE, INVALID_ARGUMENT])),
        (BadCase::Oversize, _) => (&["payload_too_large"], http(&[413])),
        (BadCase::OverTheBatch, CallProtocol::Grpc) => (&["payload_too_large"], grpc(&[RESOURCE_EXHAUSTED])),
        (BadCase::OverTheBatch, _) => (&["payload_too_large"], http(&[413])),
        (BadCase::UnknownModel, CallProtocol::Grpc) => (&["model_not_found"], grpc(&[NOT_FOUND])),
        (BadCase::UnknownModel, _) => (&["model_not_found"], http(&[404])),
        (BadCase::UnknownVersion, CallProtocol::Grpc) => (&["version_not_found"], grpc(&[NOT_FOUND])),
        (BadCase::UnknownVersion, _) => (&["version_not_found"], http(&[404])),
        (BadCase::WrongKey, CallProtocol::Grpc) => {
            (&["unauthenticated", "permission_denied"], grpc(&[UNAUTHENTICATED, PERMISSION_DENIED]))
        }
        (BadCase::WrongKey, _) => (&["unauthenticated", "permission_denied"], http(&[401, 403])),
        // While others wait, what cannot be in time is refused before it is queued.
        (BadCase::ExpiredDeadline, CallProtocol::Grpc) => {
            (&["deadline_exceeded", "queue_full"], grpc(&[DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED]))
        }
        (BadCase::ExpiredDeadline, _) => (&["deadline_exceeded", "queue_full"], http(&[504, 503])),
        (BadCase::OtherBodySameKey, _) => (&["idempotency_mismatch"], http(&[422])),
        (BadCase::NotANumber | BadCase::Infinite, protocol) => {
            let mut statuses = http(&[400]);
            // TensorFlow Serving reads NaN and infinities; its REST says so.
            if !is_nobat && protocol == CallProtocol::TfServing {
                statuses.push(ReplyStatus::Http(200));
            }
            // NaN is no JSON; a number that is too large is no tensor.
            let code: &[&str] = if case == BadCase::NotANumber { &["invalid_json"] } else { &["invalid_tensor"] };
            (code, statuses)
        }
        (_, CallProtocol::Grpc) => (&["invalid_tensor"], grpc(&[INVALID_ARGUMENT])),
        _ => (&["invalid_tensor"], http(&[400])),
    };
    let mut expected = Expected { statuses, codes: if is_nobat { codes } else { &[] } };
    // Frameworks that check a body by its types answer 422.
    if protocol == CallProtocol::Json && expected.statuses == http(&[400]) {
        expected.statuses.push(ReplyStatus::Http(422));
    }
    expected
}

/// Judges an answer. The words say what is wrong with it.
pub(super) fn judge(
    kind: &ServerKind,
    protocol: CallProtocol,
    case: BadCase,
    reply: &Reply,
) -> (Verdict, Option<String>) {
    let expected = expected(kind, protocol, case);
    let is_nobat = *kind == ServerKind::Nobat;
    let wanted = || {
        let statuses: Vec<String> = expected.statuses.iter().map(ToString::to_string).collect();
        let codes =
            if expected.codes.is_empty() { String::new() } else { format!(" ({})", expected.codes.join(" or ")) };
        format!("{}{codes}", statuses.join(" or "))
    };
    let wrong = |verdict| (verdict, Some(format!("{} instead of {}", clipped(&reply.in_words()), wanted())));
    if !expected.statuses.contains(&reply.status) {
        let is_refusal = match reply.status {
            ReplyStatus::Http(400..=499) => true,
            // What says that the caller is at fault.
            ReplyStatus::Grpc(code) => [3, 4, 5, 6, 7, 8, 9, 11, 12, 16].contains(&code),
            _ => false,
        };
        return wrong(if is_refusal && !is_nobat { Verdict::Warned } else { Verdict::Failed });
    }
    if reply.is_success() {
        return (Verdict::Passed, None);
    }
    let code = reply.code.as_deref().unwrap_or_default();
    if !expected.codes.is_empty() && !expected.codes.contains(&code) {
        return wrong(Verdict::Failed);
    }
    match shape(protocol, reply, is_nobat) {
        Ok(()) => (Verdict::Passed, None),
        Err(why) => (if is_nobat { Verdict::Failed } else { Verdict::Warned }, Some(why)),
    }
}

/// Whether a refusal has its protocol's shape.
fn shape(protocol: CallProtocol, reply: &Reply, is_nobat: bool) -> Result<(), String> {
    let problem = "application/problem+json";
    let text = |key: &str| reply.json().is_some_and(|body| body[key].as_str().is_some_and(|text| !text.is_empty()));
    match protocol {
        CallProtocol::Grpc if reply.message.is_empty() => Err(format!("{} without a message", reply.status)),
        CallProtocol::Grpc | CallProtocol::Json => Ok(()),
        CallProtocol::Native | CallProtocol::Job if reply.content_type() != problem => {
            Err(format!("{} as `{}` instead of {problem}", reply.status, reply.content_type()))
        }
        CallProtocol::Native | CallProtocol::Job => {
            let missing = ["type", "title", "detail", "code"].into_iter().find(|key| !text(key));
            missing.map_or(Ok(()), |key| Err(format!("{} without `{key}`", reply.status)))
        }
        CallProtocol::V2 | CallProtocol::V2Binary | CallProtocol::TfServing => {
            let missing = ["error", "code"].into_iter().take(if is_nobat { 2 } else { 1 }).find(|key| !text(key));
            missing.map_or(Ok(()), |key| Err(format!("{} whose body is no JSON with `{key}`", reply.status)))
        }
    }
}

fn clipped(words: &str) -> String {
    let short: String = words.chars().take(160).collect();
    if short.len() < words.len() { short + "…" } else { short }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn reply(protocol: CallProtocol, status: ReplyStatus, code: &str, body: &'static str, kind: &str) -> Reply {
        let mut reply = Reply::new(protocol, status, Duration::ZERO);
        reply.code = (!code.is_empty()).then(|| code.into());
        reply.message = "why".into();
        reply.body = body.into();
        reply.content_type = kind.into();
        reply
    }

    #[test]
    fn nobat_is_held_to_status_code_and_shape() {
        let judged = |protocol, status, code: &str, body, kind: &str| {
            judge(&ServerKind::Nobat, protocol, BadCase::WrongRank, &reply(protocol, status, code, body, kind)).0
        };
        let native = CallProtocol::Native;
        let problem = r#"{"type":"t","title":"T","detail":"d","code":"invalid_tensor"}"#;
        let kind = "application/problem+json; charset=utf-8";
        assert_eq!(judged(native, ReplyStatus::Http(400), "invalid_tensor", problem, kind), Verdict::Passed);
        assert_eq!(judged(native, ReplyStatus::Http(400), "invalid_tensor", problem, "text/html"), Verdict::Failed);
        assert_eq!(judged(native, ReplyStatus::Http(400), "internal", problem, kind), Verdict::Failed);
        assert_eq!(judged(native, ReplyStatus::Http(422), "invalid_tensor", problem, kind), Verdict::Failed);
        assert_eq!(judged(CallProtocol::V2, ReplyStatus::Http(400), "invalid_tensor", problem, "a"), Verdict::Failed);
        assert_eq!(judged(CallProtocol::Grpc, ReplyStatus::Grpc(3), "invalid_tensor", "", ""), Verdict::Passed);
        assert_eq!(judged(CallProtocol::Grpc, ReplyStatus::Grpc(0), "", "", ""), Verdict::Failed);
    }

    #[test]
    fn another_server_is_held_to_its_protocol_and_warned_for_other_refusals() {
        let other = ServerKind::Other("else".into());
        let judged = |protocol, case, status| {
            judge(&other, protocol, case, &reply(protocol, status, "", r#"{"error": "no"}"#, "application/json")).0
        };
        let (v2, json) = (CallProtocol::V2, CallProtocol::Json);
        assert_eq!(judged(v2, BadCase::WrongRank, ReplyStatus::Http(400)), Verdict::Passed);
        assert_eq!(judged(v2, BadCase::WrongRank, ReplyStatus::Http(422)), Verdict::Warned);
        assert_eq!(judged(json, BadCase::WrongRank, ReplyStatus::Http(422)), Verdict::Passed);
        for status in [ReplyStatus::Http(200), ReplyStatus::Http(500), ReplyStatus::TimedOut] {
            assert_eq!(judged(v2, BadCase::WrongRank, status), Verdict::Failed, "{status}");
        }
        assert_eq!(judged(CallProtocol::TfServing, BadCase::NotANumber, ReplyStatus::Http(200)), Verdict::Passed);
        assert_eq!(judged(CallProtocol::Grpc, BadCase::WrongRank, ReplyStatus::Grpc(13)), Verdict::Failed);
        assert_eq!(judged(CallProtocol::Grpc, BadCase::WrongRank, ReplyStatus::Grpc(9)), Verdict::Warned);
    }
}
