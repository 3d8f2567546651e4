//! Pixels of three channels, and what is between them.

use nobat_core::Result;
use nobat_core::tensor::Tensor;

use super::tensors::invalid;

/// Red, green and blue of a picture, row by row.
pub(super) struct Pixels<'a> {
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) data: &'a [u8],
}

impl<'a> Pixels<'a> {
    /// Pixels of a tensor of height, width and three channels.
    pub(super) fn of(tensor: &'a Tensor) -> Result<Pixels<'a>> {
        match tensor.shape[..] {
            [height, width, 3] if height > 0 && width > 0 => {
                Ok(Pixels { width: width as usize, height: height as usize, data: &tensor.data })
            }
            _ => Err(invalid(format!("pixels are of height, width and 3 channels, not {:?}", tensor.shape.as_slice()))),
        }
    }

    /// A pixel; outside of the picture the nearest one inside.
    pub(super) fn at(&self, x: i64, y: i64) -> [u8; 3] {
        let x = x.clamp(0, self.width as i64 - 1) as usize;
        let y = y.clamp(0, self.height as i64 - 1) as usize;
        let at = (y * self.width + x) * 3;
        [self.data[at], self.data[at + 1], self.data[at + 2]]
    }

    /// The picture at another size, each pixel from its four neighbours, as OpenCV's
    /// `INTER_LINEAR` does (no smoothing where it becomes smaller).
    pub(super) fn resized(&self, width: usize, height: usize) -> Vec<u8> {
        let axis = |to: usize, from: usize| -> Vec<(i64, f32)> {
            let scale = from as f64 / to as f64;
            let place = |at: usize| {
                let place = ((at as f64 + 0.5) * scale - 0.5).clamp(0.0, (from - 1) as f64);
                (place.floor() as i64, place.fract() as f32)
            };
            (0..to).map(place).collect()
        };
        let (columns, rows) = (axis(width, self.width), axis(height, self.height));
        let mut out = Vec::with_capacity(width * height * 3);
        for &(y, down) in &rows {
            for &(x, right) in &columns {
                let (a, b, c, d) = (self.at(x, y), self.at(x + 1, y), self.at(x, y + 1), self.at(x + 1, y + 1));
                out.extend(std::array::from_fn::<u8, 3, _>(|channel| {
                    let mix = |one: u8, other: u8| f32::from(one) * (1.0 - right) + f32::from(other) * right;
                    let (upper, lower) = (mix(a[channel], b[channel]), mix(c[channel], d[channel]));
                    (upper * (1.0 - down) + lower * down).round() as u8
                }));
            }
        }
        out
    }

    /// What is at a place between pixels, from sixteen of them (bicubic, a = -0.75 as in OpenCV).
    pub(super) fn between(&self, x: f64, y: f64) -> [u8; 3] {
        let (left, top) = (x.floor(), y.floor());
        let (across, down) = (cubic(x - left), cubic(y - top));
        let mut sums = [0.0; 3];
        for (row, by_row) in down.into_iter().enumerate() {
            for (column, by_column) in across.into_iter().enumerate() {
                let pixel = self.at(left as i64 + column as i64 - 1, top as i64 + row as i64 - 1);
                sums.iter_mut().zip(pixel).for_each(|(sum, value)| *sum += by_row * by_column * f64::from(value));
            }
        }
        sums.map(|sum| sum.round().clamp(0.0, 255.0) as u8)
    }
}

/// The weights of four neighbours at distance `by` from the second.
fn cubic(by: f64) -> [f64; 4] {
    const A: f64 = -0.75;
    let near = |x: f64| ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0;
    let far = |x: f64| ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A;
    [far(1.0 + by), near(by), near(1.0 - by), far(2.0 - by)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_of_the_same_size_stays_as_it_is() {
        let data: Vec<u8> = (0..4 * 5 * 3).map(|at| (at * 37 % 256) as u8).collect();
        let pixels = Pixels { width: 4, height: 5, data: &data };
        assert_eq!(pixels.resized(4, 5), data);
        for (x, y) in [(0, 0), (3, 4), (1, 2)] {
            assert_eq!(pixels.between(x as f64, y as f64), pixels.at(x, y));
        }
        assert_eq!(pixels.at(-3, 9), pixels.at(0, 4), "outside");
    }

    #[test]
    fn twice_the_size_mixes_neighbours() {
        let data = [0, 0, 0, 100, 100, 100];
        let pixels = Pixels { width: 2, height: 1, data: &data };
        let wide: Vec<u8> = pixels.resized(4, 1).into_iter().step_by(3).collect();
        assert_eq!(wide, [0, 25, 75, 100]);
        assert_eq!(pixels.between(0.5, 0.0), [50, 50, 50]);
    }
}
