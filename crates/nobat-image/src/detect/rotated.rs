//! Boxes that lie at an angle, as Ultralytics has them: how much two overlap, which stay, and where their
//! corners are.

use std::f32::consts::{FRAC_PI_2, PI};

use super::nms::{Candidate, sort};

/// What keeps quotients of Ultralytics' from dividing by nothing.
const EPSILON: f32 = 1e-7;
/// Most candidates that are compared with each other; the best of more, as Ultralytics has it.
const MOST_CANDIDATES: usize = 30_000;

/// A box on the model's canvas: centre, size, and radians from the horizontal.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Rect {
    pub(super) x: f32,
    pub(super) y: f32,
    pub(super) width: f32,
    pub(super) height: f32,
    pub(super) angle: f32,
}

impl Rect {
    /// The same box by an angle of less than a quarter turn.
    fn regular(self) -> Rect {
        let turns = self.angle.rem_euclid(PI) >= FRAC_PI_2;
        let (width, height) = if turns { (self.height, self.width) } else { (self.width, self.height) };
        Rect { width, height, angle: self.angle.rem_euclid(FRAC_PI_2), ..self }
    }

    /// Its corners, in Ultralytics' order.
    pub(super) fn corners(self) -> [(f32, f32); 4] {
        let Rect { x, y, width, height, angle } = self.regular();
        let (sin, cos) = angle.sin_cos();
        let (along, across) = ((width / 2.0 * cos, width / 2.0 * sin), (-height / 2.0 * sin, height / 2.0 * cos));
        [(1.0, 1.0), (1.0, -1.0), (-1.0, -1.0), (-1.0, 1.0)]
            .map(|(a, b)| (x + a * along.0 + b * across.0, y + a * along.1 + b * across.1))
    }

    /// The covariance of the Gaussian that stands for it: xx, yy, xy.
    fn covariance(self) -> (f32, f32, f32) {
        let (a, b) = (self.width * self.width / 12.0, self.height * self.height / 12.0);
        let (sin, cos) = self.angle.sin_cos();
        (a * cos * cos + b * sin * sin, a * sin * sin + b * cos * cos, (a - b) * cos * sin)
    }

    /// Ultralytics' probiou: 1 less the Hellinger distance of two Gaussians (arXiv 2106.06072).
    fn overlap(self, other: Rect) -> f32 {
        let ((a1, b1, c1), (a2, b2, c2)) = (self.covariance(), other.covariance());
        let (a, b, c) = (a1 + a2, b1 + b2, c1 + c2);
        let (dx, dy) = (self.x - other.x, self.y - other.y);
        let determinant = a * b - c * c;
        let first = (a * dy * dy + b * dx * dx) / (determinant + EPSILON) * 0.25;
        let second = c * -dx * dy / (determinant + EPSILON) * 0.5;
        let own = (a1 * b1 - c1 * c1).max(0.0) * (a2 * b2 - c2 * c2).max(0.0);
        let third = (determinant / (4.0 * own.sqrt() + EPSILON) + EPSILON).ln() * 0.5;
        let distance = (first + second + third).clamp(EPSILON, 100.0);
        1.0 - (1.0 - (-distance).exp() + EPSILON).sqrt()
    }
}

/// The candidates sorted by score, of each class those that no better one overlaps by `iou` or more, whether
/// that stays itself or not, and of all the best `most`.
pub(super) fn suppress(
    mut candidates: Vec<Candidate>,
    rect: impl Fn(&Candidate) -> Rect,
    iou: f32,
    most: usize,
) -> Vec<Candidate> {
    sort(&mut candidates);
    candidates.truncate(MOST_CANDIDATES);
    let rects: Vec<Rect> = candidates.iter().map(rect).collect();
    let stays = |&at: &usize| {
        let better = (0..at).filter(|&other| candidates[other].class == candidates[at].class);
        !better.into_iter().any(|other| rects[other].overlap(rects[at]) >= iou)
    };
    (0..candidates.len()).filter(stays).take(most).map(|at| candidates[at]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rect(x: f32, y: f32, width: f32, height: f32, angle: f32) -> Rect {
        Rect { x, y, width, height, angle }
    }

    #[test]
    fn a_box_is_the_same_by_whichever_side_it_is_described() {
        let upright = rect(10.0, 20.0, 4.0, 2.0, 0.0).corners();
        assert_eq!(upright, [(12.0, 21.0), (12.0, 19.0), (8.0, 19.0), (8.0, 21.0)]);
        let turned = rect(10.0, 20.0, 2.0, 4.0, FRAC_PI_2).corners();
        for ((x, y), (own_x, own_y)) in upright.into_iter().zip(turned) {
            assert!((x - own_x).abs() < 1e-4 && (y - own_y).abs() < 1e-4, "{turned:?}");
        }
    }

    #[test]
    fn overlap_is_one_of_the_same_box_and_falls_with_distance_and_angle() {
        let own = rect(10.0, 10.0, 8.0, 2.0, 0.3);
        assert!(own.overlap(own) > 0.999);
        assert!(own.overlap(rect(10.0, 10.0, 8.0, 2.0, 1.8)) < own.overlap(rect(10.0, 10.0, 8.0, 2.0, 0.5)));
        assert!(own.overlap(rect(100.0, 10.0, 8.0, 2.0, 0.3)) < 0.001);
        let nothing = rect(0.0, 0.0, 0.0, 0.0, 0.0);
        assert!(nothing.overlap(nothing).is_finite());
    }
}
