//! The first real requests of a version whose graph and trial leave open whether its rows
//! are independent: the loading thread runs them alone and together, and decides.
//!
//! They are kept in memory only, and only a few.

use std::sync::atomic::{AtomicBool, Ordering};

use nobat_core::tensor::{Datatype, Tensor};
use parking_lot::Mutex;
use smallvec::SmallVec;

/// Requests that are compared.
const WANTED: usize = 4;
/// Most bytes of all of them: larger requests are left alone.
const MOST_BYTES: usize = 16 << 20;

/// A request's inputs, by position in the signature.
pub(crate) type Sample = SmallVec<[Option<Tensor>; 2]>;

/// Requests that were answered one by one.
#[derive(Debug, Default)]
pub(crate) struct Samples {
    wanted: AtomicBool,
    kept: Mutex<Vec<Sample>>,
    /// A trial was begun: one that fails is not repeated.
    asked: AtomicBool,
}

impl Samples {
    /// Keeps the first requests that come, or none.
    pub(crate) fn new(wanted: bool) -> Samples {
        Samples { wanted: AtomicBool::new(wanted), ..Samples::default() }
    }

    /// Whether more are wanted; asked for each request that runs alone.
    pub(crate) fn are_wanted(&self) -> bool {
        self.wanted.load(Ordering::Relaxed)
    }

    /// Keeps a request that was answered, if it could share a run with those that are kept
    /// and differs from each.
    pub(crate) fn offer(&self, inputs: &[Option<Tensor>]) {
        let mut kept = self.kept.lock();
        let bytes = |own: &[Option<Tensor>]| own.iter().flatten().map(|tensor| tensor.data.len()).sum::<usize>();
        let all: usize = kept.iter().map(|own| bytes(own)).sum();
        let fits = kept.iter().all(|own| goes_with(own, inputs) && differs(own, inputs));
        if !self.are_wanted() || !fits || !has_rows(inputs) || all + bytes(inputs) > MOST_BYTES {
            return;
        }
        kept.push(inputs.into());
        if kept.len() == WANTED {
            self.wanted.store(false, Ordering::Relaxed);
        }
    }

    /// Whether there are enough for a trial; true once.
    pub(crate) fn are_due(&self) -> bool {
        self.complete().is_some() && !self.asked.swap(true, Ordering::Relaxed)
    }

    /// All of them, once there are enough.
    pub(crate) fn complete(&self) -> Option<Vec<Sample>> {
        let kept = self.kept.lock();
        (kept.len() == WANTED).then(|| kept.clone())
    }
}

/// Whether all inputs begin with an axis of as many rows.
fn has_rows(inputs: &[Option<Tensor>]) -> bool {
    let mut rows = inputs.iter().flatten().map(|tensor| tensor.shape.first());
    let first = rows.next().flatten();
    first.is_some_and(|&rows| rows > 0) && rows.all(|own| own == first)
}

/// Whether two requests could share a run.
fn goes_with(one: &[Option<Tensor>], other: &[Option<Tensor>]) -> bool {
    one.len() == other.len()
        && one.iter().zip(other).all(|pair| match pair {
            (Some(one), Some(other)) => one.shape.get(1..) == other.shape.get(1..),
            (None, None) => true,
            _ => false,
        })
}

fn differs(one: &[Option<Tensor>], other: &[Option<Tensor>]) -> bool {
    one.iter().zip(other).any(|pair| match pair {
        (Some(one), Some(other)) => one.data != other.data,
        _ => false,
    })
}

/// The inputs of these samples one after the other.
pub(crate) fn joined(samples: &[&Sample]) -> Sample {
    let Some(first) = samples.first() else { return Sample::new() };
    (0..first.len())
        .map(|at| {
            let parts: Vec<&Tensor> = samples.iter().filter_map(|sample| sample[at].as_ref()).collect();
            let mut whole = (*parts.first()?).clone();
            whole.data = parts.iter().flat_map(|part| part.data.iter().copied()).collect::<Vec<u8>>().into();
            if let Some(rows) = whole.shape.first_mut() {
                *rows = parts.iter().filter_map(|part| part.shape.first()).sum();
            }
            debug_assert!(whole.datatype == Datatype::Bytes || whole.check().is_ok());
            Some(whole)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use nobat_core::tensor::Shape;

    use super::*;

    fn sample(shape: &[i64], value: u8) -> Sample {
        let elements: i64 = shape.iter().product();
        let data = vec![value; elements as usize].into();
        let shape = Shape::from_slice(shape);
        [Some(Tensor { name: "x".into(), datatype: Datatype::Uint8, shape, data })].into_iter().collect()
    }

    #[test]
    fn as_many_different_requests_of_one_shape_as_are_wanted_are_kept() {
        let samples = Samples::new(true);
        samples.offer(&sample(&[1, 4], 1));
        samples.offer(&sample(&[1, 4], 1));
        samples.offer(&sample(&[1, 5], 2));
        samples.offer(&sample(&[2, 4], 3));
        samples.offer(&sample(&[1, 4], 4));
        assert!(samples.complete().is_none() && samples.are_wanted());
        samples.offer(&sample(&[1, 4], 5));
        samples.offer(&sample(&[1, 4], 6));
        let kept = samples.complete().expect("four");
        assert!(samples.are_due() && !samples.are_due());
        assert!(!samples.are_wanted());
        let first = |own: &Sample| own[0].as_ref().map(|tensor| tensor.data[0]);
        assert_eq!(kept.iter().map(first).collect::<Vec<_>>(), [1, 3, 4, 5].map(Some));
        let whole = joined(&kept.iter().collect::<Vec<_>>());
        assert_eq!(whole[0].as_ref().map(|own| own.shape[..].to_vec()), Some(vec![5, 4]));
    }

    #[test]
    fn none_are_kept_where_none_are_wanted_or_they_are_too_large() {
        let samples = Samples::new(false);
        (0..9).for_each(|value| samples.offer(&sample(&[1, 4], value)));
        assert!(samples.complete().is_none() && samples.kept.lock().is_empty());
        let samples = Samples::new(true);
        (0..9).for_each(|value| samples.offer(&sample(&[1, 10 << 20], value)));
        assert!(samples.complete().is_none());
    }
}
