//! A NumPy array (`.npy`) as it lies in its file: elements are read when asked for.

use bytes::Bytes;
use nobat_core::tensor::Datatype;
use nobat_core::{Error, Result};

/// What a `.npy` file holds.
#[derive(Clone, Debug)]
pub(super) struct NumpyArray {
    /// Its dimensions; rows are along the first.
    pub(super) shape: Vec<usize>,
    kind: ElementKind,
    size: usize,
    data: Bytes,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum ElementKind {
    Bool,
    Float,
    Signed,
    Unsigned,
    /// UTF-32, filled up with zeroes.
    Unicode,
    /// Bytes, filled up with zeroes.
    Text,
}

impl NumpyArray {
    /// Parses format 1 to 3, little-endian, C order.
    ///
    /// # Errors
    /// `invalid_parameter`, with the remedy in NumPy's own words.
    pub(super) fn parse(file: Bytes) -> Result<NumpyArray> {
        let cut_off = || Error::invalid("the .npy header is cut off");
        let (head, length_bytes) = match (file.starts_with(b"\x93NUMPY"), file.get(6)) {
            (true, Some(1)) => (10, 2),
            (true, Some(2 | 3)) => (12, 4),
            _ => return Err(Error::invalid("it is no .npy array of a known version; save it with numpy.save")),
        };
        let length = file.get(8..8 + length_bytes).ok_or_else(cut_off)?;
        let length = length.iter().rev().fold(0usize, |sum, &byte| sum << 8 | usize::from(byte));
        let header = file.get(head..head + length).ok_or_else(cut_off)?;
        let header = std::str::from_utf8(header).map_err(|_| Error::invalid("the .npy header is not text"))?;
        if !header.contains("'fortran_order': False") {
            return Err(Error::invalid("the array is in Fortran order; save numpy.ascontiguousarray(x)"));
        }
        let descr = header.split("'descr': '").nth(1).and_then(|rest| rest.split('\'').next()).unwrap_or_default();
        let (kind, size) = element_kind(descr).ok_or_else(|| {
            Error::invalid(format!(
                "its datatype `{descr}` cannot be used; save numbers, booleans or fixed-width strings"
            ))
        })?;
        let shape = header.split("'shape': (").nth(1).and_then(|rest| rest.split(')').next()).ok_or_else(cut_off)?;
        let shape: Vec<usize> = shape
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
            .map(|part| part.parse().map_err(|_| Error::invalid(format!("its shape `{shape}` is none"))))
            .collect::<Result<_>>()?;
        if shape.is_empty() {
            return Err(Error::invalid("the array is a scalar; its first axis must be the rows"));
        }
        let data = file.slice(head + length..);
        let bytes = shape.iter().try_fold(size, |product, &dim| product.checked_mul(dim));
        if bytes != Some(data.len()) {
            return Err(Error::invalid(format!(
                "shape {shape:?} of `{descr}` does not fit the {} bytes it holds",
                data.len()
            )));
        }
        Ok(NumpyArray { shape, kind, size, data })
    }

    /// Elements in each row.
    pub(super) fn width(&self) -> usize {
        self.shape[1..].iter().product()
    }

    /// A row's bytes where its elements are a tensor's of this datatype as they lie: exact
    /// also for whole numbers that no float holds.
    pub(super) fn row_of(&self, row: usize, datatype: Datatype) -> Option<&[u8]> {
        let same = match datatype {
            Datatype::Bool => (ElementKind::Bool, 1),
            Datatype::Fp16 => (ElementKind::Float, 2),
            Datatype::Fp32 => (ElementKind::Float, 4),
            Datatype::Fp64 => (ElementKind::Float, 8),
            Datatype::Int8 => (ElementKind::Signed, 1),
            Datatype::Int16 => (ElementKind::Signed, 2),
            Datatype::Int32 => (ElementKind::Signed, 4),
            Datatype::Int64 => (ElementKind::Signed, 8),
            Datatype::Uint8 => (ElementKind::Unsigned, 1),
            Datatype::Uint16 => (ElementKind::Unsigned, 2),
            Datatype::Uint32 => (ElementKind::Unsigned, 4),
            Datatype::Uint64 => (ElementKind::Unsigned, 8),
            _ => return None,
        };
        let bytes = self.width() * self.size;
        ((self.kind, self.size) == same).then(|| &self.data[row * bytes..(row + 1) * bytes])
    }

    /// An element as a number; NaN for text.
    pub(super) fn number(&self, element: usize) -> f64 {
        let whole = self.whole(element);
        match (self.kind, self.size) {
            (ElementKind::Bool | ElementKind::Unsigned, _) => whole as f64,
            (ElementKind::Signed, _) => self.signed(element) as f64,
            (ElementKind::Float, 2) => half::f16::from_bits(whole as u16).to_f64(),
            (ElementKind::Float, 4) => f64::from(f32::from_bits(whole as u32)),
            (ElementKind::Float, _) => f64::from_bits(whole),
            (ElementKind::Unicode | ElementKind::Text, _) => f64::NAN,
        }
    }

