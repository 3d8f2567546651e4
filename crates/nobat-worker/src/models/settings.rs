//! Per-model settings: an optional `model.toml` beside the model (`NAME.toml` for a
//! plain `NAME.onnx`), or the common fields of a Triton `config.pbtxt`.
//!
//! Both only override what the worker's configuration says; a plain file needs
//! neither. Unknown keys are refused by name. `model.toml` wins over
//! `config.pbtxt`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use nobat_core::units;
use nobat_image::{BytesSettings, ImageSettings};
use nobat_text::TextSettings;
use serde::{Deserialize, Deserializer};
use smol_str::SmolStr;

use super::pbtxt;
use super::scan::{FoundModel, FoundVersion};
use crate::config::{BatchingConfig, PolicyKind, ProviderConfig, ProviderKind, Sessions, WorkerConfig};
use crate::models::{golden, profile};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum VersionPolicy {
    /// The newest so many.
    Latest(usize),
    All,
    Only(Vec<SmolStr>),
}

impl Default for VersionPolicy {
    fn default() -> VersionPolicy {
        VersionPolicy::Latest(1)
    }
}

impl<'de> Deserialize<'de> for VersionPolicy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<VersionPolicy, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Raw {
            Word(String),
            Latest { latest: usize },
            List(Vec<u64>),
        }
        match Raw::deserialize(deserializer)? {
            Raw::Word(word) if word == "all" => Ok(VersionPolicy::All),
            Raw::Word(word) if word == "latest" => Ok(VersionPolicy::default()),
            Raw::Word(word) => Err(serde::de::Error::custom(format!(
                "versions `{word}` is unknown; \"all\", \"latest\", {{ latest = N }} or a list of numbers"
            ))),
            Raw::Latest { latest } => Ok(VersionPolicy::Latest(latest.max(1))),
            Raw::List(list) => {
                Ok(VersionPolicy::Only(list.into_iter().map(|number| number.to_string().into()).collect()))
            }
        }
    }
}

impl VersionPolicy {
    /// The versions that serve, oldest first.
    pub(crate) fn select<'a>(&self, versions: &'a [FoundVersion]) -> Vec<&'a FoundVersion> {
        match self {
            VersionPolicy::All => versions.iter().collect(),
            VersionPolicy::Latest(count) => versions.iter().skip(versions.len().saturating_sub(*count)).collect(),
            VersionPolicy::Only(list) => versions.iter().filter(|version| list.contains(&version.version)).collect(),
        }
    }
}

/// One model's settings over the worker's.
#[derive(Clone, Debug, Default)]
pub(crate) struct ModelSettings {
    pub(crate) versions: VersionPolicy,
    /// Names for versions.
    pub(crate) labels: BTreeMap<SmolStr, SmolStr>,
    /// The version that answers when none is asked for; the newest unless said.
    pub(crate) default_version: Option<SmolStr>,
    /// Refuse NaN and infinities in float inputs.
    pub(crate) finite: bool,
    /// How texts are read and answered, over what the folder says.
    pub(crate) text: TextSettings,
    /// How pictures are read and answered; none where the owner does not say that it takes them.
    pub(crate) image: Option<ImageSettings>,
    /// Which bytes of files are taken; none where the owner does not say that it takes files.
    pub(crate) bytes: Option<BytesSettings>,
    /// What the gateway reads: cache, routing key, and whatever else it knows.
    pub(crate) gateway: serde_json::Map<String, serde_json::Value>,
    /// The worker's configuration as this model sees it.
    pub(crate) config: WorkerConfig,
}

/// What a version is loaded with beside its file; a change of it loads the version anew.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct LoadSettings {
    /// Refuse NaN and infinities in float inputs.
    pub(crate) finite: bool,
    pub(crate) batching: BatchingConfig,
    pub(crate) provider: ProviderConfig,
    /// Whether its callers may not see its graph's own tensors.
    pub(crate) may_be_transformed: bool,
    pub(crate) text: TextSettings,
    pub(crate) image: Option<ImageSettings>,
    pub(crate) bytes: Option<BytesSettings>,
    /// What it must answer: the hash of its golden file, if it has one.
    pub(crate) golden: Option<[u8; 32]>,
    /// What its rows are held against: the hash of its profile, if it has one.
    pub(crate) profile: Option<[u8; 32]>,
}

