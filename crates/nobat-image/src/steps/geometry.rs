//! Rectangles around points, and the way from one quadrangle to another.

pub(super) type Point = (f64, f64);

/// A rectangle at any angle: its centre, the direction of its first side, and both sides.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rectangle {
    centre: Point,
    /// Of length 1.
    along: Point,
    pub(super) sides: (f64, f64),
}

impl Rectangle {
    /// The smallest rectangle around points: one side lies on the hull's edge that gives it
    /// (Freeman and Shapira, 1975). `None` of no point.
    pub(super) fn around(points: &[(i64, i64)]) -> Option<Rectangle> {
        let hull = hull(points);
        let &first = hull.first()?;
        let edges = hull.iter().zip(hull.iter().cycle().skip(1));
        let directions = edges.filter_map(|(from, to)| {
            let (x, y) = ((to.0 - from.0) as f64, (to.1 - from.1) as f64);
            let length = x.hypot(y);
            (length > 0.0).then(|| (x / length, y / length))
        });
        let along_edge = |along: Point| {
            let (mut low, mut high) = ((f64::MAX, f64::MAX), (f64::MIN, f64::MIN));
            for &(x, y) in &hull {
                let (x, y) = (x as f64, y as f64);
                let (u, v) = (x * along.0 + y * along.1, y * along.0 - x * along.1);
                (low, high) = ((low.0.min(u), low.1.min(v)), (high.0.max(u), high.1.max(v)));
            }
            let (u, v) = ((low.0 + high.0) / 2.0, (low.1 + high.1) / 2.0);
            let centre = (u * along.0 - v * along.1, u * along.1 + v * along.0);
            Rectangle { centre, along, sides: (high.0 - low.0, high.1 - low.1) }
        };
        let area = |own: &Rectangle| own.sides.0 * own.sides.1;
        let smallest = directions.map(along_edge).min_by(|one, other| area(one).total_cmp(&area(other)));
        let point = Rectangle { centre: (first.0 as f64, first.1 as f64), along: (1.0, 0.0), sides: (0.0, 0.0) };
        Some(smallest.unwrap_or(point))
    }

    pub(super) fn shorter_side(&self) -> f64 {
        self.sides.0.min(self.sides.1)
    }

    /// The same with every side moved out by `by`.
    pub(super) fn grown(self, by: f64) -> Rectangle {
        Rectangle { sides: (self.sides.0 + 2.0 * by, self.sides.1 + 2.0 * by), ..self }
    }

    /// Its corners: top left, top right, bottom right, bottom left.
    pub(super) fn corners(&self) -> [Point; 4] {
        let corner = |u: f64, v: f64| {
            let (u, v) = (u * self.sides.0 / 2.0, v * self.sides.1 / 2.0);
            (self.centre.0 + u * self.along.0 - v * self.along.1, self.centre.1 + u * self.along.1 + v * self.along.0)
        };
        upright([corner(-1.0, -1.0), corner(1.0, -1.0), corner(1.0, 1.0), corner(-1.0, 1.0)])
    }
}

/// Four corners from the top left one on: of the two on the left the upper one, then clockwise.
pub(super) fn upright(mut corners: [Point; 4]) -> [Point; 4] {
    corners.sort_by(|one, other| one.0.total_cmp(&other.0));
    let [mut left, mut right] = [[corners[0], corners[1]], [corners[2], corners[3]]];
    left.sort_by(|one, other| one.1.total_cmp(&other.1));
    right.sort_by(|one, other| one.1.total_cmp(&other.1));
    [left[0], right[0], right[1], left[1]]
}

/// The convex hull (Andrew's monotone chain).
fn hull(points: &[(i64, i64)]) -> Vec<(i64, i64)> {
    let mut sorted = points.to_vec();
    sorted.sort_unstable();
    sorted.dedup();
    if sorted.len() < 3 {
        return sorted;
    }
    let turns = |a: (i64, i64), b: (i64, i64), c: (i64, i64)| (b.0 - a.0) * (c.1 - a.1) - (b.1 - a.1) * (c.0 - a.0);
    let half = |points: &mut dyn Iterator<Item = (i64, i64)>| {
        let mut half: Vec<(i64, i64)> = Vec::new();
        for point in points {
            while half.len() >= 2 && turns(half[half.len() - 2], half[half.len() - 1], point) <= 0 {
                half.pop();
            }
            half.push(point);
        }
        half.pop();
        half
    };
    let mut hull = half(&mut sorted.iter().copied());
    hull.extend(half(&mut sorted.iter().rev().copied()));
    hull
}

