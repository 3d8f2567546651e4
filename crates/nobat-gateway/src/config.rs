//! What an operator may set about the gateway. Defaults compiled in; flags and
//! `NOBAT_…` variables come from `clap`, a file through `serde`.

use std::time::Duration;

use nobat_batches::FileSettings;
use nobat_core::{Result, units};
use nobat_scheduler::SchedulerSettings;
use nobat_serving::audit::AuditConfig;
use nobat_serving::auth::AuthConfig;
use nobat_serving::cache::CacheOverrides;
use nobat_serving::limits::LimitsConfig;
use nobat_serving::monitor::MonitorConfig;
use nobat_serving::record::RecordConfig;
use nobat_serving::routing::Route;
use nobat_serving::settings::ServingSettings;
use nobat_webhooks::WebhookSettings;
use nobat_webhooks::outbound::FetchSettings;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};
use smol_str::SmolStr;

use crate::origin::CorsConfig;
use crate::tls::TlsConfig;

/// The gateway's settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GatewayConfig {
    /// Address of the HTTP listener, or a port alone; port 0 takes a free one.
    #[serde(deserialize_with = "address")]
    pub listen: String,
    /// Address of the gRPC listener, or a port alone; empty turns it off.
    #[serde(deserialize_with = "address")]
    pub grpc: String,
    /// Address of the metrics listener, or a port alone; empty turns it off.
    #[serde(deserialize_with = "address")]
    pub metrics: String,
    /// HTTP threads; 0 takes every core, and half of them under `nobat serve`,
    /// where the worker has the rest. Each has its own queue client, so
    /// more threads mean smaller round trips, not only more CPU.
    pub threads: usize,
    /// Largest request body, after decompression, in bytes.
    pub max_body_bytes: usize,
    /// Longest silence between two pieces of a body, in seconds.
    pub body_idle_s: u32,
    /// Longest time for a whole body, in seconds.
    pub body_total_s: u32,
    /// Longest `wait` a caller may ask for, in seconds; more is cut to this.
    pub max_wait_s: u32,
    /// How long a protocol without jobs (TensorFlow Serving, v2, SageMaker)
    /// waits for its answer when the caller names no deadline, in seconds.
    pub sync_timeout_s: u32,
    /// How long a drain waits for requests in flight, in seconds.
    pub drain_s: u32,
    /// Whether browsers get the console at `/`.
    pub console: bool,
    /// Model of the routes that name none; empty: the only one there is.
    pub default_model: SmolStr,
    /// How callers are told apart.
    pub auth: AuthConfig,
    /// How long the log of changes is kept.
    pub audit: AuditConfig,
    /// Certificates of HTTP and gRPC; none: both are plain.
    pub tls: TlsConfig,
    /// Names that the `Host` of a request may have besides addresses and names without a
    /// dot; none: any, but on a loopback listener without keys those only.
    pub hosts: Vec<String>,
    /// Which web pages of other origins may use it.
    pub cors: CorsConfig,
    /// How much is let in.
    pub limits: LimitsConfig,
    /// What is watched, and who is told.
    pub monitor: MonitorConfig,
    /// Which requests are recorded to be replayed.
    pub record: RecordConfig,
    /// Result caches by model; stands over the models' own settings.
    pub cache: CacheOverrides,
    /// Exchanges; see `nobat_serving::routing`. Admin calls change them at run time.
    pub routes: Vec<Route>,
    /// Webhooks on jobs.
    pub webhooks: WebhookSettings,
    /// Pictures that callers give by their address.
    pub fetch: FetchSettings,
    /// Files that callers upload, and the answers of batches.
    pub files: FileSettings,
}

/// A listener's address as a file or the environment has it.
fn address<'de, D: Deserializer<'de>>(source: D) -> std::result::Result<String, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "an address such as `127.0.0.1:9000`, or a port")]
    enum Written {
        Port(u16),
        Address(String),
    }
    let text = match Written::deserialize(source)? {
        Written::Port(port) => port.to_string(),
        Written::Address(text) => text,
    };
    listen_address(&text).map_err(|error| D::Error::custom(error.message))
}

