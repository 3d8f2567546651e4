//! jiter's pull parser. Its floats are doubles; where rounding one again to a single
//! could err, the number's text is read a second time.

use jiter::{Jiter, JiterError, Peek};
use nobat_core::tensor::put_bytes_element;

use crate::{Numbers, Records};

pub fn numbers(text: &[u8]) -> Result<Numbers, String> {
    let mut jiter = Jiter::new(text);
    let told = |error: JiterError| error.to_string();
    let mut found = None;
    let mut name = jiter.next_object().map_err(told)?.map(str::to_owned);
    while let Some(member) = name {
        if member != "instances" || found.is_some() {
            return Err("the body takes `instances`, once".into());
        }
        let mut numbers = Numbers { shape: vec![], data: Vec::with_capacity(text.len() / 2) };
        let first = jiter.peek().map_err(told)?;
        let mut shape = Vec::new();
        nested(&mut jiter, first, text, 0, &mut shape, &mut numbers.data)?;
        numbers.shape = shape.iter().map(|dim| dim.unwrap_or(0)).collect();
        found = Some(numbers);
        name = jiter.next_key().map_err(told)?.map(str::to_owned);
    }
    jiter.finish().map_err(told)?;
    found.ok_or_else(|| "no instances".into())
}

fn nested(
    jiter: &mut Jiter<'_>,
    next: Peek,
    text: &[u8],
    level: usize,
    shape: &mut Vec<Option<usize>>,
    data: &mut Vec<u8>,
) -> Result<(), String> {
    let told = |error: JiterError| error.to_string();
    if next != Peek::Array {
        if level < shape.len() {
            return Err(format!("ragged at byte {}", jiter.current_index()));
        }
        let start = jiter.current_index();
        let double = jiter.known_float(next).map_err(told)?;
        data.extend_from_slice(&single(double, &text[start..jiter.current_index()])?.to_le_bytes());
        return Ok(());
    }
    if level == 32 || (level == shape.len() && !data.is_empty()) {
        return Err(format!("nested too deep, or ragged, at byte {}", jiter.current_index()));
    }
    if level == shape.len() {
        shape.push(None);
    }
    let mut count = 0;
    let mut element = jiter.known_array().map_err(told)?;
    while let Some(next) = element {
        nested(jiter, next, text, level + 1, shape, data)?;
        count += 1;
        element = jiter.array_step().map_err(told)?;
    }
    match shape[level].replace(count) {
        Some(expected) if expected != count => Err(format!("ragged at byte {}", jiter.current_index())),
        _ => Ok(()),
    }
}

fn single(double: f64, text: &[u8]) -> Result<f32, String> {
    let is_safe =
        double.to_bits() & 0x1fff_ffff != 0x1000_0000 && (double == 0.0 || (1e-37..1e38).contains(&double.abs()));
    let value = match is_safe {
        true => double as f32,
        false => std::str::from_utf8(text).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(f32::NAN),
    };
    if value.is_finite() { Ok(value) } else { Err("beyond the range of FP32".into()) }
}

pub fn records(text: &[u8]) -> Result<Records, String> {
    let mut jiter = Jiter::new(text);
    let told = |error: JiterError| error.to_string();
    let mut found = Records::default();
    jiter.next_object().map_err(told)?;
    let mut row = jiter.next_array().map_err(told)?;
    while row.is_some() {
        let mut name = jiter.known_object().map_err(told)?;
        while let Some(member) = name {
            if member == "age" {
                let age = jiter.next_int().map_err(told)?;
                let jiter::NumberInt::Int(age) = age else { return Err("an age over 64 bits".into()) };
                found.ages.push(u8::try_from(age).map_err(|error| error.to_string())?);
            } else {
                put_bytes_element(&mut found.texts, jiter.next_str().map_err(told)?.as_bytes());
            }
            name = jiter.next_key().map_err(told)?;
        }
        row = jiter.array_step().map_err(told)?;
    }
    jiter.next_key().map_err(told)?;
    jiter.finish().map_err(told)?;
    Ok(found)
}
