//! Arrow and Parquet, written by the libraries that read them.

use std::sync::Arc;

use arrow_array::types::Int32Type;
use arrow_array::{
    ArrayRef, BooleanArray, DictionaryArray, Float64Array, Int64Array, ListArray, RecordBatch, StringArray,
};
use arrow_ipc::writer::{FileWriter, StreamWriter};
use bytes::Bytes;
use nobat_core::signature::ModelSignature;
use nobat_core::tensor::{Datatype, Tensor};
use nobat_core::{ErrorCode, Result};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, Encoding, GzipLevel};
use parquet::file::properties::WriterProperties;
use parquet::schema::types::ColumnPath;
use proptest::prelude::*;

use super::{TableKind, read};
use crate::test_models::model;

const MOST: usize = 1 << 20;

fn people() -> ModelSignature {
    ModelSignature {
        max_rows: 1000,
        ..model(&[
            ("age", Datatype::Fp32, &[-1, 1], false),
            ("city", Datatype::Bytes, &[-1, 1], false),
            ("member", Datatype::Int64, &[-1], false),
        ])
    }
}

fn columns(ages: ArrayRef, cities: ArrayRef, members: ArrayRef) -> RecordBatch {
    RecordBatch::try_from_iter([("city", cities), ("age", ages), ("member", members)]).expect("a batch")
}

fn batch(rows: usize) -> RecordBatch {
    columns(
        Arc::new(Float64Array::from_iter((0..rows).map(|at| (at != 1).then_some(at as f64)))),
        Arc::new(StringArray::from_iter_values((0..rows).map(|at| format!("city {}", at % 3)))),
        Arc::new(BooleanArray::from_iter((0..rows).map(|at| Some(at % 2 == 0)))),
    )
}

fn stream(batch: &RecordBatch) -> Bytes {
    let mut writer = StreamWriter::try_new(Vec::new(), &batch.schema()).expect("a writer");
    writer.write(batch).expect("written");
    writer.write(batch).expect("written twice");
    writer.into_inner().expect("whole").into()
}

fn file(batch: &RecordBatch) -> Bytes {
    let mut writer = FileWriter::try_new(Vec::new(), &batch.schema()).expect("a writer");
    writer.write(batch).expect("written");
    writer.write(batch).expect("written twice");
    writer.into_inner().expect("whole").into()
}

fn parquet(batch: &RecordBatch, compression: Compression, delta: bool) -> Bytes {
    let mut properties = WriterProperties::builder().set_compression(compression);
    if delta {
        let city = ColumnPath::from("city");
        properties = properties
            .set_column_dictionary_enabled(city.clone(), false)
            .set_column_encoding(city, Encoding::DELTA_BYTE_ARRAY);
    }
    let mut written = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut written, batch.schema(), Some(properties.build())).expect("a writer");
    writer.write(batch).expect("written");
    writer.write(batch).expect("written twice");
    writer.close().expect("whole");
    written.into()
}

fn gzip() -> Compression {
    Compression::GZIP(GzipLevel::default())
}

fn kinds(batch: &RecordBatch) -> Vec<(TableKind, Bytes)> {
    vec![
        (TableKind::ArrowStream, stream(batch)),
        (TableKind::ArrowFile, file(batch)),
        (TableKind::Parquet, parquet(batch, Compression::UNCOMPRESSED, false)),
        (TableKind::Parquet, parquet(batch, Compression::SNAPPY, false)),
        (TableKind::Parquet, parquet(batch, gzip(), false)),
    ]
}

fn named<'a>(inputs: &'a [Tensor], name: &str) -> &'a Tensor {
    inputs.iter().find(|input| input.name == name).expect(name)
}

