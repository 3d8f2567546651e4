//! Tables as JSON: `records` (an object a row), and the two forms of data frames that
//! MLflow's clients send: `dataframe_records`, the same, and `dataframe_split`
//! (`{"columns": […], "data": [[…]]}`, as pandas writes it with `orient="split"`).

use std::collections::HashMap;

use nobat_core::cell::Cell;
use nobat_core::json::{Number, Reader};
use nobat_core::signature::ModelSignature;
use nobat_core::tensor::Tensor;
use nobat_core::{Error, ErrorCode, Result, clip};

use super::layout::{Layout, invalid};

/// Reads a list of objects off the front of `reader`. The first one names the columns.
///
/// # Errors
/// `invalid_json`, and `invalid_tensor` naming row and column.
pub(crate) fn read(reader: &mut Reader<'_>, signature: &ModelSignature, place: &str) -> Result<Vec<Tensor>> {
    let names = names_of_first(*reader, place)?;
    let places: HashMap<&str, usize> = names.iter().enumerate().map(|(at, name)| (name.as_str(), at)).collect();
    let mut layout: Option<Layout<'_>> = None;
    let mut rows = 0;
    // Of each column, the row that gave it last.
    let mut given = vec![usize::MAX; names.len()];
    reader.list(place, |reader, row| {
        let layout = match &mut layout {
            Some(layout) => layout,
            none => none.insert(Layout::of(signature, &names.iter().map(String::as_str).collect::<Vec<_>>())?),
        };
        let mut expected = 0;
        reader.object(&format!("{place}[{row}]"), |reader, name| {
            // Rows usually name their columns in one order.
            let in_order = names.get(expected).filter(|own| **own == *name).map(|_| expected);
            let at = in_order.or_else(|| places.get(&*name).copied());
            let at = at.ok_or_else(|| {
                invalid(format!("{place}[{row}] has column `{}`, which the rows before it lack", clip(&name)))
            })?;
            if layout.is_ordered() && at != expected {
                let message = "has its columns in another order than the rows before it; keep one, the model has no names for them";
                return Err(invalid(format!("{place}[{row}] {message}")));
            }
            if given[at] == row {
                return Err(invalid(format!("{place}[{row}] gives column `{}` twice", clip(&name))));
            }
            given[at] = row;
            expected = at + 1;
            push(layout, reader, at, &names[at], || format!("{place}[{row}]"))
        })?;
        rows = row + 1;
        match given.iter().position(|&last| last != row) {
            Some(at) => Err(invalid(format!("{place}[{row}] lacks column `{}`", clip(&names[at])))),
            None => Ok(()),
        }
    })?;
    match layout {
        Some(layout) => layout.finish(rows),
        None => Err(invalid(format!("{place} has no rows; send at least one"))),
    }
}

/// Reads a frame in pandas' split form off the front of `reader`.
///
/// # Errors
/// As [`read`].
pub(crate) fn read_split(reader: &mut Reader<'_>, signature: &ModelSignature, place: &str) -> Result<Vec<Tensor>> {
    let names = names_of_split(*reader, place)?;
    let mut layout = Layout::of(signature, &names.iter().map(String::as_str).collect::<Vec<_>>())?;
    let mut rows = None;
    reader.object(place, |reader, member| match &*member {
        "data" if rows.is_none() => {
            let mut count = 0;
            reader.list(&format!("{place}.data"), |reader, row| {
                let line = format!("{place}.data[{row}]");
                let mut columns = 0;
                reader.list(&line, |reader, at| {
                    let name = names
                        .get(at)
                        .ok_or_else(|| invalid(format!("{line} has more values than the {} columns", names.len())))?;
                    columns = at + 1;
                    push(&mut layout, reader, at, name, || line.clone())
                })?;
                if columns < names.len() {
                    let message = format!("{line} has {columns} values for {} columns", names.len());
                    return Err(invalid(message));
                }
                count = row + 1;
                Ok(())
            })?;
            rows = Some(count);
            Ok(())
        }
        "columns" | "index" => reader.skip_value(place),
        other => {
            let message = format!(
                "`{}` in {place} is not known, or comes twice; give `columns`, `data` and optionally `index`",
                clip(other)
            );
            Err(Error::new(ErrorCode::InvalidJson, message))
        }
    })?;
    let rows = rows.ok_or_else(|| Error::new(ErrorCode::InvalidJson, format!("{place} has no `data`")))?;
    layout.finish(rows)
}

