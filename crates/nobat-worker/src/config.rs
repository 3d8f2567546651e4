//! What an operator may set: one small struct per concern, every default here.
//!
//! Values come from flags, environment and files (see the binary); per model
//! they are overridden by its `model.toml` (see [`crate::models::settings`]).

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde::de::IntoDeserializer;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A worker process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WorkerConfig {
    /// Model files and folders to serve.
    pub models: Vec<PathBuf>,
    /// Sessions (executor threads) per model.
    pub sessions: Sessions,
    /// Threads that prepare jobs of text models beside the sessions; 0 is one a core.
    pub transform_threads: u32,
    /// Most bytes of one job's outputs; a job with more fails alone. 0, and anything above
    /// what the store can keep, is what the store can keep.
    pub max_result_bytes: usize,
    /// Batching.
    pub batching: BatchingConfig,
    /// Execution provider and memory.
    pub provider: ProviderConfig,
    /// How models are loaded and reloaded.
    pub loading: LoadingConfig,
}

impl Default for WorkerConfig {
    fn default() -> WorkerConfig {
        WorkerConfig {
            models: Vec::new(),
            sessions: Sessions::default(),
            transform_threads: 0,
            max_result_bytes: 256 << 20,
            batching: BatchingConfig::default(),
            provider: ProviderConfig::default(),
            loading: LoadingConfig::default(),
        }
    }
}

impl WorkerConfig {
    /// Most bytes of one job's outputs, where the store keeps `kept` of them.
    pub fn result_bytes(&self, kept: usize) -> usize {
        match self.max_result_bytes {
            0 => kept,
            own => own.min(kept),
        }
    }
}

/// How many sessions a model gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sessions {
    /// From the cores and the measured cost of a run.
    #[default]
    Auto,
    /// Exactly so many; refused with the arithmetic when they cannot fit.
    Count(u32),
}

impl FromStr for Sessions {
    type Err = String;

    fn from_str(text: &str) -> Result<Sessions, String> {
        match text {
            "auto" => Ok(Sessions::Auto),
            _ => match text.parse() {
                Ok(count) if count > 0 => Ok(Sessions::Count(count)),
                _ => Err(format!("sessions `{text}` is neither `auto` nor a number of 1 or more")),
            },
        }
    }
}

impl Serialize for Sessions {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Sessions::Auto => serializer.serialize_str("auto"),
            Sessions::Count(count) => serializer.serialize_u32(*count),
        }
    }
}

impl<'de> Deserialize<'de> for Sessions {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Sessions, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            Number(u32),
            Text(String),
        }
        let text = match Either::deserialize(deserializer)? {
            Either::Number(count) => count.to_string(),
            Either::Text(text) => text,
        };
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// How a batch is decided.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PolicyKind {
    /// `aimd` where an slo is set, else `fixed`.
    #[default]
    Auto,
    /// One job a run.
    None,
    /// A full batch, or the oldest job's delay is over.
    Fixed,
    /// As `fixed`, and the delay shrinks to what the earliest deadline allows.
    Delayed,
    /// Additive increase, multiplicative decrease of the cap against the slo.
    Aimd,
    /// The cap a quantile regression of latency on batch size allows.
    Quantile,
}

impl FromStr for PolicyKind {
    type Err = String;

    fn from_str(text: &str) -> Result<PolicyKind, String> {
        named("batch policy", text, "auto, none, fixed, delayed, aimd, quantile")
    }
}

/// A value by its spelling in the settings.
fn named<'de, T: Deserialize<'de>>(what: &str, text: &'de str, names: &str) -> Result<T, String> {
    let value: Result<T, serde::de::value::Error> = T::deserialize(text.into_deserializer());
    value.map_err(|_| format!("{what} `{text}` is unknown; one of {names}"))
}

const A_DAY_MS: f64 = 86_400_000.0;

/// Batching, per model.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BatchingConfig {
    /// Which policy.
    pub policy: PolicyKind,
    /// Most rows in one run; 0 finds the model's own at load.
    pub max_batch_size: u32,
    /// Most tokens in one run of a text model, padding counted; 0 finds the model's own at load.
    pub max_batch_tokens: u32,
    /// How long a job may wait for others, in milliseconds; 0 runs when a session is free.
    pub max_queue_delay_ms: f64,
    /// Target p99 from enqueue to answer, in milliseconds; 0 is none.
    pub slo_ms: f64,
    /// Most input bytes in one run, of texts input and output bytes: the runtime's arena keeps its peak.
    /// A row that is over it runs alone.
    pub max_batch_bytes: u64,
    /// Most rows in one request; larger ones are refused at the door.
    pub max_rows: u32,
    /// Whether rows of different requests may share a run, where the owner knows; unset,
    /// the graph is read and, where it does not say, a trial is made.
    pub rows_independent: Option<bool>,
}

