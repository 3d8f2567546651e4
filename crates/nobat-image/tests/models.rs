//! Whole models through their transformation, without a session: what the graph is given, and what is made
//! of what it gives.

use std::collections::BTreeMap;
use std::path::Path;

use nobat_core::parameters::{Parameter, Parameters};
use nobat_core::signature::TensorSpec;
use nobat_core::tensor::{Datatype, Tensor, put_bytes_element, take_bytes_element};
use nobat_image::{Graph, ImageModel, ImageSettings, Reading};
use nobat_transform::{Finished, Prepared, Row, SessionOutput, Transform};
use serde_json::Value;

fn spec(name: &str, datatype: Datatype, shape: &[i64]) -> TensorSpec {
    TensorSpec { name: name.into(), datatype, shape: shape.to_vec(), optional: false }
}

fn model(
    folder: Option<&Path>,
    inputs: &[TensorSpec],
    outputs: &[TensorSpec],
    settings: Option<&str>,
) -> Result<ImageModel, String> {
    let settings: Option<ImageSettings> = settings.map(|text| serde_json::from_str(text).expect("settings"));
    let (metadata, operators) = (BTreeMap::new(), BTreeMap::new());
    let graph = Graph { inputs, outputs, metadata: &metadata, operators: &operators };
    match ImageModel::read(folder, graph, settings.as_ref()).map_err(|error| error.message)? {
        Reading::Pictures(model) => Ok(*model),
        Reading::Tensors(why) => Err(why),
    }
}

/// A PNG-less picture: BMP, of one colour.
fn bmp(width: u32, height: u32, colour: [u8; 3]) -> Vec<u8> {
    let stride = (width * 3).next_multiple_of(4);
    let mut bytes = b"BM".to_vec();
    for word in [54 + stride * height, 0, 54, 40, width, height, 1 | 24 << 16, 0, stride * height, 0, 0, 0, 0] {
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    for _ in 0..height {
        (0..width).for_each(|_| bytes.extend(colour.iter().rev()));
        bytes.resize(bytes.len() + (stride - width * 3) as usize, 0);
    }
    bytes
}

fn prepare(model: &ImageModel, pictures: &[Vec<u8>], parameters: &Parameters) -> Prepared {
    let mut data = Vec::new();
    pictures.iter().for_each(|picture| put_bytes_element(&mut data, picture));
    let shape = [pictures.len() as i64];
    let input =
        Tensor { name: "image".into(), datatype: Datatype::Bytes, shape: shape.as_slice().into(), data: data.into() };
    model.prepare(&[Some(input)], parameters).expect("prepared")
}

fn json(tensor: &Tensor) -> Vec<Value> {
    let mut rest = &tensor.data[..];
    let elements = std::iter::from_fn(|| take_bytes_element(&mut rest));
    elements.map(|element| serde_json::from_slice(element).expect("JSON")).collect()
}

fn bytes(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_le_bytes()).collect()
}

