//! A request's tensors from a file: JSON as it is, or a NumPy `.npy` array.

use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

/// Reads the body of a prediction from `path` (`-` is standard input).
///
/// A JSON object goes out as it is; a JSON array, and an `.npy` array, become
/// `{"instances": …}`.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>> {
    let bytes = bytes(path)?;
    let body = if bytes.starts_with(b"\x93NUMPY") {
        json!({"instances": npy(&bytes).with_context(|| format!("cannot use `{}`", path.display()))?})
    } else {
        match serde_json::from_slice(&bytes)
            .with_context(|| format!("`{}` is neither JSON nor an .npy array", path.display()))?
        {
            Value::Object(_) => return Ok(bytes),
            Value::Array(rows) => json!({"instances": rows}),
            _ => bail!("`{}` holds neither an array nor an object", path.display()),
        }
    };
    Ok(serde_json::to_vec(&body)?)
}

/// The content type of a file that is sent as it is, by its name: a picture, a sound or a table.
pub(crate) fn content_type(path: &Path) -> Option<&'static str> {
    let extension = path.extension()?.to_str()?.to_ascii_lowercase();
    Some(match &*extension {
        "jpg" | "jpeg" => "image/jpeg",
        "png" => "image/png",
        "webp" => "image/webp",
        "gif" => "image/gif",
        "bmp" => "image/bmp",
        "tif" | "tiff" => "image/tiff",
        "wav" => "audio/wav",
        "flac" => "audio/flac",
        "mp3" => "audio/mpeg",
        "csv" => "text/csv",
        "parquet" => "application/vnd.apache.parquet",
        "arrows" => "application/vnd.apache.arrow.stream",
        "arrow" | "feather" => "application/vnd.apache.arrow.file",
        "bin" => "application/octet-stream",
        _ => return None,
    })
}

/// The bytes of a file, or of standard input (`-`).
pub(crate) fn bytes(path: &Path) -> Result<Vec<u8>> {
    if path.as_os_str() != "-" {
        return std::fs::read(path).with_context(|| format!("cannot read `{}`", path.display()));
    }
    let mut bytes = Vec::new();
    std::io::stdin().lock().read_to_end(&mut bytes).context("cannot read standard input")?;
    Ok(bytes)
}

/// An `.npy` array (format 1 to 3, little-endian, C order) as nested JSON.
fn npy(bytes: &[u8]) -> Result<Value> {
    let (head, length_bytes) = match bytes.get(6) {
        Some(1) => (10, 2),
        Some(2 | 3) => (12, 4),
        _ => bail!("the .npy version is unknown; save it with numpy.save"),
    };
    let length = bytes.get(8..8 + length_bytes).context("the .npy header is cut off")?;
    let length = length.iter().rev().fold(0usize, |sum, &byte| sum << 8 | usize::from(byte));
    let header = bytes.get(head..head + length).context("the .npy header is cut off")?;
    let header = std::str::from_utf8(header).context("the .npy header is not text")?;
    ensure!(
        header.contains("'fortran_order': False"),
        "the array is in Fortran order; save numpy.ascontiguousarray(x)"
    );
    let descr = header.split("'descr': '").nth(1).and_then(|rest| rest.split('\'').next()).unwrap_or_default();
    let shape = header.split("'shape': (").nth(1).and_then(|rest| rest.split(')').next()).context("no shape")?;
    let shape: Vec<usize> = shape
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .map(|part| part.parse().with_context(|| format!("bad shape `{shape}`")))
        .collect::<Result<_>>()?;
    ensure!(!shape.is_empty(), "the array is a scalar; its first axis must be the batch");

    macro_rules! numbers {
        ($type:ty) => {
            (size_of::<$type>(), |raw: &[u8]| {
                Value::from(<$type>::from_le_bytes(raw.try_into().expect("chunks have the type's size")))
            })
        };
    }
    let (size, read): (usize, fn(&[u8]) -> Value) = match descr {
        "<f4" => numbers!(f32),
        "<f8" => numbers!(f64),
        "|i1" => numbers!(i8),
        "<i2" => numbers!(i16),
        "<i4" => numbers!(i32),
        "<i8" => numbers!(i64),
        "|u1" => numbers!(u8),
        "<u2" => numbers!(u16),
        "<u4" => numbers!(u32),
        "<u8" => numbers!(u64),
        "|b1" => (1, |raw| Value::from(raw[0] != 0)),
        other => bail!("datatype `{other}` has no JSON form; use float32, float64, an integer type or bool"),
    };
    let data = &bytes[head + length..];
    let count =
        shape.iter().try_fold(1usize, |product, &dim| product.checked_mul(dim)).context("the shape overflows")?;
    ensure!(
        count.checked_mul(size) == Some(data.len()),
        "shape {shape:?} of `{descr}` needs {count} elements, the file holds {}",
        data.len() / size
    );
    let mut values: Vec<Value> = data.chunks_exact(size).map(read).collect();
    for &dim in shape[1..].iter().rev() {
        ensure!(dim > 0, "shape {shape:?} has an empty axis");
        values = values.chunks(dim).map(|row| Value::from(row.to_vec())).collect();
    }
    Ok(Value::from(values))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn array(descr: &str, shape: &str, data: &[u8]) -> Vec<u8> {
        let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n");
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((header.len() as u16).to_le_bytes());
        bytes.extend(header.as_bytes());
        bytes.extend(data);
        bytes
    }

    #[test]
    fn an_array_becomes_nested_rows() {
        let data: Vec<u8> = [1.5f32, 2.0, 3.0, 4.0, 5.0, 6.0].iter().flat_map(|x| x.to_le_bytes()).collect();
        let value = npy(&array("<f4", "(2, 3)", &data)).expect("reads");
        assert_eq!(value, json!([[1.5, 2.0, 3.0], [4.0, 5.0, 6.0]]));
        assert_eq!(npy(&array("|u1", "(3,)", &[1, 2, 3])).expect("reads"), json!([1, 2, 3]));
    }

    #[test]
    fn an_array_that_is_cut_off_or_of_another_type_is_refused() {
        let error = npy(&array("<f4", "(2, 3)", &[0; 20])).expect_err("four bytes short");
        assert!(error.to_string().contains("needs 6 elements"), "{error}");
        assert!(npy(&array("<c8", "(1,)", &[0; 8])).expect_err("complex").to_string().contains("<c8"));
        assert!(npy(b"\x93NUMPY\x01\x00\xff\xff").is_err());
        assert!(npy(b"\x93NUMPY").is_err());
    }

    #[test]
    fn files_are_told_by_their_names() {
        let told = |name: &str| content_type(Path::new(name));
        assert_eq!(told("a/cat.JPG"), Some("image/jpeg"));
        assert_eq!(told("people.csv"), Some("text/csv"));
        assert_eq!((told("rows.json"), told("-"), told("x.npy")), (None, None, None));
    }

    #[test]
    fn an_object_goes_out_byte_for_byte_and_an_array_is_wrapped() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("in.json");
        std::fs::write(&path, "{ \"instances\": [[1]] }").expect("writes");
        assert_eq!(read(&path).expect("reads"), b"{ \"instances\": [[1]] }");
        std::fs::write(&path, "[[1, 2]]").expect("writes");
        assert_eq!(read(&path).expect("reads"), br#"{"instances":[[1,2]]}"#);
        std::fs::write(&path, "7").expect("writes");
        assert!(read(&path).is_err());
    }
}
