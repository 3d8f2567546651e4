//! Rows for a model, from a file or a folder of files.

use std::io::{Cursor, Read};
use std::path::Path;

use bytes::Bytes;
use nobat_core::signature::TensorSpec;
use nobat_core::tensor::{Datatype, Tensor};
use nobat_core::{Error, Result};
use nobat_statistics::reading::element;

use super::array::NumpyArray;
use super::inputs::{ModelInputs, is_label};
use super::text::{TextRow, csv, jsonl};

/// Largest array that is unpacked from an archive.
const MOST_UNPACKED: u64 = 8 << 30;

/// Rows to send to a model, with the right answers where the files have them.
#[derive(Debug, Default)]
pub struct Dataset {
    parts: Vec<Part>,
}

#[derive(Debug)]
enum Part {
    Arrays { inputs: Vec<(TensorSpec, NumpyArray)>, labels: Option<NumpyArray>, rows: usize, batched: bool },
    Rows(Vec<TextRow>),
}

impl Dataset {
    /// Reads `.npz`, `.npy`, `.csv` or `.jsonl`, or all such files of a folder in the order of their names.
    ///
    /// # Errors
    /// `invalid_parameter` or `invalid_tensor`, naming the file and what about it cannot be used.
    pub fn read(path: &Path, model: ModelInputs) -> Result<Dataset> {
        let named = |error: Error| Error::new(error.code, format!("`{}`: {}", path.display(), error.message));
        let failed = |error: std::io::Error| Error::invalid(format!("`{}` cannot be read: {error}", path.display()));
        if !path.is_dir() {
            let part = Part::read(path, std::fs::read(path).map_err(failed)?, model).map_err(named)?;
            return Ok(Dataset { parts: vec![part] });
        }
        let entries = std::fs::read_dir(path).and_then(Iterator::collect::<std::io::Result<Vec<_>>>).map_err(failed)?;
        let mut files: Vec<_> =
            entries.iter().map(std::fs::DirEntry::path).filter(|file| kind(file).is_some()).collect();
        files.sort();
        if files.is_empty() {
            return Err(Error::invalid(format!("`{}` holds no .npz, .npy, .csv or .jsonl file", path.display())));
        }
        let parts = files.iter().map(|file| Ok(Dataset::read(file, model)?.parts)).collect::<Result<Vec<_>>>()?;
        Ok(Dataset { parts: parts.into_iter().flatten().collect() })
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.parts.iter().map(Part::len).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A row's inputs, one tensor each, a batch axis of 1 first where the model has one.
    /// `None` past the end.
    pub fn row(&self, row: usize) -> Option<Vec<Tensor>> {
        let (part, row) = self.part(row)?;
        Some(match part {
            Part::Rows(rows) => rows[row].0.clone(),
            Part::Arrays { inputs, batched, .. } => {
                inputs.iter().map(|(spec, array)| tensor(spec, array, row, *batched)).collect()
            }
        })
    }

    /// A row's right answer.
    pub fn label(&self, row: usize) -> Option<String> {
        let (part, row) = self.part(row)?;
        match part {
            Part::Rows(rows) => rows[row].1.clone(),
            Part::Arrays { labels, .. } => labels.as_ref().map(|labels| labels.text(row)),
        }
    }

    fn part(&self, mut row: usize) -> Option<(&Part, usize)> {
        for part in &self.parts {
            if row < part.len() {
                return Some((part, row));
            }
            row -= part.len();
        }
        None
    }
}

impl Part {
    fn len(&self) -> usize {
        match self {
            Part::Arrays { rows, .. } => *rows,
            Part::Rows(rows) => rows.len(),
        }
    }

    fn read(path: &Path, bytes: Vec<u8>, model: ModelInputs) -> Result<Part> {
        match kind(path) {
            Some("npz") => Part::arrays(unpacked(bytes)?, model),
            Some("npy") => Part::arrays(vec![(String::new(), NumpyArray::parse(bytes.into())?)], model),
            Some("csv") => Ok(Part::Rows(csv(&bytes, model)?)),
            Some("jsonl") => Ok(Part::Rows(jsonl(&bytes, model)?)),
            _ => Err(Error::invalid("its rows cannot be read; give .npz, .npy, .csv or .jsonl")),
        }
    }

