//! Each folder that cannot be served says what is missing and what mends it.

use std::fs;
use std::path::Path;

use nobat_core::task::TaskKind;
use nobat_core::tensor::Datatype;
use nobat_text::{Pooling, Reading, TextFolder, TextModel, TextSettings, graph_file, is_model_folder};
use nobat_transform::Transform;
use serde_json::{Value, json};

use crate::support::{folder, graph_inputs, graph_outputs, read, spec};

/// A copy of a folder, to be broken.
struct Copy(tempfile::TempDir);

impl Copy {
    fn of(name: &str) -> Copy {
        fn copy(from: &Path, to: &Path) {
            fs::create_dir_all(to).expect("a folder");
            for entry in fs::read_dir(from).expect("reads").flatten() {
                let to = to.join(entry.file_name());
                match entry.path().is_dir() {
                    true => copy(&entry.path(), &to),
                    false => drop(fs::copy(entry.path(), to).expect("copies")),
                }
            }
        }
        let made = tempfile::tempdir().expect("a folder");
        copy(&folder(name), made.path());
        Copy(made)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn without(self, name: &str) -> Copy {
        fs::remove_file(self.path().join(name)).expect("it was there");
        self
    }

    fn with(self, name: &str, change: impl Fn(&mut Value)) -> Copy {
        let path = self.path().join(name);
        let mut value = fs::read(&path).map_or(json!({}), |text| serde_json::from_slice(&text).expect("JSON"));
        change(&mut value);
        fs::write(path, value.to_string()).expect("writes");
        self
    }

    fn open(&self, settings: &TextSettings, name: &str) -> Result<TextModel, String> {
        let read = read(self.path(), settings).map_err(|error| error.message)?;
        TextModel::new(*read, &graph_inputs(), &graph_outputs(name), settings).map_err(|error| error.message)
    }

    fn refusal(&self, name: &str) -> String {
        self.open(&TextSettings::default(), name).expect_err("refused")
    }
}

#[test]
fn a_folder_without_a_tokenizer_says_how_to_save_one() {
    let refused = Copy::of("embed").without("tokenizer.json").refusal("embed");
    assert!(refused.contains("has no tokenizer.json") && refused.contains("save_pretrained"), "{refused}");
}

#[test]
fn a_tokenizer_of_another_vocabulary_is_refused_with_both_sizes() {
    let refused = Copy::of("embed").with("config.json", |config| config["vocab_size"] = json!(50)).refusal("embed");
    assert!(refused.contains("ids up to 103") && refused.contains("a vocabulary of 50"), "{refused}");
}

#[test]
fn tokens_added_beyond_the_vocabulary_are_said_and_refused_when_they_come() {
    let copy = Copy::of("embed").with("tokenizer.json", |tokenizer| {
        let token = json!({"id": 104, "content": "<new>", "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": false});
        tokenizer["added_tokens"].as_array_mut().expect("a list").push(token);
    });
    let model = copy.open(&TextSettings::default(), "embed").expect("served");
    assert!(
        model.found().iter().any(|line| line.contains("ids up to 104, over the vocabulary of 104")),
        "{:?}",
        model.found()
    );
    let text = crate::support::texts("text", &["good", "a <new> one"]);
    let refused = model.prepare(&[text], &Default::default()).expect_err("no row for it").message;
    assert!(refused.starts_with("text 1 has the token `<new>` of id 104"), "{refused}");
}

#[test]
fn an_architecture_of_no_task_is_served_as_tensors_and_says_so() {
    let copy = Copy::of("embed").without("modules.json");
    let copy = copy.with("config.json", |config| config["architectures"] = json!(["BertForQuestionAnswering"]));
    match TextFolder::read(copy.path(), &TextSettings::default()).expect("reads") {
        Reading::Tensors(why) => assert!(why.contains("architecture BertForQuestionAnswering"), "{why}"),
        Reading::Text(_) => panic!("no task of it is known"),
    }
    let told = TextSettings { task: Some("embed".into()), ..TextSettings::default() };
    assert!(copy.open(&told, "embed").is_ok());
    let wrong = TextSettings { task: Some("embedding".into()), ..TextSettings::default() };
    let refused = copy.open(&wrong, "embed").expect_err("misspelt");
    assert!(
        refused.contains("task `embedding` is unknown") && refused.contains("zero_shot, sparse, tensors"),
        "{refused}"
    );
}

#[test]
fn a_module_that_is_not_known_is_refused_unless_the_graph_holds_it() {
    let copy = Copy::of("embed").with("modules.json", |modules| {
        modules[2]["type"] = json!("sentence_transformers.models.WordWeights");
    });
    let refused = copy.refusal("embed");
    assert!(refused.contains("`sentence_transformers.models.WordWeights`, which is not known"), "{refused}");
    let settings = TextSettings::default();
    let outputs = [graph_outputs("embed"), vec![spec("sentence_embedding", Datatype::Fp32, &[-1, 8])]].concat();
    let read = read(copy.path(), &settings).expect("reads");
    let model = TextModel::new(*read, &graph_inputs(), &outputs, &settings).expect("the graph pools");
    assert_eq!(model.signature().task.dimensions, Some(8));
}

#[test]
fn pooling_is_found_told_guessed_or_refused_never_silently() {
    let bare = Copy::of("embed").without("modules.json");
    let model = bare.open(&TextSettings::default(), "embed").expect("1_Pooling says it");
    assert!(model.found().iter().any(|line| line.starts_with("pooling mean over")), "{:?}", model.found());
    let bare = bare.without("1_Pooling/config.json");
    let model = bare.open(&TextSettings::default(), "embed").expect("a guess");
    assert!(model.found().iter().any(|line| line.contains("pooling mean is a guess")), "{:?}", model.found());
    let decoder = bare.with("config.json", |config| config["model_type"] = json!("qwen2"));
    let refused = decoder.refusal("embed");
    assert!(refused.contains("nothing says how the tokens of this decoder"), "{refused}");
    let told = TextSettings { pooling: Some(Pooling::LastToken), ..TextSettings::default() };
    assert!(decoder.open(&told, "embed").is_ok());
    let strange = Copy::of("embed").with("1_Pooling/config.json", |config| config["pooling_mode"] = json!("median"));
    let refused = strange.refusal("embed");
    assert!(refused.contains("pooling_mode \"median\", which is not known; known: cls, max, mean"), "{refused}");
}

#[test]
fn files_are_read_beneath_the_folder_only() {
    let copy = Copy::of("embed").with("modules.json", |modules| modules[2]["path"] = json!("../elsewhere"));
    let refused = copy.refusal("embed");
    assert!(refused.contains("names `../elsewhere/config.json`, which is not beneath it"), "{refused}");
    let outside = tempfile::NamedTempFile::new().expect("a file");
    let copy = Copy::of("embed").without("tokenizer.json");
    std::os::unix::fs::symlink(outside.path(), copy.path().join("tokenizer.json")).expect("a link");
    assert!(copy.refusal("embed").contains("is a link out of the model's folder"));
}

#[test]
fn a_hubs_cache_whose_files_are_links_to_its_blobs_is_read() {
    let hub = tempfile::tempdir().expect("a folder");
    let (snapshot, blobs) = (hub.path().join("snapshots/abc"), hub.path().join("blobs"));
    fs::create_dir_all(&snapshot).expect("a folder");
    fs::create_dir_all(&blobs).expect("a folder");
    for name in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
        fs::copy(folder("classify").join(name), blobs.join(name)).expect("copies");
        std::os::unix::fs::symlink(Path::new("../../blobs").join(name), snapshot.join(name)).expect("a link");
    }
    assert!(read(&snapshot, &TextSettings::default()).is_ok());
}

