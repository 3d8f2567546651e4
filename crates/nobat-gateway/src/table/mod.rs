//! Tables as requests: each column is an input of the model, each line a row.
//!
//! Owns which column belongs to which input ([`layout`]) and the forms that tables come in:
//! records as JSON ([`records`]), CSV, and under the feature `arrow` Arrow's streams and
//! files and Parquet. It does not own how answers look.
//!
//! Invariants:
//! - Columns are matched by name. Only a model whose one input is a matrix takes the
//!   columns in their order.
//! - What is missing or unknown is named all at once; a value that does not fit is named
//!   with its row and its column.
//! - What a compressed table becomes is bounded before it is unpacked.

#[cfg(feature = "arrow")]
mod arrow;
#[cfg(feature = "arrow")]
mod batches;
#[cfg(all(test, feature = "arrow"))]
mod columnar_tests;
#[cfg(feature = "arrow")]
mod contained;
mod csv;
mod kind;
mod layout;
#[cfg(feature = "arrow")]
mod pages;
#[cfg(feature = "arrow")]
mod parquet;
pub(crate) mod records;

pub(crate) use kind::TableKind;

use bytes::Bytes;
#[cfg(feature = "arrow")]
use contained::contained;
use nobat_core::Result;
use nobat_core::signature::ModelSignature;
use nobat_core::tensor::Tensor;

/// The inputs that a table is; `most` bounds what it takes in memory, in bytes.
///
/// # Errors
/// `invalid_tensor` naming row and column; `payload_too_large`.
pub(crate) fn read(kind: TableKind, body: Bytes, signature: &ModelSignature, most: usize) -> Result<Vec<Tensor>> {
    #[cfg(not(feature = "arrow"))]
    let _ = most;
    match kind {
        TableKind::Csv => csv::read(&body, signature, true),
        TableKind::CsvWithoutHeader => csv::read(&body, signature, false),
        #[cfg(feature = "arrow")]
        TableKind::ArrowStream => contained(|| arrow::read_stream(body, signature, most)),
        #[cfg(feature = "arrow")]
        TableKind::ArrowFile => contained(|| arrow::read_file(body, signature, most)),
        #[cfg(feature = "arrow")]
        TableKind::Parquet => contained(|| parquet::read(body, signature, most)),
        #[cfg(not(feature = "arrow"))]
        TableKind::ArrowStream | TableKind::ArrowFile | TableKind::Parquet => Err(nobat_core::Error::new(
            nobat_core::ErrorCode::UnsupportedMediaType,
            "this build reads no Arrow and no Parquet; send CSV or JSON records, or build with the feature `arrow`",
        )),
    }
}
