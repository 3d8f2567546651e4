//! Things in pictures: from a detector's outputs to boxes in pixels of the picture as it was sent.

mod nms;
mod queries;
mod yolo;

use nobat_core::signature::TensorSpec;
use nobat_core::{Error, ErrorCode, Result};
use nobat_transform::SessionOutput;
use serde::Serialize;

use crate::graph::Output;
use crate::masks::Prototypes;
use crate::metadata::Metadata;
use crate::numbers::Numbers;
use crate::options::Options;
use crate::settings::{Boxes, ImageSettings};
use crate::sizes::Placement;
use nms::{Candidate, suppress};

/// Names of DETR's outputs for classes and for boxes.
const LOGITS: [&str; 3] = ["logits", "pred_logits", "scores"];
const PRED_BOXES: [&str; 2] = ["pred_boxes", "boxes"];
/// Most boxes of a graph that removes overlaps itself.
const MOST_READY: usize = 1000;

/// The way from a detector's outputs to boxes.
#[derive(Clone, Debug)]
pub(crate) struct Detector {
    boxes: Boxes,
    /// Boxes, or all in one; DETR's classes.
    output: Output,
    /// Boxes of DETR; scores and classes of SSD; prototypes of masks.
    others: Vec<Output>,
    /// Classes, where they are known.
    classes: Option<usize>,
}

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
}

/// A box in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Place {
    xmin: f32,
    ymin: f32,
    xmax: f32,
    ymax: f32,
}

impl Detector {
    /// Finds the layout: as the settings or the metadata say, else by the outputs' names and shapes.
    ///
    /// # Errors
    /// Outputs that are laid out as none that is known.
    pub(crate) fn new(
        specs: &[TensorSpec],
        settings: &ImageSettings,
        metadata: &Metadata,
        model_type: Option<&str>,
        labels: Option<usize>,
        found: &mut Vec<String>,
    ) -> Result<Detector> {
        let of = |names: &[&str]| names.iter().find_map(|name| Output::named(specs, name));
        let queries = of(&LOGITS).zip(of(&PRED_BOXES));
        let ssd = [of(&["detection_boxes"]), of(&["detection_scores"]), of(&["detection_classes"])];
        let boxes = match settings.boxes {
            Some(boxes) => boxes,
            None if ssd.iter().all(Option::is_some) => Boxes::Ssd,
            None if queries.is_some() => {
                let each = model_type.is_some_and(|name| {
                    ["rt_detr", "d_fine", "deformable_detr", "conditional_detr"].iter().any(|own| name.starts_with(own))
                });
                if model_type.is_none() {
                    found.push("boxes as DETR lays them out: a guess, `boxes = \"rt_detr\"` is the other".into());
                }
                if each { Boxes::RtDetr } else { Boxes::Detr }
            }
            None => Detector::of_shape(specs, settings, metadata, labels, found)?,
        };
        let missing = |what: &str| {
            let there: Vec<String> = specs.iter().map(|spec| format!("{} {:?}", spec.name, spec.shape)).collect();
            Error::invalid(format!(
                "boxes of this layout need {what}, and the graph's outputs are: {}; set another `boxes` in `[image]` \
                 of model.toml",
                there.join(", ")
            ))
        };
        let (output, others) = match boxes {
            Boxes::Ssd => match ssd {
                [Some(boxes), Some(scores), Some(classes)] => (boxes, vec![scores, classes]),
                _ => return Err(missing("`detection_boxes`, `detection_scores` and `detection_classes`")),
            },
            Boxes::Detr | Boxes::RtDetr => {
                let (logits, boxes) = queries.ok_or_else(|| missing("`logits` and `pred_boxes`"))?;
                (logits, vec![boxes])
            }
            _ => (yolo_output(specs, settings)?, prototypes(specs).into_iter().collect()),
        };
        let classes = labels.or(match boxes {
            Boxes::Yolov5 | Boxes::Yolox => output.axis(2).and_then(|width| width.checked_sub(5)),
            Boxes::Yolov8 => output.axis(1).and_then(|width| width.checked_sub(4)),
            _ => None,
        });
        Ok(Detector { boxes, output, others, classes })
    }

