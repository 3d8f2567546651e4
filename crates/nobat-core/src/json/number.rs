//! JSON numbers: their grammar here, their value by `fast_float2`, straight to the
//! nearest single or double.

use super::reader::Reader;

/// A number as it stands in the text.
#[derive(Clone, Copy, Debug)]
pub struct Number<'a> {
    text: &'a [u8],
    is_integer: bool,
}

impl<'a> Number<'a> {
    /// Takes a number off the front of `reader`; `None`, and nothing taken,
    /// when there is none of JSON's grammar (RFC 8259 section 6).
    #[inline]
    pub fn take(reader: &mut Reader<'a>) -> Option<Number<'a>> {
        let bytes = reader.rest();
        let mut at = usize::from(bytes.first() == Some(&b'-'));
        let whole = digits(bytes, at)?;
        if bytes[at] == b'0' && whole > 1 {
            return None;
        }
        at += whole;
        let mut is_integer = true;
        if bytes.get(at) == Some(&b'.') {
            is_integer = false;
            at += 1 + digits(bytes, at + 1)?;
        }
        if matches!(bytes.get(at), Some(b'e' | b'E')) {
            is_integer = false;
            at += 1 + usize::from(matches!(bytes.get(at + 1), Some(b'-' | b'+')));
            at += digits(bytes, at)?;
        }
        reader.advance(at);
        Some(Number { text: &bytes[..at], is_integer })
    }

    /// The nearest double; infinite when it overflows.
    #[inline]
    pub fn to_f64(self) -> f64 {
        fast_float2::parse(self.text).unwrap_or(f64::NAN)
    }

    /// The nearest single; infinite when it overflows.
    #[inline]
    pub fn to_f32(self) -> f32 {
        fast_float2::parse(self.text).unwrap_or(f32::NAN)
    }

    /// As an integer; `None` for a fraction, an exponent or an overflow.
    pub fn to_i64(self) -> Option<i64> {
        std::str::from_utf8(self.text).ok().filter(|_| self.is_integer)?.parse().ok()
    }

    /// As an unsigned integer; `None` for a fraction, an exponent, a negative
    /// value or an overflow.
    pub fn to_u64(self) -> Option<u64> {
        match self.text {
            b"-0" => Some(0),
            text => std::str::from_utf8(text).ok().filter(|_| self.is_integer)?.parse().ok(),
        }
    }

    /// Whether it is written as an integer.
    pub fn is_integer(self) -> bool {
        self.is_integer
    }
}

/// How many digits stand at `at`; `None` for none.
#[inline]
fn digits(bytes: &[u8], at: usize) -> Option<usize> {
    let count = bytes.get(at..)?.iter().take_while(|byte| byte.is_ascii_digit()).count();
    (count > 0).then_some(count)
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
