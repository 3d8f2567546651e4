//! Arrow's IPC formats: the stream, and the file.

use std::io::Cursor;

use arrow_array::RecordBatch;
use arrow_ipc::reader::{FileReader, StreamReader};
use arrow_schema::{ArrowError, SchemaRef};
use bytes::Bytes;
use nobat_core::signature::ModelSignature;
use nobat_core::tensor::Tensor;
use nobat_core::{Error, Result};

use super::batches::Rows;
use super::layout::invalid;

/// Reads a stream.
///
/// # Errors
/// `invalid_tensor`, naming row and column; `payload_too_large`.
pub(super) fn read_stream(body: Bytes, signature: &ModelSignature, most: usize) -> Result<Vec<Tensor>> {
    let reader = StreamReader::try_new(Cursor::new(body), None).map_err(|error| malformed(&error))?;
    read(reader.schema(), reader, signature, most)
}

/// Reads a file.
///
/// # Errors
/// As [`read_stream`].
pub(super) fn read_file(body: Bytes, signature: &ModelSignature, most: usize) -> Result<Vec<Tensor>> {
    check_footer(&body)?;
    let reader = FileReader::try_new(Cursor::new(body), None).map_err(|error| malformed(&error))?;
    read(reader.schema(), reader, signature, most)
}

/// The reader takes memory for as long a footer as the file claims, before it looks at what there is.
fn check_footer(body: &Bytes) -> Result<()> {
    // Its length, and `ARROW1`.
    let claimed = body.len().checked_sub(10).and_then(|at| body.get(at..)?.first_chunk::<4>().map(|own| (at, *own)));
    match claimed {
        Some((before, length)) if i32::from_le_bytes(length) as i64 > before as i64 => {
            Err(invalid("the Arrow file's footer is longer than the file; send the whole file".into()))
        }
        _ => Ok(()),
    }
}

fn read(
    schema: SchemaRef,
    batches: impl Iterator<Item = Result<RecordBatch, ArrowError>>,
    signature: &ModelSignature,
    most: usize,
) -> Result<Vec<Tensor>> {
    let mut rows = Rows::of(&schema, signature, most)?;
    for batch in batches {
        rows.add(&batch.map_err(|error| malformed(&error))?)?;
    }
    rows.finish()
}

fn malformed(error: &ArrowError) -> Error {
    let told: String = error.to_string().chars().take(200).collect();
    invalid(format!("the Arrow data cannot be read: {told}; write it whole and without compression"))
}