#[test]
fn pictures_of_unlike_sizes_share_a_run_where_the_graph_is_told_what_is_picture() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("a file");
    write(
        "config.json",
        r#"{"architectures": ["DetrForObjectDetection"], "model_type": "detr", "id2label": {"0": "cat", "1": "dog"}}"#,
    );
    write(
        "preprocessor_config.json",
        r#"{"image_processor_type": "DetrImageProcessor", "size": {"shortest_edge": 8, "longest_edge": 16}, "do_normalize": false}"#,
    );
    let inputs =
        [spec("pixel_values", Datatype::Fp32, &[-1, 3, -1, -1]), spec("pixel_mask", Datatype::Int64, &[-1, -1, -1])];
    let outputs = [spec("logits", Datatype::Fp32, &[-1, 2, 3]), spec("pred_boxes", Datatype::Fp32, &[-1, 2, 4])];
    let model = model(Some(folder.path()), &inputs, &outputs, None).expect("a model");
    assert!(model.rows_may_differ_in_size());
    assert_eq!(model.signature().task.json_outputs, ["detections"]);
    let pictures = [bmp(40, 20, [255, 0, 0]), bmp(20, 30, [0, 0, 255])];
    let prepared = prepare(&model, &pictures, &Parameters::default());
    let rows: Vec<&Row> = prepared.rows.iter().collect();
    let given = model.collate(&rows).expect("collated");
    assert_eq!((given[0].shape[..].to_vec(), given[1].shape[..].to_vec()), (vec![2, 3, 12, 16], vec![2, 12, 16]));
    let ones = |row: usize| {
        let mask = &given[1].data.as_chunks::<8>().0[row * 12 * 16..(row + 1) * 12 * 16];
        mask.iter().filter(|one| i64::from_le_bytes(**one) == 1).count()
    };
    assert_eq!((ones(0), ones(1)), (16 * 8, 8 * 12));

    let (logits, boxes) = (
        bytes(&[9.0, 0.0, 0.0, 0.0, 0.0, 9.0, 0.0, 0.0, 9.0, 0.0, 9.0, 0.0]),
        bytes(&[0.5, 0.5, 0.5, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.25, 0.5, 0.5, 0.5]),
    );
    let given = [
        SessionOutput { datatype: Datatype::Fp32, shape: &[2, 2, 3], data: &logits },
        SessionOutput { datatype: Datatype::Fp32, shape: &[2, 2, 4], data: &boxes },
    ];
    let finished: Vec<Finished> = model.finish(&rows, &given).expect("finished");
    let found = json(&model.answer(&prepared.job, finished).expect("answered")[0]);
    let labels =
        |row: usize| found[row].as_array().expect("a list").iter().map(|one| one["label"].clone()).collect::<Vec<_>>();
    assert_eq!((labels(0), labels(1)), (vec!["cat".into()], vec!["dog".into()]));
    let place = |row: usize, side: &str| found[row][0]["box"][side].as_f64().expect("pixels");
    assert_eq!((place(0, "xmin"), place(0, "xmax"), place(0, "ymax")), (10.0, 30.0, 20.0));
    assert_eq!((place(1, "xmin"), place(1, "ymin"), place(1, "ymax")), (0.0, 7.5, 22.5));
}