#[test]
fn a_hubs_cache_with_a_folder_for_the_transformer_is_read() {
    let hub = tempfile::tempdir().expect("a folder");
    let (snapshot, blobs) = (hub.path().join("snapshots/abc"), hub.path().join("blobs"));
    fs::create_dir_all(snapshot.join("0_Transformer")).expect("a folder");
    fs::create_dir_all(&blobs).expect("a folder");
    let modules =
        json!([{"idx": 0, "name": "0", "path": "0_Transformer", "type": "sentence_transformers.models.Transformer"}]);
    fs::write(blobs.join("modules"), modules.to_string()).expect("writes");
    std::os::unix::fs::symlink("../../blobs/modules", snapshot.join("modules.json")).expect("a link");
    for name in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
        fs::copy(folder("embed").join(name), blobs.join(name)).expect("copies");
        let link = snapshot.join("0_Transformer").join(name);
        std::os::unix::fs::symlink(Path::new("../../../blobs").join(name), link).expect("a link");
    }
    assert!(read(&snapshot, &TextSettings::default()).is_ok());
    // A link to a folder that is elsewhere leads out.
    fs::remove_dir_all(snapshot.join("0_Transformer")).expect("removed");
    std::os::unix::fs::symlink(folder("embed"), snapshot.join("0_Transformer")).expect("a link");
    let refused = read(&snapshot, &TextSettings::default()).expect_err("elsewhere").message;
    assert!(refused.contains("is a link out of the model's folder"), "{refused}");
}

