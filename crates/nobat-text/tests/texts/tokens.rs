//! What reaches the session of a text: truncation, pairs, prompts, ids.

use nobat_core::parameters::Parameters;
use nobat_text::TextModel;
use nobat_transform::Transform;
use serde_json::{Value, json};

use crate::support::{elements, given, model, named, texts, typed, whole_numbers};

fn session_ids(model: &TextModel, texts_given: &[&str], parameters: &Parameters) -> Vec<i64> {
    let prepared = model.prepare(&[texts("text", texts_given)], parameters).expect("prepared");
    let rows: Vec<_> = prepared.rows.iter().collect();
    whole_numbers(named(&model.collate(&rows).expect("collated"), "input_ids"))
}

fn refusal(model: &TextModel, text: &[u8], parameters: &[(&str, Value)]) -> String {
    model.prepare(&[texts("text", &[b"good".as_slice(), text])], &given(parameters)).expect_err("refused").message
}

#[test]
fn a_long_text_is_cut_at_the_side_that_is_asked_for_or_refused_with_its_length() {
    let model = model("embed");
    let long = "war peace ".repeat(30);
    let ids = session_ids(&model, &[&long], &Parameters::default());
    assert_eq!(ids.len(), 32, "the limit of the folder, not of tokenizer.json");
    assert_eq!((ids[0], ids[31]), (2, 3), "the special tokens stay");
    let left = session_ids(&model, &[&format!("good {long}")], &given(&[("truncation_direction", json!("left"))]));
    assert_eq!(left.len(), 32);
    assert_ne!(left[1], session_ids(&model, &["good"], &Parameters::default())[1], "the beginning is cut off");
    let refused = refusal(&model, long.as_bytes(), &[("truncate", json!(false))]);
    assert_eq!(
        refused,
        "text 1 has 62 tokens, and the limit is 32; shorten it, or set the parameter `truncate` to true"
    );
}

#[test]
fn what_is_no_text_is_refused_by_its_number_and_place() {
    let refused = refusal(&model("embed"), b"caf\xe9", &[]);
    assert_eq!(refused, "element 1 of input `text` is not UTF-8: byte 3 is 0xe9; encode the text as UTF-8");
}

#[test]
fn parameters_are_checked_by_name_and_value() {
    let model = model("embed");
    let refused = |name: &str, value: Value| refusal(&model, b"a", &[(name, value)]);
    assert!(refused("dimensions", json!(9)).contains("`dimensions` is 9; vectors of this model have 1 to 8"));
    assert!(refused("dimensions", json!(0)).contains("have 1 to 8"));
    assert!(refused("prompt_name", json!("doc")).contains("the model has the prompts: passage, query"));
    assert!(refused("truncation_direction", json!("up")).contains("it takes left or right"));
    assert!(refused("operation", json!("count")).contains("it takes infer, tokenize or decode"));
    assert!(refused("normalize", json!("yes")).contains("it takes true or false"));
    let names = &model.signature().task.parameters;
    assert!(names.iter().any(|name| name == "dimensions") && !names.iter().any(|name| name == "top_k"), "{names:?}");
}

#[test]
fn ids_are_taken_with_or_without_their_special_tokens() {
    let model = model("embed");
    let of_text = session_ids(&model, &["good river"], &Parameters::default());
    let ids = given(&[("input", json!("ids"))]);
    let whole = serde_json::to_string(&of_text).expect("JSON");
    let inner = serde_json::to_string(&of_text[1..of_text.len() - 1]).expect("JSON");
    assert_eq!(session_ids(&model, &[&whole], &ids), of_text);
    assert_eq!(session_ids(&model, &[&inner], &ids), of_text);
    let refused = |text: &str| model.prepare(&[texts("text", &["[5]", text])], &ids).expect_err("refused").message;
    assert!(refused("[1, -1]").contains("element 1 of input `text` is `[1, -1]`"));
    let unknown = refused("[5000]");
    assert!(unknown.contains("of id 5000, and the model's vocabulary ends before 104"), "{unknown}");
}

#[test]
fn a_prompt_is_put_before_the_text_also_before_ids() {
    let model = model("embed");
    let query = given(&[("prompt_name", json!("query"))]);
    let with = session_ids(&model, &["good"], &query);
    assert_eq!(with, session_ids(&model, &["query: good"], &Parameters::default()));
    let ids = given(&[("prompt_name", json!("query")), ("input", json!("ids"))]);
    let good = session_ids(&model, &["good"], &Parameters::default());
    assert_eq!(session_ids(&model, &[&serde_json::to_string(&good).expect("JSON")], &ids), with);
}

