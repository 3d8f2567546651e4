//! What a model's files say of it, without running it: names and shapes, operators, what its
//! maker wrote into it and left beside it, what follows from that and what is only likely; and
//! the `model.toml` to start from.
//!
//! No runtime is opened: a file of any size is read with its weights skipped.

mod facts;
mod file;
mod guess;
mod settings;
mod shown;
mod words;

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::config::WorkerConfig;
use crate::models::scan::scan;
use crate::models::transforms;

pub use facts::{Facts, Input};
pub use guess::{Guess, Kind};

/// What is known of a model.
#[derive(Clone, Debug, Serialize)]
pub struct Inspection {
    /// What its files say.
    #[serde(flatten)]
    pub facts: Facts,
    /// What it is for, and why that is thought.
    #[serde(flatten)]
    pub guess: Guess,
    /// The settings to start from, as the text of a `model.toml`.
    pub model_toml: String,
    /// Where that text would be read from.
    pub settings_file: PathBuf,
}

/// Inspects a model: an `.onnx` file, or a folder of one model.
///
/// # Errors
/// One line: what cannot be read, and what to give.
pub fn inspect(path: &Path) -> Result<Inspection, String> {
    let found = scan(&[path.to_owned()]).map_err(|error| error.to_string())?;
    let mut models = found.models.into_values();
    let model = match (models.next(), models.next()) {
        (Some(only), None) => only,
        (None, _) => {
            let reasons: Vec<String> = found.left_out.into_values().collect();
            let why = if reasons.is_empty() { "no model is there".to_owned() } else { reasons.join("; ") };
            return Err(format!("`{}`: {why}; give an .onnx file or the folder of a model", path.display()));
        }
        (Some(first), Some(second)) => {
            return Err(format!(
                "`{}` holds several models (`{}`, `{}`, …); give the folder or the file of one",
                path.display(),
                first.name,
                second.name
            ));
        }
    };
    let version = model.versions.last().ok_or_else(|| format!("`{}` has no version", path.display()))?;
    // The scan names a file that may not be there, of a folder whose settings or names say which is.
    let served = crate::models::settings::read(&model, &WorkerConfig::default())
        .and_then(|settings| transforms::graphs(version, &settings));
    let file = match &served {
        Ok(served) => &served.file,
        Err(reason) if !version.file.is_file() => return Err(reason.clone()),
        Err(_) => &version.file,
    };
    let facts = Facts::read(file, model.folder.as_deref())?;
    let guess = Guess::of(&facts, &model, version);
    let settings_file = match &model.folder {
        Some(folder) => folder.join("model.toml"),
        None => version.file.with_extension("toml"),
    };
    let model_toml = settings::model_toml(&facts, &guess);
    Ok(Inspection { facts, guess, model_toml, settings_file })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn test_model(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models").join(format!("{name}.onnx"))
    }

    #[test]
    fn what_a_file_says_is_told_and_its_settings_are_read_back() {
        let table = inspect(&test_model("table")).expect("a model");
        assert_eq!(table.guess.kind, Kind::Table);
        assert!(table.facts.inputs.len() > 1 && table.facts.inputs.iter().any(|input| input.datatype == "BYTES"));
        let classifier = inspect(&test_model("classifier")).expect("a model");
        assert!(classifier.facts.outputs.iter().any(|output| output.datatype.contains("map")), "a ZipMap");
        assert!(classifier.facts.operators.contains_key("ai.onnx.ml:ZipMap"), "{:?}", classifier.facts.operators);
        for model in [&table, &classifier] {
            let text = model.to_string();
            assert!(text.contains("opset") && text.contains(&model.facts.inputs[0].name), "{text}");
            crate::models::settings::check_toml(&model.model_toml).expect("settings that are read");
        }
    }

    #[test]
    fn what_is_found_is_what_the_server_finds_at_load() {
        let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests");
        let of = |folder: &str| inspect(&tests.join(folder)).expect("a model");
        let vit = of("image_models/classify");
        assert_eq!((vit.guess.kind, vit.guess.task.as_deref()), (Kind::Image, Some("classify")));
        assert!(vit.guess.found.iter().any(|line| line.contains("architecture ViT")), "{:?}", vit.guess);
        assert!(vit.model_toml.contains("nothing has to be set"), "{}", vit.model_toml);
        let text = of("text_models/embed");
        assert_eq!((text.guess.kind, text.guess.task.as_deref()), (Kind::Text, Some("embed")));
        assert!(text.guess.found.iter().any(|line| line.contains("pooling")), "{:?}", text.guess);
        assert_eq!(of("image_models/clip").guess.kind, Kind::TextAndImage);
        assert_eq!(of("image_models/clip_apart").guess.kind, Kind::TextAndImage);
        assert_eq!(of("image_models/bytes").guess.kind, Kind::Files);

        // Without its `[image]` the detector would be served as tensors; what an empty one finds is shown.
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("boxes.onnx");
        std::fs::copy(tests.join("image_models/detect/model.onnx"), &file).expect("a copy");
        let boxes = inspect(&file).expect("a model");
        assert_eq!((boxes.guess.kind, boxes.guess.task.as_deref()), (Kind::Image, Some("detect")));
        assert!(boxes.guess.found.iter().any(|line| line.contains("as Ultralytics prepares")), "{:?}", boxes.guess);
        assert!(boxes.model_toml.starts_with("# needed: `[image]`") && boxes.model_toml.contains("[image]\ntask"));
        crate::models::settings::check_toml(&boxes.model_toml).expect("settings that are read");
        // What the server would refuse the model with.
        std::fs::write(folder.path().join("boxes.toml"), "[image]\ntask = \"paint\"\n").expect("a file");
        let refused = inspect(&file).expect("a model").guess.needed.join(" ");
        assert!(refused.contains("task `paint` is unknown"), "{refused}");
    }

    #[test]
    fn towers_in_two_files_are_one_model_unless_the_settings_name_one_of_them() {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/image_models/clip_apart");
        let around = tempfile::tempdir().expect("a folder");
        let folder = around.path().join("clip");
        std::fs::create_dir_all(folder.join("onnx")).expect("a folder");
        let names = ["config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json"];
        for name in names.into_iter().chain(["onnx/text_model.onnx", "onnx/vision_model.onnx"]) {
            std::fs::copy(from.join(name), folder.join(name)).expect("a copy");
        }
        let with = |settings: &str| {
            std::fs::write(folder.join("model.toml"), settings).expect("a file");
            inspect(&folder)
        };
        let kind = |settings: &str| with(settings).expect("a model").guess.kind;
        assert_eq!(kind("[image]\nlogit_scale = 20.0\n"), Kind::TextAndImage);
        assert_eq!(kind("[text]\nvariant = \"text_model\"\n"), Kind::Text);
        assert_eq!(kind("[image]\nvariant = \"vision_model\"\n"), Kind::Image);
        let needed = |settings: &str| with(settings).expect("a model").guess.needed.join(" ");
        let zero = needed("[image]\nlogit_scale = 0\n");
        assert!(zero.contains("`logit_scale` in `[image]` of model.toml is 0; it takes a number over 0"), "{zero}");
        let alone = needed("[image]\nvariant = \"vision_model\"\nlogit_scale = 20.0\n");
        assert!(alone.contains("is 20, and it is for models with their towers in two files"), "{alone}");
        let task = needed("[text]\ntask = \"tensors\"\n");
        assert!(task.contains("name one of the files as `variant`"), "{task}");
        std::fs::remove_file(folder.join("preprocessor_config.json")).expect("a file");
        let refused = with("").expect_err("no processor");
        assert!(refused.contains("no preprocessor_config.json, with which they are one model"), "{refused}");
    }

    #[test]
    fn a_folder_of_several_models_and_one_of_none_are_refused_with_what_to_give() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/models");
        assert!(inspect(&folder).expect_err("several").contains("several models"));
        let empty = tempfile::tempdir().expect("a folder");
        assert!(inspect(empty.path()).expect_err("none").contains("no model is there"));
        std::fs::write(empty.path().join("x.onnx"), b"no model").expect("a file");
        assert!(inspect(&empty.path().join("x.onnx")).expect_err("rubbish").contains("is not an ONNX model"));
    }
}
