//! Layered configuration: compiled-in defaults < file < environment < flags.
//!
//! Owns how layers are read and how a mistake in them is told. Each crate owns
//! the struct of its own section; a binary takes the sections it needs and lets
//! its flags override them. All binaries read the same file, so a section that
//! belongs to another binary is known here and skipped there.
//!
//! - File: TOML, `--config`, else `config/nobat.toml` where there is one.
//! - Environment: `NOBAT_<SECTION>__<KEY>`, deeper keys with a further `__`:
//!   `NOBAT_WORKER__BATCHING__MAX_BATCH_SIZE=16`. Flags have `NOBAT_<FLAG>`.
//!
//! Invariants:
//! - A duration or size may be written with its unit (`lease_ms = "3s"`): see [`units`].
//! - An unknown key is refused by name, with the nearest known one.
//! - A value of the wrong type names its key, the layer it came from and the remedy.

use std::path::Path;

use figment::Figment;
use figment::error::{Actual, Kind};
use figment::providers::{Env, Format, Serialized, Toml};
use figment::value::{Dict, Map, Num, Value};
use figment::{Metadata, Profile, Provider};
use serde::Serialize;
use serde::de::DeserializeOwned;

use nobat_core::secret::shown_url;
use nobat_core::units;
use nobat_core::{Error, Result};

/// Every section a configuration may have, over all binaries.
pub const SECTIONS: &[&str] = &["store", "queue", "gateway", "worker", "scheduler", "log"];

/// The file read when none is named.
pub const DEFAULT_FILE: &str = "config/nobat.toml";

const ENV_PREFIX: &str = "NOBAT_";

/// A configuration's layers below the flags, read but not yet taken apart.
#[derive(Debug)]
pub struct Layers {
    figment: Figment,
}

impl Layers {
    /// Reads `file`, or the default file where there is one, and the environment.
    ///
    /// # Errors
    /// `invalid_parameter`: a named file that is missing, a file that is not
    /// TOML, a section nobody knows.
    pub fn read(file: Option<&Path>) -> Result<Layers> {
        let mut figment = Figment::new();
        if let Some(path) = file {
            if !path.is_file() {
                return Err(Error::invalid(format!("there is no configuration file `{}`", path.display())));
            }
            figment = figment.merge(InUnits(Toml::file_exact(path)));
        } else if Path::new(DEFAULT_FILE).is_file() {
            figment = figment.merge(InUnits(Toml::file_exact(DEFAULT_FILE)));
        }
        Layers::check(figment.merge(InUnits(environment())))
    }

    fn check(figment: Figment) -> Result<Layers> {
        let top: Dict = figment.extract().map_err(|error| tell(error, None))?;
        if let Some(key) = top.keys().find(|key| !SECTIONS.contains(&key.as_str())) {
            return Err(unknown("section", key, SECTIONS));
        }
        // Laid over its defaults, what is no table would be passed over.
        if let Some((key, value)) = top.iter().find(|(_, value)| !matches!(value, Value::Dict(..))) {
            let is = value.to_actual();
            let is = if matches!(is, Actual::Str(_)) { "some text".to_owned() } else { is.to_string() };
            let message =
                format!("configuration section `{key}` is {is}; it is a table: write its keys under `[{key}]`");
            return Err(Error::invalid(message));
        }
        Ok(Layers { figment })
    }

    /// A section over its compiled-in defaults.
    ///
    /// # Errors
    /// `invalid_parameter` naming the key, the layer and the remedy.
    pub fn section<T: Default + Serialize + DeserializeOwned>(&self, name: &str) -> Result<T> {
        debug_assert!(SECTIONS.contains(&name), "`{name}` is missing in SECTIONS");
        let defaults = Serialized::default(name, T::default());
        Figment::from(defaults).merge(&self.figment).focus(name).extract().map_err(|error| tell(error, Some(name)))
    }
}

/// A layer whose durations and sizes may be written with their units; each becomes a
/// number of its setting's own.
struct InUnits<P>(P);

impl<P: Provider> Provider for InUnits<P> {
    fn metadata(&self) -> Metadata {
        self.0.metadata()
    }

    fn data(&self) -> std::result::Result<Map<Profile, Dict>, figment::Error> {
        let mut data = self.0.data()?;
        data.values_mut().flat_map(|dict| dict.iter_mut()).for_each(|(key, value)| in_units(key, value));
        Ok(data)
    }

    fn profile(&self) -> Option<Profile> {
        self.0.profile()
    }
}

