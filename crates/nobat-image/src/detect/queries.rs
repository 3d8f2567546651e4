//! DETR's outputs: scores of classes and a box for each of so many queries, boxes in shares of the picture.

use super::nms::Candidate;
use super::yolo::corners;
use crate::numbers::{largest, sigmoid, softmax};

/// DETR: classes of a query together, the last of which is nothing.
pub(super) fn with_nothing(logits: &[f32], boxes: &[f32], classes: usize, threshold: f32) -> Vec<Candidate> {
    let query = |(at, (logits, place)): (usize, (&[f32], &[f32; 4]))| {
        let mut scores = logits.to_vec();
        softmax(&mut scores);
        let (class, score) = largest(scores.iter().take(classes.saturating_sub(1)).copied());
        (score > threshold).then(|| Candidate { class, score, corners: corners(*place), place: at })
    };
    logits.chunks_exact(classes.max(1)).zip(boxes.as_chunks().0).enumerate().filter_map(query).collect()
}

/// RT-DETR: each class by itself; as many of the best as there are queries.
pub(super) fn by_class(logits: &[f32], boxes: &[f32], classes: usize, threshold: f32) -> Vec<Candidate> {
    let places = boxes.as_chunks::<4>().0;
    let each = logits.iter().enumerate().filter_map(|(at, &logit)| {
        let score = sigmoid(logit);
        let place = places.get(at / classes.max(1))?;
        let class = at % classes.max(1);
        (score > threshold).then(|| Candidate { class, score, corners: corners(*place), place: at / classes.max(1) })
    });
    let mut all: Vec<Candidate> = each.collect();
    super::nms::sort(&mut all);
    all.truncate(places.len());
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_class_is_nothing_for_detr_alone() {
        let (logits, boxes) = ([0.0, 3.0, 0.0, 0.0, 0.0, 9.0], [0.5, 0.5, 0.2, 0.4, 0.1, 0.1, 0.1, 0.1]);
        let found = with_nothing(&logits, &boxes, 3, 0.5);
        assert_eq!((found.len(), found[0].class), (1, 1));
        assert_eq!(found[0].corners.map(|value| (value * 10.0).round()), [4.0, 3.0, 6.0, 7.0]);
        let found = by_class(&logits, &boxes, 3, 0.6);
        assert_eq!(found.iter().map(|one| one.class).collect::<Vec<_>>(), [2, 1]);
    }
}
