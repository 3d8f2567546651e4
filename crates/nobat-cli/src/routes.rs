//! `nobat routes`: routes shown, declared and removed.

use nobat_runtime::streams::tell;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::Subcommand;
use indicatif::ProgressBar;
use nobat_core::units;
use reqwest::{Method, header};
use serde_json::json;

use crate::client::{Call, Service, Tool, block_on, segment};
use crate::input;
use crate::table::Columns;

const ROUTES: Columns = Columns {
    list: "routes",
    paths: &["name", "?direct|topic|fanout|weighted|shadow|chain", "serves", "members", "reason"],
    empty: "no route is declared",
};

const GATES: Columns = Columns { list: "gates", paths: &["name", "verdict", "words"], empty: "no gate was asked" };

/// Show, declare, promote and remove routes.
#[derive(Subcommand)]
#[command(after_help = "Examples:\n  \
    nobat routes list\n  \
    echo '{\"direct\": \"digits\"}' | nobat routes put numbers --input -\n  \
    nobat routes promote digits --wait 1h --roll-back\n  \
    nobat routes remove numbers\n\n\
    A route that is put here stands over the configuration's, on every gateway.")]
pub(crate) enum Action {
    /// Every route: its kind, and whether it serves.
    List,
    /// One route with its rule and its signature.
    Get(RouteName),
    /// Declare a route, or replace it.
    Put {
        /// The route's name.
        name: String,
        /// A JSON file with one rule, or - for standard input.
        #[arg(long, short, value_name = "FILE")]
        input: PathBuf,
    },
    /// Remove a route that was put; a configured one comes back.
    Remove(RouteName),
    Promote(Promote),
}

/// Let a canary or a copy take over, once it is shown to be safe: its failures, its classes
/// and, for a copy, its differences from the answers stay within the margins at 95 %, however
/// often that is asked. Exits with 1 when it is not.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    nobat routes promote digits                        now, if what came so far shows that it is safe\n  \
    nobat routes promote digits --wait 1h --roll-back  as soon as that is shown; back to the old one if it is not")]
pub(crate) struct Promote {
    /// The route's name: a weighted one, or a shadow.
    name: String,
    /// The target that is to take over, where it is not the only one.
    #[arg(long, value_name = "TARGET")]
    candidate: Option<String>,
    /// Wait for the verdict, so long if need be, such as 30m.
    #[arg(long, value_name = "DURATION", value_parser = duration, num_args = 0..=1, default_missing_value = "24h")]
    wait: Option<Duration>,
    /// If it is unsafe, send everything to the old target.
    #[arg(long)]
    roll_back: bool,
    /// Share of requests by which it may fail more often.
    #[arg(long, default_value_t = 0.01, value_name = "SHARE")]
    failures: f64,
    /// Share by which a class may be more or less frequent, for a canary.
    #[arg(long, default_value_t = 0.05, value_name = "SHARE")]
    classes: f64,
    /// Share of requests that may be answered differently, for a copy.
    #[arg(long, default_value_t = 0.01, value_name = "SHARE")]
    disagreement: f64,
}

/// Pause between two questions.
const AGAIN: Duration = Duration::from_secs(2);

fn duration(text: &str) -> Result<Duration, String> {
    units::whole_seconds(text).map(Duration::from_secs).map_err(|error| error.message)
}

fn promote(args: &Promote, service: &Service) -> Result<()> {
    let client = service.server.client(Duration::from_secs(60))?;
    let margins = json!({"failures": args.failures, "classes": args.classes, "disagreement": args.disagreement});
    let body = json!({"candidate": args.candidate, "margins": margins, "roll_back": args.roll_back}).to_string();
    let path = format!("/api/v1/routes/{}/promote", segment(&args.name));
    let bar = ProgressBar::new_spinner();
    let until = Instant::now() + args.wait.unwrap_or_default();
    let answer = block_on(async {
        loop {
            let request = client.request(Method::POST, &path).header(header::CONTENT_TYPE, "application/json");
            let answer = client.json(request.body(body.clone())).await?.1;
            if answer["outcome"] != "undecided" || Instant::now() + AGAIN > until {
                return Ok(answer);
            }
            bar.set_message(answer["words"].as_str().unwrap_or_default().to_owned());
            bar.tick();
            tokio::time::sleep(AGAIN).await;
        }
    })?;
    bar.finish_and_clear();
    service.print(&answer, Some(&GATES))?;
    let text = |key: &str| answer[key].as_str().unwrap_or_default();
    let (candidate, current, words) = (text("candidate"), text("current"), text("words"));
    match text("outcome") {
        "promoted" => tell(format_args!("nobat: `{}` goes to `{candidate}`: {words}", args.name)),
        "rolled_back" => bail!("`{}` goes back to `{current}`: `{candidate}` is {words}", args.name),
        "refused" => bail!("`{}` stays as it is: `{candidate}` is {words}", args.name),
        _ => bail!("`{}` stays as it is: it is {words}", args.name),
    }
    Ok(())
}

#[derive(clap::Args)]
pub(crate) struct RouteName {
    /// The route's name.
    name: String,
}

pub(crate) fn run(tool: Tool<Action>) -> Result<()> {
    let route = |name: &str| format!("/api/v1/routes/{}", segment(name));
    let call = match &tool.action {
        Action::List => Call::new(Method::GET, "/api/v1/routes"),
        Action::Get(RouteName { name }) => Call::new(Method::GET, route(name)),
        Action::Put { name, input } => Call::new(Method::PUT, route(name)).body(input::bytes(input)?),
        Action::Promote(args) => return promote(args, &tool.service),
        Action::Remove(RouteName { name }) => Call::new(Method::DELETE, route(name)).shown(json!({"removed": name})),
    };
    tool.service.call(Duration::from_secs(60), call.columns(&ROUTES))
}