#[test]
fn a_limit_that_the_special_tokens_fill_is_refused_with_one_that_is_enough() {
    for (name, most, enough) in [("embed", 0, 3), ("embed", 2, 3), ("rerank", 4, 5), ("zero_shot", 0, 5)] {
        let settings = |max_length| TextSettings { max_length: Some(max_length), ..TextSettings::default() };
        let refused = Copy::of(name).open(&settings(most), name).expect_err("no room for a text");
        let says = format!("a text may have {most} tokens, of which {} are special", if enough == 3 { 2 } else { 3 });
        assert!(refused.contains(&says) && refused.contains(&format!("to {enough} or more")), "{name}: {refused}");
        assert!(Copy::of(name).open(&settings(enough), name).is_ok(), "{name}");
    }
}

#[test]
fn every_file_that_limits_a_text_is_one_of_the_side_files() {
    for family in ["bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet"] {
        let name = format!("sentence_{family}_config.json");
        assert!(nobat_text::SIDE_FILES.contains(&name.as_str()), "{name}");
        let copy = Copy::of("embed").without("sentence_bert_config.json");
        let copy = copy.with(&name, |config| *config = json!({"max_seq_length": 9}));
        let model = copy.open(&TextSettings::default(), "embed").expect("opens");
        assert_eq!(model.max_cost(), 9, "{name}");
    }
}

#[test]
fn several_graphs_that_are_no_variants_are_a_folder_of_models() {
    let made = tempfile::tempdir().expect("a folder");
    let write = |name: &str| fs::write(made.path().join(name), "{}").expect("writes");
    write("config.json");
    write("digits.onnx");
    assert!(is_model_folder(made.path()), "one graph is the folder's");
    write("letters.onnx");
    assert!(!is_model_folder(made.path()));
    write("tokenizer.json");
    assert!(is_model_folder(made.path()), "variants of a text model");
    fs::remove_file(made.path().join("tokenizer.json")).expect("removed");
    write("model_fp16.onnx");
    assert!(is_model_folder(made.path()));
}

#[test]
fn broken_files_are_named() {
    let copy = Copy::of("embed");
    fs::write(copy.path().join("tokenizer.json"), "{}").expect("writes");
    assert!(copy.refusal("embed").contains("tokenizer.json cannot be read"));
    fs::write(copy.path().join("config.json"), "[1").expect("writes");
    assert!(copy.refusal("embed").contains("config.json` cannot be read"));
    let copy = Copy::of("embed");
    fs::write(copy.path().join("2_Dense/model.safetensors"), [0xff; 64]).expect("writes");
    let refused = copy.refusal("embed");
    assert!(refused.contains("`2_Dense` of the model: model.safetensors"), "{refused}");
    let copy = Copy::of("embed").with("2_Dense/config.json", |config| {
        config["activation_function"] = json!("os.system");
    });
    assert!(copy.refusal("embed").contains("activation_function `os.system` is not known"));
}

