//! What comes out for each task, alone and beside longer rows.

use nobat_core::parameters::Parameters;
use nobat_core::tensor::Tensor;
use nobat_transform::Transform;
use serde_json::{Value, json};

use crate::support::{answer, elements, given, model, named, numbers, texts};

const TEXTS: [&str; 4] = ["good", "New York is a city on the river.", "", "she was 7 in London, he 9"];

/// The job's answer, the same with one row in a run as with all.
fn both(name: &str, inputs: &[Option<Tensor>], parameters: &Parameters) -> Vec<Tensor> {
    let model = model(name);
    let alone = answer(name, &model, inputs, parameters, 1).expect("answered");
    let together = answer(name, &model, inputs, parameters, 64).expect("answered");
    assert_eq!(alone, together, "neighbours change nothing");
    for tensor in &alone {
        tensor.check().expect("whole");
        let spec = model.signature().outputs.iter().find(|spec| spec.name == tensor.name).expect("published");
        assert_eq!((spec.datatype, spec.shape.len()), (tensor.datatype, tensor.shape.len()), "{}", spec.name);
    }
    alone
}

fn json_of(tensors: &[Tensor], name: &str) -> Vec<Value> {
    elements(named(tensors, name)).iter().map(|text| serde_json::from_slice(text).expect("JSON")).collect()
}

#[test]
fn embeddings_have_the_length_and_the_dimensions_that_are_asked_for() {
    let inputs = [texts("text", &TEXTS)];
    let plain = both("embed", &inputs, &Parameters::default());
    let vectors = numbers(named(&plain, "embedding"));
    assert_eq!(named(&plain, "embedding").shape.as_slice(), [4, 8]);
    let length = |vector: &[f32]| vector.iter().map(|number| number * number).sum::<f32>().sqrt();
    vectors.chunks(8).for_each(|vector| assert!((length(vector) - 1.0).abs() < 1e-6));
    let raw = both("embed", &inputs, &given(&[("normalize", json!(false))]));
    let raw = numbers(named(&raw, "embedding"));
    assert!(raw.chunks(8).any(|vector| (length(vector) - 1.0).abs() > 1e-3));
    let cut = both("embed", &inputs, &given(&[("dimensions", json!(3))]));
    assert_eq!(named(&cut, "embedding").shape.as_slice(), [4, 3]);
    for (cut, raw) in numbers(named(&cut, "embedding")).chunks(3).zip(raw.chunks(8)) {
        let scale = length(&raw[..3]);
        cut.iter().zip(raw).for_each(|(cut, raw)| assert!((cut - raw / scale).abs() < 1e-6));
    }
    let every = both("embed", &inputs, &given(&[("pooling", json!("none"))]));
    let lists = json_of(&every, "token_embeddings");
    let tokens = named(&every, "tokens").data.as_chunks().0.iter().map(|&bytes| i32::from_le_bytes(bytes));
    assert_eq!(
        lists.iter().map(|list| list.as_array().expect("a list").len() as i32).collect::<Vec<_>>(),
        tokens.collect::<Vec<_>>()
    );
    assert_eq!(lists[0][0].as_array().expect("a vector").len(), 16, "before pooling and the dense layer");
}

#[test]
fn classes_have_scores_that_sum_to_one_and_the_best_label() {
    let answer = both("classify", &[texts("text", &TEXTS), None], &Parameters::default());
    let scores = numbers(named(&answer, "scores"));
    let labels = elements(named(&answer, "label"));
    for (scores, label) in scores.chunks(3).zip(labels) {
        assert!((scores.iter().sum::<f32>() - 1.0).abs() < 1e-6);
        let best = (0..3).max_by(|&a, &b| scores[a].total_cmp(&scores[b])).expect("three");
        assert_eq!(label, ["negative", "neutral", "positive"][best].as_bytes());
    }
    let raw = both("classify", &[texts("text", &TEXTS), None], &given(&[("raw_scores", json!(true))]));
    assert_ne!(numbers(named(&raw, "scores")), scores);
}

#[test]
fn a_document_has_one_score() {
    let inputs = [texts("text", &["good", "good"]), texts("text_pair", &["bad", "a river"])];
    let answer = both("rerank", &inputs, &Parameters::default());
    assert_eq!(named(&answer, "score").shape.as_slice(), [2]);
    assert!(numbers(named(&answer, "score")).iter().all(|score| (0.0..1.0).contains(score)));
}

#[test]
fn labels_of_the_caller_are_ranked_text_by_text() {
    let labels = ["[\"war\", \"peace\", \"a river\"]", "[\"good\"]"];
    let inputs = [texts("text", &["London", "she"]), texts("labels", &labels)];
    let answer = both("zero_shot", &inputs, &Parameters::default());
    let scores = json_of(&answer, "scores");
    let of =
        |at: usize| scores[at].as_array().expect("a list").iter().map(|one| one["score"].as_f64().expect("a score"));
    assert_eq!((of(0).len(), of(1).len()), (3, 1));
    assert!((of(0).sum::<f64>() - 1.0).abs() < 1e-6 && of(0).is_sorted_by(|a, b| a >= b));
    let model = model("zero_shot");
    let none = [texts("text", &["London"]), texts("labels", &["[]"])];
    let refused = model.prepare(&none, &Parameters::default()).expect_err("no label").message;
    assert_eq!(refused, "element 0 of input `labels` has 0 labels; it takes 1 to 1000");
    let template = given(&[("hypothesis_template", json!("It is so."))]);
    assert!(model.prepare(&inputs, &template).expect_err("no place").message.contains("{} where the label goes"));
}