impl ModelSettings {
    /// What this version is loaded with.
    pub(crate) fn of_load(&self, found: &FoundVersion) -> LoadSettings {
        let WorkerConfig { batching, provider, .. } = &self.config;
        LoadSettings {
            finite: self.finite,
            batching: *batching,
            provider: provider.clone(),
            may_be_transformed: self.may_transform(found),
            text: self.text.clone(),
            image: self.image.clone(),
            bytes: self.bytes.clone(),
            golden: golden::hash(&found.file),
            profile: profile::hash(&found.file),
        }
    }

    /// Whether callers of a version may not see its graph's own tensors; before it is loaded.
    pub(crate) fn may_transform(&self, found: &FoundVersion) -> bool {
        self.image.is_some() || self.bytes.is_some() || found.text_folder.is_some() || found.image_folder.is_some()
    }

    /// The versions that serve, oldest first; at least one.
    ///
    /// # Errors
    /// When the policy selects none of those found.
    pub(crate) fn select<'a>(&self, found: &'a [FoundVersion]) -> Result<Vec<&'a FoundVersion>, String> {
        let selected = self.versions.select(found);
        if !selected.is_empty() {
            return Ok(selected);
        }
        let numbers: Vec<&str> = found.iter().map(|found| found.version.as_str()).collect();
        Err(format!(
            "its settings select none of its versions; found: {}; name one of them in `versions`",
            numbers.join(", ")
        ))
    }
}

/// `model.toml` as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ModelFile {
    versions: Option<VersionPolicy>,
    labels: BTreeMap<SmolStr, toml::Value>,
    default_version: Option<toml::Value>,
    finite: bool,
    sessions: Option<Sessions>,
    batching: toml::Table,
    provider: toml::Table,
    text: Option<TextSettings>,
    image: Option<ImageSettings>,
    bytes: Option<BytesSettings>,
    settings: serde_json::Map<String, serde_json::Value>,
    /// Of a chain; read by [`super::chains`].
    #[serde(rename = "chain")]
    _chain: serde::de::IgnoredAny,
}

/// Reads a model's settings files over the worker's configuration. An error is one line that
/// names file, key and remedy.
pub(crate) fn read(found: &FoundModel, config: &WorkerConfig) -> Result<ModelSettings, String> {
    let mut settings = ModelSettings { config: config.clone(), ..ModelSettings::default() };
    if found.routed.is_some() {
        return Ok(settings);
    }
    if let Some(path) = found.folder.as_ref().map(|folder| folder.join("config.pbtxt"))
        && let Some(text) = read_file(&path)?
    {
        apply_pbtxt(&text, &mut settings).map_err(|reason| format!("`{}`: {reason}", path.display()))?;
    }
    if let Some(path) = toml_of(found)
        && let Some(text) = read_file(&path)?
    {
        apply_toml(&text, &mut settings).map_err(|reason| format!("`{}`: {reason}", path.display()))?;
    }
    let batching = &settings.config.batching;
    batching.check()?;
    if batching.slo_ms > 0.0 {
        settings.gateway.entry("slo_ms").or_insert_with(|| batching.slo_ms.into());
    }
    Ok(settings)
}

/// `model.toml` in the model's folder, or `NAME.toml` beside a plain `NAME.onnx`.
fn toml_of(found: &FoundModel) -> Option<PathBuf> {
    match &found.folder {
        Some(folder) => Some(folder.join("model.toml")),
        None => found.versions.first().map(|version| version.file.with_extension("toml")),
    }
}

/// Reads a `config.pbtxt` alone, over the defaults.
pub(crate) fn of_pbtxt(text: &str) -> Result<ModelSettings, String> {
    let mut settings = ModelSettings::default();
    apply_pbtxt(text, &mut settings).map(|()| settings)
}