    /// An element in words: text as it is, numbers as they are written.
    pub(super) fn text(&self, element: usize) -> String {
        let bytes = &self.data[element * self.size..(element + 1) * self.size];
        match self.kind {
            ElementKind::Text => String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned(),
            ElementKind::Unicode => {
                let code = |unit: &[u8; 4]| char::from_u32(u32::from_le_bytes(*unit)).filter(|&letter| letter != '\0');
                bytes.as_chunks().0.iter().filter_map(code).collect()
            }
            ElementKind::Bool | ElementKind::Unsigned => self.whole(element).to_string(),
            ElementKind::Signed => self.signed(element).to_string(),
            ElementKind::Float => self.number(element).to_string(),
        }
    }

    /// An element's bytes as one unsigned number, the lowest first.
    fn whole(&self, element: usize) -> u64 {
        let bytes = &self.data[element * self.size..(element + 1) * self.size];
        bytes.iter().rev().fold(0, |sum, &byte| sum << 8 | u64::from(byte))
    }

    /// A signed element. Shifted up and back, the sign bit fills the rest.
    fn signed(&self, element: usize) -> i64 {
        let unused = 64 - 8 * self.size;
        (self.whole(element) << unused) as i64 >> unused
    }
}

fn element_kind(descr: &str) -> Option<(ElementKind, usize)> {
    let (order, rest) = descr.split_at_checked(1)?;
    let (letter, size) = rest.split_at_checked(1)?;
    let size: usize = size.parse().ok()?;
    let one_byte_or_little = order == "<" || (order == "|" && (size == 1 || letter == "S"));
    let kind = match (letter, size) {
        ("b", 1) => ElementKind::Bool,
        ("f", 2 | 4 | 8) => ElementKind::Float,
        ("i", 1 | 2 | 4 | 8) => ElementKind::Signed,
        ("u", 1 | 2 | 4 | 8) => ElementKind::Unsigned,
        ("U", 1..) => return (order == "<").then(|| Some((ElementKind::Unicode, size.checked_mul(4)?)))?,
        ("S", 1..) => ElementKind::Text,
        _ => return None,
    };
    one_byte_or_little.then_some((kind, size))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The bytes of a `.npy` file.
    pub(in crate::data) fn npy(descr: &str, shape: &str, data: &[u8]) -> Vec<u8> {
        let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n");
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((header.len() as u16).to_le_bytes());
        bytes.extend(header.as_bytes());
        bytes.extend(data);
        bytes
    }

    fn parsed(descr: &str, shape: &str, data: &[u8]) -> NumpyArray {
        NumpyArray::parse(npy(descr, shape, data).into()).expect("an array")
    }

    #[test]
    fn elements_of_every_kind_are_read() {
        let floats: Vec<u8> = [1.5f32, -2.0, 3.0, 4.0].iter().flat_map(|x| x.to_le_bytes()).collect();
        let array = parsed("<f4", "(2, 2)", &floats);
        assert_eq!((array.width(), array.number(1), array.text(0).as_str()), (2, -2.0, "1.5"));
        assert_eq!(parsed("|i1", "(2,)", &[255, 7]).number(0), -1.0);
        assert_eq!(parsed("<i2", "(1,)", &[0, 128]).number(0), -32768.0);
        assert_eq!(parsed("<i8", "(1,)", &(-9i64).to_le_bytes()).text(0), "-9");
        let most = parsed("<u8", "(1,)", &[255; 8]);
        assert_eq!((most.number(0), most.text(0)), (u64::MAX as f64, u64::MAX.to_string()));
        assert_eq!(parsed("<f2", "(1,)", &[0, 0x3c]).number(0), 1.0);
        assert_eq!(parsed("|b1", "(2,)", &[0, 1]).number(1), 1.0);
        assert_eq!(parsed("|S3", "(2,)", b"ab\0cde").text(0), "ab");
        let unicode = parsed("<U2", "(1,)", &[0xe9, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!((unicode.text(0).as_str(), unicode.number(0).is_nan()), ("é", true));
    }

    #[test]
    fn what_cannot_be_used_is_told() {
        let why = |bytes: Vec<u8>| NumpyArray::parse(bytes.into()).expect_err("refused").message;
        assert!(why(npy("<c8", "(1,)", &[0; 8])).contains("`<c8` cannot be used"));
        assert!(why(npy(">f4", "(1,)", &[0; 4])).contains("`>f4`"));
        assert!(why(npy("|O", "(1,)", &[0; 4])).contains("`|O`"));
        assert!(why(npy("<f4", "(2, 3)", &[0; 20])).contains("does not fit the 20 bytes"));
        assert!(why(npy("<f4", "()", &[0; 4])).contains("scalar"));
        assert!(why(b"\x93NUMPY\x01\x00\xff\xff".to_vec()).contains("cut off"));
        assert!(why(b"PK".to_vec()).contains("numpy.save"));
        let mut bytes = npy("|u1", "(1,)", &[1]);
        let at = bytes.windows(5).position(|part| part == b"False").expect("in the header");
        bytes[at..at + 5].copy_from_slice(b"True ");
        assert!(why(bytes).contains("ascontiguousarray"));
    }
}
