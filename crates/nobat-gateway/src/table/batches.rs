//! Record batches to inputs: row by row, each value cast where nothing is lost.

use arrow_array::types::{
    ArrowPrimitiveType, Float16Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type,
    UInt16Type, UInt32Type, UInt64Type,
};
use arrow_array::{Array, ArrayRef, RecordBatch, cast::AsArray};
use arrow_schema::{DataType, Schema};
use nobat_core::cell::Cell;
use nobat_core::signature::ModelSignature;
use nobat_core::tensor::Tensor;
use nobat_core::{Error, ErrorCode, Result, clip};

use super::layout::{Layout, invalid};

/// What a row's value takes at most beside a text's bytes.
const VALUE_BYTES: usize = 8;

/// The rows of a table's batches.
pub(super) struct Rows<'a> {
    layout: Layout<'a>,
    names: Vec<String>,
    /// The columns of a batch that are read.
    columns: Vec<usize>,
    rows: usize,
    bytes: usize,
    most: usize,
}

impl<'a> Rows<'a> {
    /// Begins with the columns' names and types; all rows take `most` bytes.
    ///
    /// # Errors
    /// Those of [`Layout::of`]; `invalid_tensor` for a column whose type no input takes.
    pub(super) fn of(schema: &Schema, signature: &'a ModelSignature, most: usize) -> Result<Rows<'a>> {
        // What pandas keeps its index in is no column of the table.
        let is_index = |name: &str| name.starts_with("__index_level_") && name.ends_with("__");
        let fields = schema.fields();
        let named: Vec<usize> = (0..fields.len()).filter(|&at| !is_index(fields[at].name())).collect();
        let names: Vec<&str> = named.iter().map(|&at| fields[at].name().as_str()).collect();
        let layout = Layout::of(signature, &names)?;
        for (at, &column) in named.iter().enumerate() {
            if layout.takes(at) {
                check_type(fields[column].name(), fields[column].data_type())?;
            }
        }
        let names = names.into_iter().map(str::to_owned).collect();
        Ok(Rows { layout, names, columns: named, rows: 0, bytes: 0, most })
    }

    /// The columns that are read, of those that the table has.
    pub(super) fn read_columns(&self) -> impl Iterator<Item = usize> {
        self.columns.iter().enumerate().filter(|(at, _)| self.layout.takes(*at)).map(|(_, &column)| column)
    }

    /// Refuses more rows than a request may have, before any is read.
    ///
    /// # Errors
    /// `payload_too_large`.
    pub(super) fn expect(&self, rows: u64) -> Result<()> {
        self.layout.check_rows(rows)
    }

    /// Adds a batch.
    ///
    /// # Errors
    /// `invalid_tensor`, naming row and column; `payload_too_large`.
    pub(super) fn add(&mut self, batch: &RecordBatch) -> Result<()> {
        self.layout.check_rows(self.rows as u64 + batch.num_rows() as u64)?;
        let columns: Vec<Option<Values<'_>>> = (self.columns.iter().enumerate())
            .map(|(at, &column)| self.layout.takes(at).then(|| Values::of(batch.column(column))).flatten())
            .collect();
        for row in 0..batch.num_rows() {
            let number = self.rows;
            for (at, values) in columns.iter().enumerate() {
                let Some(values) = values else { continue };
                let cell = values.cell(row);
                self.bytes += VALUE_BYTES
                    + match cell {
                        Cell::Text(text) => text.len(),
                        Cell::Bytes(bytes) => bytes.len(),
                        _ => 0,
                    };
                if self.bytes > self.most {
                    let message = format!(
                        "the table takes over {} bytes when it is unpacked; split the request or raise the limit",
                        self.most
                    );
                    return Err(Error::new(ErrorCode::PayloadTooLarge, message));
                }
                self.layout.push(at, cell, || self.names[at].clone(), || format!("row {number}"))?;
            }
            self.rows += 1;
        }
        Ok(())
    }

    /// The inputs.
    ///
    /// # Errors
    /// `invalid_tensor` for no rows.
    pub(super) fn finish(self) -> Result<Vec<Tensor>> {
        self.layout.finish(self.rows)
    }
}

/// Refuses a column whose values are no single numbers, truths or texts.
fn check_type(name: &str, kind: &DataType) -> Result<()> {
    use DataType::*;
    let remedy = match kind {
        Null | Boolean | Int8 | Int16 | Int32 | Int64 | UInt8 | UInt16 | UInt32 | UInt64 | Float16 | Float32
        | Float64 | Utf8 | LargeUtf8 | Utf8View | Binary | LargeBinary | BinaryView => return Ok(()),
        Dictionary(..) => "a dictionary; send its values plain, such as column.astype(str) of pandas",
        List(_) | LargeList(_) | FixedSizeList(..) | ListView(_) | LargeListView(_) | Struct(_) | Map(..)
        | Union(..) => "nested; send one value a row, or JSON",
        _ => "of a type that no input takes; make numbers or texts of it",
    };
    let kind: String = kind.to_string().chars().take(60).collect();
    Err(invalid(format!("column `{}` ({kind}) is {remedy}", clip(name))))
}

/// A column's values.
enum Values<'a> {
    Null,
    Bool(&'a arrow_array::BooleanArray),
    Int(&'a dyn Array, fn(&dyn Array, usize) -> i64),
    Uint(&'a dyn Array, fn(&dyn Array, usize) -> u64),
    Float(&'a dyn Array, fn(&dyn Array, usize) -> f64),
    Text(&'a dyn Array, fn(&dyn Array, usize) -> &str),
    Bytes(&'a dyn Array, fn(&dyn Array, usize) -> &[u8]),
}

fn number<T: ArrowPrimitiveType, V: From<T::Native>>(array: &dyn Array, row: usize) -> V {
    array.as_primitive::<T>().value(row).into()
}

impl<'a> Values<'a> {
    /// Those of a column that [`check_type`] let pass.
    fn of(array: &'a ArrayRef) -> Option<Values<'a>> {
        let array: &dyn Array = array;
        Some(match array.data_type() {
            DataType::Null => Values::Null,
            DataType::Boolean => Values::Bool(array.as_boolean()),
            DataType::Int8 => Values::Int(array, number::<Int8Type, i64>),
            DataType::Int16 => Values::Int(array, number::<Int16Type, i64>),
            DataType::Int32 => Values::Int(array, number::<Int32Type, i64>),
            DataType::Int64 => Values::Int(array, number::<Int64Type, i64>),
            DataType::UInt8 => Values::Uint(array, number::<UInt8Type, u64>),
            DataType::UInt16 => Values::Uint(array, number::<UInt16Type, u64>),
            DataType::UInt32 => Values::Uint(array, number::<UInt32Type, u64>),
            DataType::UInt64 => Values::Uint(array, number::<UInt64Type, u64>),
            DataType::Float16 => Values::Float(array, number::<Float16Type, f64>),
            DataType::Float32 => Values::Float(array, number::<Float32Type, f64>),
            DataType::Float64 => Values::Float(array, number::<Float64Type, f64>),
            DataType::Utf8 => Values::Text(array, |array, row| array.as_string::<i32>().value(row)),
            DataType::LargeUtf8 => Values::Text(array, |array, row| array.as_string::<i64>().value(row)),
            DataType::Utf8View => Values::Text(array, |array, row| array.as_string_view().value(row)),
            DataType::Binary => Values::Bytes(array, |array, row| array.as_binary::<i32>().value(row)),
            DataType::LargeBinary => Values::Bytes(array, |array, row| array.as_binary::<i64>().value(row)),
            DataType::BinaryView => Values::Bytes(array, |array, row| array.as_binary_view().value(row)),
            _ => return None,
        })
    }

    fn cell(&self, row: usize) -> Cell<'a> {
        match *self {
            Values::Null => Cell::Null,
            Values::Bool(array) => {
                if array.is_null(row) {
                    Cell::Null
                } else {
                    Cell::Bool(array.value(row))
                }
            }
            Values::Int(array, value) => {
                if array.is_null(row) {
                    Cell::Null
                } else {
                    Cell::Int(value(array, row))
                }
            }
            Values::Uint(array, value) => {
                if array.is_null(row) {
                    Cell::Null
                } else {
                    Cell::Uint(value(array, row))
                }
            }
            Values::Float(array, value) => {
                if array.is_null(row) {
                    Cell::Null
                } else {
                    Cell::Float(value(array, row))
                }
            }
            Values::Text(array, value) => {
                if array.is_null(row) {
                    Cell::Null
                } else {
                    Cell::Text(value(array, row))
                }
            }
            Values::Bytes(array, value) => {
                if array.is_null(row) {
                    Cell::Null
                } else {
                    Cell::Bytes(value(array, row))
                }
            }
        }
    }
}
