//! A file is fetched when it has changed.

use std::path::Path;

use nobat_core::{Error, Result};
use nobat_queue::WorkerCommand;
use reqwest::StatusCode;
use reqwest::header::{ETAG, IF_NONE_MATCH};

use super::file::{Part, beside, write_whole};
use super::services::{Done, Services};
use crate::schedule::Fetch;

pub(super) async fn fetch(services: &Services, kind: &Fetch) -> Result<Done> {
    let file = Path::new(&kind.file);
    let etag_file = beside(file, "etag");
    let mut get = services.http.get(&kind.url);
    if file.exists()
        && let Ok(etag) = std::fs::read_to_string(&etag_file)
    {
        get = get.header(IF_NONE_MATCH, etag);
    }
    let failed = |why: String| Error::invalid(format!("fetching into `{}`: {why}", kind.file));
    let mut answer = get.send().await.map_err(|e| failed(e.without_url().to_string()))?;
    if answer.status() == StatusCode::NOT_MODIFIED {
        return Ok(Done::said("not modified"));
    }
    if !answer.status().is_success() {
        return Err(failed(format!("the server answered {}", answer.status())));
    }
    let too_large = || failed(format!("the answer is larger than max_bytes = {}; raise it", kind.max_bytes));
    if answer.content_length().is_some_and(|length| length > kind.max_bytes) {
        return Err(too_large());
    }
    let etag = answer.headers().get(ETAG).and_then(|etag| etag.to_str().ok()).map(str::to_owned);
    let part = Part::create(file)?;
    let mut length = 0u64;
    while let Some(chunk) = answer.chunk().await.map_err(|e| failed(e.without_url().to_string()))? {
        length += chunk.len() as u64;
        if length > kind.max_bytes {
            return Err(too_large());
        }
        part.write(chunk).await?;
    }
    // The old tag goes first: killed between here and the last line, the file is
    // fetched once more, never left under a tag that is not its own.
    let _ = std::fs::remove_file(&etag_file);
    part.replace(file).await?;
    if let Some(etag) = etag {
        write_whole(&etag_file, etag.as_bytes()).await?;
    }
    if let Some(model) = &kind.then_reload {
        services.queue.command(&WorkerCommand::Load { model: model.clone() }).await?;
    }
    Ok(Done::said(format!("fetched {length} bytes")))
}