    fn arrays(mut arrays: Vec<(String, NumpyArray)>, model: ModelInputs) -> Result<Part> {
        let is_input = |name: &str| model.specs.iter().any(|spec| spec.name == name);
        let label = arrays.iter().position(|(name, array)| is_label(name) && !is_input(name) && array.width() == 1);
        let labels = label.map(|at| arrays.swap_remove(at).1);
        let mut inputs = Vec::new();
        for spec in model.specs {
            let found = arrays.iter().position(|(name, _)| name == spec.name.as_str());
            // The only array for the only input needs no name.
            let found = found.or_else(|| (model.specs.len() == 1 && arrays.len() == 1).then_some(0));
            match found {
                Some(at) => inputs.push((spec.clone(), arrays.swap_remove(at).1)),
                None if spec.optional => {}
                None => {
                    let names: Vec<_> = arrays.iter().map(|(name, _)| name.as_str()).collect();
                    return Err(Error::invalid(format!(
                        "it has no array `{}`; it has: {}",
                        spec.name,
                        names.join(", ")
                    )));
                }
            }
        }
        let rows = inputs.first().map_or(0, |(_, array)| array.shape[0]);
        let lengths = inputs.iter().map(|(spec, array)| (spec.name.as_str(), array));
        for (name, array) in lengths.chain(labels.iter().map(|labels| ("the labels", labels))) {
            if array.shape[0] != rows {
                return Err(Error::invalid(format!("`{name}` has {} rows, the first input {rows}", array.shape[0])));
            }
        }
        for (spec, array) in &inputs {
            let own: Vec<i64> = array.shape[1..].iter().map(|&dim| dim as i64).collect();
            model.row_shape(spec, &own, array.width())?;
            if spec.datatype != Datatype::Bytes
                && rows * array.width() > 0
                && array.number(0).is_nan()
                && array.text(0) != "NaN"
            {
                return Err(Error::invalid(format!(
                    "input `{}` takes {}, the array holds text",
                    spec.name, spec.datatype
                )));
            }
        }
        Ok(Part::Arrays { inputs, labels, rows, batched: model.batched })
    }
}

fn tensor(spec: &TensorSpec, array: &NumpyArray, row: usize, batched: bool) -> Tensor {
    let width = array.width();
    let mut data = Vec::new();
    let same = array.row_of(row, spec.datatype);
    data.extend_from_slice(same.unwrap_or_default());
    for place in (row * width..(row + 1) * width).filter(|_| same.is_none()) {
        match element(array.number(place), spec.datatype) {
            Some(bytes) => data.extend(bytes),
            None => {
                let text = array.text(place);
                data.extend((text.len() as u32).to_le_bytes());
                data.extend(text.as_bytes());
            }
        }
    }
    let own: Vec<i64> = array.shape[1..].iter().map(|&dim| dim as i64).collect();
    let model = ModelInputs { specs: std::slice::from_ref(spec), batched };
    let shape = model.row_shape(spec, &own, width).expect("checked when the file was read");
    Tensor { name: spec.name.clone(), datatype: spec.datatype, shape, data: data.into() }
}

/// The arrays of a `.npz` archive.
fn unpacked(bytes: Vec<u8>) -> Result<Vec<(String, NumpyArray)>> {
    let broken = |e: zip::result::ZipError| Error::invalid(format!("it is no .npz archive: {e}"));
    let mut archive = zip::ZipArchive::new(Cursor::new(bytes)).map_err(broken)?;
    let mut arrays = Vec::new();
    for index in 0..archive.len() {
        let file = archive.by_index(index).map_err(broken)?;
        let name = file.name().map_err(broken)?.trim_end_matches(".npy").to_owned();
        let mut array = Vec::new();
        let mut bounded = file.take(MOST_UNPACKED);
        bounded
            .read_to_end(&mut array)
            .map_err(|e| Error::invalid(format!("array `{name}` cannot be unpacked: {e}")))?;
        let array = NumpyArray::parse(Bytes::from(array));
        arrays.push((name.clone(), array.map_err(|e| Error::invalid(format!("array `{name}`: {}", e.message)))?));
    }
    Ok(arrays)
}

fn kind(path: &Path) -> Option<&'static str> {
    let extension = path.extension()?.to_str()?;
    ["npz", "npy", "csv", "jsonl"].into_iter().find(|known| extension.eq_ignore_ascii_case(known))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::array::tests::npy;
    use nobat_statistics::reading::Rows;
    use std::io::Write;

