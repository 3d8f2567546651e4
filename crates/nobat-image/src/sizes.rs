//! Where a picture's pixels go: the size it is brought to, and its place on the model's canvas.
//! Pure arithmetic, rounded as the reference processors round.

use crate::picture::Picture;
use crate::resize::resize;
use crate::settings::Resample;

/// How a picture is brought to a size.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Resize {
    /// It keeps its own.
    None,
    /// To width and height, whatever its own.
    Exact(u32, u32),
    /// Its shorter side to the first, its longer side at most the second.
    ShortestEdge(u32, Option<u32>),
    /// The same, both sides then cut to multiples of 16.
    ShortestEdge16(u32, Option<u32>),
    /// As large as it fits into width and height, rounded or cut to whole pixels.
    Fit { width: u32, height: u32, round: bool },
    /// To a height, its width in proportion and rounded up if so said, at least and at most these.
    Height { height: u32, least: u32, most: u32, round_up: bool },
}

/// The canvas that the model sees.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Canvas {
    /// The resized picture itself.
    Own,
    /// Width and height; the picture is in its middle, cropped or with free space around it.
    Centered(u32, u32),
    /// The same, with free space halved as Ultralytics halves it.
    Letterboxed(u32, u32),
    /// The picture is in its upper left corner.
    Corner(u32, u32),
}

/// Where one picture goes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Placement {
    /// Its own width and height.
    pub(crate) from: (u32, u32),
    /// What it is resized to.
    pub(crate) resized: (u32, u32),
    /// The model's canvas.
    pub(crate) canvas: (u32, u32),
    /// Where the resized picture begins on it; less than 0 where it is cropped.
    pub(crate) offset: (i64, i64),
}

impl Placement {
    /// # Errors
    /// Where the picture would become larger than `most_pixels`.
    pub(crate) fn new(from: (u32, u32), resize: Resize, canvas: Canvas, most_pixels: u64) -> Result<Placement, String> {
        let resized = resized(from, resize);
        let (width, height) = resized;
        let (canvas, offset) = match canvas {
            Canvas::Own => (resized, (0, 0)),
            Canvas::Centered(w, h) => {
                let half = |own: u32, other: u32| (i64::from(own) - i64::from(other)).div_euclid(2);
                ((w, h), (-half(width, w), -half(height, h)))
            }
            Canvas::Letterboxed(w, h) => {
                let half =
                    |own: u32, other: u32| ((f64::from(other) - f64::from(own)) / 2.0 - 0.1).round_ties_even() as i64;
                ((w, h), (half(width, w), half(height, h)))
            }
            Canvas::Corner(w, h) => ((w, h), (0, 0)),
        };
        let pixels = |(width, height): (u32, u32)| u64::from(width) * u64::from(height);
        if pixels(resized).max(pixels(canvas)) > most_pixels {
            return Err(format!(
                "of {} x {} pixels becomes one of {width} x {height} for this model, over the {most_pixels} that a \
                 picture may have; send one whose sides are nearer each other",
                from.0, from.1
            ));
        }
        Ok(Placement { from, resized, canvas, offset })
    }

    /// The model's canvas of a picture.
    ///
    /// # Errors
    /// The resizer's refusal.
    pub(crate) fn draw(&self, picture: Picture, how: Resample, fill: u8) -> Result<Picture, String> {
        let (width, height) = self.resized;
        Ok(resize(picture, width, height, how)?.placed(self.canvas, self.offset, fill))
    }

    /// A point of the canvas in pixels of the picture as it was sent, within it.
    pub(crate) fn back(&self, x: f32, y: f32) -> (f32, f32) {
        let (x, y) = self.back_beyond(x, y);
        (x.clamp(0.0, self.from.0 as f32), y.clamp(0.0, self.from.1 as f32))
    }

    /// The same of a point that may be outside the picture.
    pub(crate) fn back_beyond(&self, x: f32, y: f32) -> (f32, f32) {
        let back = |at: f32, offset: i64, resized: u32, from: u32| {
            let scale = f64::from(from) / f64::from(resized.max(1));
            let own = ((f64::from(at) - offset as f64) * scale) as f32;
            if own.is_nan() { 0.0 } else { own }
        };
        (back(x, self.offset.0, self.resized.0, self.from.0), back(y, self.offset.1, self.resized.1, self.from.1))
    }
}

