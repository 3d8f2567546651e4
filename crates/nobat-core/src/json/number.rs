//! JSON numbers: one pass over the grammar that also gathers the decimal
//! digits, so that most floats need no second look.

use super::reader::Reader;

/// Largest power of ten that a double holds exactly.
const EXACT_POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20,
    1e21, 1e22,
];

/// A number as it stands in the text.
#[derive(Clone, Copy, Debug)]
pub struct Number<'a> {
    /// Its text.
    pub text: &'a [u8],
    negative: bool,
    /// All digits as one integer; meaningful up to 19 digits.
    mantissa: u64,
    /// Power of ten of the last digit.
    exponent: i64,
    digits: u32,
    integer: bool,
}

impl<'a> Number<'a> {
    /// Takes a number off the front of `reader`; `None`, and nothing taken,
    /// when there is none of JSON's grammar (RFC 8259 section 6).
    pub fn take(reader: &mut Reader<'a>) -> Option<Number<'a>> {
        let bytes = reader.rest();
        let digit = |at: usize| bytes.get(at).map(|byte| byte.wrapping_sub(b'0')).filter(|&value| value < 10);
        let negative = bytes.first() == Some(&b'-');
        let mut at = usize::from(negative);
        let mut mantissa = u64::from(digit(at)?);
        at += 1;
        let mut digits = 1;
        if mantissa == 0 {
            if digit(at).is_some() {
                return None;
            }
        } else {
            while let Some(value) = digit(at) {
                mantissa = mantissa.wrapping_mul(10).wrapping_add(u64::from(value));
                digits += 1;
                at += 1;
            }
        }
        let mut exponent = 0i64;
        let mut integer = true;
        if bytes.get(at) == Some(&b'.') {
            integer = false;
            at += 1;
            let start = at;
            while let Some(value) = digit(at) {
                mantissa = mantissa.wrapping_mul(10).wrapping_add(u64::from(value));
                at += 1;
            }
            if at == start {
                return None;
            }
            digits += (at - start) as u32;
            exponent = -((at - start) as i64);
        }
        if matches!(bytes.get(at), Some(b'e' | b'E')) {
            integer = false;
            at += 1;
            let minus = bytes.get(at) == Some(&b'-');
            at += usize::from(matches!(bytes.get(at), Some(b'-' | b'+')));
            let start = at;
            let mut power = 0i64;
            while let Some(value) = digit(at) {
                power = (power * 10 + i64::from(value)).min(1 << 40);
                at += 1;
            }
            if at == start {
                return None;
            }
            exponent += if minus { -power } else { power };
        }
        reader.advance(at);
        Some(Number { text: &bytes[..at], negative, mantissa, exponent, digits, integer })
    }

    /// The nearest double; infinite when it overflows.
    pub fn to_f64(self) -> f64 {
        self.exact_f64().unwrap_or_else(|| fast_float2::parse(self.text).unwrap_or(f64::NAN))
    }

    /// The nearest single; infinite when it overflows.
    pub fn to_f32(self) -> f32 {
        match self.exact_f64() {
            // Rounding twice (to a double, then to a single) errs only where the
            // double is a midpoint of two singles: low 29 bits 1000…0. Outside
            // the normal range of a single midpoints look different.
            Some(value)
                if value.to_bits() & 0x1fff_ffff != 0x1000_0000
                    && (value == 0.0 || (1e-37..1e38).contains(&value.abs())) =>
            {
                value as f32
            }
            _ => fast_float2::parse(self.text).unwrap_or(f32::NAN),
        }
    }

    /// As an integer; `None` for a fraction, an exponent or an overflow.
    pub fn to_i64(self) -> Option<i64> {
        if !self.integer {
            return None;
        }
        std::str::from_utf8(self.text).ok()?.parse().ok()
    }

    /// As an unsigned integer; `None` for a fraction, an exponent, a negative
    /// value or an overflow.
    pub fn to_u64(self) -> Option<u64> {
        if !self.integer || (self.negative && self.mantissa != 0) {
            return None;
        }
        if self.digits <= 19 {
            return Some(self.mantissa);
        }
        std::str::from_utf8(self.text).ok()?.parse().ok()
    }

    /// Whether it is written as an integer.
    pub fn is_integer(self) -> bool {
        self.integer
    }

    /// The double, when one correctly rounded operation gives it (Clinger's
    /// fast path): both the digits and the power of ten are exact doubles.
    fn exact_f64(self) -> Option<f64> {
        if self.digits > 19 || self.mantissa > 1 << 53 {
            return None;
        }
        let power = *EXACT_POWERS.get(self.exponent.unsigned_abs() as usize)?;
        let digits = self.mantissa as f64;
        let value = if self.exponent < 0 { digits / power } else { digits * power };
        Some(if self.negative { -value } else { value })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn number(text: &str) -> Option<Number<'_>> {
        let mut reader = Reader::new(text.as_bytes());
        Number::take(&mut reader).filter(|_| reader.rest().is_empty())
    }

    #[test]
    fn only_the_grammar_of_json_is_taken() {
        for good in ["0", "-0", "10", "0.5", "-1.25e3", "1E+2", "1e-2", "123456789012345678901234567890"] {
            assert!(number(good).is_some(), "{good}");
        }
        for bad in
            ["", "-", "01", "-01", ".5", "1.", "1.e5", "1e", "1e+", "+1", "NaN", "Infinity", "0x10", "1_000", "inf"]
        {
            assert!(number(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn integers_overflow_into_none() {
        assert_eq!(number("18446744073709551615").and_then(Number::to_u64), Some(u64::MAX));
        assert_eq!(number("18446744073709551616").and_then(Number::to_u64), None);
        assert_eq!(number("-9223372036854775808").and_then(Number::to_i64), Some(i64::MIN));
        assert_eq!(number("-9223372036854775809").and_then(Number::to_i64), None);
        assert_eq!(number("-1").and_then(Number::to_u64), None);
        assert_eq!(number("1.0").and_then(Number::to_i64), None);
    }

    #[test]
    fn midpoints_of_singles_round_to_even() {
        // 2^24 + 1 is half way between two singles; a hair more is not.
        for text in
            ["16777217", "16777217.0000001", "16777219", "0.1", "3.4028236e38", "1e-45", "7.006492321624085e-46"]
        {
            let expected: f32 = text.parse().expect("a float");
            assert_eq!(number(text).map(Number::to_f32), Some(expected), "{text}");
        }
    }

    proptest! {
        #[test]
        fn floats_agree_with_the_standard_library(text in "-?(0|[1-9][0-9]{0,22})(\\.[0-9]{1,25})?([eE][+-]?[0-9]{1,3})?") {
            let parsed = number(&text).expect("of the grammar");
            prop_assert_eq!(parsed.to_f64().to_bits(), text.parse::<f64>().expect("a float").to_bits());
            prop_assert_eq!(parsed.to_f32().to_bits(), text.parse::<f32>().expect("a float").to_bits());
        }

        #[test]
        fn shortest_forms_read_back(bits: u32, wide: u64) {
            let (single, double) = (f32::from_bits(bits), f64::from_bits(wide));
            prop_assume!(single.is_finite() && double.is_finite());
            let single_text = serde_json::to_string(&single).expect("finite");
            let double_text = serde_json::to_string(&double).expect("finite");
            prop_assert_eq!(number(&single_text).expect("a number").to_f32().to_bits(), bits);
            prop_assert_eq!(number(&double_text).expect("a number").to_f64().to_bits(), wide);
        }

        #[test]
        fn integers_agree_with_the_standard_library(text in "-?(0|[1-9][0-9]{0,20})") {
            let parsed = number(&text).expect("of the grammar");
            prop_assert_eq!(parsed.to_i64(), text.parse().ok());
            prop_assert_eq!(parsed.to_u64(), text.trim_start_matches("-0").parse().ok().filter(|_| !text.starts_with('-')).or((text == "-0").then_some(0)));
        }
    }
}
