//! Parquet.

use std::sync::Arc;

use arrow_schema::{DataType, Field, Schema};
use bytes::Bytes;
use nobat_core::signature::ModelSignature;
use nobat_core::tensor::Tensor;
use nobat_core::{Error, Result};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder};

use super::batches::Rows;
use super::layout::invalid;
use super::pages;

/// Rows that are unpacked at a time.
const BATCH_ROWS: usize = 1024;

/// Reads a file; what is unpacked of it takes at most `most` bytes.
///
/// # Errors
/// `invalid_tensor`, naming row and column; `payload_too_large`.
pub(super) fn read(body: Bytes, signature: &ModelSignature, most: usize) -> Result<Vec<Tensor>> {
    let malformed = |error: parquet::errors::ParquetError| malformed(&error.to_string());
    // A column that pandas wrote as a dictionary is plain text without Arrow's own schema.
    let plain = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
    let found = ArrowReaderMetadata::load(&body, plain.clone()).map_err(malformed)?;
    let rows = Rows::of(found.schema(), signature, most)?;
    let file = found.metadata().clone();
    rows.expect(u64::try_from(file.file_metadata().num_rows()).unwrap_or(u64::MAX))?;
    let columns: Vec<usize> = rows.read_columns().collect();
    let unpacked = pages::check(&body, &file, |root| columns.contains(&root), most)?;
    // Views share a dictionary's texts, which other arrays would copy for every row.
    let options = plain.with_schema(Arc::new(viewed(found.schema())));
    let metadata = ArrowReaderMetadata::try_new(file, options).map_err(malformed)?;
    let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(body, metadata);
    let mask = ProjectionMask::roots(builder.parquet_schema(), columns);
    let batch_rows = if unpacked.texts_build_on_texts { 1 } else { BATCH_ROWS };
    let reader = builder.with_projection(mask).with_batch_size(batch_rows).build().map_err(malformed)?;
    let mut rows = Rows::of(&arrow_array::RecordBatchReader::schema(&reader), signature, most)?;
    for batch in reader {
        rows.add(&batch.map_err(|error| self::malformed(&error.to_string()))?)?;
    }
    rows.finish()
}

fn viewed(schema: &Schema) -> Schema {
    let view = |field: &Arc<Field>| match field.data_type() {
        DataType::Utf8 | DataType::LargeUtf8 => Arc::new(field.as_ref().clone().with_data_type(DataType::Utf8View)),
        DataType::Binary | DataType::LargeBinary => {
            Arc::new(field.as_ref().clone().with_data_type(DataType::BinaryView))
        }
        _ => field.clone(),
    };
    Schema::new(schema.fields().iter().map(view).collect::<Vec<_>>())
}

fn malformed(told: &str) -> Error {
    let told: String = told.chars().take(200).collect();
    invalid(format!("the Parquet data cannot be read: {told}; send the whole file, or write it again"))
}