/// Whether a text is a `model.toml` that is read.
#[cfg(test)]
pub(crate) fn check_toml(text: &str) -> Result<(), String> {
    apply_toml(text, &mut ModelSettings::default())
}

fn read_file(path: &Path) -> Result<Option<String>, String> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("cannot read `{}`: {error}", path.display())),
    }
}

fn apply_toml(text: &str, settings: &mut ModelSettings) -> Result<(), String> {
    let mut table: toml::Table = toml::from_str(text).map_err(|error| error.message().to_owned())?;
    // Other settings hold names of the owner's: a class may be called `3s`.
    for name in ["batching", "provider"] {
        if let Some(value) = table.get_mut(name) {
            in_units(name, value);
        }
    }
    if let Some(cache) = table.get_mut("settings").and_then(|settings| settings.get_mut("cache")) {
        in_units("cache", cache);
    }
    let file: ModelFile = table.try_into().map_err(|error: toml::de::Error| error.message().to_owned())?;
    let version = |value: &toml::Value| match value {
        toml::Value::String(text) => SmolStr::from(text.as_str()),
        other => other.to_string().into(),
    };
    if let Some(versions) = file.versions {
        settings.versions = versions;
    }
    settings.labels.extend(file.labels.iter().map(|(label, value)| (label.clone(), version(value))));
    settings.default_version = file.default_version.as_ref().map(version);
    settings.finite |= file.finite;
    settings.gateway.extend(file.settings);
    if let Some(text) = file.text {
        settings.text = text;
    }
    if file.image.is_some() && file.bytes.is_some() {
        return Err("it has both [image] and [bytes]; a model takes pictures or files, leave one out".into());
    }
    settings.image = file.image.or(settings.image.take());
    settings.bytes = file.bytes.or(settings.bytes.take());
    if let Some(sessions) = file.sessions {
        settings.config.sessions = sessions;
    }
    settings.config.batching = overlay(&settings.config.batching, file.batching, "batching")?;
    if file.provider.contains_key("custom_ops") {
        return Err("[provider] custom_ops: libraries are code, and a model's folder names none; set worker.provider.custom_ops in the server's configuration".into());
    }
    settings.config.provider = overlay(&settings.config.provider, file.provider, "provider")?;
    Ok(())
}

/// Durations and sizes that are written with their units, as in the configuration.
fn in_units(key: &str, value: &mut toml::Value) {
    match value {
        toml::Value::Table(members) => members.iter_mut().for_each(|(key, value)| in_units(key, value)),
        toml::Value::Array(items) => items.iter_mut().for_each(|item| in_units(key, item)),
        toml::Value::String(text) => {
            if let Some(number) = units::in_unit_of(key, text) {
                let whole = number.fract() == 0.0 && (0.0..9e15).contains(&number);
                *value = if whole { (number as i64).into() } else { number.into() };
            }
        }
        _ => {}
    }
}

/// `base` with the keys of `over`; an unknown key is refused by its name.
fn overlay<T: serde::Serialize + serde::de::DeserializeOwned>(
    base: &T,
    over: toml::Table,
    table: &str,
) -> Result<T, String> {
    let mut merged = toml::Table::try_from(base).map_err(|error| error.to_string())?;
    merged.extend(over);
    merged.try_into().map_err(|error: toml::de::Error| format!("[{table}] {}", error.message()))
}