impl Default for BatchingConfig {
    fn default() -> BatchingConfig {
        BatchingConfig {
            policy: PolicyKind::Auto,
            max_batch_size: 0,
            max_batch_tokens: 0,
            max_queue_delay_ms: 0.0,
            slo_ms: 0.0,
            max_batch_bytes: 64 << 20,
            max_rows: 1024,
            rows_independent: None,
        }
    }
}

impl BatchingConfig {
    /// Checks that its times are from 0 to a day.
    ///
    /// # Errors
    /// One line that names key, value and remedy.
    pub fn check(&self) -> Result<(), String> {
        for (key, ms) in [("slo_ms", self.slo_ms), ("max_queue_delay_ms", self.max_queue_delay_ms)] {
            if !(0.0..=A_DAY_MS).contains(&ms) {
                return Err(format!("[batching] {key} = {ms} is no time; give milliseconds from 0 to a day"));
            }
        }
        Ok(())
    }
}

/// Where runs execute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProviderKind {
    /// The processor.
    #[default]
    Cpu,
    /// An NVIDIA GPU.
    Cuda,
}

impl ProviderKind {
    /// The setting's spelling.
    pub const fn as_str(self) -> &'static str {
        match self {
            ProviderKind::Cpu => "cpu",
            ProviderKind::Cuda => "cuda",
        }
    }
}

impl FromStr for ProviderKind {
    type Err = String;

    fn from_str(text: &str) -> Result<ProviderKind, String> {
        named("execution provider", text, "cpu, cuda")
    }
}

/// What to do when the provider cannot be used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fallback {
    /// Refuse the model.
    #[default]
    None,
    /// Serve it on the CPU and say so loudly.
    Cpu,
}

/// Execution provider and its memory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProviderConfig {
    /// Which provider.
    pub kind: ProviderKind,
    /// GPU number.
    pub device_id: i32,
    /// Most GPU memory for the arena; none is no limit.
    pub memory_limit_bytes: Option<u64>,
    /// Let a GPU round FP32 products to TF32's 10 bits of mantissa: faster, but a
    /// row's answer then depends on the batch it shares, in the third digit.
    pub tf32: bool,
    /// What to do when the provider cannot be used.
    pub fallback: Fallback,
    /// Keep the runtime's memory arena; off returns memory after each run.
    pub arena: bool,
    /// Threads within one session; several one-thread sessions beat one many-thread session.
    pub intra_threads: u32,
    /// Libraries of custom operators, such as `libortextensions.so`. They are code: a model's
    /// own settings cannot name any.
    pub custom_ops: Vec<PathBuf>,
}

impl Default for ProviderConfig {
    fn default() -> ProviderConfig {
        ProviderConfig {
            kind: ProviderKind::Cpu,
            device_id: 0,
            memory_limit_bytes: None,
            tf32: false,
            fallback: Fallback::None,
            arena: true,
            intra_threads: 1,
            custom_ops: Vec::new(),
        }
    }
}

/// How models are loaded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LoadingConfig {
    /// Compare rows alone and together at load; without it, a model whose graph does not
    /// show that rows are independent runs unbatched.
    pub verify_batching: bool,
    /// Most time spent at load on finding the batch size, in milliseconds.
    pub probe_ms: u64,
    /// Most memory of the process with all its models; none is what the system has free.
    pub memory_limit_bytes: Option<u64>,
    /// File whose change reloads the models, such as `models/manifest`; none watches nothing.
    pub manifest: Option<PathBuf>,
}

impl Default for LoadingConfig {
    fn default() -> LoadingConfig {
        LoadingConfig { verify_batching: true, probe_ms: 2_000, memory_limit_bytes: None, manifest: None }
    }
}

impl LoadingConfig {
    /// Most time spent at load on finding the batch size.
    pub fn tune_budget(&self) -> Duration {
        Duration::from_millis(self.probe_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_read_from_text_and_numbers() {
        #[derive(Deserialize)]
        struct Holder {
            sessions: Sessions,
        }
        let read = |text: &str| toml::from_str::<Holder>(text).map(|holder| holder.sessions);
        assert_eq!(read("sessions = \"auto\"").expect("auto"), Sessions::Auto);
        assert_eq!(read("sessions = 3").expect("a number"), Sessions::Count(3));
        assert!(read("sessions = 0").expect_err("zero").to_string().contains("1 or more"));
    }

    #[test]
    fn unknown_keys_are_refused_by_name() {
        let error = toml::from_str::<WorkerConfig>("[batching]\nmax_batch = 3").expect_err("a misspelt key");
        assert!(error.to_string().contains("max_batch"));
    }
}
