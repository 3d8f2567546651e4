//! `nobat models`, `nobat load`, `nobat unload`: what the service serves.

use std::time::Duration;

use anyhow::Result;
use reqwest::Method;
use serde_json::json;

use crate::client::{Call, Service, block_on, segment};
use crate::table::Columns;

/// Longest a load or unload may take on all workers.
const LOADING: Duration = Duration::from_secs(660);

const MODELS: Columns = Columns {
    list: "models",
    paths: &["name", "ready", "default_version", "versions"],
    empty: "no model is served; start a worker with one, or `nobat load MODEL`",
};

/// List the models, or show one with its signature and statistics.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  nobat models\n  nobat models digits\n  nobat models digits --acknowledge-drift")]
pub(crate) struct Args {
    /// Name of one model.
    model: Option<String>,
    /// Say that its drift has been seen: gateways watch its rows anew.
    #[arg(long, requires = "model")]
    acknowledge_drift: bool,
    #[command(flatten)]
    service: Service,
}

pub(crate) fn run(args: Args) -> Result<()> {
    let path = match &args.model {
        Some(model) => format!("/api/v1/models/{}", segment(model)),
        None => "/api/v1/models".to_owned(),
    };
    if args.acknowledge_drift {
        let call = Call::new(Method::POST, format!("{path}/drift/acknowledge"));
        return args.service.call(Duration::from_secs(30), call.shown(json!({"acknowledged": args.model})));
    }
    args.service.call(Duration::from_secs(30), Call::new(Method::GET, path).columns(&MODELS))
}

/// Load a model, or load it again, on the workers that have it in their repository.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  nobat load digits\n  nobat unload digits")]
pub(crate) struct LoadArgs {
    /// Name of the model.
    model: String,
    #[command(flatten)]
    service: Service,
}

/// Loads a model and shows it; returns when every worker has done it.
pub(crate) fn load(args: LoadArgs) -> Result<()> {
    let client = args.service.server.client(LOADING)?;
    let model = segment(&args.model);
    block_on(async {
        client.json(client.request(Method::POST, &format!("/v2/repository/models/{model}/load"))).await?;
        let shown = client.json(client.request(Method::GET, &format!("/api/v1/models/{model}"))).await?.1;
        args.service.print(&json!({"models": [shown]}), Some(&MODELS))
    })
}

/// Unload a model on every worker; its queue stays, and accepted jobs wait in it.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  nobat unload digits\n  nobat load digits        serves it again")]
pub(crate) struct UnloadArgs {
    /// Name of the model.
    model: String,
    #[command(flatten)]
    service: Service,
}

/// Unloads a model; returns when every worker has done it.
pub(crate) fn unload(args: UnloadArgs) -> Result<()> {
    let call = Call::new(Method::POST, format!("/v2/repository/models/{}/unload", segment(&args.model)));
    args.service.call(LOADING, call.shown(json!({"unloaded": args.model})))
}
