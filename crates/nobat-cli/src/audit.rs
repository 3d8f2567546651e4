//! `nobat audit`: who changed what.

use std::time::Duration;

use anyhow::Result;
use reqwest::Method;

use crate::client::{Call, Service};
use crate::table::Columns;

const COLUMNS: Columns = Columns {
    list: "entries",
    paths: &["at_ms", "name", "by", "action", "target", "status"],
    empty: "nothing was changed, or nobody writes it down",
};

/// Show who changed jobs, queues, models, routes, tasks, webhooks and keys; for administrators.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    service: Service,
    /// At most so many, the newest.
    #[arg(long, default_value_t = 50)]
    limit: u32,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let call = Call::new(Method::GET, format!("/api/v1/audit?limit={}", args.limit));
    args.service.call(Duration::from_secs(30), call.columns(&COLUMNS))
}
