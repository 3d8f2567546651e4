//! CSV: a line of names, then a line a row (RFC 4180).

use nobat_core::Result;
use nobat_core::cell::Cell;
use nobat_core::signature::ModelSignature;
use nobat_core::tensor::Tensor;

use super::layout::{Layout, invalid};

/// Reads a table; without a `header` its columns are in the order of the inputs.
///
/// # Errors
/// `invalid_tensor`, naming line and column.
pub(super) fn read(body: &[u8], signature: &ModelSignature, header: bool) -> Result<Vec<Tensor>> {
    if let Some(line) = open_quote(body) {
        return Err(invalid(format!(
            "the CSV cannot be read: line {line} opens a quote that nothing closes; send the whole file, with `\"` in a value as `\"\"`"
        )));
    }
    let mut lines = ::csv::ReaderBuilder::new().has_headers(false).from_reader(body);
    let mut line = ::csv::StringRecord::new();
    let malformed = |error: ::csv::Error| invalid(format!("the CSV cannot be read: {}", told(&error)));
    if !lines.read_record(&mut line).map_err(malformed)? {
        return Err(invalid("the table is empty; send a line of column names and a line for each row".into()));
    }
    let names: Vec<String> = if header {
        if line.iter().all(|name| name.trim().parse::<f64>().is_ok()) {
            let message = "the first line has numbers where the names of the columns are needed; put them there, or send Content-Type: text/csv; header=absent";
            return Err(invalid(message.into()));
        }
        line.iter().map(|name| name.trim().to_owned()).collect()
    } else {
        unnamed(signature, line.len())
    };
    let mut layout = Layout::of(signature, &names.iter().map(String::as_str).collect::<Vec<_>>())?;
    let mut rows = 0;
    loop {
        // Without a header the first line is a row, and is there already.
        if (header || rows > 0) && !lines.read_record(&mut line).map_err(malformed)? {
            break;
        }
        let number = line.position().map_or(0, ::csv::Position::line);
        for (at, field) in line.iter().enumerate() {
            layout.push(at, Cell::Field(field), || names[at].clone(), || format!("line {number}"))?;
        }
        rows += 1;
    }
    layout.finish(rows)
}

/// The line of a quote that is still open where the body ends: the reader would take the rest for one value.
fn open_quote(body: &[u8]) -> Option<usize> {
    enum At {
        Begin,
        Plain,
        Quoted,
        Closed,
    }
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    let (mut at, mut line, mut opened) = (At::Begin, 1, 1);
    for &byte in body {
        at = match (at, byte) {
            (At::Begin, b'"') => {
                opened = line;
                At::Quoted
            }
            (At::Closed, b'"') => At::Quoted,
            (At::Quoted, b'"') => At::Closed,
            (At::Quoted, _) => At::Quoted,
            (_, b',' | b'\n' | b'\r') => At::Begin,
            _ => At::Plain,
        };
        line += usize::from(byte == b'\n');
    }
    matches!(at, At::Quoted).then_some(opened)
}

/// Names of columns that have none: the inputs', in their order, where there are as many.
fn unnamed(signature: &ModelSignature, columns: usize) -> Vec<String> {
    match signature.inputs.len() {
        count if count == columns && count > 1 => signature.inputs.iter().map(|spec| spec.name.to_string()).collect(),
        1 if columns == 1 => vec![signature.inputs[0].name.to_string()],
        _ => (0..columns).map(|at| at.to_string()).collect(),
    }
}

