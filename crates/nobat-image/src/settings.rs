//! `[image]` of a model's `model.toml`: what its owner says where the model's files do not, or says
//! otherwise.

use serde::{Deserialize, Serialize};

/// How pixels of another size are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resample {
    /// The pixel that a centre falls on.
    Nearest,
    /// OpenCV's `INTER_LINEAR`: two neighbours each way, also of much larger pictures.
    Linear,
    /// Pillow's, as the following: kernels as wide as the scale asks for.
    Box,
    /// Triangles.
    Bilinear,
    /// Sharper triangles.
    Hamming,
    /// Cubics with a = -0.5.
    Bicubic,
    /// Three lobes.
    Lanczos,
}

/// The order of a tensor's axes behind the rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layout {
    /// Channels, height, width.
    Nchw,
    /// Height, width, channels.
    Nhwc,
}

/// The channels of the model's tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Channels {
    /// Red, green, blue.
    Rgb,
    /// Blue, green, red, as OpenCV reads pictures.
    Bgr,
    /// One, of the colours' weighed mean.
    #[serde(alias = "gray")]
    Grey,
}

impl Channels {
    /// How many there are.
    pub(crate) fn count(self) -> usize {
        if self == Channels::Grey { 1 } else { 3 }
    }
}

/// Where the width of a line goes that is no whole number of pixels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RoundWidth {
    /// PaddleOCR's readers.
    #[default]
    Up,
    /// Python's `int(width * (height / own_height))`.
    Down,
}

/// What becomes of grey values of 16 bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SixteenBit {
    /// Those over 255 are 255, as Pillow has it.
    #[default]
    Clip,
    /// Their upper eight bits.
    Scale,
}

/// What makes scores of numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// They are scores already.
    None,
    /// Each by itself.
    Sigmoid,
    /// All together; they sum to one.
    Softmax,
}

/// How a detector's outputs are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Boxes {
    /// `[boxes, 5 + classes]`: centre, size, objectness, scores.
    Yolov5,
    /// `[4 + classes, boxes]`: centre, size, scores.
    Yolov8,
    /// `[boxes, 6]`: corners, score, class, overlaps removed in the graph.
    End2end,
    /// As `yolov5`, centres and sizes in cells of the grids of strides 8, 16 and 32.
    Yolox,
    /// `logits` with a last class for nothing, and `pred_boxes`: centre and size as shares.
    Detr,
    /// `logits` and `pred_boxes`, each class scored by itself.
    RtDetr,
    /// TensorFlow's `detection_boxes`, `detection_scores`, `detection_classes`.
    Ssd,
}

/// Which class means no character.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Blank {
    /// The first, before the characters.
    #[default]
    First,
    /// The last, after them.
    Last,
}

/// One number for both sides, or height and width.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Size {
    /// Of a square.
    Square(u32),
    /// Height and width.
    Sides([u32; 2]),
}

impl Size {
    /// Width and height.
    pub(crate) fn sides(self) -> (u32, u32) {
        match self {
            Size::Square(side) => (side, side),
            Size::Sides([height, width]) => (width, height),
        }
    }
}

/// One number for all channels, or one for each.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum PerChannel {
    /// For all.
    All(f64),
    /// In the order of the model's channels.
    Each(Vec<f64>),
}

/// What a model's owner says of it; everything is optional.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ImageSettings {
    /// `classify`, `detect`, `segment`, `read`, `embed`, or `tensors` for the graph as it is.
    pub task: Option<String>,
    /// Which ONNX file of a Hugging Face folder: `fp16` for `model_fp16.onnx`, or a path in the folder.
    pub variant: Option<String>,
    /// The graph's input that takes pictures.
    pub input: Option<String>,
    /// The graph's output that is read.
    pub output: Option<String>,
    /// The size that pictures are brought to.
    pub size: Option<Size>,
    /// Their shorter side instead.
    pub shortest_edge: Option<u32>,
    /// The most that their longer side may then have.
    pub longest_edge: Option<u32>,
    /// What is cut out of their middle.
    pub crop: Option<Size>,
    /// Whether they are fitted into `size`, with free space around.
    pub letterbox: Option<bool>,
    /// The value of free space.
    pub fill: Option<u8>,
    /// The height of text lines, whose width follows.
    pub height: Option<u32>,
    /// The least width of a line; narrower ones are filled up with zeros.
    pub least_width: Option<u32>,
    /// The most width of a line; wider ones are squeezed.
    pub most_width: Option<u32>,
    /// How pixels of another size are made.
    pub resample: Option<Resample>,
    /// Whether a line's width, in proportion, is rounded up to whole pixels or down.
    pub round_width: Option<RoundWidth>,
    /// Whether colours become grey behind the resizing; else before it.
    pub grey_after_resize: Option<bool>,
    /// What pixels of 0 to 255 are multiplied by first.
    pub rescale: Option<f64>,
    /// What is taken from them then.
    pub mean: Option<PerChannel>,
    /// What they are divided by last.
    pub std: Option<PerChannel>,
    /// The order of the tensor's axes.
    pub layout: Option<Layout>,
    /// The order of its channels.
    pub channels: Option<Channels>,
    /// Most pixels of a picture that is decoded.
    pub max_pixels: Option<u64>,
    /// What becomes of grey values of 16 bits.
    pub sixteen_bit: Option<SixteenBit>,
    /// Names of the classes, by their number.
    pub labels: Option<Vec<String>>,
    /// What makes scores of the classes' numbers.
    pub activation: Option<Activation>,
    /// Labels of a picture where a request does not say.
    pub top_k: Option<usize>,
    /// How a detector's outputs are laid out.
    pub boxes: Option<Boxes>,
    /// Least score of what is detected where a request does not say.
    pub threshold: Option<f64>,
    /// Most overlap of two boxes of a class.
    pub iou: Option<f64>,
    /// Most boxes of a picture.
    pub max_detections: Option<usize>,
    /// The file with the characters, one a line or a JSON list, beside the model.
    pub characters: Option<String>,
    /// Which class means no character.
    pub blank: Option<Blank>,
    /// Whether vectors are brought to length 1.
    pub normalize: Option<bool>,
    /// What the cosine of picture and text is multiplied by before labels are scored, of towers in two files.
    pub logit_scale: Option<f64>,
}
