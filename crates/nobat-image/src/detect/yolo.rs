//! The YOLO families' outputs: one tensor, a box and its scores for each place.

use super::nms::Candidate;
use crate::numbers::largest;

/// Strides of YOLOX's grids.
const STRIDES: [u32; 3] = [8, 16, 32];

/// Centre and size as corners.
pub(super) fn corners([x, y, width, height]: [f32; 4]) -> [f32; 4] {
    [x - width / 2.0, y - height / 2.0, x + width / 2.0, y + height / 2.0]
}

/// `[places, 5 + classes]`: centre, size, objectness, scores. `width` numbers a place, the first `classes`
/// scores of which are classes.
pub(super) fn with_objectness(numbers: &[f32], width: usize, classes: usize, threshold: f32) -> Vec<Candidate> {
    let one = |(at, place): (usize, &[f32])| {
        let objectness = place[4];
        // Both are at most one: the product is no larger.
        if objectness < threshold {
            return None;
        }
        let (class, score) = largest(place[5..].iter().take(classes).copied());
        let score = score * objectness;
        let corners = corners([place[0], place[1], place[2], place[3]]);
        (score > threshold).then_some(Candidate { class, score, corners, place: at })
    };
    numbers.chunks_exact(width.max(5)).enumerate().filter_map(one).collect()
}

/// `[4 + classes + others, places]`: centre, size, scores; places lie beside each other.
pub(super) fn transposed(numbers: &[f32], places: usize, classes: usize, threshold: f32) -> Vec<Candidate> {
    let (mut scores, mut best) = (vec![f32::NEG_INFINITY; places], vec![0u32; places]);
    let lines = numbers.chunks_exact(places.max(1));
    for (class, line) in lines.clone().skip(4).take(classes).enumerate() {
        for ((score, best), &own) in scores.iter_mut().zip(&mut best).zip(line) {
            if own > *score {
                (*score, *best) = (own, class as u32);
            }
        }
    }
    let sides: Vec<&[f32]> = lines.take(4).collect();
    let &[x, y, width, height] = &sides[..] else { return Vec::new() };
    let found = (0..places).filter(|&at| scores[at] > threshold);
    let one = |at: usize| Candidate {
        class: best[at] as usize,
        score: scores[at],
        corners: corners([x[at], y[at], width[at], height[at]]),
        place: at,
    };
    found.map(one).collect()
}

/// `[boxes, 6]`: corners, score, class; overlaps were removed in the graph.
pub(super) fn end_to_end(numbers: &[f32], width: usize, threshold: f32) -> Vec<Candidate> {
    let one = |(at, found): (usize, &[f32])| {
        let class = found[5];
        let valid = found[4] > threshold && class >= 0.0;
        valid.then_some(Candidate {
            class: class as usize,
            score: found[4],
            corners: [found[0], found[1], found[2], found[3]],
            place: at,
        })
    };
    numbers.chunks_exact(width.max(6)).enumerate().filter_map(one).collect()
}

/// Centres and sizes of YOLOX in cells of its grids, as pixels of a canvas of these sides.
pub(super) fn of_grids(numbers: &mut [f32], width: usize, canvas: (u32, u32)) {
    let mut places = numbers.chunks_exact_mut(width.max(5));
    for stride in STRIDES {
        let (columns, lines) = (canvas.0 / stride, canvas.1 / stride);
        for cell in 0..columns * lines {
            let Some(place) = places.next() else { return };
            let (x, y, stride) = ((cell % columns) as f32, (cell / columns) as f32, stride as f32);
            place[0] = (place[0] + x) * stride;
            place[1] = (place[1] + y) * stride;
            place[2] = place[2].exp() * stride;
            place[3] = place[3].exp() * stride;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_layout_gives_the_same_boxes() {
        let wanted = [Candidate { class: 1, score: 0.5, corners: [8.0, 16.0, 12.0, 24.0], place: 0 }];
        let rows = [10.0, 20.0, 4.0, 8.0, 0.625, 0.1, 0.8, 1.0, 1.0, 1.0, 1.0, 0.1, 0.9, 0.9];
        assert_eq!(with_objectness(&rows, 7, 2, 0.25), wanted);
        let columns = [10.0, 1.0, 20.0, 1.0, 4.0, 1.0, 8.0, 1.0, 0.1, 0.2, 0.5, 0.1];
        assert_eq!(transposed(&columns, 2, 2, 0.25), wanted);
        let ready = [8.0, 16.0, 12.0, 24.0, 0.5, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0];
        assert_eq!(end_to_end(&ready, 6, 0.25), wanted);
    }

    #[test]
    fn cells_of_grids_become_pixels() {
        // A canvas of 32 x 32: 16 cells of 8, 4 of 16, 1 of 32.
        let mut numbers = vec![0.0; 21 * 6];
        of_grids(&mut numbers, 6, (32, 32));
        let place = |at: usize| &numbers[at * 6..at * 6 + 4];
        assert_eq!(place(5), [8.0, 8.0, 8.0, 8.0]);
        assert_eq!(place(19), [16.0, 16.0, 16.0, 16.0]);
        assert_eq!(place(20), [0.0, 0.0, 32.0, 32.0]);
    }
}
