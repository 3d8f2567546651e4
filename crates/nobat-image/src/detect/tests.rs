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
    assert_eq!(layout(&[spec("logits", &[-1, 100, 92]), spec("pred_boxes", &[-1, 100, 4])], None), (Boxes::Detr, 1));
    let ssd = ["detection_boxes", "detection_scores", "detection_classes", "num_detections"];
    assert_eq!(layout(&ssd.map(|name| spec(name, &[1, -1, 4])), None), (Boxes::Ssd, 0));
    let open = [spec("output0", &[-1, -1, -1])];
    let refused = Detector::new(&open, &ImageSettings::default(), &Metadata::default(), None, None, &mut Vec::new());
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
    assert_eq!((found[0].len(), found[0][0].place, found[0][0].score), (1, place, 0.9));
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