    /// The layout of one output, by its shape and the number of classes.
    fn of_shape(
        specs: &[TensorSpec],
        settings: &ImageSettings,
        metadata: &Metadata,
        labels: Option<usize>,
        found: &mut Vec<String>,
    ) -> Result<Boxes> {
        let output = yolo_output(specs, settings)?;
        let (lines, columns) = (output.axis(1), output.axis(2));
        let shape = &output.shape;
        let fits = |own: Option<usize>, more: usize| labels.is_some() && own == labels.map(|count| count + more);
        let ready = columns.is_some_and(|columns| columns >= 6) && lines.is_some_and(|lines| lines <= MOST_READY);
        let boxes = if metadata.end2end || (columns == Some(6) && ready) {
            Boxes::End2end
        } else if fits(lines, 4) || (metadata.task.is_some() && columns > lines) {
            Boxes::Yolov8
        } else if fits(columns, 5) {
            Boxes::Yolov5
        } else {
            let (lines, columns) = lines.zip(columns).ok_or_else(|| {
                Error::invalid(format!(
                    "output `{}` is {shape:?}, which does not show how boxes are laid out; set `boxes` in `[image]` of \
                     model.toml: yolov5, yolov8, end2end, yolox",
                    output.name
                ))
            })?;
            let boxes = if lines < columns { Boxes::Yolov8 } else { Boxes::Yolov5 };
            found.push(format!("boxes as {boxes:?} lays them out: a guess, output `{}` is {shape:?}", output.name));
            boxes
        };
        Ok(boxes)
    }

    /// What it is, for the log.
    pub(crate) fn layout(&self) -> Boxes {
        self.boxes
    }

    /// Whether the graph gives outlines, too.
    pub(crate) fn has_masks(&self) -> bool {
        matches!(self.boxes, Boxes::Yolov5 | Boxes::Yolov8 | Boxes::End2end) && !self.others.is_empty()
    }

    /// Least score where nothing else is said.
    pub(crate) fn default_threshold(&self) -> f32 {
        match self.boxes {
            Boxes::Detr | Boxes::RtDetr | Boxes::Ssd => 0.5,
            _ => 0.25,
        }
    }

