//! A thing in a picture, as callers see it.

use serde::Serialize;

/// A thing in a picture.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Detection {
    pub(crate) label: String,
    pub(crate) score: f32,
    #[serde(rename = "box")]
    pub(crate) place: Place,
    /// Run lengths of its outline over the picture, row by row, others first; where they are asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) counts: Option<Vec<u32>>,
    /// Its joints, in the order of the model's makers; of `pose` models.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) keypoints: Option<Vec<Keypoint>>,
    /// The corners of the box that lies as it does, which may be outside the picture; of `obb` models.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) corners: Option<[Point; 4]>,
}

/// A box in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Place {
    pub(crate) xmin: f32,
    pub(crate) ymin: f32,
    pub(crate) xmax: f32,
    pub(crate) ymax: f32,
}

impl Place {
    /// The box of two corners, to a hundredth of a pixel.
    pub(crate) fn of((xmin, ymin): (f32, f32), (xmax, ymax): (f32, f32)) -> Place {
        Place { xmin: rounded(xmin), ymin: rounded(ymin), xmax: rounded(xmax), ymax: rounded(ymax) }
    }
}

/// A point in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Point {
    pub(crate) x: f32,
    pub(crate) y: f32,
}

impl Point {
    /// To a hundredth of a pixel.
    pub(crate) fn of((x, y): (f32, f32)) -> Point {
        Point { x: rounded(x), y: rounded(y) }
    }
}

/// A joint in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Keypoint {
    #[serde(flatten)]
    pub(crate) at: Point,
    /// How sure it is that it can be seen, where the graph says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) score: Option<f32>,
}

fn rounded(pixels: f32) -> f32 {
    (pixels * 100.0).round() / 100.0
}
