//! Holm's correction: several tests at once, one level for all of them.

/// Each p-value as it stands among all of `p`: a test rejects at `alpha` when its adjusted
/// value is at most `alpha`, and then the chance that any right one rejects is at most `alpha`.
///
/// Source: Holm (1979), "A simple sequentially rejective multiple test procedure".
pub fn adjust(p: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..p.len()).collect();
    order.sort_by(|&a, &b| p[a].total_cmp(&p[b]));
    let mut adjusted = vec![1.0; p.len()];
    let mut at_least = 0.0f64;
    for (rank, &test) in order.iter().enumerate() {
        at_least = at_least.max(p[test] * (p.len() - rank) as f64).min(1.0);
        adjusted[test] = at_least;
    }
    adjusted
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_smallest_pays_for_all_and_the_next_for_the_rest() {
        assert_eq!(adjust(&[0.25, 0.0625, 0.125]), [0.25, 0.1875, 0.25]);
        assert_eq!(adjust(&[0.5, 0.75]), [1.0, 1.0]);
        assert!(adjust(&[]).is_empty());
    }

    proptest! {
        #[test]
        fn between_the_bare_value_and_bonferroni_and_in_the_same_order(p in prop::collection::vec(0.0..=1.0f64, 1..20)) {
            let adjusted = adjust(&p);
            for (a, &bare) in adjusted.iter().zip(&p) {
                prop_assert!(*a >= bare && *a <= (bare * p.len() as f64).min(1.0));
            }
            for (i, j) in (0..p.len()).flat_map(|i| (0..p.len()).map(move |j| (i, j))) {
                prop_assert!(p[i] > p[j] || adjusted[i] <= adjusted[j]);
            }
        }
    }
}
