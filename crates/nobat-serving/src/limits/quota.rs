//! What a caller is told of the limit it is under. Pure.
//!
//! `RateLimit` and `RateLimit-Policy` by the IETF's draft
//! (draft-ietf-httpapi-ratelimit-headers-10), and the three `X-RateLimit-` headers
//! that most client libraries look for. gRPC sends them as metadata.

use std::time::Duration;

use parking_lot::Mutex;

use super::gcra::{Decision, Rate};

/// Where a caller's limit stands: the one that refused it, else its rate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Quota {
    /// Jobs in a time.
    Rate(Rate, Decision),
    /// Requests at once, or bytes of bodies at once; none is left.
    AtOnce {
        /// The name of the policy.
        policy: &'static str,
        /// What is counted, in the draft's words.
        unit: &'static str,
        /// Most of them.
        most: u64,
    },
}

/// The limit that a request's caller is told of: written by whoever decides, read when
/// the answer is on its way out.
#[derive(Debug, Default)]
pub struct QuotaCell(Mutex<Option<Quota>>);

impl QuotaCell {
    /// Takes over where the limit stands now.
    pub fn set(&self, quota: Quota) {
        *self.0.lock() = Some(quota);
    }

    /// Where the caller's limit stands, when it has one.
    pub fn get(&self) -> Option<Quota> {
        *self.0.lock()
    }
}

/// When one of the things in flight may have ended.
const SOON: Duration = Duration::from_secs(1);

impl Quota {
    /// Requests in flight, all of `most` taken.
    pub fn requests(most: u32) -> Quota {
        Quota::AtOnce { policy: "in-flight", unit: "concurrent-requests", most: u64::from(most) }
    }

    /// Bytes of bodies in flight, all of `most` taken.
    pub fn bytes(most: u64) -> Quota {
        Quota::AtOnce { policy: "body-bytes", unit: "content-bytes", most }
    }

    /// The headers, by their names in lower case.
    pub fn headers(&self) -> [(&'static str, String); 5] {
        let (policy, left, most, reset) = match *self {
            Quota::Rate(rate, decision) => {
                let window = rate.window().as_secs_f64().ceil();
                (
                    format!("\"default\";q={};w={window}", rate.burst()),
                    format!("\"default\";r={}", decision.remaining),
                    (u64::from(rate.burst()), decision.remaining),
                    if decision.allowed { decision.reset } else { decision.retry_after },
                )
            }
            Quota::AtOnce { policy, unit, most } => {
                (format!("\"{policy}\";q={most};qu=\"{unit}\""), format!("\"{policy}\";r=0"), (most, 0), SOON)
            }
        };
        let seconds = reset.as_secs_f64().ceil();
        [
            ("ratelimit-policy", policy),
            ("ratelimit", format!("{left};t={seconds}")),
            ("x-ratelimit-limit", most.0.to_string()),
            ("x-ratelimit-remaining", most.1.to_string()),
            ("x-ratelimit-reset", seconds.to_string()),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_when_to_come_again_and_an_answer_when_all_is_earned_again() {
        let rate = Rate::new(2.0, 4).expect("a limit");
        let refused = Decision {
            allowed: false,
            remaining: 0,
            reset: Duration::from_secs(2),
            retry_after: Duration::from_millis(400),
            tat_ns: 0,
        };
        let text = |quota: Quota| quota.headers().map(|(name, value)| format!("{name}: {value}")).join("\n");
        assert_eq!(
            text(Quota::Rate(rate, refused)),
            "ratelimit-policy: \"default\";q=4;w=2\nratelimit: \"default\";r=0;t=1\nx-ratelimit-limit: 4\n\
             x-ratelimit-remaining: 0\nx-ratelimit-reset: 1"
        );
        let allowed = Decision { allowed: true, remaining: 3, retry_after: Duration::ZERO, ..refused };
        assert!(text(Quota::Rate(rate, allowed)).contains("\"default\";r=3;t=2"));
        assert_eq!(
            text(Quota::requests(8)).lines().next(),
            Some("ratelimit-policy: \"in-flight\";q=8;qu=\"concurrent-requests\"")
        );
    }
}