#[test]
fn every_form_of_a_table_gives_the_same_inputs() {
    for (kind, body) in kinds(&batch(3)) {
        let inputs = read(kind, body, &people(), MOST).expect("a good table");
        let ages = named(&inputs, "age");
        assert_eq!(ages.shape[..], [6, 1]);
        let ages: Vec<f32> = ages.data.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
        assert!(ages[0] == 0.0 && ages[1].is_nan() && ages[2] == 2.0 && ages[5] == 2.0, "{kind:?} {ages:?}");
        assert!(named(&inputs, "city").data.starts_with(b"\x06\0\0\0city 0\x06\0\0\0city 1"), "{kind:?}");
        let members = named(&inputs, "member").data.as_chunks().0.iter().map(|&bytes| i64::from_le_bytes(bytes));
        assert_eq!(members.collect::<Vec<_>>(), [1, 0, 1, 1, 0, 1]);
        assert!(inputs.iter().all(|input| input.check().is_ok()));
    }
}

#[test]
fn columns_that_no_input_takes_are_refused_by_name() {
    let (ages, cities, members) = (
        Arc::new(Int64Array::from(vec![1, 2])) as ArrayRef,
        Arc::new(StringArray::from(vec!["a", "b"])) as ArrayRef,
        Arc::new(Int64Array::from(vec![0, 1])) as ArrayRef,
    );
    let words = Arc::new(DictionaryArray::<Int32Type>::from_iter(["a", "b"])) as ArrayRef;
    let lists = Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>([Some([Some(1)]), Some([Some(2)])]));
    for (batch, named) in [
        (
            columns(ages.clone(), words, members.clone()),
            "column `city` (Dictionary(Int32, Utf8)) is a dictionary; send",
        ),
        (columns(lists, cities.clone(), members.clone()), "nested; send one value a row"),
        (columns(cities.clone(), cities.clone(), members.clone()), "row 0, column `age` is the text `a`"),
        (columns(ages.clone(), ages.clone(), members.clone()), "row 0, column `city` is `1`, not a text"),
        (
            columns(ages, cities, Arc::new(Float64Array::from(vec![1.0, 1.5]))),
            "row 1, column `member` is `1.5`, not a value of INT64",
        ),
    ] {
        let error = read(TableKind::ArrowStream, stream(&batch), &people(), MOST).expect_err(named);
        assert_eq!(error.code, ErrorCode::InvalidTensor);
        assert!(error.message.contains(named), "{error}");
    }
}

#[test]
fn what_a_few_bytes_become_is_bounded() {
    // A dictionary of one long text, named by every row: a page of a few bytes.
    let rows = 900;
    let long = "x".repeat(10_000);
    let same = |text: &str| {
        columns(
            Arc::new(Int64Array::from(vec![1; rows])),
            Arc::new(StringArray::from(vec![text; rows])),
            Arc::new(Int64Array::from(vec![1; rows])),
        )
    };
    for delta in [false, true] {
        for compression in [Compression::UNCOMPRESSED, Compression::SNAPPY, gzip()] {
            let bomb = parquet(&same(&long), compression, delta);
            assert!(bomb.len() < 300_000, "{} bytes", bomb.len());
            let error = read(TableKind::Parquet, bomb, &people(), MOST).expect_err("18 MB of texts");
            assert_eq!(error.code, ErrorCode::PayloadTooLarge, "{error}");
        }
    }
    let rows = columns(
        Arc::new(Int64Array::from(vec![1; 2000])),
        Arc::new(StringArray::from(vec!["a"; 2000])),
        Arc::new(Int64Array::from(vec![1; 2000])),
    );
    for (kind, body) in kinds(&rows) {
        let error = read(kind, body, &people(), MOST).expect_err("too many rows");
        assert_eq!(error.code, ErrorCode::PayloadTooLarge, "{error}");
    }
}

/// Reads whatever it is; only a panic or a tensor that does not fit is wrong.
fn try_to_read(kind: TableKind, body: Vec<u8>) -> Result<()> {
    let inputs = read(kind, body.into(), &people(), MOST)?;
    inputs.iter().try_for_each(Tensor::check)
}

proptest! {
    #[test]
    fn changed_bytes_are_refused_or_read_but_never_panic(
        which in 0usize..5, changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(), cuts: bool,
    ) {
        let (kind, body) = kinds(&batch(3)).swap_remove(which);
        let mut body = body.to_vec();
        for (at, byte) in changes {
            let at = at.index(body.len());
            body[at] = byte;
        }
        if cuts {
            body.truncate(cut.index(body.len()));
        }
        let _ = try_to_read(kind, body);
    }
}
