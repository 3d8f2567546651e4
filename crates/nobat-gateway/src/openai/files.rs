//! `/v1/files`: uploaded, listed, read, deleted.

use std::io::Read;

use actix_web::http::header;
use actix_web::web::{Data, Path, Payload};
use actix_web::{HttpRequest, HttpResponse};
use bytes::Bytes;
use futures::stream::{self, Stream};
use nobat_batches::files::FileRecord;
use nobat_batches::{Batches, FileContents};
use nobat_core::{Error, ErrorCode, Result};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;
use utoipa_actix_web::service_config::ServiceConfig;

use super::file_upload;
use super::pages::PageQuery;
use crate::access::Access;
use crate::endpoint::endpoint;
use crate::error::ApiResult;
use crate::openapi::OpenAiRefusals;
use crate::state::HttpState;
use crate::{context, query};

/// Bytes read at once.
const PIECE: usize = 256 << 10;

/// Adds the routes.
pub(super) fn configure(config: &mut ServiceConfig) {
    config
        .service(endpoint!(Access::PREDICT, list, upload))
        .service(endpoint!(Access::PREDICT, get, delete))
        .service(endpoint!(Access::PREDICT, content));
}

/// A file to keep.
#[derive(Serialize, ToSchema)]
#[allow(dead_code, reason = "documents what `file_upload` reads")]
struct UploadForm {
    /// `batch`.
    #[schema(pattern = "^batch$")]
    purpose: String,
    /// The file: one JSON request a line.
    #[schema(format = Binary, value_type = String)]
    file: Vec<u8>,
}

/// The batches of this gateway, where it has a place for their files.
///
/// # Errors
/// `unsupported`, naming the setting.
pub(super) fn batches(state: &HttpState) -> Result<&Batches> {
    state.batches.as_ref().ok_or_else(|| {
        let message = "this gateway keeps no files: set `gateway.files.folder` to a folder that all gateways share, or \
                       `gateway.files.bucket`";
        Error::new(ErrorCode::Unsupported, message)
    })
}

/// Upload a file
#[utoipa::path(
    post, path = "/v1/files", tag = "openai", operation_id = "openai_upload_file",
    request_body(content = UploadForm, content_type = "multipart/form-data"),
    responses((status = 200, description = "The file", body = Value), OpenAiRefusals),
)]
async fn upload(request: HttpRequest, payload: Payload, state: Data<HttpState>) -> ApiResult {
    query::none(&request)?;
    let files = batches(&state)?.files();
    let (owner, idle) = (context::of(&request).owner, state.config.body_limits().idle);
    let file = file_upload::take(&request, payload, files, owner, idle).await?;
    Ok(HttpResponse::Ok().json(object(&file)))
}

/// List your files
#[utoipa::path(
    get, path = "/v1/files", tag = "openai", operation_id = "openai_list_files",
    params(
        ("purpose" = Option<String>, Query, description = "Only files of this purpose"),
        ("limit" = Option<u32>, Query, description = "Most files shown", minimum = 1, maximum = 10000),
        ("after" = Option<String>, Query, description = "Only those after this id"),
        ("order" = Option<String>, Query, description = "`asc` or `desc` by age"),
    ),
    responses((status = 200, description = "The files", body = Value), OpenAiRefusals),
)]
async fn list(request: HttpRequest, state: Data<HttpState>) -> ApiResult {
    let page = PageQuery::read(&request, &["purpose", "limit", "after", "order"], 10_000, 10_000)?;
    let mut files = batches(&state)?.files().list(context::of(&request).owner).await?;
    files.retain(|file| page.purpose.as_ref().is_none_or(|purpose| file.purpose == *purpose));
    Ok(HttpResponse::Ok().json(page.of(files, |file| &file.id, object)?))
}

/// One of your files
#[utoipa::path(
    get, path = "/v1/files/{id}", tag = "openai", operation_id = "openai_get_file",
    params(("id" = String, Path, description = "The file's id")),
    responses((status = 200, description = "The file", body = Value), OpenAiRefusals),
)]
async fn get(request: HttpRequest, id: Path<String>, state: Data<HttpState>) -> ApiResult {
    query::none(&request)?;
    let file = batches(&state)?.files().find(context::of(&request).owner, &id).await?;
    Ok(HttpResponse::Ok().json(object(&file)))
}

/// Delete a file
#[utoipa::path(
    delete, path = "/v1/files/{id}", tag = "openai", operation_id = "openai_delete_file",
    params(("id" = String, Path, description = "The file's id")),
    responses((status = 200, description = "It is deleted", body = Value), OpenAiRefusals),
)]
async fn delete(request: HttpRequest, id: Path<String>, state: Data<HttpState>) -> ApiResult {
    query::none(&request)?;
    batches(&state)?.delete_file(context::of(&request).owner, &id).await?;
    Ok(HttpResponse::Ok().json(json!({ "id": id.as_str(), "object": "file", "deleted": true })))
}

/// A file's contents
#[utoipa::path(
    get, path = "/v1/files/{id}/content", tag = "openai", operation_id = "openai_file_content",
    params(("id" = String, Path, description = "The file's id")),
    responses((status = 200, description = "The contents", body = String, content_type = "application/octet-stream"), OpenAiRefusals),
)]
async fn content(request: HttpRequest, id: Path<String>, state: Data<HttpState>) -> ApiResult {
    query::none(&request)?;
    let files = batches(&state)?.files();
    let file = files.find(context::of(&request).owner, &id).await?;
    let FileContents { bytes, reader } = files.read(&file).await?;
    Ok(HttpResponse::Ok()
        .insert_header((header::CONTENT_TYPE, "application/octet-stream"))
        .insert_header((header::CONTENT_LENGTH, bytes))
        .no_chunking(bytes)
        .streaming(pieces(reader)))
}

/// A file's bytes, read as they are taken.
fn pieces(reader: Box<dyn Read + Send>) -> impl Stream<Item = std::io::Result<Bytes>> {
    stream::unfold(Some(reader), |reader| async {
        let mut reader = reader?;
        let read = actix_web::web::block(move || {
            let mut piece = vec![0; PIECE];
            let count = reader.read(&mut piece)?;
            piece.truncate(count);
            Ok::<_, std::io::Error>((reader, piece))
        });
        match read.await {
            Ok(Ok((_, piece))) if piece.is_empty() => None,
            Ok(Ok((reader, piece))) => Some((Ok(piece.into()), Some(reader))),
            Ok(Err(error)) => Some((Err(error), None)),
            Err(error) => Some((Err(std::io::Error::other(error)), None)),
        }
    })
}

fn object(file: &FileRecord) -> Value {
    json!({
        "id": file.id,
        "object": "file",
        "bytes": file.bytes,
        "created_at": file.created_at,
        "expires_at": file.expires_at,
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
    })
}
