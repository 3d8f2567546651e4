//! What the OpenAPI document says of bodies that are no JSON.

use serde::Serialize;
use utoipa::openapi::request_body::RequestBody;
use utoipa::openapi::schema::Schema;
use utoipa::openapi::{Content, Ref, RefOr};
use utoipa::{PartialSchema, ToSchema};

/// Adds to a body of JSON what else it may be.
pub(crate) fn also_files(body: &mut RequestBody) {
    for (kind, schema) in [
        ("image/jpeg", FileBody::name()),
        ("application/octet-stream", FileBody::name()),
        ("multipart/form-data", FormBody::name()),
        ("text/csv", CsvBody::name()),
        ("application/vnd.apache.arrow.stream", FileBody::name()),
        ("application/vnd.apache.arrow.file", FileBody::name()),
        ("application/vnd.apache.parquet", FileBody::name()),
    ] {
        let content = Content::new(Some(Ref::from_schema_name(schema)));
        body.content.insert(kind.to_owned(), RefOr::T(content));
    }
}

/// What [`also_files`] names.
pub(crate) fn schemas() -> [(String, RefOr<Schema>); 3] {
    let named = |name: std::borrow::Cow<'_, str>, schema| (name.into_owned(), schema);
    [
        named(FileBody::name(), FileBody::schema()),
        named(CsvBody::name(), CsvBody::schema()),
        named(FormBody::name(), FormBody::schema()),
    ]
}

/// A file as it is: one row of the model's input of pictures or bytes.
#[derive(Serialize, ToSchema)]
#[schema(value_type = String, format = Binary)]
#[allow(dead_code, reason = "documents what `bodies` reads")]
struct FileBody(Vec<u8>);

/// A table: a line of column names, and a line for each row.
#[derive(Serialize, ToSchema)]
#[schema(value_type = String, example = "age,city\n31,Berlin\n")]
#[allow(dead_code, reason = "documents what `table` reads")]
struct CsvBody(String);

/// A form: files are rows, by the order in which they come; other fields are parameters.
#[derive(Serialize, ToSchema)]
#[allow(dead_code, reason = "documents what `bodies` reads")]
struct FormBody {
    /// A file of any field name, or of the name of an input of bytes; one or more.
    #[schema(format = Binary, value_type = String)]
    file: Vec<u8>,
}