/// The address that a flag names, on this machine where it names a port alone.
///
/// # Errors
/// `invalid_parameter` with what to write.
pub fn listen_address(text: &str) -> Result<String> {
    units::listen_address(text, "127.0.0.1:0")
}

impl Default for GatewayConfig {
    fn default() -> GatewayConfig {
        GatewayConfig {
            listen: "127.0.0.1:8000".into(),
            grpc: "127.0.0.1:8001".into(),
            metrics: "127.0.0.1:8002".into(),
            threads: 0,
            max_body_bytes: 64 << 20,
            body_idle_s: 10,
            body_total_s: 300,
            max_wait_s: 300,
            sync_timeout_s: 60,
            drain_s: 30,
            console: true,
            default_model: SmolStr::default(),
            auth: AuthConfig::default(),
            audit: AuditConfig::default(),
            tls: TlsConfig::default(),
            hosts: Vec::new(),
            cors: CorsConfig::default(),
            limits: LimitsConfig::default(),
            monitor: MonitorConfig::default(),
            record: RecordConfig::default(),
            cache: CacheOverrides::default(),
            routes: Vec::new(),
            webhooks: WebhookSettings::default(),
            fetch: FetchSettings::default(),
            files: FileSettings::default(),
        }
    }
}

impl GatewayConfig {
    /// Checks the settings against each other.
    ///
    /// # Errors
    /// `invalid_parameter`, naming the key and the remedy.
    pub fn validate(&self) -> Result<()> {
        self.limits.validate(self.max_body_bytes)?;
        self.cors.validate()?;
        self.tls.validate()?;
        self.files.validate()?;
        self.serving().validate()
    }

    /// The settings of what is behind the protocols.
    pub fn serving(&self) -> ServingSettings {
        ServingSettings {
            max_wait: Duration::from_secs(u64::from(self.max_wait_s)),
            sync_timeout: Duration::from_secs(u64::from(self.sync_timeout_s)),
            default_model: self.default_model.clone(),
            auth: self.auth.clone(),
            audit: self.audit.clone(),
            limits: self.limits.clone(),
            monitor: self.monitor.clone(),
            record: self.record.clone(),
            cache: self.cache.clone(),
            routes: self.routes.clone(),
            webhooks: self.webhooks.clone(),
            fetch: self.fetch.clone(),
        }
    }

    /// Checks the tasks that this deployment declares, their webhooks by this
    /// configuration's rules.
    ///
    /// # Errors
    /// `invalid_parameter` naming the task, the value and the remedy.
    pub fn check_tasks(&self, scheduler: &SchedulerSettings) -> Result<()> {
        for (task, _) in scheduler.check()? {
            if let Some(url) = task.predict.as_ref().and_then(|predict| predict.webhook.as_ref()) {
                let checked = self.webhooks.addresses.check(url);
                checked.map_err(|error| task.invalid(&format!("has an unusable webhook: {}", error.message)))?;
            }
        }
        Ok(())
    }

    /// How bodies are read.
    pub fn body_limits(&self) -> BodyLimits {
        BodyLimits {
            max_bytes: self.max_body_bytes,
            idle: Duration::from_secs(u64::from(self.body_idle_s)),
            total: Duration::from_secs(u64::from(self.body_total_s)),
        }
    }

    /// HTTP threads to start.
    pub fn thread_count(&self) -> usize {
        match self.threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        }
    }
}

/// How bodies are read.
#[derive(Clone, Copy, Debug)]
pub struct BodyLimits {
    /// Most bytes of a body, after decompression.
    pub max_bytes: usize,
    /// Longest silence between two pieces of a body.
    pub idle: Duration,
    /// Longest time for a whole body.
    pub total: Duration,
}

impl Default for BodyLimits {
    fn default() -> BodyLimits {
        BodyLimits { max_bytes: 64 << 20, idle: Duration::from_secs(10), total: Duration::from_secs(300) }
    }
}
