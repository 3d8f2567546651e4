//! A job's tensors in part, for who looks at them, and one of them whole, as a file.
//!
//! A result may have hundreds of megabytes, and as JSON several times that. A preview has the
//! first values of each tensor and says how many there are. A file is NumPy's, which
//! is the tensor's own bytes behind a line that describes them; texts are JSON, one list.

use actix_web::HttpResponse;
use actix_web::http::header;
use nobat_core::json::encode;
use nobat_core::tensor::{Datatype, Tensor, take_bytes_element};
use nobat_core::{Error, ErrorCode, Result, clip};

/// Most values of a tensor in a preview: a picture of 300 by 300 in three channels.
const VALUES: usize = 300 * 300 * 3;
/// Most bytes of the texts of a tensor in a preview.
const TEXTS: usize = 8 << 20;
/// NumPy's files begin so, with the version of their form.
const MAGIC: &[u8] = b"\x93NUMPY\x01\x00";
/// What follows the description begins at a multiple of this.
const ALIGNED: usize = 64;

/// Prints `tensors` as a list: each with its first values, and how many values and bytes it has.
pub(super) fn preview(json: &mut Vec<u8>, tensors: &[Tensor]) {
    json.push(b'[');
    for (at, tensor) in tensors.iter().enumerate() {
        json.extend_from_slice(if at == 0 { b"{" } else { b",{" });
        encode::header(json, tensor);
        json.extend_from_slice(b",\"data\":");
        encode::flat(json, &beginning(tensor));
        json.extend_from_slice(b",\"values\":");
        encode::integer(json, tensor.elements().unwrap_or(0));
        json.extend_from_slice(b",\"bytes\":");
        encode::integer(json, tensor.data.len());
        json.push(b'}');
    }
    json.push(b']');
}

/// The first values, in one axis.
fn beginning(tensor: &Tensor) -> Tensor {
    let all = tensor.elements().unwrap_or(0);
    let (values, bytes) = match tensor.datatype.size() {
        Some(size) => (all.min(VALUES), all.min(VALUES) * size),
        None => {
            let (mut rest, mut values) = (&tensor.data[..], 0);
            let mut end = 0;
            while values < VALUES && take_bytes_element(&mut rest).is_some() {
                let upto = tensor.data.len() - rest.len();
                if upto > TEXTS {
                    break;
                }
                (values, end) = (values + 1, upto);
            }
            (values, end)
        }
    };
    let data = tensor.data.slice(..bytes.min(tensor.data.len()));
    Tensor { shape: [values as i64].into_iter().collect(), data, ..tensor.clone() }
}

/// The tensor of this name as a file to keep.
///
/// # Errors
/// `invalid_parameter` where there is none, naming those that are there.
pub(super) fn file(tensors: &[Tensor], name: &str) -> Result<HttpResponse> {
    let Some(tensor) = tensors.iter().find(|tensor| tensor.name == name) else {
        let names: Vec<&str> = tensors.iter().map(|tensor| tensor.name.as_str()).collect();
        let message = format!("there is no tensor `{}`; there are: {}", clip(name), clip(&names.join(", ")));
        return Err(Error::new(ErrorCode::InvalidParameter, message));
    };
    let (kind, ending, bytes) = match descriptor(tensor.datatype) {
        Some(descriptor) => ("application/octet-stream", "npy", numpy(tensor, descriptor)),
        None => {
            let mut json = Vec::with_capacity(tensor.data.len() + 64);
            encode::flat(&mut json, tensor);
            ("application/json", "json", json)
        }
    };
    // A header takes no more of a name than this.
    let plain = |letter: char| if letter.is_ascii_alphanumeric() || "-_.".contains(letter) { letter } else { '_' };
    let shown: String = name.chars().take(100).map(plain).collect();
    Ok(HttpResponse::Ok()
        .insert_header((header::CONTENT_TYPE, kind))
        .insert_header((header::CONTENT_DISPOSITION, format!("attachment; filename=\"{shown}.{ending}\"")))
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .body(bytes))
}

/// A datatype as NumPy writes it; `None` of texts. BF16, which it has not, is two bytes a value.
fn descriptor(datatype: Datatype) -> Option<&'static str> {
    Some(match datatype {
        Datatype::Bool => "|b1",
        Datatype::Uint8 => "|u1",
        Datatype::Uint16 => "<u2",
        Datatype::Uint32 => "<u4",
        Datatype::Uint64 => "<u8",
        Datatype::Int8 => "|i1",
        Datatype::Int16 => "<i2",
        Datatype::Int32 => "<i4",
        Datatype::Int64 => "<i8",
        Datatype::Fp16 => "<f2",
        Datatype::Bf16 => "|V2",
        Datatype::Fp32 => "<f4",
        Datatype::Fp64 => "<f8",
        Datatype::Bytes => return None,
    })
}

