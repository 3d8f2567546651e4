//! The Lua scripts: one per transition, each atomic (see the head of each file).
//!
//! They are the functions of one library, which the server keeps: what they share is
//! made once and not by each call, and restarts and failovers keep it. Its name holds
//! the digest of its text, so that builds of several versions may share a server. One
//! that does not know it (it lost its data, `FUNCTION FLUSH`) gets the text again
//! ([`super::connect`]).

use std::sync::LazyLock;

use nobat_core::ErrorCode;
use redis::{Cmd, ToRedisArgs};

use super::record::code_number;

/// A function of the library.
pub(crate) struct Script {
    /// As the server knows it: the library's name and the function's own.
    name: LazyLock<String>,
}

impl Script {
    /// The call on the queue at `base` (or on the one key it is about), ready for its
    /// arguments.
    pub(crate) fn on(&self, base: impl ToRedisArgs) -> Cmd {
        let mut cmd = redis::cmd("FCALL");
        cmd.arg(self.name.as_bytes()).arg(1).arg(base);
        cmd
    }
}

/// The library: its name and its text.
struct Library {
    name: String,
    text: String,
}

static LIBRARY: LazyLock<Library> = LazyLock::new(|| {
    let codes = format!(
        "local CODE_DEADLINE, CODE_FAILED, CODE_CANCELLED = {}, {}, {}\n",
        code_number(ErrorCode::DeadlineExceeded),
        code_number(ErrorCode::InferenceFailed),
        code_number(ErrorCode::JobCancelled),
    );
    let parts = [COMMON, SWEEP].into_iter().chain(FUNCTIONS.iter().copied()).collect::<Vec<_>>().join("\n");
    let body = codes + &parts;
    let name = format!("nobat_{}", &redis::Script::new(&body).get_hash()[..16]);
    let text = format!("#!lua name={name}\nlocal LIBRARY = '{name}'\n{body}");
    Library { name, text }
});

/// The command that gives the library to a server that does not have it.
pub(crate) fn load() -> Cmd {
    let mut cmd = redis::cmd("FUNCTION");
    cmd.arg("LOAD").arg("REPLACE").arg(&LIBRARY.text);
    cmd
}

const COMMON: &str = include_str!("scripts/common.lua");
const SWEEP: &str = include_str!("scripts/sweep.lua");

macro_rules! functions {
    ($($constant:ident = $name:literal;)*) => {
        $(pub(crate) static $constant: Script =
            Script { name: LazyLock::new(|| format!("{}_{}", LIBRARY.name, $name)) };)*
        const FUNCTIONS: &[&str] = &[$(include_str!(concat!("scripts/", $name, ".lua"))),*];
    };
}

functions! {
    ENQUEUE = "enqueue";
    STEP = "step";
    TICK = "tick";
    RENEW = "renew";
    GET = "get";
    WATCH = "watch";
    UNWATCH = "unwatch";
    CANCEL = "cancel";
    REDRIVE = "redrive";
    PURGE = "purge";
    AUDIT = "audit";
    NUMBER = "number";
    RATE = "rate";
    PUT = "put";
    FORGET = "forget";
}