#[test]
fn pairs_have_types_where_the_tokenizer_gives_them_and_share_the_limit() {
    let types_of = |model: &TextModel| {
        let inputs = [texts("text", &["good"]), texts("text_pair", &["bad"])];
        let prepared = model.prepare(&inputs, &Parameters::default()).expect("prepared");
        let session = model.collate(&[&prepared.rows[0]]).expect("collated");
        whole_numbers(named(&session, "token_type_ids"))
    };
    // The folder's tokenizer is of the plain class, which lists no types.
    assert_eq!(types_of(&model("rerank")), [0; 5]);
    let model = typed("rerank");
    assert_eq!(types_of(&model), [0, 0, 0, 1, 1]);
    let inputs = [texts("text", &["good river"]), texts("text_pair", &["bad war ".repeat(60)])];
    let prepared = model.prepare(&inputs, &Parameters::default()).expect("prepared");
    let rows: Vec<_> = prepared.rows.iter().collect();
    let session = model.collate(&rows).expect("collated");
    let (ids, types) = (whole_numbers(named(&session, "input_ids")), whole_numbers(named(&session, "token_type_ids")));
    assert_eq!(ids.len(), 64);
    assert_eq!((ids[0], ids[3], ids[63]), (2, 3, 3), "[CLS] good river [SEP] … [SEP]");
    assert_eq!(types.iter().filter(|&&kind| kind == 0).count(), 4);
    let uneven = [texts("text", &["a", "b"]), texts("text_pair", &["c"])];
    let refused = model.prepare(&uneven, &Parameters::default()).expect_err("uneven").message;
    assert!(refused.contains("`text` has 2 rows and the other input has 1"), "{refused}");
}

#[test]
fn the_shorter_rows_of_a_run_are_padded_at_the_right() {
    let model = model("embed");
    let texts = [texts("text", &["good river city", "war"])];
    let prepared = model.prepare(&texts, &Parameters::default()).expect("prepared");
    let costs: Vec<u32> = prepared.rows.iter().map(|row| row.cost).collect();
    assert_eq!(costs, [5, 3]);
    let rows: Vec<_> = prepared.rows.iter().collect();
    let session = model.collate(&rows).expect("collated");
    assert_eq!(named(&session, "input_ids").shape.as_slice(), [2, 5]);
    assert_eq!(whole_numbers(named(&session, "attention_mask")), [1, 1, 1, 1, 1, 1, 1, 1, 0, 0]);
    assert_eq!(whole_numbers(named(&session, "input_ids"))[8..], [0, 0]);
    // For measuring, a row of any length can be made up.
    let example = model.example(7);
    assert_eq!(named(&model.collate(&[&example]).expect("collated"), "input_ids").shape.as_slice(), [1, 7]);
    assert_eq!(model.example(1000).cost, model.max_cost());
}

#[test]
fn the_tokenizer_answers_by_itself() {
    let model = model("embed");
    let prepared =
        model.prepare(&[texts("text", &["Good Ёж!"])], &given(&[("operation", json!("tokenize"))])).expect("prepared");
    assert!(prepared.rows.is_empty(), "no session is asked");
    let answer = model.answer(&prepared.job, Vec::new()).expect("answered");
    let tokens: Value = serde_json::from_slice(&elements(named(&answer, "result"))[0]).expect("JSON");
    assert_eq!(tokens[0], json!({"id": 2, "text": "[CLS]", "special": true, "start": null, "stop": null}));
    assert_eq!(tokens[1]["text"], "Good");
    // One word of two characters that the vocabulary does not know, counted in characters.
    assert_eq!(tokens[2], json!({"id": 1, "text": "Ёж", "special": false, "start": 5, "stop": 7}));
    let ids = serde_json::to_string(&[2, 20, 3]).expect("JSON");
    let decode = given(&[("operation", json!("decode"))]);
    let prepared = model.prepare(&[texts("text", &[ids])], &decode).expect("prepared");
    let answer = model.answer(&prepared.job, Vec::new()).expect("answered");
    assert_eq!(elements(named(&answer, "result")), [b"\"p\"".to_vec()]);
}

#[test]
fn a_run_is_counted_by_the_bytes_of_its_logits() {
    // Three inputs of INT64, and an output of FP32.
    assert_eq!(model("embed").bytes_per_cost(), 24 + 16 * 4);
    assert_eq!(model("fill_mask").bytes_per_cost(), 24 + 104 * 4);
    assert_eq!(model("tokens").bytes_per_cost(), 24 + 5 * 4);
    assert_eq!(model("classify").bytes_per_cost(), 24, "one row of scores for a text");
}
