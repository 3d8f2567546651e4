//! The Lua scripts: one per transition, each atomic (see the head of each file).
//!
//! They are sent by digest; a server that has forgotten them (restart, failover,
//! `SCRIPT FLUSH`) answers NOSCRIPT and gets the text again ([`super::connect`]).

use std::sync::LazyLock;

use nobat_core::ErrorCode;
use redis::Cmd;

use super::record::code_number;

/// A script as the server knows it.
pub(crate) struct Script {
    pub(crate) name: &'static str,
    pub(crate) text: String,
    sha: String,
}

impl Script {
    fn new(name: &'static str, parts: &[&str]) -> Script {
        let mut text = format!(
            "local CODE_DEADLINE, CODE_FAILED, CODE_CANCELLED = {}, {}, {}\n",
            code_number(ErrorCode::DeadlineExceeded),
            code_number(ErrorCode::InferenceFailed),
            code_number(ErrorCode::JobCancelled),
        );
        for part in parts {
            text.push_str(part);
        }
        let sha = redis::Script::new(&text).get_hash().to_owned();
        Script { name, text, sha }
    }

    /// The call on the queue at `base`, ready for its arguments.
    pub(crate) fn on(&self, base: &str) -> Cmd {
        let mut cmd = redis::cmd("EVALSHA");
        cmd.arg(&self.sha).arg(1).arg(base);
        cmd
    }
}

const COMMON: &str = include_str!("scripts/common.lua");
const SWEEP: &str = include_str!("scripts/sweep.lua");

macro_rules! scripts {
    ($($constant:ident = $name:literal [$($part:expr),*];)*) => {
        $(pub(crate) static $constant: LazyLock<Script> =
            LazyLock::new(|| Script::new($name, &[$($part,)* include_str!(concat!("scripts/", $name, ".lua"))]));)*
        /// Every script, for the server to load before it is asked for one.
        pub(crate) fn all() -> Vec<&'static Script> {
            vec![$(&$constant),*]
        }
    };
}

scripts! {
    ENQUEUE = "enqueue" [COMMON];
    STEP = "step" [COMMON, SWEEP];
    TICK = "tick" [COMMON, SWEEP];
    RENEW = "renew" [COMMON];
    GET = "get" [COMMON];
    WATCH = "watch" [COMMON];
    UNWATCH = "unwatch" [COMMON];
    CANCEL = "cancel" [COMMON];
    REDRIVE = "redrive" [COMMON];
    PURGE = "purge" [COMMON];
    AUDIT = "audit" [COMMON];
    NUMBER = "number" [];
    RATE = "rate" [];
}