    /// The things in each row's picture, the best first.
    ///
    /// # Errors
    /// `inference_failed` where the outputs do not fit the rows.
    pub(crate) fn finish(
        &self,
        outputs: &[SessionOutput<'_>],
        rows: &[(Placement, &Options)],
        labels: &[String],
    ) -> Result<Vec<Vec<Detection>>> {
        let read = |output: &Output| Numbers::new(outputs, output.at, &output.name, rows.len());
        let numbers = read(&self.output)?;
        let others: Vec<Numbers<'_>> = self.others.iter().map(read).collect::<Result<_>>()?;
        let (lines, columns) = (numbers.axis(1), numbers.axis(2));
        let fewest = match self.boxes {
            Boxes::Yolov5 | Boxes::Yolox => columns >= 6,
            Boxes::Yolov8 => lines >= 5,
            Boxes::End2end => columns >= 6,
            Boxes::Ssd => columns == 4,
            Boxes::Detr | Boxes::RtDetr => columns >= 1,
        };
        if numbers.shape.len() != 3 || !fewest {
            return Err(Error::new(
                ErrorCode::InferenceFailed,
                format!(
                    "output `{}` of the graph is {:?}, which is not laid out as `boxes` in `[image]` of model.toml says",
                    self.output.name, numbers.shape
                ),
            ));
        }
        let each = rows.iter().enumerate().map(|(row, (placement, options))| {
            let mut own = numbers.row(row);
            let threshold = options.threshold;
            let classes = |all: usize| self.classes.unwrap_or(all).min(all);
            let found = match self.boxes {
                Boxes::Yolov5 => yolo::with_objectness(&own, columns, classes(columns - 5), threshold),
                Boxes::Yolox => {
                    yolo::of_grids(&mut own, columns, placement.canvas);
                    yolo::with_objectness(&own, columns, classes(columns - 5), threshold)
                }
                Boxes::Yolov8 => yolo::transposed(&own, columns, classes(lines - 4), threshold),
                Boxes::End2end => yolo::end_to_end(&own, columns, threshold),
                Boxes::Detr => queries::with_nothing(&own, &others[0].row(row), columns, threshold),
                Boxes::RtDetr => queries::by_class(&own, &others[0].row(row), columns, threshold),
                Boxes::Ssd => ssd(&own, &others[0].row(row), &others[1].row(row), threshold),
            };
            let found = match self.boxes {
                Boxes::Yolov5 | Boxes::Yolov8 | Boxes::Yolox => suppress(found, options.iou, options.max_detections),
                _ => {
                    let mut found = found;
                    nms::sort(&mut found);
                    found.truncate(options.max_detections);
                    found
                }
            };
            let masks = (self.has_masks() && options.run_lengths).then(|| others[0].row(row));
            let one = |found: &Candidate| {
                let mut detection = self.detection(found, placement, labels);
                if let Some(planes) = &masks {
                    let prototypes = Prototypes {
                        numbers: planes,
                        count: others[0].axis(1),
                        width: others[0].axis(3),
                        height: others[0].axis(2),
                    };
                    let weights = self.weights(&own, (lines, columns), found.place, prototypes.count);
                    let Place { xmin, ymin, xmax, ymax } = detection.place;
                    detection.counts = Some(prototypes.counts(&weights, [xmin, ymin, xmax, ymax], placement));
                }
                detection
            };
            found.iter().map(one).collect()
        });
        Ok(each.collect())
    }

    /// What a thing weighs its prototypes by: the last numbers of its place.
    fn weights(&self, own: &[f32], (lines, columns): (usize, usize), place: usize, count: usize) -> Vec<f32> {
        match self.boxes {
            Boxes::Yolov8 => {
                let first = lines.saturating_sub(count);
                (first..lines).filter_map(|line| own.get(line * columns + place)).copied().collect()
            }
            _ => {
                let end = (place + 1) * columns;
                own.get(end.saturating_sub(count.min(columns))..end).unwrap_or_default().to_vec()
            }
        }
    }

    fn detection(&self, found: &Candidate, placement: &Placement, labels: &[String]) -> Detection {
        let [x1, y1, x2, y2] = found.corners;
        let shares = matches!(self.boxes, Boxes::Detr | Boxes::RtDetr | Boxes::Ssd);
        let point = |x: f32, y: f32| match shares {
            // Of the picture, wherever it lies on the canvas.
            true => {
                let (width, height) = placement.from;
                let of = |share: f32, side: u32| if share.is_nan() { 0.0 } else { share.clamp(0.0, 1.0) * side as f32 };
                (of(x, width), of(y, height))
            }
            false => placement.back(x, y),
        };
        let ((xmin, ymin), (xmax, ymax)) = (point(x1, y1), point(x2, y2));
        let round = |pixels: f32| (pixels * 100.0).round() / 100.0;
        let place = Place { xmin: round(xmin), ymin: round(ymin), xmax: round(xmax), ymax: round(ymax) };
        let label = labels.get(found.class).cloned().unwrap_or_else(|| found.class.to_string());
        Detection { label, score: found.score, place, counts: None }
    }
}

/// The output of a YOLO: the one that is set, else the first of three axes.
fn yolo_output(specs: &[TensorSpec], settings: &ImageSettings) -> Result<Output> {
    let first = specs.iter().find(|spec| spec.shape.len() == 3).map(|spec| spec.name.as_str());
    let names: Vec<&str> = ["output0", "output"].into_iter().chain(first).collect();
    Output::find(specs, settings.output.as_deref(), &names, &[3])
}

/// Ultralytics' prototypes of masks: a second output of planes.
fn prototypes(specs: &[TensorSpec]) -> Option<Output> {
    let spec = specs.iter().find(|spec| spec.shape.len() == 4)?;
    Output::named(specs, &spec.name)
}

/// TensorFlow's: corners with the upper edge first, in shares; classes from 1.
fn ssd(boxes: &[f32], scores: &[f32], classes: &[f32], threshold: f32) -> Vec<Candidate> {
    let one = |(place, ((&[top, left, bottom, right], &score), &class)): (usize, ((&[f32; 4], &f32), &f32))| {
        let valid = score > threshold && class >= 1.0;
        valid.then_some(Candidate { class: class as usize - 1, score, corners: [left, top, right, bottom], place })
    };
    boxes.as_chunks().0.iter().zip(scores).zip(classes).enumerate().filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use nobat_core::tensor::Datatype;

    use super::*;
    use crate::sizes::{Canvas, Resize};

    fn spec(name: &str, shape: &[i64]) -> TensorSpec {
        TensorSpec { name: name.into(), datatype: Datatype::Fp32, shape: shape.to_vec(), optional: false }
    }

    fn layout(specs: &[TensorSpec], labels: Option<usize>) -> (Boxes, usize) {
        let mut found = Vec::new();
        let metadata = Metadata::default();
        let detector = Detector::new(specs, &ImageSettings::default(), &metadata, None, labels, &mut found);
        (detector.expect("a layout").layout(), found.len())
    }

    #[test]
    fn layouts_are_known_by_names_and_shapes_and_guesses_are_said() {
        assert_eq!(layout(&[spec("output0", &[1, 84, 8400])], Some(80)), (Boxes::Yolov8, 0));
        assert_eq!(layout(&[spec("output", &[1, 25_200, 85])], Some(80)), (Boxes::Yolov5, 0));
        assert_eq!(layout(&[spec("output0", &[1, 300, 6])], Some(80)), (Boxes::End2end, 0));
        assert_eq!(layout(&[spec("output0", &[1, 6, 8400])], None), (Boxes::Yolov8, 1));
        assert_eq!(
            layout(&[spec("logits", &[-1, 100, 92]), spec("pred_boxes", &[-1, 100, 4])], None),
            (Boxes::Detr, 1)
        );
        let ssd = ["detection_boxes", "detection_scores", "detection_classes", "num_detections"];
        assert_eq!(layout(&ssd.map(|name| spec(name, &[1, -1, 4])), None), (Boxes::Ssd, 0));
        let open = [spec("output0", &[-1, -1, -1])];
        let refused =
            Detector::new(&open, &ImageSettings::default(), &Metadata::default(), None, None, &mut Vec::new());
        assert!(refused.expect_err("no shape").message.contains("set `boxes`"));
    }

    #[test]
    fn boxes_are_in_pixels_of_the_picture_that_was_sent() {
        let specs = [spec("output0", &[1, 6, 2])];
        let mut settings = ImageSettings { boxes: Some(Boxes::Yolov8), ..ImageSettings::default() };
        let detector = |settings: &ImageSettings, specs: &[TensorSpec]| {
            Detector::new(specs, settings, &Metadata::default(), None, None, &mut Vec::new()).expect("a detector")
        };
        let placement = Placement::new(
            (1280, 640),
            Resize::Fit { width: 640, height: 640, round: true },
            Canvas::Letterboxed(640, 640),
            u64::MAX,
        )
        .expect("a placement");
        let options =
            Options { top_k: 5, threshold: 0.25, iou: 0.7, max_detections: 300, normalize: false, run_lengths: false };
        // Free space of 160 above: y from 160 to 480 is the picture, halved.
        let numbers = [100.0f32, 0.0, 260.0, 0.0, 20.0, 0.0, 40.0, 0.0, 0.1, 0.0, 0.9, 0.0];
        let data: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        let output = SessionOutput { datatype: Datatype::Fp32, shape: &[1, 6, 2], data: &data };
        let labels = ["cat".to_owned(), "dog".to_owned()];
        let found = detector(&settings, &specs).finish(&[output], &[(placement, &options)], &labels).expect("found");
        let place = Place { xmin: 180.0, ymin: 160.0, xmax: 220.0, ymax: 240.0 };
        assert_eq!(found, [[Detection { label: "dog".into(), score: 0.9, place, counts: None }]]);
        assert_eq!(
            serde_json::to_string(&found[0]).expect("JSON"),
            r#"[{"label":"dog","score":0.9,"box":{"xmin":180.0,"ymin":160.0,"xmax":220.0,"ymax":240.0}}]"#
        );
        settings.boxes = Some(Boxes::Yolov5);
        let refused = detector(&settings, &specs).finish(&[output], &[(placement, &options)], &labels);
        assert!(refused.expect_err("too narrow").message.contains("[1, 6, 2]"));
    }

    #[test]
    fn outlines_are_given_to_those_who_ask() {
        let specs = [spec("output0", &[1, 6, 2]), spec("output1", &[1, 1, 2, 2])];
        let settings = ImageSettings { boxes: Some(Boxes::Yolov8), ..ImageSettings::default() };
        let detector = Detector::new(&specs, &settings, &Metadata::default(), None, Some(1), &mut Vec::new());
        let detector = detector.expect("a detector");
        assert!(detector.has_masks());
        let placement = Placement::new((4, 4), Resize::Exact(8, 8), Canvas::Own, u64::MAX).expect("a placement");
        // One thing over the whole canvas, weighed -1: where the prototype, its right half, is negative.
        let numbers = [4.0f32, 0.0, 4.0, 0.0, 8.0, 0.0, 8.0, 0.0, 0.9, 0.0, -1.0, 0.0];
        let planes = [-1.0f32, 1.0, -1.0, 1.0];
        let bytes = |numbers: &[f32]| numbers.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<u8>>();
        let (data, planes) = (bytes(&numbers), bytes(&planes));
        let outputs = [
            SessionOutput { datatype: Datatype::Fp32, shape: &[1, 6, 2], data: &data },
            SessionOutput { datatype: Datatype::Fp32, shape: &[1, 1, 2, 2], data: &planes },
        ];
        let mut options =
            Options { top_k: 5, threshold: 0.25, iou: 0.7, max_detections: 300, normalize: false, run_lengths: true };
        let found = detector.finish(&outputs, &[(placement, &options)], &["cat".to_owned()]).expect("found");
        assert_eq!(found[0][0].counts, Some(vec![0, 2, 2, 2, 2, 2, 2, 2, 2]));
        options.run_lengths = false;
        let found = detector.finish(&outputs, &[(placement, &options)], &["cat".to_owned()]).expect("found");
        assert_eq!(found[0][0].counts, None);
    }
}