#[test]
fn labels_and_classes_must_agree() {
    let copy = Copy::of("classify").with("config.json", |config| {
        config["id2label"] = json!({"0": "a", "1": "b"});
    });
    assert!(copy.refusal("classify").contains("has 3 classes and config.json has 2 labels"));
    let rerank = TextSettings { task: Some("rerank".into()), ..TextSettings::default() };
    let refused = Copy::of("classify").open(&rerank, "classify").expect_err("three labels");
    assert!(refused.contains("task rerank needs one label and config.json has 3"), "{refused}");
}

#[test]
fn an_input_of_the_graph_that_is_not_known_is_refused_by_name() {
    let settings = TextSettings::default();
    let inputs = [graph_inputs(), vec![spec("pixel_values", Datatype::Fp32, &[-1, 3])]].concat();
    let read = read(&folder("embed"), &settings).expect("reads");
    let refused = TextModel::new(*read, &inputs, &graph_outputs("embed"), &settings).expect_err("pixels").message;
    assert!(refused.contains("input `pixel_values` of the graph, FP32 [-1, 3], is not known"), "{refused}");
}

#[test]
fn an_output_that_cannot_be_told_is_refused_with_all_there_are() {
    let settings = TextSettings::default();
    let outputs = [spec("a", Datatype::Fp32, &[-1, -1, 16]), spec("b", Datatype::Fp32, &[-1, -1, 16])];
    let open = |settings: &TextSettings| {
        let read = read(&folder("embed"), settings).expect("reads");
        TextModel::new(*read, &graph_inputs(), &outputs, settings).map_err(|error| error.message)
    };
    let refused = open(&settings).expect_err("two of them");
    assert!(refused.contains("there are: a FP32 [-1, -1, 16], b FP32 [-1, -1, 16]"), "{refused}");
    assert!(open(&TextSettings { output: Some("b".into()), ..settings }).is_ok());
}

#[test]
fn the_graph_is_found_by_variant_and_the_others_are_named() {
    let copy = Copy::of("embed");
    fs::copy(copy.path().join("onnx/model.onnx"), copy.path().join("onnx/model_fp16.onnx")).expect("copies");
    assert!(is_model_folder(copy.path()));
    let plain = graph_file(copy.path(), None).expect("there");
    assert!(plain.path.ends_with("onnx/model.onnx"));
    assert_eq!(plain.others, ["onnx/model_fp16.onnx"]);
    assert!(graph_file(copy.path(), Some("fp16")).expect("there").path.ends_with("onnx/model_fp16.onnx"));
    assert!(graph_file(copy.path(), Some("onnx/model_fp16.onnx")).is_ok());
    let refused = graph_file(copy.path(), Some("q4")).expect_err("not there").message;
    assert!(refused.contains("has no `q4`; it has onnx/model.onnx, onnx/model_fp16.onnx; name one"), "{refused}");
    assert!(graph_file(copy.path(), Some("../model.onnx")).is_err());
}

#[test]
fn every_task_is_found_from_its_folder() {
    let expected = [
        ("embed", TaskKind::Embed),
        ("classify", TaskKind::Classify),
        ("rerank", TaskKind::Rerank),
        ("zero_shot", TaskKind::ZeroShot),
        ("tokens", TaskKind::Tokens),
        ("fill_mask", TaskKind::FillMask),
        ("sparse", TaskKind::Sparse),
    ];
    for (name, kind) in expected {
        let model = crate::support::model(name);
        assert_eq!(model.signature().task.kind, kind, "{name}: {:?}", model.found());
    }
    let embed = crate::support::model("embed");
    let task = &embed.signature().task;
    assert_eq!((task.dimensions, task.max_tokens), (Some(8), Some(32)));
    assert_eq!(task.prompts, ["passage", "query"]);
}
