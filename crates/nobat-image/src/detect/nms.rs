//! Overlaps: of two boxes of one class that overlap by more than a share, the better one stays.

/// A box on the model's canvas: its corners.
pub(crate) type Corners = [f32; 4];

/// What a detector says of one place.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Candidate {
    pub(crate) class: usize,
    pub(crate) score: f32,
    pub(crate) corners: Corners,
    /// Its place in the output.
    pub(crate) place: usize,
}

/// Most candidates that are compared with each other; the best of more.
const MOST_CANDIDATES: usize = 30_000;

/// The candidates sorted by score, of each class those that overlap a better one by at most `iou`, and of
/// all the best `most`.
pub(crate) fn suppress(mut candidates: Vec<Candidate>, iou: f32, most: usize) -> Vec<Candidate> {
    sort(&mut candidates);
    candidates.truncate(MOST_CANDIDATES);
    let mut kept: Vec<Candidate> = Vec::new();
    for candidate in candidates {
        if kept.len() >= most {
            break;
        }
        let overlaps =
            |other: &Candidate| other.class == candidate.class && overlap(&other.corners, &candidate.corners) > iou;
        if !kept.iter().any(overlaps) {
            kept.push(candidate);
        }
    }
    kept
}

/// The best first.
pub(crate) fn sort(candidates: &mut [Candidate]) {
    candidates.sort_by(|a, b| b.score.total_cmp(&a.score));
}

/// The common area of two boxes over the area that they cover.
fn overlap(a: &Corners, b: &Corners) -> f32 {
    let side = |low: f32, high: f32| (high - low).max(0.0);
    let common = side(a[0].max(b[0]), a[2].min(b[2])) * side(a[1].max(b[1]), a[3].min(b[3]));
    let area = |of: &Corners| side(of[0], of[2]) * side(of[1], of[3]);
    let covered = area(a) + area(b) - common;
    if covered > 0.0 { common / covered } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn candidate(class: usize, score: f32, corners: Corners) -> Candidate {
        Candidate { class, score, corners, place: 0 }
    }

    #[test]
    fn the_better_of_two_that_overlap_stays_within_its_class() {
        let all = vec![
            candidate(0, 0.8, [0.0, 0.0, 10.0, 10.0]),
            candidate(0, 0.9, [0.0, 0.0, 10.0, 9.0]),
            candidate(1, 0.7, [0.0, 0.0, 10.0, 10.0]),
            candidate(0, 0.6, [20.0, 0.0, 30.0, 10.0]),
        ];
        let scores: Vec<f32> = suppress(all.clone(), 0.7, 300).iter().map(|kept| kept.score).collect();
        assert_eq!(scores, [0.9, 0.7, 0.6]);
        assert_eq!(suppress(all.clone(), 0.95, 300).len(), 4);
        assert_eq!(suppress(all, 0.7, 1).len(), 1);
        assert_eq!(overlap(&[0.0, 0.0, 2.0, 2.0], &[1.0, 0.0, 3.0, 2.0]), 1.0 / 3.0);
        assert_eq!(overlap(&[1.0, 1.0, 1.0, 1.0], &[1.0, 1.0, 1.0, 1.0]), 0.0);
    }

    proptest! {
        #[test]
        fn what_stays_is_sorted_and_overlaps_little(
            boxes in prop::collection::vec((0usize..3, 0f32..1.0, 0f32..50.0, 0f32..50.0, 1f32..30.0, 1f32..30.0), 0..60),
            iou in 0.1f32..0.9,
        ) {
            let all = boxes.iter().map(|&(class, score, x, y, w, h)| candidate(class, score, [x, y, x + w, y + h]));
            let all: Vec<Candidate> = all.collect();
            let kept = suppress(all.clone(), iou, usize::MAX);
            for (at, one) in kept.iter().enumerate() {
                prop_assert!(at == 0 || kept[at - 1].score >= one.score);
                let clash = |other: &Candidate| other.class == one.class && overlap(&other.corners, &one.corners) > iou;
                prop_assert!(!kept[..at].iter().any(clash));
            }
            // What went had a reason.
            for one in all.iter().filter(|one| !kept.contains(one)) {
                let better = |other: &Candidate| {
                    other.class == one.class && other.score >= one.score && overlap(&other.corners, &one.corners) > iou
                };
                prop_assert!(kept.iter().any(better));
            }
        }
    }
}
