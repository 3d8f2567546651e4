//! One value of a table, and its way into a tensor of another datatype: what loses nothing
//! is cast, anything else is refused.
//!
//! Whole numbers, fractions and truths pass into each other where the value is the same
//! (`3.0` is `3`, true is 1); a float takes the nearest value it has. Text becomes a number
//! only where all of the table is text, as in CSV.

use crate::error::clip;
use crate::tensor::{Datatype, put_bytes_element};

/// One value of a table.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Cell<'a> {
    /// No value.
    Null,
    /// True or false.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A whole number.
    Uint(u64),
    /// A number.
    Float(f64),
    /// A text.
    Text(&'a str),
    /// Bytes that need not be text.
    Bytes(&'a [u8]),
    /// A field of a table that has text only: what it is says the column that it is for.
    Field(&'a str),
}

impl Cell<'_> {
    /// Appends the value as one element of this datatype. A float without a value is NaN.
    ///
    /// # Errors
    /// Why it is not one, such as ``is `abc`, not a value of FP32``; nothing is appended.
    pub fn put(self, datatype: Datatype, data: &mut Vec<u8>) -> Result<(), String> {
        match datatype {
            Datatype::Bytes => return self.put_text(data),
            Datatype::Fp16 => {
                self.put_float(datatype, data, |value| half::f16::from_f64(value).to_le_bytes(), half::f16::MAX.into())?
            }
            Datatype::Bf16 => self.put_float(
                datatype,
                data,
                |value| half::bf16::from_f64(value).to_le_bytes(),
                half::bf16::MAX.into(),
            )?,
            Datatype::Fp32 => self.put_float(datatype, data, |value| (value as f32).to_le_bytes(), f32::MAX.into())?,
            Datatype::Fp64 => self.put_float(datatype, data, f64::to_le_bytes, f64::MAX)?,
            Datatype::Bool => match self.whole(datatype)? {
                whole @ (0 | 1) => data.push(whole as u8),
                _ => return Err(self.misfit(datatype)),
            },
            Datatype::Uint8 => self.put_whole(datatype, data, u8::to_le_bytes)?,
            Datatype::Uint16 => self.put_whole(datatype, data, u16::to_le_bytes)?,
            Datatype::Uint32 => self.put_whole(datatype, data, u32::to_le_bytes)?,
            Datatype::Uint64 => self.put_whole(datatype, data, u64::to_le_bytes)?,
            Datatype::Int8 => self.put_whole(datatype, data, i8::to_le_bytes)?,
            Datatype::Int16 => self.put_whole(datatype, data, i16::to_le_bytes)?,
            Datatype::Int32 => self.put_whole(datatype, data, i32::to_le_bytes)?,
            Datatype::Int64 => self.put_whole(datatype, data, i64::to_le_bytes)?,
        }
        Ok(())
    }

    fn put_text(self, data: &mut Vec<u8>) -> Result<(), String> {
        match self {
            Cell::Text(text) | Cell::Field(text) => put_bytes_element(data, text.as_bytes()),
            Cell::Bytes(bytes) => put_bytes_element(data, bytes),
            Cell::Null => return Err(self.misfit(Datatype::Bytes)),
            _ => return Err(format!("is `{}`, not a text, which BYTES takes", self.shown())),
        }
        Ok(())
    }

    fn put_float<const N: usize>(
        self,
        datatype: Datatype,
        data: &mut Vec<u8>,
        bytes: impl Fn(f64) -> [u8; N],
        most: f64,
    ) -> Result<(), String> {
        let value = match self {
            Cell::Null => f64::NAN,
            Cell::Float(value) => value,
            Cell::Field(text) if text.trim().is_empty() => f64::NAN,
            Cell::Field(text) => match text.trim().parse::<f64>() {
                Ok(value) => value,
                // What a truth is called is a number as well.
                Err(_) => self.whole(datatype)? as f64,
            },
            _ => self.whole(datatype)? as f64,
        };
        if value.is_finite() && value.abs() > most {
            return Err(format!("is `{}`, beyond the range of {datatype}", self.shown()));
        }
        data.extend_from_slice(&bytes(value));
        Ok(())
    }

    fn put_whole<T: TryFrom<i128>, const N: usize>(
        self,
        datatype: Datatype,
        data: &mut Vec<u8>,
        bytes: impl Fn(T) -> [u8; N],
    ) -> Result<(), String> {
        let whole = self.whole(datatype)?;
        let value = T::try_from(whole).map_err(|_| format!("is `{}`, beyond the range of {datatype}", self.shown()))?;
        data.extend_from_slice(&bytes(value));
        Ok(())
    }

    /// The whole number that it is.
    fn whole(self, datatype: Datatype) -> Result<i128, String> {
        let of_float = |value: f64| (value.fract() == 0.0 && value.abs() < 1e30).then_some(value as i128);
        let whole = match self {
            Cell::Bool(value) => Some(i128::from(value)),
            Cell::Int(value) => Some(i128::from(value)),
            Cell::Uint(value) => Some(i128::from(value)),
            Cell::Float(value) => of_float(value),
            Cell::Field(text) => match text.trim() {
                "true" | "True" | "TRUE" => Some(1),
                "false" | "False" | "FALSE" => Some(0),
                text => text.parse().ok().or_else(|| of_float(text.parse().ok()?)),
            },
            Cell::Null | Cell::Text(_) | Cell::Bytes(_) => None,
        };
        whole.ok_or_else(|| self.misfit(datatype))
    }

    fn misfit(self, datatype: Datatype) -> String {
        match self {
            Cell::Null => format!("has no value, and {datatype} takes no gaps"),
            Cell::Field(text) if text.trim().is_empty() => format!("has no value, and {datatype} takes no gaps"),
            Cell::Text(_) => format!("is the text `{}`, not a value of {datatype}", self.shown()),
            _ => format!("is `{}`, not a value of {datatype}", self.shown()),
        }
    }

    fn shown(self) -> String {
        match self {
            Cell::Null => "null".into(),
            Cell::Bool(value) => value.to_string(),
            Cell::Int(value) => value.to_string(),
            Cell::Uint(value) => value.to_string(),
            Cell::Float(value) => value.to_string(),
            Cell::Text(text) | Cell::Field(text) => clip(text).to_owned(),
            Cell::Bytes(bytes) => format!("{} bytes", bytes.len()),
        }
    }

    /// Whether it says nothing: no value, or a field with nothing in it.
    pub fn is_empty(self) -> bool {
        match self {
            Cell::Null => true,
            Cell::Field(text) => text.trim().is_empty(),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn put(cell: Cell<'_>, datatype: Datatype) -> Result<Vec<u8>, String> {
        let mut data = Vec::new();
        cell.put(datatype, &mut data).map(|()| data)
    }

    #[test]
    fn what_is_the_same_value_is_cast() {
        let fp32 = |value: f32| Ok(value.to_le_bytes().to_vec());
        assert_eq!(put(Cell::Int(31), Datatype::Fp32), fp32(31.0));
        assert_eq!(put(Cell::Float(0.1), Datatype::Fp32), fp32(0.1));
        assert_eq!(put(Cell::Bool(true), Datatype::Fp32), fp32(1.0));
        assert_eq!(put(Cell::Field(" 2.5 "), Datatype::Fp32), fp32(2.5));
        assert_eq!(put(Cell::Field("True"), Datatype::Fp32), fp32(1.0));
        assert_eq!(put(Cell::Float(3.0), Datatype::Int64), Ok(3i64.to_le_bytes().to_vec()));
        assert_eq!(put(Cell::Field("3.0"), Datatype::Int8), Ok(vec![3]));
        assert_eq!(put(Cell::Field("18446744073709551615"), Datatype::Uint64), Ok(vec![255; 8]));
        assert_eq!(put(Cell::Field("false"), Datatype::Bool), Ok(vec![0]));
        assert_eq!(put(Cell::Field("31"), Datatype::Bytes), Ok(b"\x02\0\0\x0031".to_vec()));
        let nan = put(Cell::Null, Datatype::Fp32).expect("a gap");
        assert!(f32::from_le_bytes(nan.try_into().expect("four bytes")).is_nan());
    }

    #[test]
    fn anything_else_is_refused_with_what_it_is() {
        for (cell, datatype, expected) in [
            (Cell::Text("31"), Datatype::Fp32, "is the text `31`, not a value of FP32"),
            (Cell::Field("abc"), Datatype::Fp32, "is `abc`, not a value of FP32"),
            (Cell::Float(3.5), Datatype::Int64, "is `3.5`, not a value of INT64"),
            (Cell::Int(300), Datatype::Uint8, "is `300`, beyond the range of UINT8"),
            (
                Cell::Float(1e39),
                Datatype::Fp32,
                "is `1000000000000000000000000000000000000000`, beyond the range of FP32",
            ),
            (Cell::Int(2), Datatype::Bool, "is `2`, not a value of BOOL"),
            (Cell::Int(2), Datatype::Bytes, "is `2`, not a text, which BYTES takes"),
            (Cell::Null, Datatype::Int64, "has no value, and INT64 takes no gaps"),
            (Cell::Null, Datatype::Bytes, "has no value, and BYTES takes no gaps"),
            (Cell::Field(""), Datatype::Int64, "has no value, and INT64 takes no gaps"),
            (Cell::Float(f64::NAN), Datatype::Int64, "is `NaN`, not a value of INT64"),
            (Cell::Bytes(&[1, 2]), Datatype::Fp32, "is `2 bytes`, not a value of FP32"),
        ] {
            assert_eq!(put(cell, datatype), Err(expected.to_owned()));
        }
    }

    proptest! {
        #[test]
        fn a_whole_number_is_the_same_number_in_whatever_takes_it(value: i64, at in 0usize..13) {
            let datatype = Datatype::ALL[at];
            let cells = [Cell::Int(value), Cell::Field(&value.to_string())].map(|cell| put(cell, datatype));
            prop_assert_eq!(cells[0].is_ok(), cells[1].is_ok());
            prop_assert_eq!(cells[0].as_ref().ok(), cells[1].as_ref().ok());
            if datatype == Datatype::Int32 {
                prop_assert_eq!(cells[0].is_ok(), i32::try_from(value).is_ok());
            }
        }

        #[test]
        fn no_text_panics(text: String, at in 0usize..14) {
            let _ = put(Cell::Field(&text), Datatype::ALL[at]);
            let _ = put(Cell::Text(&text), Datatype::ALL[at]);
        }
    }
}
