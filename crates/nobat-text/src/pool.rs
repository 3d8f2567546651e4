//! Many vectors to one: sentence-transformers' pooling over a text's own tokens.

use crate::folder::pooling::{Pooling, PoolingModule};
use crate::numbers::Floats;

/// Where a text's tokens stand in a run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(crate) row: usize,
    /// The first token, after padding.
    pub(crate) start: usize,
    pub(crate) tokens: usize,
    /// Tokens at the beginning that do not count: a prompt's.
    pub(crate) skipped: usize,
}

/// The text's vector: [`Floats::width`] numbers for each mode.
pub(crate) fn pool(module: &PoolingModule, vectors: &Floats<'_>, place: Place) -> Vec<f32> {
    let mut pooled = Vec::with_capacity(module.modes.len() * vectors.width);
    for mode in &module.modes {
        pooled.extend(one(*mode, vectors, place));
    }
    pooled
}

fn one(mode: Pooling, vectors: &Floats<'_>, place: Place) -> Vec<f32> {
    let Place { row, start, tokens, skipped } = place;
    let counted = skipped.min(tokens)..tokens;
    let count = counted.len() as f32;
    let weighted = |weight: &dyn Fn(usize) -> f32| {
        let mut sum = vec![0f32; vectors.width];
        for token in counted.clone() {
            let weight = weight(token);
            vectors.fold(row, start + token, &mut sum, |sum, number| sum + weight * number);
        }
        sum
    };
    let over = |mut sum: Vec<f32>, divisor: f32| {
        sum.iter_mut().for_each(|number| *number /= divisor);
        sum
    };
    match mode {
        Pooling::Cls => vectors.vector(row, if counted.is_empty() { 0 } else { start + counted.start }),
        // Of a prompt that fills the limit no token counts: nothing is known of the text, as a mean says.
        Pooling::LastToken | Pooling::Max if counted.is_empty() => vec![0.0; vectors.width],
        Pooling::LastToken => vectors.vector(row, start + tokens - 1),
        Pooling::Max => {
            let mut most = vec![f32::NEG_INFINITY; vectors.width];
            for token in counted.clone() {
                vectors.fold(row, start + token, &mut most, f32::max);
            }
            most
        }
        Pooling::Mean => over(weighted(&|_| 1.0), count.max(1e-9)),
        Pooling::MeanSqrtLen => over(weighted(&|_| 1.0), count.max(1e-9).sqrt()),
        Pooling::WeightedMean => {
            // The place in the text, a skipped prompt counted.
            let weight = |token: usize| (token + 1) as f32;
            let total: f32 = counted.clone().map(weight).sum();
            over(weighted(&weight), total.max(1e-9))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nobat_core::tensor::Datatype;
    use nobat_transform::SessionOutput;

    /// Two rows of four tokens, two numbers each; padding is 99.
    fn vectors() -> Vec<u8> {
        let padding = [99.0f32; 2];
        let right = [[1.0, -1.0], [3.0, 1.0], [5.0, 6.0], padding];
        let left = [padding, [1.0, -1.0], [3.0, 1.0], [5.0, 6.0]];
        right.iter().chain(&left).flatten().flat_map(|number| number.to_le_bytes()).collect()
    }

    fn pooled(mode: Pooling, skipped: usize) -> Vec<f32> {
        let data = vectors();
        let output = SessionOutput { datatype: Datatype::Fp32, shape: &[2, 4, 2], data: &data };
        let floats = Floats::new(&output, "h").expect("floats");
        let place = Place { row: 0, start: 0, tokens: 3, skipped };
        let right = pool(&PoolingModule::of(mode), &floats, place);
        let left = pool(&PoolingModule::of(mode), &floats, Place { row: 1, start: 1, ..place });
        assert_eq!(right, left, "padding's side changes nothing");
        right
    }

    #[test]
    fn each_mode_pools_a_texts_own_tokens() {
        assert_eq!(pooled(Pooling::Cls, 0), [1.0, -1.0]);
        assert_eq!(pooled(Pooling::Max, 0), [5.0, 6.0]);
        assert_eq!(pooled(Pooling::Mean, 0), [3.0, 2.0]);
        assert_eq!(pooled(Pooling::MeanSqrtLen, 0), [9.0 / 3f32.sqrt(), 6.0 / 3f32.sqrt()]);
        assert_eq!(pooled(Pooling::WeightedMean, 0), [22.0 / 6.0, 19.0 / 6.0]);
        assert_eq!(pooled(Pooling::LastToken, 0), [5.0, 6.0]);
    }

    #[test]
    fn a_skipped_prompt_does_not_count_and_later_tokens_keep_their_weights() {
        assert_eq!(pooled(Pooling::Cls, 1), [3.0, 1.0]);
        assert_eq!(pooled(Pooling::Mean, 1), [4.0, 3.5]);
        assert_eq!(pooled(Pooling::WeightedMean, 1), [21.0 / 5.0, 20.0 / 5.0]);
        for mode in [Pooling::LastToken, Pooling::Max, Pooling::Mean, Pooling::MeanSqrtLen, Pooling::WeightedMean] {
            assert_eq!(pooled(mode, 3), [0.0, 0.0], "{mode:?} of no token");
        }
    }
}