fn told(error: &::csv::Error) -> String {
    let line = |position: &Option<::csv::Position>| position.as_ref().map_or(0, ::csv::Position::line);
    match error.kind() {
        ::csv::ErrorKind::UnequalLengths { pos, expected_len, len } => {
            format!(
                "line {} has {len} fields, where the first line has {expected_len}; give every line as many",
                line(pos)
            )
        }
        ::csv::ErrorKind::Utf8 { pos, .. } => format!("line {} is not UTF-8; write it so", line(pos)),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_models::model;
    use nobat_core::tensor::Datatype;
    use proptest::prelude::*;

    fn people() -> ModelSignature {
        model(&[("age", Datatype::Fp32, &[-1, 1], false), ("city", Datatype::Bytes, &[-1, 1], false)])
    }

    fn message(signature: &ModelSignature, body: &str) -> String {
        read(body.as_bytes(), signature, true).expect_err(body).message
    }

    #[test]
    fn lines_are_rows_by_the_names_of_their_columns() {
        let body = "city,age\r\n\"Paris, the\nlight\",31\r\nRome,\r\n";
        let inputs = read(body.as_bytes(), &people(), true).expect("a good table");
        assert_eq!((&*inputs[0].name, &inputs[0].shape[..]), ("city", &[2, 1][..]));
        assert_eq!(inputs[0].data, &b"\x10\0\0\0Paris, the\nlight\x04\0\0\0Rome"[..]);
        let ages: Vec<f32> = inputs[1].data.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect();
        assert!(ages[0] == 31.0 && ages[1].is_nan(), "{ages:?}");
        // A byte order mark, as spreadsheets write it.
        assert!(read("\u{feff}city,age\nRome,3\n".as_bytes(), &people(), true).is_ok());
        let inputs = read(b"40,Rome\n", &people(), false).expect("by order");
        assert_eq!(inputs[0].data, 40f32.to_le_bytes().to_vec());
    }

    #[test]
    fn a_matrix_takes_the_columns_in_their_order() {
        let matrix = model(&[("X", Datatype::Fp32, &[-1, 3], false)]);
        let inputs = read(b"a,b,c\n1,2,3\n4,5,6\n", &matrix, true).expect("three columns");
        assert_eq!((&inputs[0].shape[..], inputs[0].data.len()), (&[2, 3][..], 24));
        assert_eq!(
            message(&matrix, "a,b\n1,2\n"),
            "the table has 2 columns (`a`, `b`); input `X` of model `m` takes 3"
        );
        assert!(message(&matrix, "1,2,3\n4,5,6\n").contains("header=absent"));
        assert_eq!(read(b"1,2,3\n4,5,6\n", &matrix, false).expect("no names"), inputs);
    }

    #[test]
    fn each_mistake_is_named_with_line_and_column() {
        let people = people();
        assert_eq!(
            message(&people, "name,x\na,b\n"),
            "the table lacks columns `age`, `city`; its columns are `name`, `x`, and model `m` takes `age` FP32, `city` BYTES"
        );
        assert_eq!(
            message(&people, "age,city,x,y\n1,a,2,3\n"),
            "model `m` does not take columns `x`, `y`; it takes `age` FP32, `city` BYTES. Leave them out, or set extra_columns = \"ignore\" under [settings] of its model.toml"
        );
        assert_eq!(
            message(&people, "age,city\n1,Rome\nold,Bonn\n"),
            "line 3, column `age` is `old`, not a value of FP32"
        );
        assert_eq!(
            message(&people, "age,city\n1,Rome\n2\n"),
            "the CSV cannot be read: line 3 has 1 fields, where the first line has 2; give every line as many"
        );
        assert_eq!(message(&people, "age,age,city\n1,1,a\n"), "the table has column `age` twice; name it once");
        assert_eq!(message(&people, "age,city\n"), "the table has no rows; send at least one");
        assert!(message(&people, "").starts_with("the table is empty"));
        let open = "the CSV cannot be read: line 2 opens a quote that nothing closes";
        for cut in ["age,city\n1,\"Ro", "age,city\n1,\"Rome\n2,Bonn\n", "\u{feff}\"age\",city\r\n1,\"a \"\"b\"\"\n"] {
            assert!(message(&people, cut).starts_with(open), "{cut:?}");
        }
        for whole in ["age,city\n1,\"Ro\"", "age,city\n1,3\"\n", "age,city\n1,\"\"\n", "age,city\n1,\"a\"\"\"\n"] {
            assert!(read(whole.as_bytes(), &people, true).is_ok(), "{whole:?}");
        }
        assert!(message(&people, ",age,city\n0,1,a\n").contains("a column without a name (pandas: index=False)"));
        let strict = ModelSignature { finite: true, ..people };
        assert_eq!(
            message(&strict, "age,city\n,Rome\n"),
            "line 2, column `age` has no value; model `m` takes finite numbers"
        );
        let mut loose = model(&[("age", Datatype::Fp32, &[-1], false)]);
        loose.settings.insert("extra_columns".into(), "ignore".into());
        assert_eq!(read(b"age,x\n1,a\n", &loose, true).expect("x is left out").len(), 1);
    }

    proptest! {
        #[test]
        fn no_text_panics_and_what_is_taken_fits(body in "[ab0-9,\"\n .-]{0,40}") {
            for signature in [people(), model(&[("a", Datatype::Int64, &[-1], false), ("b", Datatype::Bytes, &[-1], true)])] {
                if let Ok(inputs) = read(body.as_bytes(), &signature, true) {
                    prop_assert!(inputs.iter().all(|tensor| tensor.check().is_ok()));
                }
            }
        }
    }
}
