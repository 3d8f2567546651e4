//! The HTTP client of the tools: where the service is, which key to show, and
//! how its answers and refusals read on a terminal.

use std::future::Future;
use std::io::IsTerminal;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nobat_runtime::{now_ms, streams};
use reqwest::{Method, RequestBuilder, Response, StatusCode, header};
use serde_json::Value;

use crate::table::{self, Columns};

/// Columns of a terminal that does not say how wide it is.
const WIDTH: usize = 100;

/// Where the service is and who calls.
#[derive(clap::Args, Clone)]
pub(crate) struct Server {
    /// Address of the service.
    #[arg(long, global = true, env = "NOBAT_URL", default_value = "http://127.0.0.1:8000", value_name = "URL")]
    url: String,
    /// API key, where the service asks for one.
    #[arg(long, global = true, env = "NOBAT_API_KEY", hide_env_values = true, value_name = "KEY")]
    api_key: Option<String>,
}

// A tool: what it does, to which service, and how the answer is printed. Its help is its
// actions': so no doc comment here, and they come last.
#[derive(clap::Args)]
pub(crate) struct Tool<A: clap::Subcommand> {
    #[command(flatten)]
    pub(crate) service: Service,
    #[command(subcommand)]
    pub(crate) action: A,
}

/// Which service is called, and how its answers are printed.
#[derive(clap::Args, Clone)]
pub(crate) struct Service {
    #[command(flatten)]
    pub(crate) server: Server,
    /// Print JSON on a terminal too; into a pipe or a file it is always JSON.
    #[arg(long, global = true)]
    json: bool,
}

/// One call of the API and what is shown of its answer.
pub(crate) struct Call {
    method: Method,
    path: String,
    body: Option<Vec<u8>>,
    columns: Option<&'static Columns>,
    shown: Option<Value>,
}

impl Call {
    /// A call without a body, whose answer is shown as it is.
    pub(crate) fn new(method: Method, path: impl Into<String>) -> Call {
        Call { method, path: path.into(), body: None, columns: None, shown: None }
    }

    /// With a JSON body.
    pub(crate) fn body(self, body: Vec<u8>) -> Call {
        Call { body: Some(body), ..self }
    }

    /// The answer's list is shown in these columns, if it has it.
    pub(crate) fn columns(self, columns: &'static Columns) -> Call {
        Call { columns: Some(columns), ..self }
    }

    /// This is shown instead of the answer.
    pub(crate) fn shown(self, shown: Value) -> Call {
        Call { shown: Some(shown), ..self }
    }
}

impl Service {
    /// Makes a call, which may take `timeout`, and prints its answer.
    pub(crate) fn call(&self, timeout: Duration, call: Call) -> Result<()> {
        let client = self.server.client(timeout)?;
        let mut request = client.request(call.method, &call.path);
        if let Some(body) = call.body {
            request = request.header(header::CONTENT_TYPE, "application/json").body(body);
        }
        let answer = block_on(client.json(request))?.1;
        self.print(call.shown.as_ref().unwrap_or(&answer), call.columns)
    }

    /// Whether a person reads the answers, and no program.
    pub(crate) fn is_for_people(&self) -> bool {
        !self.json && std::io::stdout().is_terminal()
    }

    /// Prints an answer: JSON for programs, a table or lines for people.
    pub(crate) fn print(&self, answer: &Value, columns: Option<&Columns>) -> Result<()> {
        if !self.is_for_people() {
            return Ok(streams::print(serde_json::to_string_pretty(answer)?)?);
        }
        print_lines(answer, columns)?;
        if let Some(cursor) = answer.get("cursor").and_then(Value::as_str) {
            streams::print(format_args!("there are more: add --cursor {cursor}"))?;
        }
        Ok(())
    }
}

/// Prints an answer for people, whoever reads it.
pub(crate) fn print_lines(answer: &Value, columns: Option<&Columns>) -> Result<()> {
    let width = match std::io::stdout().is_terminal() {
        true => terminal_size::terminal_size().map_or(WIDTH, |(width, _)| usize::from(width.0)),
        false => usize::MAX,
    };
    Ok(streams::print(table::render(answer, columns, width, now_ms()).trim_end())?)
}

/// A connection pool to one service.
pub(crate) struct Client {
    http: reqwest::Client,
    base: String,
    api_key: Option<String>,
}

impl Server {
    /// A client whose answers may take `timeout`.
    pub(crate) fn client(&self, timeout: Duration) -> Result<Client> {
        nobat_runtime::tls::use_ring();
        let http = reqwest::Client::builder()
            .timeout(timeout)
            .tcp_nodelay(true)
            // By which the audit log knows the command line.
            .user_agent(concat!("nobat-cli/", env!("CARGO_PKG_VERSION")))
            .build()?;
        Ok(Client { http, base: self.url.trim_end_matches('/').to_owned(), api_key: self.api_key.clone() })
    }

    /// The address as given.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// The key as given.
    pub(crate) fn api_key(&self) -> Option<&str> {
        self.api_key.as_deref()
    }
}

impl Client {
    /// A request of `method` to `path`, with the key.
    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.base));
        match &self.api_key {
            Some(key) => request.bearer_auth(key),
            None => request,
        }
    }

    /// Sends and reads a JSON answer; a refusal becomes an error that says it.
    pub(crate) async fn json(&self, request: RequestBuilder) -> Result<(StatusCode, Value)> {
        let response = self.send(request).await?;
        let status = response.status();
        let text = response.text().await.context("the answer broke off")?;
        let body: Value = if text.is_empty() {
            Value::Null
        } else {
            serde_json::from_str(&text).with_context(|| format!("HTTP {status} with a body that is not JSON"))?
        };
        if status.is_client_error() || status.is_server_error() {
            bail!("{}", refusal(status, &body));
        }
        Ok((status, body))
    }

    /// Sends; a service that cannot be reached becomes an error with the remedy.
    pub(crate) async fn send(&self, request: RequestBuilder) -> Result<Response> {
        request.send().await.map_err(|error| {
            let why = if error.is_timeout() { "does not answer in time" } else { "cannot be reached" };
            anyhow::Error::from(error.without_url())
                .context(format!("{} {why}; is it running? start it with `nobat serve`, or set --url", self.base))
        })
    }
}

/// A refusal in one line: its code, its message, its request id.
pub(crate) fn refusal(status: StatusCode, body: &Value) -> String {
    let text = |key: &str| body.get(key).and_then(Value::as_str);
    let message = text("detail").or(text("error")).or(text("title")).unwrap_or("no reason given");
    let code = text("code").map(|code| format!(" ({code})")).unwrap_or_default();
    format!("HTTP {}{code}: {message}", status.as_u16())
}

/// Runs a tool's future on a runtime of one thread.
pub(crate) fn block_on<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(future)
}

/// A path segment: everything that is not plain becomes percent-encoded.
pub(crate) fn segment(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_reads_as_one_line_in_every_protocols_shape() {
        let body = serde_json::json!({"code": "invalid_tensor", "detail": "row 1 has 63 numbers, expected 64"});
        assert_eq!(
            refusal(StatusCode::BAD_REQUEST, &body),
            "HTTP 400 (invalid_tensor): row 1 has 63 numbers, expected 64"
        );
        assert_eq!(refusal(StatusCode::NOT_FOUND, &serde_json::json!({"error": "gone"})), "HTTP 404: gone");
    }

    #[test]
    fn a_segment_cannot_leave_its_place_in_the_path() {
        assert_eq!(segment("a/b c?d"), "a%2Fb%20c%3Fd");
    }
}