/// Takes one value of a column.
fn push(
    layout: &mut Layout<'_>,
    reader: &mut Reader<'_>,
    column: usize,
    name: &str,
    place: impl Fn() -> String,
) -> Result<()> {
    let text;
    let cell = match reader.peek() {
        Some(b'"') => {
            text = reader.string(name)?;
            Cell::Text(&text)
        }
        Some(b'[' | b'{') => return layout.push_json(column, reader, &format!("{}.{}", place(), clip(name))),
        _ if reader.null() => Cell::Null,
        _ => match reader.boolean() {
            Some(value) => Cell::Bool(value),
            None => match Number::take(reader) {
                Some(number) => number
                    .to_i64()
                    .map(Cell::Int)
                    .or_else(|| number.to_u64().map(Cell::Uint))
                    .unwrap_or_else(|| Cell::Float(number.to_f64())),
                None => return Err(reader.unexpected("a value", &format!("{}.{}", place(), clip(name)))),
            },
        },
    };
    layout.push(column, cell, || name.to_owned(), place)
}

/// The names in the first of a list of objects.
fn names_of_first(mut ahead: Reader<'_>, place: &str) -> Result<Vec<String>> {
    let mut names = Vec::new();
    if !ahead.take(b'[') {
        return Err(ahead.unexpected("a list of objects", place));
    }
    if ahead.peek() == Some(b']') {
        return Ok(names);
    }
    ahead.object(&format!("{place}[0]"), |reader, name| {
        names.push(name.into_owned());
        reader.skip_value(place)
    })?;
    Ok(names)
}