fn in_units(key: &str, value: &mut Value) {
    match value {
        // A stored request is its owner's own words.
        Value::Dict(..) if key == "request" => {}
        Value::Dict(_, members) => members.iter_mut().for_each(|(key, value)| in_units(key, value)),
        Value::Array(_, items) => items.iter_mut().for_each(|item| in_units(key, item)),
        Value::String(tag, text) => {
            if let Some(number) = units::in_unit_of(key, text) {
                let whole = number.fract() == 0.0 && (0.0..9e15).contains(&number);
                let number = if whole { Num::U64(number as u64) } else { Num::F64(number) };
                *value = Value::Num(*tag, number);
            }
        }
        _ => {}
    }
}

/// The environment's `NOBAT_SECTION__KEY` variables. A variable without `__`
/// belongs to a flag, which reads it itself.
fn environment() -> Env {
    Env::prefixed(ENV_PREFIX).filter(|key| key.as_str().contains("__")).split("__")
}

/// The first thing wrong, as one line that names key, value, layer and remedy.
fn tell(error: figment::Error, section: Option<&str>) -> Error {
    let mut path: Vec<&str> = error.path.iter().map(String::as_str).collect();
    if let Some(section) = section {
        path.insert(0, section);
    }
    let key = path.join(".");
    let layer = error.metadata.as_ref().map_or_else(String::new, |metadata| match &metadata.source {
        Some(source) => format!(" (in {source})"),
        None => format!(" (in {})", metadata.name),
    });
    match &error.kind {
        Kind::UnknownField(field, known) => {
            let full = if path.last() == Some(&field.as_str()) { key } else { format!("{key}.{field}") };
            let refused = unknown("key", &full, known);
            Error { message: format!("{}{layer}", refused.message), ..refused }
        }
        Kind::InvalidType(actual, expected) | Kind::InvalidValue(actual, expected) => {
            let actual = match actual {
                Actual::Str(_) if key.contains("secret") => "some text".to_owned(),
                Actual::Str(text) => Actual::Str(shown_url(text)).to_string(),
                actual => actual.to_string(),
            };
            let takes = units::remedy(&key).unwrap_or_else(|| format!("it takes {expected}"));
            Error::invalid(format!("setting `{key}` is {actual}{layer}; {takes}"))
        }
        kind if key.is_empty() => Error::invalid(format!("configuration{layer}: {kind}")),
        kind => Error::invalid(format!("setting `{key}`{layer}: {kind}")),
    }
}

