//! The console: the pages under `console/`, as they are in the binary.
//!
//! The pages are files that know the API and nothing else: they are the same for everybody,
//! hold nothing of this deployment, and are served without a key. What they show they ask of
//! `/api/v1`, which judges. `gateway.console = false` leaves them out.
//!
//! Their links are relative, so that a proxy may serve the gateway under any path. The
//! policy sent with them lets a page run the gateway's own scripts, speak to the gateway
//! alone and stand in nobody's frame.

use std::sync::LazyLock;

use actix_web::http::{Method, StatusCode, header};
use actix_web::web::{self, Data, Path};
use actix_web::{HttpRequest, HttpResponse};
use utoipa_actix_web::service_config::ServiceConfig;
use xxhash_rust::xxh3::xxh3_128;

use crate::access::Access;
use crate::endpoint::Endpoint;
use crate::error::nothing_at;
use crate::state::HttpState;

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; \
                      connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";
/// The page that holds the others.
const INDEX: &str = "index.html";

/// One file of the console.
struct ConsoleFile {
    name: &'static str,
    bytes: &'static [u8],
}

macro_rules! files {
    ($($name:literal),+ $(,)?) => {
        &[$(ConsoleFile { name: $name, bytes: include_bytes!(concat!("../console/", $name)) }),+]
    };
}

/// Every file that is served.
const FILES: &[ConsoleFile] = files![
    "index.html",
    "api.js",
    "app.js",
    "audit.js",
    "chart.js",
    "dead.js",
    "family.js",
    "series.js",
    "icon.svg",
    "job.js",
    "jobs.js",
    "json.js",
    "keys.js",
    "live.js",
    "models.js",
    "operations.js",
    "overview.js",
    "pad.js",
    "periodic.js",
    "persian.js",
    "photos.js",
    "picture.js",
    "queues.js",
    "router.js",
    "routes.js",
    "stream.js",
    "style.css",
    "tensors.js",
    "tries.js",
    "ui.js",
    "webhooks.js",
    "words.js",
    "workers.js",
    "vendor/LICENSE.htm",
    "vendor/LICENSE.preact",
    "vendor/LICENSE.uplot",
    "vendor/SOURCES",
    "vendor/preact.mjs",
    "vendor/uplot.css",
    "vendor/uplot.js",
];

/// A weak tag of each file: its bytes decide, whatever coding they travel in.
static TAGS: LazyLock<Vec<String>> =
    LazyLock::new(|| FILES.iter().map(|file| format!("W/\"{:032x}\"", xxh3_128(file.bytes))).collect());

/// Adds the files that the page asks for; the page itself is at `/`.
pub(crate) fn configure(config: &mut ServiceConfig) {
    config.service(Endpoint::hidden(Access::OPEN, "/console/{file:.*}").route(Method::GET, || web::to(serve)));
}

/// The page, where this gateway has one.
pub(crate) fn page(request: &HttpRequest, state: &HttpState) -> Option<HttpResponse> {
    state.config.console.then(|| file(request, INDEX)).flatten()
}

async fn serve(request: HttpRequest, state: Data<HttpState>, name: Path<String>) -> HttpResponse {
    let found = if state.config.console { file(&request, &name) } else { None };
    found.unwrap_or_else(|| nothing_at(&request))
}

fn file(request: &HttpRequest, name: &str) -> Option<HttpResponse> {
    let at = FILES.iter().position(|file| file.name == name)?;
    let (file, tag) = (&FILES[at], TAGS[at].as_str());
    let known = request.headers().get(header::IF_NONE_MATCH).and_then(|tags| tags.to_str().ok());
    let is_known = known.is_some_and(|tags| tags.split(',').any(|known| known.trim() == tag));
    let mut response = HttpResponse::build(if is_known { StatusCode::NOT_MODIFIED } else { StatusCode::OK });
    response
        .insert_header((header::ETAG, tag))
        // Asked for again each time and seldom sent: an upgrade shows at the next load.
        .insert_header((header::CACHE_CONTROL, "no-cache"))
        .insert_header((header::CONTENT_SECURITY_POLICY, POLICY))
        .insert_header((header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .insert_header((header::REFERRER_POLICY, "no-referrer"));
    if is_known {
        return Some(response.finish());
    }
    Some(response.insert_header((header::CONTENT_TYPE, content_type(name))).body(file.bytes))
}

fn content_type(name: &str) -> &'static str {
    match name.rsplit_once('.').map(|(_, extension)| extension) {
        Some("html") => "text/html; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("js" | "mjs") => "text/javascript; charset=utf-8",
        Some("svg") => "image/svg+xml",
        _ => "text/plain; charset=utf-8",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    /// Most bytes that a first visit may cost, compressed.
    const BUDGET: usize = 250 << 10;

    #[test]
    fn every_file_of_the_folder_is_served_and_no_page_names_another() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("console");
        let mut there = Vec::new();
        for (place, prefix) in [(folder.clone(), ""), (folder.join("vendor"), "vendor/")] {
            for entry in std::fs::read_dir(place).expect("the console's folder") {
                let entry = entry.expect("an entry");
                if entry.file_type().expect("a type").is_file() {
                    there.push(format!("{prefix}{}", entry.file_name().to_string_lossy()));
                }
            }
        }
        there.sort_unstable();
        let mut served: Vec<_> = FILES.iter().map(|file| file.name.to_owned()).collect();
        served.sort_unstable();
        assert_eq!(served, there);
    }

    #[test]
    fn the_console_stays_small() {
        let sent = FILES.iter().filter(|file| !file.name.contains("LICENSE"));
        let sizes: Vec<_> = sent.map(|file| crate::respond::gzipped(file.bytes).expect("a vector").len()).collect();
        let size: usize = sizes.iter().sum();
        assert!(size < BUDGET, "{size} bytes compressed are more than {BUDGET}");
    }

    #[test]
    fn no_file_of_ours_has_script_or_style_that_the_policy_blocks() {
        for file in FILES.iter().filter(|file| !file.name.starts_with("vendor/")) {
            // The name of SVG's own words is an address that nothing is fetched from.
            let text = std::str::from_utf8(file.bytes).expect("text").replace("http://www.w3.org/2000/svg", "");
            for blocked in [" style=\"", "style=${", "onclick=\"", "javascript:", "innerHTML", "http://", "https://"] {
                assert!(!text.contains(blocked), "{} has {blocked}", file.name);
            }
            let inline = text.match_indices("<script").any(|(at, _)| {
                !text[at..].starts_with("<script src=\"") && !text[at..].starts_with("<script type=\"module\" src=\"")
            });
            assert!(!inline, "{} has a script inside it", file.name);
        }
    }
}
