//! Things in pictures: from a detector's outputs to boxes in pixels of the picture as it was sent.

mod detection;
mod extra;
mod nms;
mod queries;
mod rotated;
mod yolo;

use nobat_core::signature::TensorSpec;
use nobat_core::{Error, ErrorCode, Result};
use nobat_transform::SessionOutput;

use crate::graph::Output;
use crate::masks::Prototypes;
use crate::metadata::Metadata;
use crate::numbers::Numbers;
use crate::options::Options;
use crate::settings::{Boxes, ImageSettings};
use crate::sizes::Placement;
pub(crate) use detection::Detection;
use detection::{Keypoint, Place, Point};
use extra::Extra;
use nms::{Candidate, suppress};
use rotated::Rect;

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
    /// What places say beside them.
    extra: Extra,
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
        let extra = Extra::of(metadata, found);
        let classes = labels.or(match boxes {
            Boxes::Yolov5 | Boxes::Yolox => output.axis(2).and_then(|width| width.checked_sub(5)),
            Boxes::Yolov8 => output.axis(1).and_then(|width| width.checked_sub(4 + extra.count())),
            _ => None,
        });
        let extra = if matches!(boxes, Boxes::Yolov8 | Boxes::End2end) { extra } else { Extra::None };
        Ok(Detector { boxes, output, others, classes, extra })
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
        let extra = Extra::of(metadata, &mut Vec::new()).count();
        let ready = columns.is_some_and(|columns| columns >= 6) && lines.is_some_and(|lines| lines <= MOST_READY);
        let boxes = if metadata.end2end || (columns == Some(6 + extra) && ready) {
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
            Boxes::Yolov8 => lines >= 5 + self.extra.count(),
            Boxes::End2end => columns >= 6 + self.extra.count(),
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
                Boxes::Yolov8 => yolo::transposed(&own, columns, classes(lines - 4 - self.extra.count()), threshold),
                Boxes::End2end => yolo::end_to_end(&own, columns, threshold),
                Boxes::Detr => queries::with_nothing(&own, &others[0].row(row), columns, threshold),
                Boxes::RtDetr => queries::by_class(&own, &others[0].row(row), columns, threshold),
                Boxes::Ssd => ssd(&own, &others[0].row(row), &others[1].row(row), threshold),
            };
            let axes = (lines, columns);
            let found = match self.boxes {
                Boxes::Yolov8 if self.extra == Extra::Angle => {
                    let rect = |candidate: &Candidate| self.rect(&own, axes, candidate.place);
                    rotated::suppress(found, rect, options.iou, options.max_detections)
                }
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
                self.add_extra(&mut detection, found.place, &own, axes, placement);
                if let Some(planes) = &masks {
                    let prototypes = Prototypes {
                        numbers: planes,
                        count: others[0].axis(1),
                        width: others[0].axis(3),
                        height: others[0].axis(2),
                    };
                    let weights = self.last(&own, axes, found.place, prototypes.count);
                    let Place { xmin, ymin, xmax, ymax } = detection.place;
                    detection.counts = Some(prototypes.counts(&weights, [xmin, ymin, xmax, ymax], placement));
                }
                detection
            };
            found.iter().map(one).collect()
        });
        Ok(each.collect())
    }

    /// Joints, or the corners of a box at an angle.
    fn add_extra(
        &self,
        detection: &mut Detection,
        place: usize,
        own: &[f32],
        axes: (usize, usize),
        placement: &Placement,
    ) {
        match self.extra {
            Extra::None => {}
            Extra::Keypoints { numbers, .. } => {
                let all = self.last(own, axes, place, self.extra.count());
                let one = |own: &[f32]| Keypoint {
                    at: Point::of(placement.back(own[0], own[1])),
                    score: own.get(2).copied(),
                };
                detection.keypoints = Some(all.chunks_exact(numbers).map(one).collect());
            }
            Extra::Angle => {
                let corners = self.rect(own, axes, place).corners();
                let within = corners.map(|(x, y)| placement.back(x, y));
                let most = |side: fn(&(f32, f32)) -> f32| within.iter().map(side).fold(f32::MIN, f32::max);
                let least = |side: fn(&(f32, f32)) -> f32| within.iter().map(side).fold(f32::MAX, f32::min);
                let (x, y): (fn(&(f32, f32)) -> f32, fn(&(f32, f32)) -> f32) = (|at| at.0, |at| at.1);
                detection.place = Place::of((least(x), least(y)), (most(x), most(y)));
                detection.corners = Some(corners.map(|(x, y)| Point::of(placement.back_beyond(x, y))));
            }
        }
    }

    /// A box at an angle: centre and size are the first numbers of its place, the angle is the last.
    fn rect(&self, own: &[f32], (lines, columns): (usize, usize), place: usize) -> Rect {
        let number = |at: usize| match self.boxes {
            Boxes::Yolov8 => own.get(at * columns + place),
            _ => own.get(place * columns + at),
        };
        let [x, y, width, height] = [0, 1, 2, 3].map(|at| number(at).copied().unwrap_or(0.0));
        let last = if self.boxes == Boxes::Yolov8 { lines } else { columns }.saturating_sub(1);
        Rect { x, y, width, height, angle: number(last).copied().unwrap_or(0.0) }
    }

    /// The last numbers of a place: what a thing weighs its prototypes by, its joints.
    fn last(&self, own: &[f32], (lines, columns): (usize, usize), place: usize, count: usize) -> Vec<f32> {
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
        let place = Place::of(point(x1, y1), point(x2, y2));
        let label = labels.get(found.class).cloned().unwrap_or_else(|| found.class.to_string());
        Detection { label, score: found.score, place, counts: None, keypoints: None, corners: None }
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
mod tests;
