//! All settings of a deployment, and `nobat config`, which shows them.

use nobat_runtime::streams::print_bytes;
use std::path::Path;

use anyhow::Result;
use nobat_core::Error;
use nobat_core::secret::shown_url;
use nobat_gateway::config::GatewayConfig;
use nobat_queue::{QueueSettings, StoreSettings};
use nobat_runtime::config::Layers;
use nobat_runtime::logging::LogSettings;
use nobat_scheduler::SchedulerSettings;
use nobat_worker::WorkerConfig;
use serde::Serialize;

/// Every section, as `config/nobat.toml` has them.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Settings {
    pub(crate) store: StoreSettings,
    pub(crate) queue: QueueSettings,
    pub(crate) gateway: GatewayConfig,
    pub(crate) worker: WorkerConfig,
    pub(crate) scheduler: SchedulerSettings,
    pub(crate) log: LogSettings,
}

impl Settings {
    /// Defaults, file and environment; flags are the caller's.
    pub(crate) fn read(file: Option<&Path>) -> Result<Settings, Error> {
        let layers = Layers::read(file)?;
        Ok(Settings {
            store: layers.section("store")?,
            queue: layers.section("queue")?,
            gateway: layers.section("gateway")?,
            worker: layers.section("worker")?,
            scheduler: layers.section("scheduler")?,
            log: layers.section("log")?,
        })
    }

    /// What no section can see by itself.
    pub(crate) fn validate(&self) -> Result<(), Error> {
        self.gateway.validate()?;
        self.gateway.check_tasks(&self.scheduler)?;
        let refuse = |message: String| Err(Error::invalid(message));
        if self.queue.lease_ms < 100 {
            return refuse(format!(
                "queue.lease_ms is {}; leases shorter than 100 ms expire while a batch runs",
                self.queue.lease_ms
            ));
        }
        if self.store.redis.is_empty() && self.store.data.as_os_str().is_empty() {
            return refuse("store.data is empty and store.redis too; set one of them".into());
        }
        let listeners = [
            ("gateway.listen", &self.gateway.listen),
            ("gateway.grpc", &self.gateway.grpc),
            ("gateway.metrics", &self.gateway.metrics),
        ];
        for (index, (key, address)) in listeners.iter().enumerate() {
            let same =
                |other: &&(&str, &String)| other.1 == *address && !address.is_empty() && !address.ends_with(":0");
            if let Some((other, _)) = listeners[..index].iter().find(same) {
                return refuse(format!("{other} and {key} are both `{address}`; give each its own port"));
            }
        }
        Ok(())
    }
}

/// Print the settings in effect, as TOML; secrets are left out.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  nobat config\n  NOBAT_QUEUE__LEASE_MS=3000 nobat config --config my.toml")]
pub(crate) struct Args {}

pub(crate) fn run(_: Args, file: Option<&Path>) -> Result<()> {
    let settings = Settings::read(file)?;
    settings.validate()?;
    Ok(print_bytes(shown(&settings)?.as_bytes())?)
}

/// The settings as they may be shown. Those that are secret hide themselves; in the
/// others (a task's webhook, a command's arguments) no URL shows more than it may.
fn shown(settings: &Settings) -> Result<String> {
    let mut table = toml::Value::try_from(settings)?;
    hide_urls(&mut table);
    Ok(toml::to_string_pretty(&table)?)
}

fn hide_urls(value: &mut toml::Value) {
    match value {
        toml::Value::String(text) => *text = shown_url(text),
        toml::Value::Array(items) => items.iter_mut().for_each(hide_urls),
        toml::Value::Table(table) => table.iter_mut().for_each(|(_, value)| hide_urls(value)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_file_and_the_compiled_in_defaults_agree() {
        let shipped: toml::Table = toml::from_str(include_str!("../../../config/nobat.toml")).expect("TOML");
        let defaults = toml::Table::try_from(Settings::default()).expect("serializes");
        assert_eq!(shipped, defaults);
    }

    #[test]
    fn the_examples_of_the_documentation_hold() {
        let page = include_str!("../../../docs/CONFIG.md");
        let mut sections = 0;
        for block in page.split("```toml").skip(1).filter_map(|rest| rest.split("```").next()) {
            let mut table: toml::Table = toml::from_str(block).expect("TOML");
            if let Some(gateway) = table.remove("gateway") {
                gateway.try_into::<GatewayConfig>().expect("settings").validate().expect("they hold");
                sections += 1;
            }
            if let Some(scheduler) = table.remove("scheduler") {
                let scheduler: SchedulerSettings = scheduler.try_into().expect("settings");
                GatewayConfig::default().check_tasks(&scheduler).expect("they hold");
                sections += 1;
            }
        }
        assert!(sections >= 2, "the page shows routes and periodic tasks");
    }

    #[test]
    fn nothing_secret_is_printed() {
        let file = r#"
            [store]
            redis = "redis+sentinel://me:topsecret@a,b/service"
            [gateway.monitor]
            webhook = "https://hooks.example/services/topsecret"
            webhook_secret = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3"
            [gateway.webhooks]
            secrets = ["whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3"]
            [[scheduler.periodic]]
            name = "nightly"
            schedule = "0 3 * * *"
            predict = { model = "m", request = { inputs = [] }, webhook = "https://hooks.example/topsecret?k=topsecret" }
        "#;
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("nobat.toml");
        std::fs::write(&path, file).expect("written");
        let settings = Settings::read(Some(&path)).expect("reads");
        for text in [shown(&settings).expect("TOML"), format!("{settings:?}")] {
            assert!(!text.contains("whsec") && !text.contains("MDEy"), "{text}");
        }
        let text = shown(&settings).expect("TOML");
        assert!(!text.contains("topsecret"), "{text}");
        assert!(
            text.contains("redis+sentinel://me:***@a,b/service") && text.contains("https://hooks.example/***"),
            "{text}"
        );
    }

    #[test]
    fn settings_that_contradict_each_other_are_refused_by_name() {
        let mut settings = Settings::default();
        settings.validate().expect("the defaults hold");
        settings.gateway.metrics = settings.gateway.listen.clone();
        let error = settings.validate().expect_err("one port twice");
        assert!(error.message.contains("gateway.listen") && error.message.contains("gateway.metrics"), "{error}");
        let short = QueueSettings { lease_ms: 5, ..QueueSettings::default() };
        let error = Settings { queue: short, ..Settings::default() }.validate().expect_err("too short");
        assert!(error.message.contains("lease_ms"), "{error}");
    }
}
