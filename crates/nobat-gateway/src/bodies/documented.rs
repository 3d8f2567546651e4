//! What the OpenAPI document says of bodies that are no JSON.

use serde::Serialize;
use utoipa::ToSchema;

/// A file as it is: one row of the model's input of pictures or bytes.
#[derive(Serialize, ToSchema)]
#[schema(value_type = String, format = Binary)]
#[allow(dead_code, reason = "documents what `bodies` reads")]
pub(crate) struct FileBody(Vec<u8>);

/// A table: a line of column names, and a line for each row.
#[derive(Serialize, ToSchema)]
#[schema(value_type = String, example = "age,city\n31,Berlin\n")]
#[allow(dead_code, reason = "documents what `table` reads")]
pub(crate) struct CsvBody(String);

/// A form: files are rows, by the order in which they come; other fields are parameters.
#[derive(Serialize, ToSchema)]
#[allow(dead_code, reason = "documents what `bodies` reads")]
pub(crate) struct FormBody {
    /// A file of any field name, or of the name of an input of bytes; one or more.
    #[schema(format = Binary, value_type = String)]
    file: Vec<u8>,
}
