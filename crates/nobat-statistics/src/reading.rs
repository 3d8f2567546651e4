//! Tensors as statistics see them: numbers, and of each answer its class or its score.

use nobat_core::tensor::{Datatype, Tensor, take_bytes_element};
use serde::{Deserialize, Serialize};

/// How one row of an output becomes something that can be counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reading {
    /// The row's one element names the class.
    Class,
    /// The place of the row's highest element is the class.
    Argmax,
    /// The row's highest element is the score: how sure the model is.
    Highest,
    /// The mean of the row's elements, which may be one, is the score.
    Value,
}

impl Reading {
    /// Whether it gives classes; else it gives scores.
    pub const fn is_class(self) -> bool {
        matches!(self, Reading::Class | Reading::Argmax)
    }

    /// How rows of such an output are best read. `others_name_classes`: another output of
    /// the model gives the class already. Empty for what no statistic is known of.
    pub fn of(datatype: Datatype, elements_a_row: usize, others_name_classes: bool) -> Vec<Reading> {
        let float = matches!(datatype, Datatype::Fp16 | Datatype::Bf16 | Datatype::Fp32 | Datatype::Fp64);
        match (elements_a_row, float) {
            (0, _) => vec![],
            (1, false) => vec![Reading::Class],
            (1, true) => vec![Reading::Value],
            (2..=MOST_ARGMAX, true) if !others_name_classes => vec![Reading::Argmax, Reading::Highest],
            (2..=MOST_ARGMAX, true) => vec![Reading::Highest],
            _ if datatype == Datatype::Bytes => vec![],
            _ => vec![Reading::Value],
        }
    }

    /// The class of a row; `None` where there is none.
    pub fn class(self, rows: Rows, row: usize) -> Option<String> {
        match self {
            Reading::Class if rows.tensor.datatype == Datatype::Bytes => {
                let mut rest = &rows.tensor.data[..];
                let element =
                    (0..=row * rows.width).filter_map(|_| take_bytes_element(&mut rest)).nth(row * rows.width)?;
                Some(String::from_utf8_lossy(element).into_owned())
            }
            _ => self.class_number(rows, row).map(|class| class.to_string()),
        }
    }

    /// The class of a row as a number; `None` for BYTES too.
    pub fn class_number(self, rows: Rows, row: usize) -> Option<f64> {
        match self {
            Reading::Class => rows.numbers(row).next(),
            Reading::Argmax => {
                let highest = rows.numbers(row).enumerate().filter(|(_, x)| !x.is_nan()).reduce(
                    // The first of several, as everybody's argmax has it.
                    |best, next| if next.1 > best.1 { next } else { best },
                );
                highest.map(|(place, _)| place as f64)
            }
            Reading::Highest | Reading::Value => None,
        }
    }

    /// The score of a row; NaN where it has one that is no number.
    pub fn score(self, rows: Rows, row: usize) -> f64 {
        match self {
            Reading::Highest => {
                rows.numbers(row).reduce(|a, b| if b > a || b.is_nan() { b } else { a }).unwrap_or(f64::NAN)
            }
            _ => rows.numbers(row).sum::<f64>() / rows.width as f64,
        }
    }
}

/// The class of one of `rows` rows, by the output that names it or, where none does, by the
/// place of the highest element; `None` where no output gives classes.
pub fn class_of_row(outputs: &[Tensor], rows: usize, row: usize) -> Option<String> {
    let cut = outputs.iter().filter_map(|tensor| Some((tensor, Rows::of(tensor, rows)?)));
    let cut: Vec<(&Tensor, Rows)> = cut.collect();
    let read = |wanted: Reading| {
        let offers = |tensor: &Tensor, rows: Rows| Reading::of(tensor.datatype, rows.width, false).contains(&wanted);
        cut.iter().find(|(tensor, rows)| offers(tensor, *rows)).map(|(_, rows)| (wanted, *rows))
    };
    let (reading, rows) = read(Reading::Class).or_else(|| read(Reading::Argmax))?;
    reading.class(rows, row)
}

/// The score of one of `rows` rows, by the first output that gives one.
pub fn score_of_row(outputs: &[Tensor], rows: usize, row: usize) -> Option<f64> {
    outputs.iter().find_map(|tensor| {
        let cut = Rows::of(tensor, rows)?;
        let reading = Reading::of(tensor.datatype, cut.width, true).into_iter().find(|reading| !reading.is_class())?;
        Some(reading.score(cut, row))
    })
}

/// Widest output whose places may be classes.
const MOST_ARGMAX: usize = 1_000;

/// A tensor cut into rows.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    tensor: &'a Tensor,
    /// How many.
    pub count: usize,
    /// Elements in each.
    pub width: usize,
}

impl<'a> Rows<'a> {
    /// Cuts `tensor`, which has passed its checks, into `count` equal rows; `None` where it
    /// does not come out even.
    pub fn of(tensor: &'a Tensor, count: usize) -> Option<Rows<'a>> {
        let elements = tensor.elements().ok()?;
        let even = count > 0 && elements % count == 0;
        even.then(|| Rows { tensor, count, width: elements / count })
    }

    /// A row's elements; none for BYTES.
    pub fn numbers(self, row: usize) -> impl Iterator<Item = f64> + 'a {
        let Rows { tensor, width, .. } = self;
        (row * width..(row + 1) * width).map_while(move |element| number(tensor, element))
    }

    /// One element of a row.
    pub fn number(self, row: usize, element: usize) -> Option<f64> {
        number(self.tensor, row * self.width + element)
    }
}