fn numpy(tensor: &Tensor, descriptor: &str) -> Vec<u8> {
    let dims: String = tensor.shape.iter().map(|dim| format!("{dim}, ")).collect();
    let mut about = format!("{{'descr': '{descriptor}', 'fortran_order': False, 'shape': ({}), }}", dims.trim_end());
    let begins = MAGIC.len() + 2;
    let length = (begins + about.len() + 1).next_multiple_of(ALIGNED) - begins;
    about.extend(std::iter::repeat_n(' ', length - 1 - about.len()));
    about.push('\n');
    let mut bytes = Vec::with_capacity(begins + length + tensor.data.len());
    bytes.extend_from_slice(MAGIC);
    // The longest shape has a line far below 64 KiB.
    bytes.extend_from_slice(&(length as u16).to_le_bytes());
    bytes.extend_from_slice(about.as_bytes());
    bytes.extend_from_slice(&tensor.data);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use nobat_core::tensor::put_bytes_element;
    use serde_json::{Value, json};

    fn tensor(datatype: Datatype, shape: &[i64], data: Vec<u8>) -> Tensor {
        Tensor { name: "y/1".into(), datatype, shape: shape.iter().copied().collect(), data: data.into() }
    }

    fn previewed(tensor: Tensor) -> Value {
        let mut out = Vec::new();
        preview(&mut out, &[tensor]);
        serde_json::from_slice::<Value>(&out).expect("JSON")[0].clone()
    }

    #[test]
    fn a_preview_has_the_first_values_and_says_how_many_there_are() {
        let small = previewed(tensor(Datatype::Uint8, &[2, 2], vec![1, 2, 3, 4]));
        let told =
            json!({"name": "y/1", "datatype": "UINT8", "shape": [2, 2], "data": [1, 2, 3, 4], "values": 4, "bytes": 4});
        assert_eq!(small, told);
        let large = previewed(tensor(Datatype::Uint16, &[1, 1_000_000], vec![7; 2_000_000]));
        assert_eq!(large["data"].as_array().map(Vec::len), Some(VALUES));
        assert_eq!((&large["values"], &large["bytes"]), (&json!(1_000_000), &json!(2_000_000)));
        let mut framed = Vec::new();
        for text in ["a".to_owned(), "b".repeat(TEXTS), "c".to_owned()] {
            put_bytes_element(&mut framed, text.as_bytes());
        }
        let texts = previewed(tensor(Datatype::Bytes, &[3], framed));
        assert_eq!((&texts["data"], &texts["values"]), (&json!(["a"]), &json!(3)));
        assert_eq!(previewed(tensor(Datatype::Fp32, &[0, 4], vec![]))["data"], json!([]));
    }

    #[test]
    fn a_file_is_numpys_with_the_tensors_own_bytes() {
        for (shape, text) in [(&[2, 3][..], "(2, 3,)"), (&[6], "(6,)"), (&[], "()")] {
            let data: Vec<u8> = (0..24).collect();
            let bytes = numpy(&tensor(Datatype::Fp32, shape, data.clone()), "<f4");
            let length = usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
            let about = std::str::from_utf8(&bytes[10..10 + length]).expect("text");
            assert_eq!((&bytes[..8], (10 + length) % ALIGNED, about.ends_with('\n')), (MAGIC, 0, true));
            assert!(
                about.starts_with(&format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {text}, }}")),
                "{about}"
            );
            assert_eq!(bytes[10 + length..], data);
        }
    }

    #[test]
    fn a_files_name_holds_nothing_that_a_header_may_not() {
        let own = tensor(Datatype::Uint8, &[1], vec![1]);
        let named = |name: &str| {
            let answer = file(&[Tensor { name: name.into(), ..own.clone() }], name).expect("a file");
            answer.headers().get("content-disposition").expect("named").to_str().expect("ASCII").to_owned()
        };
        assert_eq!(named("y/1"), "attachment; filename=\"y_1.npy\"");
        assert_eq!(named("a\"\r\nb: سلام"), "attachment; filename=\"a___b______.npy\"");
        let refused = file(&[own], "z").expect_err("no such tensor");
        assert_eq!(refused.message, "there is no tensor `z`; there are: y/1");
    }
}
