//! The classification extension: an output's best classes instead of its
//! tensor, as BYTES elements `value:index[:label]`, best first.

use nobat_core::tensor::{Datatype, Shape, Tensor, put_bytes_element};
use nobat_core::{Error, ErrorCode, Result};

/// The `best` classes of each row of `tensor` (of the whole tensor when not
/// `batched`); `labels` names the classes, as far as it goes. Equal values keep
/// their order; NaN comes last.
///
/// # Errors
/// `invalid_parameter` for a datatype whose values have no order here.
///
/// # Complexity
/// O(n log n) per row of n classes.
pub(crate) fn classify(tensor: &Tensor, best: u64, batched: bool, labels: &[&str]) -> Result<Tensor> {
    let (rows, lead) = match tensor.shape.first() {
        Some(&rows) if batched => (rows as usize, Some(rows)),
        _ => (1, None),
    };
    let classes = tensor.elements()?.checked_div(rows).unwrap_or(0);
    let best = usize::try_from(best).unwrap_or(usize::MAX).min(classes);
    let mut data = Vec::with_capacity(rows * best * 24);
    let row_bytes = tensor.datatype.size().unwrap_or(0) * classes;
    for row in 0..rows {
        put_row(&mut data, tensor, &tensor.data[row * row_bytes..(row + 1) * row_bytes], best, labels)?;
    }
    let shape: Shape = lead.into_iter().chain([best as i64]).collect();
    Ok(Tensor { name: tensor.name.clone(), datatype: Datatype::Bytes, shape, data: data.into() })
}

fn put_row(out: &mut Vec<u8>, tensor: &Tensor, row: &[u8], best: usize, labels: &[&str]) -> Result<()> {
    macro_rules! ranked {
        ($number:ty, $order:expr, $format:literal) => {{
            let values: Vec<$number> = row.as_chunks().0.iter().map(|&bytes| <$number>::from_le_bytes(bytes)).collect();
            let mut order: Vec<usize> = (0..values.len()).collect();
            order.sort_by(|&a, &b| $order(&values[b], &values[a]));
            for &index in &order[..best] {
                let label = labels.get(index).map(|label| format!(":{label}")).unwrap_or_default();
                put_bytes_element(out, format!(concat!($format, ":{}{}"), values[index], index, label).as_bytes());
            }
        }};
    }
    match tensor.datatype {
        Datatype::Fp32 => ranked!(f32, |a: &f32, b: &f32| nan_first(a.partial_cmp(b), a.is_nan(), b.is_nan()), "{:.6}"),
        Datatype::Fp64 => ranked!(f64, |a: &f64, b: &f64| nan_first(a.partial_cmp(b), a.is_nan(), b.is_nan()), "{:.6}"),
        Datatype::Bool | Datatype::Uint8 => ranked!(u8, u8::cmp, "{}"),
        Datatype::Uint16 => ranked!(u16, u16::cmp, "{}"),
        Datatype::Uint32 => ranked!(u32, u32::cmp, "{}"),
        Datatype::Uint64 => ranked!(u64, u64::cmp, "{}"),
        Datatype::Int8 => ranked!(i8, i8::cmp, "{}"),
        Datatype::Int16 => ranked!(i16, i16::cmp, "{}"),
        Datatype::Int32 => ranked!(i32, i32::cmp, "{}"),
        Datatype::Int64 => ranked!(i64, i64::cmp, "{}"),
        Datatype::Fp16 | Datatype::Bf16 | Datatype::Bytes => {
            return Err(Error::new(
                ErrorCode::InvalidParameter,
                format!(
                    "output `{}` is {}; classification takes numbers up to 64 bits wide",
                    tensor.name, tensor.datatype
                ),
            ));
        }
    }
    Ok(())
}

fn nan_first(order: Option<std::cmp::Ordering>, a_is_nan: bool, b_is_nan: bool) -> std::cmp::Ordering {
    order.unwrap_or_else(|| b_is_nan.cmp(&a_is_nan))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nobat_core::tensor::take_bytes_element;
    use smallvec::smallvec;

    fn scores(shape: Shape, values: &[f32]) -> Tensor {
        let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Tensor { name: "p".into(), datatype: Datatype::Fp32, shape, data: data.into() }
    }

    fn strings(tensor: &Tensor) -> Vec<String> {
        tensor.check().expect("whole elements");
        let mut rest = &tensor.data[..];
        std::iter::from_fn(|| take_bytes_element(&mut rest))
            .map(|element| String::from_utf8(element.to_vec()).expect("text"))
            .collect()
    }

    #[test]
    fn each_row_gets_its_best_classes_with_labels_as_far_as_they_go() {
        let tensor = scores(smallvec![2, 3], &[0.25, 0.5, 0.25, 9.0, -1.0, 10.0]);
        let best = classify(&tensor, 2, true, &["cat", "dog"]).expect("floats");
        assert_eq!((best.datatype, best.shape.as_slice()), (Datatype::Bytes, &[2, 2][..]));
        assert_eq!(strings(&best), ["0.500000:1:dog", "0.250000:0:cat", "10.000000:2", "9.000000:0:cat"]);
    }

    #[test]
    fn more_classes_than_there_are_gives_all_and_nan_is_last() {
        let best = classify(&scores(smallvec![3], &[f32::NAN, 1.0, 2.0]), u64::MAX, false, &[]).expect("floats");
        assert_eq!(best.shape.as_slice(), [3]);
        assert_eq!(strings(&best), ["2.000000:2", "1.000000:1", "NaN:0"]);
    }

    #[test]
    fn an_empty_batch_and_a_wrong_datatype_do_not_panic() {
        assert_eq!(classify(&scores(smallvec![0, 3], &[]), 1, true, &[]).expect("empty").data, "");
        let text = Tensor { name: "t".into(), datatype: Datatype::Bytes, shape: smallvec![1], data: vec![0; 4].into() };
        assert_eq!(classify(&text, 1, false, &[]).expect_err("text").code, ErrorCode::InvalidParameter);
    }
}
