//! What a YOLO's export says of a thing beside its box: joints, or the angle at which it lies. They are the
//! last numbers of its place.

use crate::metadata::Metadata;

/// What comes after the scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extra {
    None,
    /// Joints, of two numbers each, or of three with how sure they are.
    Keypoints {
        points: usize,
        numbers: usize,
    },
    /// Radians; the box is then a centre and a size in every layout.
    Angle,
}

impl Extra {
    /// As Ultralytics' metadata says.
    pub(super) fn of(metadata: &Metadata, found: &mut Vec<String>) -> Extra {
        match (metadata.task.as_deref(), metadata.keypoints) {
            (Some("obb"), _) => Extra::Angle,
            (Some("pose"), Some((points, numbers))) => Extra::Keypoints { points, numbers },
            (Some("pose"), None) => {
                found.push("key points are left out: the file's metadata has no `kpt_shape`".to_owned());
                Extra::None
            }
            _ => Extra::None,
        }
    }

    /// How many numbers a place has of it.
    pub(super) fn count(self) -> usize {
        match self {
            Extra::None => 0,
            Extra::Keypoints { points, numbers } => points * numbers,
            Extra::Angle => 1,
        }
    }
}