    fn spec(name: &str, datatype: Datatype, shape: &[i64]) -> TensorSpec {
        TensorSpec { name: name.into(), datatype, shape: shape.to_vec(), optional: false }
    }

    fn read(name: &str, bytes: &[u8], specs: &[TensorSpec]) -> Result<Dataset> {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).expect("writes");
        Dataset::read(&path, ModelInputs { specs, batched: true })
    }

    fn numbers(tensor: &Tensor) -> Vec<f64> {
        tensor.check().expect("a whole tensor");
        Rows::of(tensor, 1).expect("a row").numbers(0).collect()
    }

    fn floats(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    #[test]
    fn every_format_gives_the_same_rows() {
        let specs = [spec("x", Datatype::Fp32, &[-1, 2])];
        let array = npy("<f4", "(2, 2)", &floats(&[1.0, 2.0, 3.0, 4.5]));
        let mut archive = zip::ZipWriter::new(Cursor::new(Vec::new()));
        for (name, bytes) in
            [("data.npy", &array), ("y.npy", &npy("<i8", "(2,)", &[7, 0, 0, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0]))]
        {
            let deflated =
                zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Deflated);
            archive.start_file(name, deflated).expect("starts");
            archive.write_all(bytes).expect("writes");
        }
        let npz = archive.finish().expect("an archive").into_inner();
        for (name, bytes, labelled) in [
            ("a.npy", &array[..], false),
            ("a.npz", &npz[..], true),
            ("a.csv", b"a,b,label\n1,2,7\n3,4.5,8\n", true),
            ("b.csv", b"label,x.0,x.1,note\n7, 1,2,\"a, b\"\n8,3,4.5,\n", true),
            ("a.jsonl", b"[1, 2]\n\n[3, 4.5]\n", false),
            ("b.jsonl", b"{\"x\": [1, 2], \"y\": 7}\n{\"inputs\": {\"x\": [3, 4.5]}, \"y\": \"8\"}", true),
            (
                "c.jsonl",
                br#"{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}], "label": 7}
                {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [[3, 4.5]]}], "label": 8}"#,
                true,
            ),
        ] {
            let data = read(name, bytes, &specs).unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!(data.len(), 2, "{name}");
            let row = data.row(1).expect("the second");
            assert_eq!((row[0].name.as_str(), row[0].shape.as_slice()), ("x", &[1, 2][..]), "{name}");
            assert_eq!(numbers(&row[0]), [3.0, 4.5], "{name}");
            assert_eq!(data.label(1).as_deref(), labelled.then_some("8"), "{name}");
            assert!(data.row(2).is_none() && data.label(2).is_none());
        }
    }

    #[test]
    fn whole_numbers_that_no_float_holds_arrive_as_they_are() {
        let ids = [spec("ids", Datatype::Int64, &[-1, 1])];
        let large = i64::MAX - 1;
        let array = npy("<i8", "(1, 1)", &large.to_le_bytes());
        for (name, file) in [
            ("a.npy", array),
            ("a.csv", format!("id\n{large}\n").into_bytes()),
            ("a.jsonl", format!("{{\"ids\": [{large}]}}\n").into_bytes()),
        ] {
            let data = read(name, &file, &ids).expect("reads");
            assert_eq!(&data.row(0).expect("a row")[0].data[..], &large.to_le_bytes()[..], "{name}");
        }
    }

    #[test]
    fn shapes_text_and_several_inputs_find_their_places() {
        let image = [spec("image", Datatype::Uint8, &[-1, 2, 2])];
        let data = read("flat.csv", b"a,b,c,d\n1,2,3,250.6\n", &image).expect("reads");
        let row = data.row(0).expect("a row");
        assert_eq!((row[0].shape.as_slice(), numbers(&row[0])), (&[1, 2, 2][..], vec![1.0, 2.0, 3.0, 251.0]));

        let text = [spec("text", Datatype::Bytes, &[-1, 1]), spec("tokens", Datatype::Int64, &[-1, -1])];
        let lines = "{\"text\": [\"h\u{e9}\"], \"tokens\": [5, 6, 7]}\n{\"text\": \"b\", \"tokens\": [1]}";
        let data = read("text.jsonl", lines.as_bytes(), &text).expect("reads");
        let row = data.row(0).expect("a row");
        assert_eq!(&row[0].data[..], b"\x03\0\0\0h\xc3\xa9");
        assert_eq!(
            (row[1].shape.as_slice(), data.row(1).expect("a row")[1].shape.as_slice()),
            (&[1, 3][..], &[1, 1][..])
        );
        let names = [spec("name", Datatype::Bytes, &[-1, 1])];
        let data = read("names.npy", &npy("|S2", "(2, 1)", b"a\0bc"), &names).expect("reads");
        assert_eq!(&data.row(1).expect("a row")[0].data[..], b"\x02\0\0\0bc");
    }

    #[test]
    fn what_does_not_fit_names_the_file_and_the_place() {
        let specs = [spec("x", Datatype::Fp32, &[-1, 2])];
        let why = |name: &str, bytes: &[u8]| read(name, bytes, &specs).expect_err(name).message;
        assert!(why("a.csv", b"a,b,c\n1,2,3\n").contains("line 2: input `x` takes [2] a row, not 3 elements"));
        assert!(why("a.csv", b"a,b\n1,cat\n").contains("takes FP32, not \"cat\""));
        assert!(why("a.jsonl", b"[1, 2]\n[[1], [2, 3]]").contains("line 2: input `x` is ragged"));
        assert!(why("a.jsonl", b"{\"z\": [1, 2]}").contains("line 1: input `x` is missing"));
        assert!(why("a.jsonl", b"nonsense").contains("line 1: it is no JSON"));
        assert!(why("a.npz", b"nonsense").contains("no .npz archive"));
        assert!(why("a.npy", &npy("<f4", "(1, 3)", &floats(&[1.0; 3]))).contains("takes [2] a row"));
        assert!(why("a.npy", &npy("|S1", "(1, 2)", b"ab")).contains("holds text"));
        assert!(why("a.parquet", b"").contains("give .npz"));
        let model = ModelInputs { specs: &specs, batched: true };
        assert!(Dataset::read(Path::new("/nowhere.csv"), model).expect_err("none").message.contains("cannot be read"));
        let empty = tempfile::tempdir().expect("a folder");
        assert!(Dataset::read(empty.path(), model).expect_err("empty").message.contains("holds no"));
    }

    #[test]
    fn a_folder_is_its_files_in_order() {
        let dir = tempfile::tempdir().expect("a folder");
        for (name, bytes) in [("2.csv", &b"a,b\n3,4\n"[..]), ("1.jsonl", b"[1, 2]"), ("readme.txt", b"")] {
            std::fs::write(dir.path().join(name), bytes).expect("writes");
        }
        let specs = [spec("x", Datatype::Fp32, &[-1, 2])];
        let data = Dataset::read(dir.path(), ModelInputs { specs: &specs, batched: true }).expect("reads");
        assert_eq!((data.len(), data.is_empty()), (2, false));
        assert_eq!(numbers(&data.row(1).expect("a row")[0]), [3.0, 4.0]);
    }
}
