//! `nobat keys`: API keys in the file that the gateway reads.

use nobat_runtime::streams::{print, tell};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use chrono::DateTime;
use clap::Subcommand;
use nobat_serving::auth::{self, Keyring, NewKey, Scope};
use serde_json::json;

use crate::client::print_lines;
use crate::table::Columns;

const KEYS: Columns =
    Columns { list: "keys", paths: &["id", "name", "scope", "state", "expires", "models"], empty: "there are no keys" };

/// Make, list, rotate and revoke API keys.
///
/// A gateway with `auth.keys` set to the file takes changes over within seconds.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    nobat keys new ci --scope predict --models digits,vision.* --days 90\n  \
    nobat keys rotate ci --overlap-hours 24\n  \
    nobat keys revoke ci")]
pub(crate) struct Args {
    /// The file of keys; hashes only, readable by its owner only.
    #[arg(long, env = "NOBAT_KEYS", default_value = "keys.toml", value_name = "FILE", global = true)]
    keys: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make a key and print it, once.
    New {
        /// For people, such as the caller's name.
        name: String,
        /// read, predict or admin; each covers those before it.
        #[arg(long, default_value = "predict")]
        scope: Scope,
        /// Models it may use; `*` at the end is a prefix [default: all].
        #[arg(long, value_delimiter = ',', value_name = "MODEL")]
        models: Vec<String>,
        /// Valid for so many days [default: for ever].
        #[arg(long, value_name = "DAYS")]
        days: Option<u64>,
        /// Predictions per second; 0 takes the gateway's default.
        #[arg(long, default_value_t = 0.0, value_name = "N")]
        rate: f64,
        /// Predictions at once beyond the rate; 0 takes the default.
        #[arg(long, default_value_t = 0, value_name = "N")]
        burst: u32,
        /// Predictions in flight; 0 takes the gateway's default.
        #[arg(long, default_value_t = 0, value_name = "N")]
        in_flight: u32,
        /// Tokens a minute that its texts may have; 0 takes the gateway's default.
        #[arg(long, default_value_t = 0, value_name = "N")]
        tokens_per_min: u32,
        /// Highest priority of its jobs, 0 to 255 [default: the gateway's].
        #[arg(long, value_name = "N")]
        max_priority: Option<u8>,
    },
    /// Show the keys, without secrets.
    List,
    /// Give a key a new secret and print it, once.
    Rotate {
        /// Id or name.
        key: String,
        /// How long the secret before stays valid.
        #[arg(long, default_value_t = 24, value_name = "HOURS")]
        overlap_hours: u64,
    },
    /// Refuse a key from now on.
    Revoke {
        /// Id or name.
        key: String,
    },
}

pub(crate) fn run(args: Args) -> Result<()> {
    let (path, now_s) = (args.keys.as_path(), auth::now_s());
    match args.command {
        Command::New { name, scope, models, days, rate, burst, in_flight, tokens_per_min, max_priority } => {
            let new = NewKey {
                name: name.into(),
                scope,
                models: models.into_iter().map(Into::into).collect(),
                valid_s: days.map(|days| days.saturating_mul(86_400)),
                rate_per_s: rate,
                burst,
                max_in_flight: in_flight,
                tokens_per_min,
                max_priority,
            };
            shown_once(&change(path, auth::load_or_none, |ring| ring.add(new, now_s))?)?;
        }
        Command::List => list(&auth::load(path)?, now_s)?,
        Command::Rotate { key, overlap_hours } => {
            let overlap_s = overlap_hours.saturating_mul(3_600);
            shown_once(&change(path, auth::load, |ring| ring.rotate(&key, overlap_s, now_s))?)?;
        }
        Command::Revoke { key } => {
            change(path, auth::load, |ring| ring.revoke(&key))?;
            print(format_args!("revoked `{key}`"))?;
        }
    }
    Ok(())
}

fn change<T>(
    path: &Path,
    load: fn(&Path) -> nobat_core::Result<Keyring>,
    change: impl FnOnce(&mut Keyring) -> nobat_core::Result<T>,
) -> Result<T> {
    if path.is_dir() {
        bail!("`{}` is a folder; name a file", path.display());
    }
    let changed = auth::change(path, load, change);
    let (changed, _) = changed.with_context(|| format!("nothing was changed in `{}`", path.display()))?;
    Ok(changed)
}

fn shown_once(key: &str) -> Result<()> {
    print(key)?;
    tell("this is the only time the key is shown; send it as `Authorization: Bearer <key>`");
    Ok(())
}

fn list(ring: &Keyring, now_s: u64) -> Result<()> {
    let shown = ring.records().iter().map(|record| {
        let state = match record.expires_at_s {
            _ if record.revoked => "revoked",
            Some(at) if now_s >= at => "expired",
            _ if record.secrets.len() > 1 => "rotating",
            _ => "active",
        };
        let expires = record.expires_at_s.map_or_else(|| "never".to_owned(), day);
        let scope = record.scope.to_string();
        json!({"id": record.id, "name": record.name, "scope": scope, "state": state, "expires": expires, "models": record.models})
    });
    print_lines(&json!({"keys": shown.collect::<Vec<_>>()}), Some(&KEYS))
}

fn day(at_s: u64) -> String {
    let at = i64::try_from(at_s).ok().and_then(|at_s| DateTime::from_timestamp(at_s, 0));
    at.map_or_else(|| "never".to_owned(), |at| at.format("%Y-%m-%d").to_string())
}