/// The columns of a split frame, wherever they stand in it.
fn names_of_split(mut ahead: Reader<'_>, place: &str) -> Result<Vec<String>> {
    let mut names = None;
    ahead.object(place, |reader, member| {
        if member != "columns" {
            return reader.skip_value(place);
        }
        let mut found = Vec::new();
        reader.list("columns", |reader, _| {
            // Frames without names number their columns.
            let name = match reader.peek() {
                Some(b'"') => reader.string("columns")?.into_owned(),
                _ => reader.parse::<u64>("columns")?.to_string(),
            };
            found.push(name);
            Ok(())
        })?;
        names = Some(found);
        Ok(())
    })?;
    names.ok_or_else(|| Error::new(ErrorCode::InvalidJson, format!("{place} has no `columns`; name them")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_models::model;
    use nobat_core::tensor::Datatype;

    fn people() -> ModelSignature {
        model(&[("age", Datatype::Fp32, &[-1, 1], false), ("city", Datatype::Bytes, &[-1, 1], false)])
    }

    fn records(signature: &ModelSignature, text: &str) -> Result<Vec<Tensor>> {
        read(&mut Reader::new(text.as_bytes()), signature, "records")
    }

    fn split(signature: &ModelSignature, text: &str) -> Result<Vec<Tensor>> {
        read_split(&mut Reader::new(text.as_bytes()), signature, "dataframe_split")
    }

    #[test]
    fn records_and_a_split_frame_are_the_same_inputs() {
        let rows = records(&people(), r#"[{"age": 31, "city": "Rome"}, {"city": "Bonn", "age": 7.5}]"#);
        let rows = rows.expect("good records");
        assert_eq!((&*rows[0].name, &rows[0].shape[..]), ("age", &[2, 1][..]));
        assert_eq!(rows[1].data, &b"\x04\0\0\0Rome\x04\0\0\0Bonn"[..]);
        for frame in [
            r#"{"columns": ["age", "city"], "index": [0, 1], "data": [[31, "Rome"], [7.5, "Bonn"]]}"#,
            r#"{"data": [[31, "Rome"], [7.5, "Bonn"]], "columns": ["age", "city"]}"#,
        ] {
            assert_eq!(split(&people(), frame).expect(frame), rows);
        }
        let matrix = model(&[("X", Datatype::Fp32, &[-1, 2], false)]);
        let frame = split(&matrix, r#"{"columns": [0, 1], "data": [[1, 2], [3, 4]]}"#).expect("numbered columns");
        assert_eq!(records(&matrix, r#"[{"a": 1, "b": 2}, {"a": 3, "b": 4}]"#).expect("in order"), frame);
    }

    #[test]
    fn lists_and_bytes_are_values_where_rows_have_them() {
        let signature = model(&[("v", Datatype::Uint8, &[-1, 2], false), ("b", Datatype::Bytes, &[-1, 1], false)]);
        let rows = records(&signature, r#"[{"v": [1, 2], "b": {"b64": "AAE="}}, {"v": [3, 4], "b": ["x"]}]"#);
        let rows = rows.expect("good records");
        assert_eq!((&rows[0].shape[..], &rows[0].data[..]), (&[2, 2][..], &[1, 2, 3, 4][..]));
        assert_eq!(rows[1].data, &b"\x02\0\0\0\0\x01\x01\0\0\0x"[..]);
        let refused = |text: &str| records(&signature, text).expect_err(text).message;
        assert_eq!(
            refused(r#"[{"v": 1, "b": "x"}]"#),
            "records[0], column `v` is a single value; a row of input `v` has shape [2]"
        );
        assert_eq!(
            refused(r#"[{"v": [1, 2, 3], "b": "x"}]"#),
            "records[0].v has shape [3]; a row of input `v` has shape [2]"
        );
    }

    #[test]
    fn each_mistake_is_named_with_row_and_column() {
        let refused = |text: &str| records(&people(), text).expect_err(text).message;
        assert_eq!(
            refused(r#"[{"age": 31, "city": "Rome"}, {"age": "old", "city": "Bonn"}]"#),
            "records[1], column `age` is the text `old`, not a value of FP32"
        );
        assert_eq!(
            refused(r#"[{"age": 31, "city": 5}]"#),
            "records[0], column `city` is `5`, not a text, which BYTES takes"
        );
        assert!(refused(r#"[{"age": 31}]"#).starts_with("the table lacks column `city`"));
        assert_eq!(refused(r#"[{"age": 1, "city": "a"}, {"age": 2}]"#), "records[1] lacks column `city`");
        assert_eq!(
            refused(r#"[{"age": 1, "city": "a"}, {"age": 2, "town": "b"}]"#),
            "records[1] has column `town`, which the rows before it lack"
        );
        assert_eq!(refused(r#"[{"age": 1, "city": "a", "age": 2}]"#), "the table has column `age` twice; name it once");
        assert_eq!(refused("[]"), "records has no rows; send at least one");
        assert!(refused(r#"{"age": 1}"#).contains("a list of objects"));
        let refused = |text: &str| split(&people(), text).expect_err(text).message;
        assert_eq!(
            refused(r#"{"columns": ["age", "city"], "data": [[1]]}"#),
            "dataframe_split.data[0] has 1 values for 2 columns"
        );
        assert!(refused(r#"{"data": []}"#).contains("has no `columns`"));
        let matrix = model(&[("X", Datatype::Fp32, &[-1, 2], false)]);
        let turned = records(&matrix, r#"[{"a": 1, "b": 2}, {"b": 3, "a": 4}]"#).expect_err("turned").message;
        assert!(turned.contains("another order"), "{turned}");
    }
}
