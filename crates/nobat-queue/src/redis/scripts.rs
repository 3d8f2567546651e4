//! The Lua scripts: one per transition, each atomic (see the head of each file).
//!
//! They are the functions of one library, which the server keeps: what they share is
//! made once and not by each call, and restarts and failovers keep it. Its name holds
//! the digest of its text, so that builds of several versions may share a server. One
//! that does not know it (it lost its data, `FUNCTION FLUSH`) gets the text again
//! ([`super::connection`]).

use std::fmt::Write;
use std::sync::LazyLock;

use nobat_core::ErrorCode;
use nobat_core::score::STRICT_SPAN;
use redis::{Cmd, ToRedisArgs};

use super::record::{code_number, flag, state};
use crate::api::{LAST_CHANCE, MAX_DEATHS, POSTPONED, SILENCE_MIN};

/// Most leases one call takes, a microsecond apart: a reply stays bounded.
pub(crate) const LEASES_MAX: usize = 1024;

/// Entries after which a list of the jobs that ended with one code is full, and how many such
/// lists are kept of a code: three times as many dead letters as a queue keeps by default.
const ERRORS_A_LIST: u128 = 10_000;
const ERROR_LISTS: u128 = 3;

/// The first arguments of [`STEP`], by the names under which the script has them.
const STEP_ARGS: [&str; 16] = [
    "want",
    "above",
    "lease",
    "token",
    "again",
    "aging",
    "max_dead",
    "dead_ttl",
    "client_channel",
    "sweeper_channel",
    "index",
    "register",
    "withdraw",
    "name",
    "successes",
    "others",
];

/// What the scripts and this crate must agree on, as the library's first lines.
fn constants() -> String {
    let numbers = [
        ("PENDING", state::PENDING.into()),
        ("SUCCEEDED", state::SUCCEEDED.into()),
        ("DEAD", state::DEAD.into()),
        ("CANCELLED", state::CANCELLED.into()),
        ("EXPIRED", state::EXPIRED.into()),
        ("CORRUPT", state::CORRUPT.into()),
        ("DEADLINE", flag::DEADLINE.into()),
        ("BLOB", flag::BLOB.into()),
        ("REPLY", flag::REPLY.into()),
        ("TAIL", flag::TAIL.into()),
        ("STRIPPED", flag::STRIPPED.into()),
        ("TIMES", flag::TIMES.into()),
        ("TAGS", flag::TAGS.into()),
        ("CODE_DEADLINE", code_number(ErrorCode::DeadlineExceeded).into()),
        ("CODE_FAILED", code_number(ErrorCode::InferenceFailed).into()),
        ("CODE_CANCELLED", code_number(ErrorCode::JobCancelled).into()),
        ("MAX_DEATHS", u128::from(MAX_DEATHS)),
        ("LAST_CHANCE", LAST_CHANCE.into()),
        ("POSTPONED", POSTPONED.as_micros()),
        ("SILENCE_MIN", SILENCE_MIN.as_micros()),
        ("LEASES_MAX", LEASES_MAX as u128),
        ("STRICT_SPAN", STRICT_SPAN as u128),
        ("ERRORS_A_LIST", ERRORS_A_LIST),
        ("ERROR_LISTS", ERROR_LISTS),
    ];
    let mut lua = String::new();
    for (name, value) in numbers {
        // Writing into a string does not fail.
        let _ = writeln!(lua, "local {name} = {value}");
    }
    let _ = writeln!(lua, "local STEP_ARGS = {{ '{}' }}", STEP_ARGS.join("', '"));
    lua
}

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
    let parts = PARTS.iter().chain(FUNCTIONS).copied().collect::<Vec<_>>().join("\n");
    let body = constants() + &parts;
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

/// What the functions are made of, before them.
const PARTS: &[&str] = &[
    include_str!("scripts/common.lua"),
    include_str!("scripts/index.lua"),
    include_str!("scripts/sweep.lua"),
    include_str!("scripts/settle.lua"),
    include_str!("scripts/lease.lua"),
];

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
    REGISTER_WAITER = "register_waiter";
    REMOVE_WAITER = "remove_waiter";
    CANCEL = "cancel";
    REDRIVE = "redrive";
    PURGE = "purge";
    AUDIT = "audit";
    NUMBER = "number";
    RATE = "rate";
    PUT = "put";
    FORGET = "forget";
}