fn unknown(what: &str, key: &str, known: &[&str]) -> Error {
    let last = key.rsplit('.').next().unwrap_or(key);
    let nearest = known.iter().map(|known| (strsim::damerau_levenshtein(last, known), known)).min();
    let hint = match nearest {
        Some((distance, name)) if distance <= 1 + name.len() / 3 => format!("did you mean `{name}`?"),
        _ => format!("known: {}", known.join(", ")),
    };
    Error::invalid(format!("unknown configuration {what} `{key}`; {hint}"))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use nobat_core::secret::{Secret, SecretUrl};
    use serde::Deserialize;

    use super::*;

    fn layers(toml: &str) -> Result<Layers> {
        Layers::check(Figment::from(InUnits(Toml::string(toml))))
    }

    #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct StoreSettings {
        redis: SecretUrl,
        data: PathBuf,
    }

    #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Timed {
        lease_ms: u32,
        retry_s: Vec<u32>,
        max_bytes: u64,
        deep: Option<Box<Timed>>,
    }

    #[test]
    fn durations_and_sizes_may_be_written_with_their_units_at_any_depth() {
        let read = |toml: &str| layers(toml).and_then(|layers| layers.section::<Timed>("queue"));
        let found = read("[queue]\nlease_ms = \"3s\"\nretry_s = [5, \"5m\"]\n[queue.deep]\nmax_bytes = \"64MiB\"");
        let deep = Timed { max_bytes: 64 << 20, ..Timed::default() };
        let expected = Timed { lease_ms: 3_000, retry_s: vec![5, 300], deep: Some(deep.into()), ..Timed::default() };
        assert_eq!(found.ok(), Some(expected));
        let refused = |toml: &str| read(toml).expect_err("refused").message;
        for (toml, key) in [
            ("[queue]\nlease_ms = \"soon\"", "`queue.lease_ms`"),
            ("[queue]\nlease_ms = \"1.5ms\"", "`queue.lease_ms`"),
            ("[queue.deep]\nretry_s = [\"500ms\"]", "`queue.deep.retry_s"),
            ("[queue]\nmax_bytes = \"much\"", "`queue.max_bytes`"),
        ] {
            let said = refused(toml);
            assert!(said.contains(key) && said.contains("such as") && said.contains("TOML"), "{said}");
        }
    }

    #[test]
    fn a_section_that_is_no_table_is_refused_and_not_passed_over() {
        for (toml, says) in [
            ("store = \"redis://user:hidden@db\"", "`store` is some text"),
            ("queue = 5", "`queue` is "),
            ("[[gateway]]\nlisten = \"x\"", "`gateway` is "),
        ] {
            let said = layers(toml).expect_err(toml).message;
            assert!(said.contains(says) && said.contains("table") && !said.contains("hidden"), "{said}");
        }
    }

    #[test]
    fn a_section_stands_over_its_defaults() {
        let store: StoreSettings =
            layers("[store]\nredis = \"redis://db\"").expect("reads").section("store").expect("a section");
        assert_eq!(store, StoreSettings { redis: "redis://db".into(), ..StoreSettings::default() });
        let store: StoreSettings = layers("").expect("reads").section("store").expect("a section");
        assert_eq!(store, StoreSettings::default());
    }

    #[test]
    fn an_unknown_key_is_refused_with_the_nearest_known_one() {
        let error =
            layers("[store]\nrediss = \"x\"").expect("reads").section::<StoreSettings>("store").expect_err("no");
        assert!(error.message.contains("`store.rediss`") && error.message.contains("`redis`"), "{error}");
        let error = layers("[gatway]\n").expect_err("no such section");
        assert!(error.message.contains("`gatway`") && error.message.contains("`gateway`"), "{error}");
        let error = layers("[zebra]\n").expect_err("no such section");
        assert!(error.message.contains("known: store, queue"), "{error}");
    }

    #[test]
    fn a_value_of_the_wrong_type_names_its_key() {
        let error = layers("[store]\nredis = 3").expect("reads").section::<StoreSettings>("store").expect_err("no");
        assert!(error.message.contains("`store.redis`") && error.message.contains("string"), "{error}");
    }

    #[test]
    fn a_secret_in_the_wrong_place_is_not_repeated() {
        #[derive(Debug, Default, Serialize, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        struct Webhooks {
            secrets: Vec<Secret>,
            on: bool,
        }
        let refused =
            |toml: &str| layers(toml).and_then(|all| all.section::<Webhooks>("gateway")).expect_err("no").message;
        let message = refused("[gateway]\nsecrets = \"whsec_abc\"");
        assert!(message.contains("`gateway.secrets`") && !message.contains("abc"), "{message}");
        let message = refused("[gateway]\non = \"redis://:pw@db\"");
        assert!(message.contains("`gateway.on`") && !message.contains("pw"), "{message}");
        let message = refused("[gateway]\non = \"soon\"");
        assert!(message.contains("soon"), "{message}");
    }

    #[test]
    fn a_file_that_is_not_toml_and_one_that_is_missing_are_told() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("nobat.toml");
        let error = Layers::read(Some(&path)).expect_err("missing");
        assert!(error.message.contains("nobat.toml"), "{error}");
        std::fs::write(&path, "[store\n").expect("writes");
        let error = Layers::read(Some(&path)).expect_err("not TOML");
        assert!(error.message.contains("nobat.toml"), "{error}");
    }

    #[test]
    #[expect(clippy::result_large_err, reason = "the signature is figment's")]
    fn the_environment_stands_over_the_file() {
        figment::Jail::expect_with(|jail| {
            jail.create_file("nobat.toml", "[store]\nredis = \"redis://file\"\ndata = \"/from/file\"")?;
            jail.set_env("NOBAT_STORE__REDIS", "redis://env");
            jail.set_env("NOBAT_LISTEN", "a flag's own variable");
            let layers = Layers::read(Some(Path::new("nobat.toml"))).expect("reads");
            let store: StoreSettings = layers.section("store").expect("a section");
            assert_eq!((store.redis.expose(), store.data.as_path()), ("redis://env", Path::new("/from/file")));
            jail.set_env("NOBAT_QUEUE__LEASE_MS", "2s");
            let layers = Layers::read(Some(Path::new("nobat.toml"))).expect("reads");
            assert_eq!(layers.section::<Timed>("queue").expect("a section").lease_ms, 2_000);
            jail.set_env("NOBAT_STORE__DATTA", "x");
            let layers = Layers::read(Some(Path::new("nobat.toml"))).expect("reads");
            let error = layers.section::<StoreSettings>("store").expect_err("unknown");
            assert!(error.message.contains("datta") && error.message.contains("environment"), "{error}");
            Ok(())
        });
    }
}
