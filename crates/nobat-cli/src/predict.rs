//! `nobat predict`: one request, its answer on standard output.

use nobat_runtime::streams::tell;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use nobat_core::units::whole_seconds;
use reqwest::{Method, header};
use serde_json::Value;

use crate::client::{Service, block_on, segment};
use crate::input;

/// Send a request to a model and print the answer.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  \
    nobat predict digits --input digit.json\n  \
    echo '{\"instances\": [[0, 1, 2]]}' | nobat predict my-model --input -\n  \
    nobat predict digits --input digits.npy --priority 10 --deadline 500ms\n  \
    nobat predict resnet --input cat.jpg\n  \
    nobat predict digits --input digit.json --async      print the job's id and return")]
pub(crate) struct Args {
    /// Name of the model.
    model: String,
    /// A JSON file, an .npy array, a picture or another file, a table (.csv, .parquet, .arrow), or -
    /// for JSON on standard input.
    #[arg(long, short, value_name = "FILE")]
    input: PathBuf,
    /// 0 to 255; 10 runs before 1.
    #[arg(long)]
    priority: Option<u8>,
    /// Time within which it must finish, such as 500ms.
    #[arg(long, value_name = "DURATION")]
    deadline: Option<String>,
    /// How long its result can be read, such as 60s.
    #[arg(long, value_name = "DURATION")]
    result_ttl: Option<String>,
    /// Attempts after the first.
    #[arg(long)]
    max_retries: Option<u8>,
    /// Time before which it must not run, such as 5s.
    #[arg(long, value_name = "DURATION")]
    delay: Option<String>,
    /// Print the job and return without waiting for its result.
    #[arg(long = "async")]
    fire: bool,
    /// How long to wait for the result: seconds, or a duration such as 5m.
    #[arg(long, default_value = "60", value_parser = whole_seconds, value_name = "DURATION")]
    wait: u64,
    #[command(flatten)]
    service: Service,
}

pub(crate) fn run(args: Args) -> Result<()> {
    let (kind, body) = match input::content_type(&args.input) {
        Some(kind) => (kind, input::bytes(&args.input)?),
        None => ("application/json", input::read(&args.input)?),
    };
    let mut query: Vec<(&str, String)> = Vec::new();
    let mut add = |key, value: Option<String>| query.extend(value.map(|value| (key, value)));
    add("priority", args.priority.map(|value| value.to_string()));
    add("deadline", args.deadline);
    add("result_ttl", args.result_ttl);
    add("max_retries", args.max_retries.map(|value| value.to_string()));
    add("delay", args.delay);
    let query: Vec<String> = query.iter().map(|(key, value)| format!("{key}={}", segment(value))).collect();
    let mark = if query.is_empty() { "" } else { "?" };
    let path = format!("/api/v1/predict/{}{mark}{}", segment(&args.model), query.join("&"));

    let client = args.service.server.client(Duration::from_secs(args.wait + 10))?;
    let prefer = if args.fire { "respond-async".to_owned() } else { format!("wait={}", args.wait) };
    let request =
        client.request(Method::POST, &path).header(header::CONTENT_TYPE, kind).header("Prefer", prefer).body(body);
    block_on(async {
        let (status, answer) = client.json(request).await?;
        args.service.print(&answer, None)?;
        if status == reqwest::StatusCode::ACCEPTED && !args.fire {
            let id = answer.get("id").and_then(Value::as_str).unwrap_or("ID");
            tell(format_args!("nobat: still running after {} s; `nobat jobs wait {id}` waits for it", args.wait));
        }
        Ok(())
    })
}