fn resized((width, height): (u32, u32), how: Resize) -> (u32, u32) {
    let (w, h) = (f64::from(width), f64::from(height));
    let side = |value: f64| value.clamp(1.0, f64::from(u32::MAX)) as u32;
    match how {
        Resize::None => (width, height),
        Resize::Exact(width, height) => (width, height),
        Resize::ShortestEdge(edge, longest) => {
            let (short, long) = (w.min(h), w.max(h));
            let mut target = f64::from(edge);
            let mut other = (target * long / short).trunc();
            if let Some(longest) = longest.map(f64::from)
                && target * long / short > longest
            {
                let exact = longest * short / long;
                target = exact.round_ties_even();
                other = (exact * long / short).trunc();
            }
            if width <= height { (side(target), side(other)) } else { (side(other), side(target)) }
        }
        Resize::ShortestEdge16(edge, longest) => {
            let (width, height) = resized((width, height), Resize::ShortestEdge(edge, longest));
            let cut = |side: u32| (side - side % 16).max(16);
            (cut(width), cut(height))
        }
        Resize::Fit { width, height, round } => {
            let ratio = (f64::from(height) / h).min(f64::from(width) / w);
            let whole = |value: f64| side(if round { value.round_ties_even() } else { value.trunc() });
            (whole(w * ratio), whole(h * ratio))
        }
        Resize::Height { height: to, least, most, round_up } => {
            // Python's `int(w * (to / h))` is a pixel less here and there than the exact number.
            let width = if round_up { (w * f64::from(to) / h).ceil() } else { (w * (f64::from(to) / h)).trunc() };
            (side(width).clamp(least.max(1), most.max(1)), to)
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MOST: u64 = 100_000_000;

    fn place(from: (u32, u32), resize: Resize, canvas: Canvas) -> Placement {
        Placement::new(from, resize, canvas, MOST).expect("a placement")
    }

    #[test]
    fn sizes_are_those_of_the_reference_processors() {
        let shortest = |from, edge, longest| resized(from, Resize::ShortestEdge(edge, longest));
        assert_eq!(shortest((640, 480), 224, None), (298, 224));
        assert_eq!(shortest((480, 641), 256, None), (256, 341));
        assert_eq!(shortest((640, 480), 800, Some(1333)), (1066, 800));
        assert_eq!(shortest((2000, 500), 800, Some(1333)), (1333, 333));
        assert_eq!(shortest((500, 2000), 800, Some(1333)), (333, 1333));
        assert_eq!(resized((810, 1080), Resize::Fit { width: 640, height: 640, round: true }), (480, 640));
        let cut = |from| resized(from, Resize::ShortestEdge16(160, Some(256)));
        assert_eq!((cut((640, 480)), cut((2000, 31))), ((208, 160), (256, 16)));
        let line = Resize::Height { height: 48, least: 1, most: 4000, round_up: true };
        assert_eq!(resized((333, 31), line), (516, 48));
        let down = Resize::Height { height: 64, least: 1, most: 4000, round_up: false };
        assert_eq!((resized((160, 60), down), resized((49, 49), down)), ((170, 64), (63, 64)));
        assert_eq!(shortest((1, 60_000), 224, None), (224, 13_440_000));
    }

    #[test]
    fn crops_and_letterboxes_begin_where_the_references_begin() {
        let crop = place((298, 225), Resize::None, Canvas::Centered(224, 224));
        assert_eq!(crop.offset, (-37, 0));
        // Smaller than the crop: free space around it.
        assert_eq!(place((10, 11), Resize::None, Canvas::Centered(16, 16)).offset, (3, 3));
        let boxed =
            place((810, 1080), Resize::Fit { width: 640, height: 640, round: true }, Canvas::Letterboxed(640, 640));
        assert_eq!((boxed.resized, boxed.offset), ((480, 640), (80, 0)));
        let odd = place((100, 33), Resize::Fit { width: 64, height: 64, round: true }, Canvas::Letterboxed(64, 64));
        assert_eq!((odd.resized, odd.offset), ((64, 21), (0, 21)));
    }

    #[test]
    fn a_thread_of_pixels_is_refused_with_what_it_would_become() {
        let refused = Placement::new((1, 60_000), Resize::ShortestEdge(224, None), Canvas::Centered(224, 224), MOST);
        assert!(refused.expect_err("too large").contains("224 x 13440000"));
    }

    proptest! {
        #[test]
        fn points_come_back_to_where_they_were(
            from in (1u32..3000, 1u32..3000), to in (1u32..900, 1u32..900), x in 0.0f32..1.0, y in 0.0f32..1.0,
        ) {
            let resize = Resize::Fit { width: to.0, height: to.1, round: true };
            let placed = place(from, resize, Canvas::Letterboxed(to.0, to.1));
            let there = (
                placed.offset.0 as f32 + x * placed.resized.0 as f32,
                placed.offset.1 as f32 + y * placed.resized.1 as f32,
            );
            let (own_x, own_y) = placed.back(there.0, there.1);
            prop_assert!((own_x - x * from.0 as f32).abs() < 0.01 * from.0 as f32);
            prop_assert!((own_y - y * from.1 as f32).abs() < 0.01 * from.1 as f32);
        }
    }
}