/// Triton's common fields; the others are ignored.
fn apply_pbtxt(text: &str, settings: &mut ModelSettings) -> Result<(), String> {
    let fields = pbtxt::parse(text)?;
    let batching = &mut settings.config.batching;
    if let Some(size) = fields.number("max_batch_size")? {
        match size {
            // Triton's 0: the model has no batch axis.
            0 => batching.policy = PolicyKind::None,
            size => {
                batching.max_batch_size =
                    u32::try_from(size).map_err(|_| "max_batch_size is out of range".to_owned())?
            }
        }
    }
    if let Some(dynamic) = fields.block("dynamic_batching")
        && let Some(micros) = dynamic.number("max_queue_delay_microseconds")?
    {
        batching.max_queue_delay_ms = micros as f64 / 1e3;
    }
    if let Some(group) = fields.block("instance_group") {
        if let Some(count) = group.number("count")? {
            settings.config.sessions =
                count.to_string().parse().map_err(|error| format!("instance_group count: {error}"))?;
        }
        if group.texts("kind").next() == Some("KIND_GPU") {
            settings.config.provider.kind = ProviderKind::Cuda;
        }
    }
    if let Some(policy) = fields.block("version_policy") {
        if policy.block("all").is_some() {
            settings.versions = VersionPolicy::All;
        } else if let Some(latest) = policy.block("latest") {
            settings.versions = VersionPolicy::Latest(latest.number("num_versions")?.unwrap_or(1).max(1) as usize);
        } else if let Some(specific) = policy.block("specific") {
            settings.versions = VersionPolicy::Only(specific.texts("versions").map(SmolStr::new).collect());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_with(files: &[(&str, &str)]) -> Result<ModelSettings, String> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).expect("a file");
        }
        let found =
            FoundModel { name: "m".into(), folder: Some(folder.path().to_owned()), versions: vec![], routed: None };
        read(&found, &WorkerConfig::default())
    }

    #[test]
    fn a_plain_folder_keeps_the_workers_configuration() {
        let settings = read_with(&[]).expect("no files");
        assert_eq!(settings.config, WorkerConfig::default());
        assert_eq!(settings.versions, VersionPolicy::Latest(1));
    }

    #[test]
    fn a_models_folder_names_no_libraries() {
        let refused = read_with(&[("model.toml", "[provider]\ncustom_ops = [\"/tmp/x.so\"]\n")]).expect_err("code");
        assert!(refused.contains("worker.provider.custom_ops"), "{refused}");
        let config = WorkerConfig {
            provider: ProviderConfig { custom_ops: vec!["ops.so".into()], ..ProviderConfig::default() },
            ..WorkerConfig::default()
        };
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(folder.path().join("model.toml"), "[provider]\nintra_threads = 2\n").expect("a file");
        let found =
            FoundModel { name: "m".into(), folder: Some(folder.path().to_owned()), versions: vec![], routed: None };
        let provider = read(&found, &config).expect("reads").config.provider;
        assert_eq!((provider.intra_threads, provider.custom_ops), (2, vec!["ops.so".into()]), "the server's stay");
    }

    #[test]
    fn model_toml_overrides_key_by_key() {
        let text = "versions = [1, 3]\nlabels = { stable = 1, canary = \"3\" }\nsessions = 2\nfinite = true\n\
                    [batching]\nslo_ms = 50.0\n[settings]\nrouting_key = \"vision.digits\"\n";
        let settings = read_with(&[("model.toml", text)]).expect("reads");
        assert_eq!(settings.versions, VersionPolicy::Only(vec!["1".into(), "3".into()]));
        assert_eq!(settings.labels.get("canary").map(SmolStr::as_str), Some("3"));
        assert_eq!(settings.config.sessions, Sessions::Count(2));
        assert_eq!(settings.config.batching.slo_ms, 50.0);
        assert_eq!(settings.config.batching.max_rows, 1024);
        assert_eq!(settings.gateway["slo_ms"], 50.0);
        assert_eq!(settings.gateway["routing_key"], "vision.digits");
    }

    #[test]
    fn durations_and_sizes_may_be_written_with_their_units() {
        let text = "[batching]\nslo_ms = \"1.5s\"\nmax_queue_delay_ms = \"500us\"\nmax_batch_bytes = \"64MiB\"\n\
                    [settings]\ncache = { ttl_s = \"10m\" }\nclass_labels = { y_s = [\"3s\"] }\n";
        let settings = read_with(&[("model.toml", text)]).expect("reads");
        let batching = &settings.config.batching;
        assert_eq!((batching.slo_ms, batching.max_queue_delay_ms), (1_500.0, 0.5));
        assert_eq!(batching.max_batch_bytes, 64 << 20);
        assert_eq!(settings.gateway["cache"]["ttl_s"], 600);
        assert_eq!(settings.gateway["class_labels"]["y_s"][0], "3s", "a name of the owner's");
        let refused = read_with(&[("model.toml", "[batching]\nslo_ms = \"soon\"")]).expect_err("refused");
        assert!(refused.contains("slo_ms") || refused.contains("[batching]"), "{refused}");
    }

    #[test]
    fn a_plain_file_has_settings_under_its_own_name() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(folder.path().join("a.toml"), "sessions = 2").expect("a file");
        let sessions = |name: &str| {
            let file = folder.path().join(name);
            let versions = vec![FoundVersion::new("1".into(), file)];
            let found = FoundModel { name: "m".into(), folder: None, versions, routed: None };
            read(&found, &WorkerConfig::default()).expect("reads").config.sessions
        };
        assert_eq!((sessions("a.onnx"), sessions("b.onnx")), (Sessions::Count(2), Sessions::Auto));
    }

    #[test]
    fn model_toml_wins_over_a_triton_configuration_also_with_a_default() {
        let all = ("config.pbtxt", "version_policy { all {} }");
        let versions = |text: &str| read_with(&[all, ("model.toml", text)]).expect("reads").versions;
        assert_eq!(versions("versions = \"latest\""), VersionPolicy::Latest(1));
        assert_eq!(versions("finite = true"), VersionPolicy::All);
    }

    #[test]
    fn unknown_keys_are_refused_with_file_and_name() {
        let error = read_with(&[("model.toml", "[batching]\nmax_batch = 3\n")]).expect_err("misspelt");
        assert!(error.contains("model.toml") && error.contains("max_batch"), "{error}");
        let error = read_with(&[("model.toml", "version = 3\n")]).expect_err("misspelt");
        assert!(error.contains("`version`"), "{error}");
    }

    #[test]
    fn the_common_fields_of_a_triton_configuration_are_read() {
        let text = r#"
            name: "m"  # a comment
            platform: "onnxruntime_onnx"
            max_batch_size: 16
            input [ { name: "x", data_type: TYPE_FP32, dims: [ 3, -1 ] } ]
            dynamic_batching { preferred_batch_size: [ 4, 8 ] max_queue_delay_microseconds: 2500 }
            instance_group [ { count: 2 kind: KIND_CPU } ]
            version_policy: { specific { versions: [1, 3] } }
        "#;
        let settings = read_with(&[("config.pbtxt", text)]).expect("reads");
        assert_eq!(settings.config.batching.max_batch_size, 16);
        assert_eq!(settings.config.batching.max_queue_delay_ms, 2.5);
        assert_eq!(settings.config.sessions, Sessions::Count(2));
        assert_eq!(settings.versions, VersionPolicy::Only(vec!["1".into(), "3".into()]));
        let latest = read_with(&[("config.pbtxt", "version_policy { latest { num_versions: 2 } }")]).expect("reads");
        assert_eq!(latest.versions, VersionPolicy::Latest(2));
        let all = read_with(&[("config.pbtxt", "max_batch_size: 0 version_policy { all {} }")]).expect("reads");
        assert_eq!((all.versions, all.config.batching.policy), (VersionPolicy::All, PolicyKind::None));
    }

    #[test]
    fn the_policy_selects_versions() {
        let versions: Vec<_> =
            ["1", "2", "10"].map(|version| FoundVersion::new(version.into(), "x".into())).into_iter().collect();
        let names =
            |policy: VersionPolicy| policy.select(&versions).iter().map(|v| v.version.to_string()).collect::<Vec<_>>();
        assert_eq!(names(VersionPolicy::default()), ["10"]);
        assert_eq!(names(VersionPolicy::Latest(2)), ["2", "10"]);
        assert_eq!(names(VersionPolicy::All), ["1", "2", "10"]);
        assert_eq!(names(VersionPolicy::Only(vec!["2".into()])), ["2"]);
    }
}