#[test]
fn entities_are_places_in_the_text() {
    let text = "Ёж in New York, 🦔 London";
    let answer = both("tokens", &[texts("text", &[text])], &given(&[("aggregation", json!("none"))]));
    let characters: Vec<char> = text.chars().collect();
    let tokens = json_of(&answer, "entities").remove(0);
    assert!(!tokens.as_array().expect("a list").is_empty());
    for token in tokens.as_array().expect("a list") {
        let place = |name: &str| token[name].as_u64().expect("a place") as usize;
        let shown: String = characters[place("start")..place("end")].iter().collect();
        let word = token["word"].as_str().expect("a word").trim_start_matches("##");
        assert_eq!(shown.to_lowercase(), word.to_lowercase(), "{token}");
    }
    let groups = both("tokens", &[texts("text", &[text])], &Parameters::default());
    for group in json_of(&groups, "entities").remove(0).as_array().expect("a list") {
        assert!(["PER", "LOC"].contains(&group["entity_group"].as_str().expect("a group")), "{group}");
    }
}

#[test]
fn masks_are_filled_and_a_text_without_one_is_refused() {
    let answer = both("fill_mask", &[texts("text", &["a [MASK] city", "[MASK] [MASK]"])], &Parameters::default());
    let fills = json_of(&answer, "fills");
    assert_eq!(fills[0].as_array().map(Vec::len), Some(5));
    assert!(fills[0][0]["sequence"].as_str().expect("a text").ends_with("city"), "{fills:?}");
    assert!(fills[0].as_array().expect("a list").is_sorted_by(|a, b| a["score"].as_f64() >= b["score"].as_f64()));
    assert_eq!(fills[1].as_array().map(Vec::len), Some(2), "a list for each mask");
    assert_eq!(fills[1][0].as_array().map(Vec::len), Some(5));
    let model = model("fill_mask");
    let refused = model.prepare(&[texts("text", &["a city"])], &Parameters::default()).expect_err("no mask").message;
    assert_eq!(refused, "text 0 has no mask within its 4 tokens; put [MASK] where the word is missing");
}

#[test]
fn sparse_weights_are_positive_and_in_order() {
    let answer = both("sparse", &[texts("text", &TEXTS)], &Parameters::default());
    for weights in json_of(&answer, "sparse") {
        let weights = weights.as_array().expect("a list");
        assert!(!weights.is_empty());
        assert!(weights.is_sorted_by(|a, b| a["index"].as_u64() < b["index"].as_u64()));
        assert!(weights.iter().all(|weight| weight["value"].as_f64().expect("a weight") > 0.0));
    }
}

/// What the folder's model makes of an output whose last axis the graph does not say.
fn unsaid(name: &str, shape: &[i64], prepare: &[Option<Tensor>]) -> Result<(), String> {
    use crate::support::{folder, graph_inputs, graph_outputs, read};
    use nobat_core::tensor::Datatype;
    let settings = nobat_text::TextSettings::default();
    let mut outputs = graph_outputs(name);
    *outputs[0].shape.last_mut().expect("an axis") = -1;
    let read = read(&folder(name), &settings).expect("reads");
    let model = nobat_text::TextModel::new(*read, &graph_inputs(), &outputs, &settings).expect("nothing contradicts");
    let prepared = model.prepare(prepare, &Parameters::default()).expect("prepared");
    let data = vec![0u8; shape.iter().product::<i64>() as usize * 4];
    let output = nobat_transform::SessionOutput { datatype: Datatype::Fp32, shape, data: &data };
    let rows: Vec<_> = prepared.rows.iter().collect();
    match model.finish(&rows, &[output]) {
        Ok(_) => Ok(()),
        Err(error) => {
            assert_eq!(error.code, nobat_core::ErrorCode::InferenceFailed, "{}", error.message);
            Err(error.message)
        }
    }
}

#[test]
fn an_output_of_another_width_than_the_folder_says_fails_the_run() {
    let one = [texts("text", &["good"])];
    for (name, right, wrong) in [
        ("classify", &[1, 3][..], &[1, 2][..]),
        ("classify", &[1, 3], &[1, 9]),
        ("tokens", &[1, 3, 5], &[1, 3, 4]),
        ("embed", &[1, 3, 16], &[1, 3, 12]),
    ] {
        assert_eq!(unsaid(name, right, &one), Ok(()), "{name}");
        let why = unsaid(name, wrong, &one).expect_err(name);
        assert!(why.contains("export the model again"), "{name}: {why}");
    }
    let pair = [texts("text", &["good"]), texts("text_pair", &["bad"])];
    assert!(unsaid("rerank", &[1, 2], &pair).is_err());
    let labels = [texts("text", &["good"]), texts("labels", &["[\"war\"]"])];
    assert!(unsaid("zero_shot", &[1, 1], &labels).is_err());
}