#[test]
fn a_detector_of_tensorflow_takes_pixels_as_they_are() {
    let inputs = [spec("input_tensor", Datatype::Uint8, &[1, -1, -1, 3])];
    let outputs = ["detection_boxes", "detection_classes", "detection_scores", "num_detections"];
    let outputs =
        outputs.map(|name| spec(name, Datatype::Fp32, if name == "detection_boxes" { &[1, 2, 4] } else { &[1, 2] }));
    let model = model(None, &inputs, &outputs, Some(r#"{"labels": ["one", "two"]}"#)).expect("a model");
    assert!(!model.rows_may_differ_in_size());
    let mut parameters = Parameters::default();
    parameters.set("threshold", Parameter::Double(0.3));
    let prepared = prepare(&model, &[bmp(10, 5, [1, 2, 3])], &parameters);
    let rows: Vec<&Row> = prepared.rows.iter().collect();
    let given = model.collate(&rows).expect("collated");
    assert_eq!((given[0].shape[..].to_vec(), &given[0].data[..3]), (vec![1, 5, 10, 3], &[1u8, 2, 3][..]));
    let numbers =
        [bytes(&[0.0, 0.1, 0.4, 0.9, 0.0, 0.0, 1.0, 1.0]), bytes(&[2.0, 1.0]), bytes(&[0.4, 0.2]), bytes(&[2.0])];
    let shapes: [&[i64]; 4] = [&[1, 2, 4], &[1, 2], &[1, 2], &[1]];
    let given: Vec<SessionOutput<'_>> = numbers
        .iter()
        .zip(shapes)
        .map(|(data, shape)| SessionOutput { datatype: Datatype::Fp32, shape, data })
        .collect();
    let finished = model.finish(&rows, &given).expect("finished");
    let found = json(&model.answer(&prepared.job, finished).expect("answered")[0]);
    assert_eq!(
        found[0].to_string(),
        r#"[{"box":{"xmax":9.0,"xmin":1.0,"ymax":2.0,"ymin":0.0},"label":"two","score":0.4}]"#
    );
}

#[test]
fn a_model_that_is_not_known_to_take_pictures_says_what_would_make_it_one() {
    let inputs = [spec("x", Datatype::Fp32, &[-1, 3, 8, 8])];
    let refused =
        |settings: &str, outputs: &[TensorSpec]| model(None, &inputs, outputs, Some(settings)).expect_err("refused");
    let classes = [spec("y", Datatype::Fp32, &[-1, 4])];
    assert!(refused(r#"{"labels": ["one"]}"#, &classes).contains("4 classes and there are 1 labels"));
    assert!(refused(r#"{"threshold": 7}"#, &classes).contains("it takes 0 to 1"));
    assert!(refused(r#"{"task": "read"}"#, &[spec("y", Datatype::Fp32, &[-1, -1, 9])]).contains("`characters`"));
    let two = [spec("a", Datatype::Fp32, &[-1, 4]), spec("b", Datatype::Fp32, &[-1, 4])];
    assert!(refused("{}", &two).contains("set `task`"));
    assert!(model(None, &inputs, &classes, Some(r#"{"task": "tensors"}"#)).is_err());
    let guessed = model(None, &inputs, &classes, Some("{}")).expect("a model");
    assert!(guessed.found().iter().filter(|line| line.contains("a guess")).count() >= 4, "{:?}", guessed.found());
}

/// What a model makes of one output of its graph, for one picture.
fn answered(model: &ImageModel, picture: Vec<u8>, shape: &[i64], numbers: &[f32]) -> Value {
    let prepared = prepare(model, &[picture], &Parameters::default());
    let rows: Vec<&Row> = prepared.rows.iter().collect();
    let data: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
    let output = SessionOutput { datatype: Datatype::Fp32, shape, data: &data };
    let finished = model.finish(&rows, &[output]).expect("finished");
    json(&model.answer(&prepared.job, finished).expect("an answer")[0]).remove(0)
}

/// Whether two answers are the same but for the last digits of their numbers.
fn near(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Object(one), Value::Object(other)) => {
            one.len() == other.len()
                && one.iter().all(|(key, value)| other.get(key).is_some_and(|own| near(value, own)))
        }
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| near(one, other))
        }
        _ => match (one.as_f64(), other.as_f64()) {
            (Some(one), Some(other)) => (one - other).abs() < 0.011,
            _ => one == other,
        },
    }
}

#[test]
fn joints_and_boxes_at_angles_are_those_of_ultralytics_formulas() {
    let text = include_str!("yolo_numbers.json");
    let written: Value = serde_json::from_str(text).expect("JSON");
    let side = |at: usize| written["picture"][at].as_u64().expect("a side") as u32;
    let canvas = written["side"].as_i64().expect("a side");
    for case in written["cases"].as_array().expect("cases") {
        let metadata: BTreeMap<String, String> = serde_json::from_value(case["metadata"].clone()).expect("metadata");
        let shape: Vec<i64> = serde_json::from_value(case["shape"].clone()).expect("a shape");
        let numbers: Vec<f32> = serde_json::from_value(case["numbers"].clone()).expect("numbers");
        let (inputs, outputs) =
            ([spec("images", Datatype::Fp32, &[1, 3, canvas, canvas])], [spec("output0", Datatype::Fp32, &shape)]);
        let operators = BTreeMap::new();
        let graph = Graph { inputs: &inputs, outputs: &outputs, metadata: &metadata, operators: &operators };
        let read = ImageModel::read(None, graph, Some(&ImageSettings::default())).expect("a model");
        let Reading::Pictures(model) = read else { panic!("no model of pictures") };
        let found = answered(&model, bmp(side(0), side(1), [9, 9, 9]), &shape, &numbers);
        assert!(found.as_array().is_some_and(|all| all.len() > 3), "{}: {found}", case["name"]);
        assert!(near(&found, &case["expected"]), "{}: {found}\nwanted: {}", case["name"], case["expected"]);
    }
}