/// An element as a number; `None` for BYTES and outside the tensor.
fn number(tensor: &Tensor, element: usize) -> Option<f64> {
    let size = tensor.datatype.size()?;
    let bytes = tensor.data.get(element * size..(element + 1) * size)?;
    macro_rules! as_f64 {
        ($type:ty) => {
            <$type>::from_le_bytes(bytes.try_into().ok()?) as f64
        };
    }
    Some(match tensor.datatype {
        Datatype::Bool | Datatype::Uint8 => f64::from(bytes[0]),
        Datatype::Int8 => as_f64!(i8),
        Datatype::Uint16 => as_f64!(u16),
        Datatype::Uint32 => as_f64!(u32),
        Datatype::Uint64 => as_f64!(u64),
        Datatype::Int16 => as_f64!(i16),
        Datatype::Int32 => as_f64!(i32),
        Datatype::Int64 => as_f64!(i64),
        Datatype::Fp16 => half::f16::from_le_bytes(bytes.try_into().ok()?).to_f64(),
        Datatype::Bf16 => half::bf16::from_le_bytes(bytes.try_into().ok()?).to_f64(),
        Datatype::Fp32 => as_f64!(f32),
        Datatype::Fp64 => as_f64!(f64),
        Datatype::Bytes => return None,
    })
}

/// The bytes of a number as an element of `datatype`, rounded and clipped where it takes
/// integers; `None` for BYTES.
pub fn element(number: f64, datatype: Datatype) -> Option<Vec<u8>> {
    macro_rules! rounded {
        ($type:ty) => {
            // A cast from a float clips to the type's ends.
            (number.round() as $type).to_le_bytes().to_vec()
        };
    }
    Some(match datatype {
        Datatype::Bool => vec![u8::from(number >= 0.5)],
        Datatype::Uint8 => rounded!(u8),
        Datatype::Int8 => rounded!(i8),
        Datatype::Uint16 => rounded!(u16),
        Datatype::Uint32 => rounded!(u32),
        Datatype::Uint64 => rounded!(u64),
        Datatype::Int16 => rounded!(i16),
        Datatype::Int32 => rounded!(i32),
        Datatype::Int64 => rounded!(i64),
        Datatype::Fp16 => half::f16::from_f64(number).to_le_bytes().to_vec(),
        Datatype::Bf16 => half::bf16::from_f64(number).to_le_bytes().to_vec(),
        Datatype::Fp32 => (number as f32).to_le_bytes().to_vec(),
        Datatype::Fp64 => number.to_le_bytes().to_vec(),
        Datatype::Bytes => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use smallvec::smallvec;

    fn tensor(datatype: Datatype, rows: i64, values: &[f64]) -> Tensor {
        let data: Vec<u8> = values.iter().flat_map(|&value| element(value, datatype).expect("a number")).collect();
        Tensor { name: "t".into(), datatype, shape: smallvec![rows, values.len() as i64 / rows], data: data.into() }
    }

    #[test]
    fn each_reading_reads_its_row() {
        let scores = tensor(Datatype::Fp32, 2, &[0.25, 0.5, 0.25, 1.0, 0.0, f64::NAN]);
        let rows = Rows::of(&scores, 2).expect("even");
        assert_eq!(Reading::Argmax.class(rows, 0).as_deref(), Some("1"));
        assert_eq!(Reading::Argmax.class(rows, 1).as_deref(), Some("0"));
        assert_eq!(Reading::Highest.score(rows, 0), 0.5);
        assert!(Reading::Highest.score(rows, 1).is_nan() && Reading::Value.score(rows, 1).is_nan());
        assert!((Reading::Value.score(rows, 0) - 1.0 / 3.0).abs() < 1e-12);
        let labels = tensor(Datatype::Int64, 2, &[7.0, -3.0]);
        assert_eq!(Reading::Class.class(Rows::of(&labels, 2).expect("even"), 1).as_deref(), Some("-3"));
        let names = Tensor {
            name: "names".into(),
            datatype: Datatype::Bytes,
            shape: smallvec![2],
            data: bytes::Bytes::from_static(b"\x03\0\0\0cat\x05\0\0\0horse"),
        };
        assert_eq!(Reading::Class.class(Rows::of(&names, 2).expect("even"), 1).as_deref(), Some("horse"));
        assert!(Rows::of(&labels, 3).is_none() && Rows::of(&labels, 0).is_none());
    }

    #[test]
    fn outputs_are_read_by_what_they_hold() {
        assert_eq!(Reading::of(Datatype::Int64, 1, false), [Reading::Class]);
        assert_eq!(Reading::of(Datatype::Bytes, 1, false), [Reading::Class]);
        assert_eq!(Reading::of(Datatype::Fp32, 10, false), [Reading::Argmax, Reading::Highest]);
        assert_eq!(Reading::of(Datatype::Fp32, 10, true), [Reading::Highest]);
        assert_eq!(Reading::of(Datatype::Fp32, 1, false), [Reading::Value]);
        assert_eq!(Reading::of(Datatype::Int64, 40, false), [Reading::Value]);
        assert!(Reading::of(Datatype::Bytes, 2, false).is_empty() && Reading::of(Datatype::Fp32, 0, false).is_empty());
    }

    proptest! {
        #[test]
        fn a_number_that_fits_reads_back(whole in 0u8..100, which in 0usize..13) {
            let datatype = Datatype::ALL[which];
            let value = if datatype == Datatype::Bool { f64::from(whole % 2) } else { f64::from(whole) };
            let one = tensor(datatype, 1, &[value]);
            one.check().expect("a whole tensor");
            prop_assert_eq!(number(&one, 0), Some(value));
            prop_assert_eq!(number(&one, 1), None);
        }
    }
}