/// Whether a point is in a quadrangle without a dent, or on its edge.
pub(super) fn holds(corners: &[Point; 4], point: Point) -> bool {
    let side = |at: usize| {
        let (a, b) = (corners[at], corners[(at + 1) % 4]);
        (b.0 - a.0) * (point.1 - a.1) - (b.1 - a.1) * (point.0 - a.0)
    };
    let sides = [side(0), side(1), side(2), side(3)];
    sides.iter().all(|&side| side >= -1e-9) || sides.iter().all(|&side| side <= 1e-9)
}

/// A projective way from the points of one plane to those of another.
#[derive(Clone, Copy, Debug)]
pub(super) struct Projection([f64; 8]);

impl Projection {
    /// The one that takes each of four points to its partner; `None` where three lie on a line.
    pub(super) fn between(from: &[Point; 4], to: &[Point; 4]) -> Option<Projection> {
        let mut rows = [[0.0f64; 9]; 8];
        for (at, (&(x, y), &(u, v))) in from.iter().zip(to).enumerate() {
            rows[at] = [x, y, 1.0, 0.0, 0.0, 0.0, -x * u, -y * u, u];
            rows[at + 4] = [0.0, 0.0, 0.0, x, y, 1.0, -x * v, -y * v, v];
        }
        // Gauss and Jordan, with the largest pivot of each column.
        for column in 0..8 {
            let pivot = (column..8).max_by(|&a, &b| rows[a][column].abs().total_cmp(&rows[b][column].abs()))?;
            if rows[pivot][column].abs() < 1e-9 {
                return None;
            }
            rows.swap(column, pivot);
            let own = rows[column];
            for (at, row) in rows.iter_mut().enumerate() {
                if at != column {
                    let by = row[column] / own[column];
                    row.iter_mut().zip(own).for_each(|(value, own)| *value -= by * own);
                }
            }
        }
        Some(Projection(std::array::from_fn(|at| rows[at][8] / rows[at][at])))
    }

    pub(super) fn of(&self, (x, y): Point) -> Point {
        let [a, b, c, d, e, f, g, h] = self.0;
        let scale = g * x + h * y + 1.0;
        ((a * x + b * y + c) / scale, (d * x + e * y + f) / scale)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_smallest_rectangle_of_a_turned_one_is_itself() {
        let corners = [(0, 3), (4, 0), (10, 8), (6, 11)];
        let found = Rectangle::around(&corners).expect("points");
        let (long, short) = (found.sides.0.max(found.sides.1), found.shorter_side());
        assert!((long - 10.0).abs() < 1e-9 && (short - 5.0).abs() < 1e-9, "{found:?}");
        for (found, wanted) in found.corners().iter().zip([(0.0, 3.0), (4.0, 0.0), (10.0, 8.0), (6.0, 11.0)]) {
            assert!(corners.iter().any(|&(x, y)| (found.0 - x as f64).hypot(found.1 - y as f64) < 1e-9), "{wanted:?}");
        }
        assert!(Rectangle::around(&[]).is_none());
        assert_eq!(Rectangle::around(&[(2, 5)]).expect("a point").sides, (0.0, 0.0));
    }

    proptest! {
        #[test]
        fn every_point_is_in_its_rectangle(points in prop::collection::vec((-50i64..50, -50i64..50), 1..40)) {
            let corners = Rectangle::around(&points).expect("points").grown(1e-6).corners();
            for (x, y) in points {
                prop_assert!(holds(&corners, (x as f64, y as f64)), "{:?} {:?}", corners, (x, y));
            }
        }

        #[test]
        fn a_projection_takes_corners_to_corners(
            width in 1.0f64..100.0, height in 1.0f64..100.0, angle in 0.0f64..1.5, x in -50.0f64..50.0, y in -50.0f64..50.0,
        ) {
            let turned = |(u, v): Point| (x + u * angle.cos() - v * angle.sin(), y + u * angle.sin() + v * angle.cos());
            let flat = [(0.0, 0.0), (width, 0.0), (width, height), (0.0, height)];
            let quad = flat.map(turned);
            let projection = Projection::between(&flat, &quad).expect("no three on a line");
            for (from, to) in flat.into_iter().chain([(width / 3.0, height / 7.0)]).map(|point| (point, turned(point))) {
                let found = projection.of(from);
                prop_assert!((found.0 - to.0).hypot(found.1 - to.1) < 1e-6);
            }
        }
    }
}
