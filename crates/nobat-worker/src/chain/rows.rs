//! Tensors by the rows of their first axis: cut into parts, and joined again.

use std::ops::Range;

use bytes::BytesMut;
use nobat_core::tensor::{Shape, Tensor, take_bytes_element};

/// Rows of a tensor: the size of its first axis.
pub(super) fn count(tensor: &Tensor) -> u32 {
    let first = tensor.shape.first().copied().unwrap_or(1);
    u32::try_from(first).unwrap_or(u32::MAX)
}

/// Some rows of a tensor, without a copy.
pub(super) fn part(tensor: &Tensor, rows: Range<u32>) -> Tensor {
    let all = count(tensor).max(1) as usize;
    let (from, to) = (rows.start as usize, rows.end as usize);
    let bytes = match tensor.datatype.size() {
        Some(_) => {
            let per_row = tensor.data.len() / all;
            from * per_row..to * per_row
        }
        None => {
            let mut ends = vec![0];
            let mut rest = &tensor.data[..];
            while take_bytes_element(&mut rest).is_some() {
                ends.push(tensor.data.len() - rest.len());
            }
            let per_row = (ends.len() - 1) / all;
            ends[from * per_row]..ends[to * per_row]
        }
    };
    let mut shape = tensor.shape.clone();
    if let Some(first) = shape.first_mut() {
        *first = i64::from(rows.end - rows.start);
    }
    Tensor { name: tensor.name.clone(), datatype: tensor.datatype, shape, data: tensor.data.slice(bytes) }
}

/// The rows of all parts, in their order.
///
/// # Errors
/// The shapes, where rows of one part have another shape than those of the first.
pub(super) fn join(parts: Vec<Tensor>) -> Result<Tensor, (Shape, Shape)> {
    let mut parts = parts.into_iter();
    let Some(mut whole) = parts.next() else {
        return Err(Default::default());
    };
    if parts.len() == 0 {
        return Ok(whole);
    }
    let mut data = BytesMut::from(&whole.data[..]);
    for part in parts {
        if part.shape.len() != whole.shape.len() || part.shape.get(1..) != whole.shape.get(1..) || part.shape.is_empty()
        {
            return Err((whole.shape, part.shape));
        }
        whole.shape[0] += part.shape[0];
        data.extend_from_slice(&part.data);
    }
    whole.data = data.freeze();
    Ok(whole)
}

#[cfg(test)]
mod tests {
    use nobat_core::tensor::{Datatype, put_bytes_element};
    use proptest::prelude::*;

    use super::*;

    fn tensor(texts: bool, rows: u32, width: u32) -> Tensor {
        let mut data = Vec::new();
        for at in 0..rows * width {
            match texts {
                true => put_bytes_element(&mut data, "x".repeat(at as usize % 4).as_bytes()),
                false => data.extend(at.to_le_bytes()),
            }
        }
        let datatype = if texts { Datatype::Bytes } else { Datatype::Uint32 };
        let shape = [i64::from(rows), i64::from(width)].into_iter().collect();
        Tensor { name: "t".into(), datatype, shape, data: data.into() }
    }

    proptest! {
        #[test]
        fn parts_of_any_size_join_to_the_whole(texts: bool, rows in 1u32..9, width in 1u32..4, step in 1u32..5) {
            let whole = tensor(texts, rows, width);
            let parts: Vec<Tensor> =
                (0..rows).step_by(step as usize).map(|from| part(&whole, from..rows.min(from + step))).collect();
            for part in &parts {
                part.check().expect("whole elements");
            }
            prop_assert_eq!(join(parts), Ok(whole));
        }
    }

    #[test]
    fn rows_of_unlike_shapes_are_not_joined() {
        let (shape, other) = join(vec![tensor(false, 1, 2), tensor(false, 1, 3)]).expect_err("unlike");
        assert_eq!((shape.as_slice(), other.as_slice()), (&[1, 2][..], &[1, 3][..]));
    }
}
