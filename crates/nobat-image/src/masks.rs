//! Outlines of things, as Ultralytics' `segment` exports give them: a few numbers a thing, and prototypes
//! of a quarter of the canvas that they weigh.
//!
//! A mask is positive where the weighed sum of the prototypes, brought to the picture's size between four
//! neighbours, is, within the thing's box.

use crate::sizes::Placement;

/// The prototypes of one picture: `count` planes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Prototypes<'a> {
    pub(crate) numbers: &'a [f32],
    pub(crate) count: usize,
    pub(crate) width: usize,
    pub(crate) height: usize,
}

impl Prototypes<'_> {
    /// Run lengths of a thing over the picture as it was sent, row by row, others first; its box is in
    /// pixels of the picture.
    pub(crate) fn counts(&self, weights: &[f32], corners: [f32; 4], placement: &Placement) -> Vec<u32> {
        let plane = self.weighed(weights);
        let (width, height) = placement.from;
        let [left, top, right, bottom] = corners;
        let columns: Vec<Neighbours> = (0..width).map(|x| self.column(x, placement)).collect();
        let mut runs = Runs::default();
        for y in 0..height {
            let inside = (y as f32) >= top && (y as f32) < bottom;
            if !inside {
                runs.add(false, width);
                continue;
            }
            let (upper, lower, down) = self.line(y, placement);
            let line = |at: usize| &plane[at * self.width..(at + 1) * self.width];
            let (upper, lower) = (line(upper), line(lower));
            for (x, &(first, second, along)) in columns.iter().enumerate() {
                let between = |line: &[f32]| line[first] + (line[second] - line[first]) * along;
                let value = between(upper) + (between(lower) - between(upper)) * down;
                runs.add((x as f32) >= left && (x as f32) < right && value > 0.0, 1);
            }
        }
        runs.counts
    }

    /// The prototypes' weighed sum.
    fn weighed(&self, weights: &[f32]) -> Vec<f32> {
        let size = self.width * self.height;
        let mut sum = vec![0.0; size];
        for (plane, &weight) in self.numbers.chunks_exact(size.max(1)).take(self.count).zip(weights) {
            sum.iter_mut().zip(plane).for_each(|(sum, value)| *sum += weight * value);
        }
        sum
    }

    fn column(&self, x: u32, placement: &Placement) -> Neighbours {
        let (from, resized) = (placement.from.0, placement.resized.0);
        neighbours(x, from, resized, placement.offset.0, placement.canvas.0, self.width)
    }

    fn line(&self, y: u32, placement: &Placement) -> Neighbours {
        let (from, resized) = (placement.from.1, placement.resized.1);
        neighbours(y, from, resized, placement.offset.1, placement.canvas.1, self.height)
    }
}

/// Two places of a plane, and how far a pixel is from the first to the second.
pub(crate) type Neighbours = (usize, usize, f32);

/// Where the centre of a pixel of the picture falls in a plane that covers the canvas.
pub(crate) fn neighbours(at: u32, from: u32, resized: u32, offset: i64, canvas: u32, plane: usize) -> Neighbours {
    let on_canvas = (f64::from(at) + 0.5) * f64::from(resized) / f64::from(from.max(1)) + offset as f64;
    let last = plane.saturating_sub(1);
    let there = (on_canvas * plane as f64 / f64::from(canvas.max(1)) - 0.5).clamp(0.0, last as f64);
    let first = there.floor() as usize;
    (first, (first + 1).min(last), (there - there.floor()) as f32)
}

/// Run lengths, beginning with those that are not of the thing.
#[derive(Debug)]
pub(crate) struct Runs {
    pub(crate) counts: Vec<u32>,
    own: bool,
}

impl Default for Runs {
    fn default() -> Runs {
        Runs { counts: vec![0], own: false }
    }
}

impl Runs {
    pub(crate) fn add(&mut self, own: bool, pixels: u32) {
        if own != self.own {
            self.own = own;
            self.counts.push(0);
        }
        if let Some(last) = self.counts.last_mut() {
            *last += pixels;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sizes::{Canvas, Resize};

    #[test]
    fn a_mask_is_where_the_weighed_prototypes_are_positive_within_its_box() {
        // Two planes of 2 x 2: the left half, and the upper half.
        let numbers = [1.0, -1.0, 1.0, -1.0, 1.0, 1.0, -1.0, -1.0];
        let prototypes = Prototypes { numbers: &numbers, count: 2, width: 2, height: 2 };
        let placement = Placement::new((4, 4), Resize::Exact(8, 8), Canvas::Own, u64::MAX).expect("a placement");
        let whole = [0.0, 0.0, 4.0, 4.0];
        assert_eq!(prototypes.counts(&[1.0, 0.0], whole, &placement), [0, 2, 2, 2, 2, 2, 2, 2, 2]);
        assert_eq!(prototypes.counts(&[0.0, 1.0], whole, &placement), [0, 8, 8]);
        assert_eq!(prototypes.counts(&[0.0, 1.0], [1.0, 0.0, 3.0, 4.0], &placement), [1, 2, 2, 2, 9]);
        assert_eq!(prototypes.counts(&[0.0, 0.0], whole, &placement), [16]);
    }
}
