//! Which task a picture model has: as its settings say, else its maker's metadata, else its configuration's
//! architecture, else its outputs.

use nobat_core::signature::TensorSpec;
use nobat_core::task::ImageTask;
use nobat_core::tensor::Datatype;
use nobat_core::{Error, Result, clip};

use crate::folder::ModelConfig;
use crate::metadata::Metadata;

/// What a model turned out to be.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum FoundTask {
    /// A task, and how it is known.
    Pictures(ImageTask, String),
    /// Callers send the graph's own tensors; says why.
    Tensors(String),
}

/// Finds the task.
///
/// # Errors
/// A setting that names none, or nothing that shows it where the settings say that pictures are taken.
pub(crate) fn find(
    setting: Option<&str>,
    asked: bool,
    metadata: &Metadata,
    config: Option<&ModelConfig>,
    outputs: &[TensorSpec],
) -> Result<FoundTask> {
    let known = || ImageTask::ALL.iter().map(|task| task.as_str()).collect::<Vec<_>>().join(", ");
    if let Some(word) = setting {
        if word == "tensors" {
            return Ok(FoundTask::Tensors("`task` in `[image]` of model.toml says so".into()));
        }
        return match ImageTask::parse(word) {
            Some(task) => Ok(FoundTask::Pictures(task, format!("task {task}: model.toml says so"))),
            None => Err(Error::invalid(format!(
                "task `{}` is unknown; `task` in `[image]` of model.toml takes: {}, tensors",
                clip(word),
                known()
            ))),
        };
    }
    let found = |task: ImageTask, why: &str| Ok(FoundTask::Pictures(task, format!("task {task}: {why}")));
    match metadata.task.as_deref() {
        Some("classify") => return found(ImageTask::Classify, "the file's metadata"),
        Some("detect") => return found(ImageTask::Detect, "the file's metadata"),
        Some("segment") => {
            return found(ImageTask::Detect, "the file's metadata says segment: boxes, and outlines by `mask`");
        }
        Some("pose") => {
            return found(ImageTask::Detect, "the file's metadata says pose: boxes, and `keypoints` of each");
        }
        Some("obb") => {
            return found(ImageTask::Detect, "the file's metadata says obb: boxes at angles, with their `corners`");
        }
        Some(other) => {
            return unknown(asked, format!("the file's metadata has the task `{}`", clip(other)), &known());
        }
        None if metadata.ultralytics => return found(ImageTask::Detect, "names and stride in the file's metadata"),
        None => {}
    }
    if let Some(architecture) = config.and_then(|config| config.architectures.first()) {
        let why = format!("architecture {architecture}");
        let task = if architecture.contains("ForImageClassification") {
            ImageTask::Classify
        } else if architecture.ends_with("ForObjectDetection") {
            ImageTask::Detect
        } else if architecture.ends_with("ForSemanticSegmentation") {
            ImageTask::Segment
        } else if architecture.ends_with("Model") || architecture.ends_with("ModelWithProjection") {
            ImageTask::Embed
        } else {
            return unknown(asked, why, &known());
        };
        return found(task, &why);
    }
    if metadata.characters.is_some() {
        return found(ImageTask::Read, "characters in the file's metadata");
    }
    let has = |name: &str| outputs.iter().any(|output| output.name == name);
    if has("pred_boxes") || has("detection_boxes") {
        return found(ImageTask::Detect, "the graph's outputs are boxes");
    }
    match outputs {
        [only] if only.shape.len() == 2 && matches!(only.datatype, Datatype::Fp32 | Datatype::Fp16) => {
            found(ImageTask::Classify, &format!("a guess, the only output `{}` is {:?}", only.name, only.shape))
        }
        _ => {
            let there: Vec<String> =
                outputs.iter().map(|output| format!("{} {:?}", output.name, output.shape)).collect();
            unknown(asked, format!("the outputs {}", there.join(", ")), &known())
        }
    }
}

/// Where nothing shows a task: an error for those who asked for pictures, else the graph as it is.
fn unknown(asked: bool, why: String, known: &str) -> Result<FoundTask> {
    let what = format!("{why}, which are of no task that is known here");
    match asked {
        true => Err(Error::invalid(format!("{what}; set `task` in `[image]` of model.toml: {known}, tensors"))),
        false => Ok(FoundTask::Tensors(format!("{what}; where it is one, say so: `task` in `[image]` of model.toml"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_task_is_what_the_makers_left_and_a_guess_says_so() {
        let none = Metadata::default();
        let spec = |name: &str, shape: &[i64]| TensorSpec {
            name: name.into(),
            datatype: Datatype::Fp32,
            shape: shape.to_vec(),
            optional: false,
        };
        let of = |setting: Option<&str>, metadata: &Metadata, architecture: Option<&str>, outputs: &[TensorSpec]| {
            let config =
                architecture.map(|name| ModelConfig { architectures: vec![name.into()], ..ModelConfig::default() });
            find(setting, true, metadata, config.as_ref(), outputs)
        };
        let is = |found: Result<FoundTask>, wanted: ImageTask, says: &str| match found.expect("a task") {
            FoundTask::Pictures(task, how) => assert!(task == wanted && how.contains(says), "{task} {how}"),
            other => panic!("{other:?}"),
        };
        is(of(None, &none, Some("ViTForImageClassification"), &[]), ImageTask::Classify, "ViTFor");
        is(of(None, &none, Some("Dinov2Model"), &[]), ImageTask::Embed, "Dinov2Model");
        is(of(None, &none, None, &[spec("y", &[-1, 10])]), ImageTask::Classify, "a guess");
        let yolo = Metadata { ultralytics: true, task: Some("segment".into()), ..Metadata::default() };
        is(of(None, &yolo, None, &[]), ImageTask::Detect, "outlines by `mask`");
        is(of(Some("embed"), &yolo, None, &[]), ImageTask::Embed, "model.toml");
        assert!(matches!(of(Some("tensors"), &none, None, &[]), Ok(FoundTask::Tensors(_))));
        assert!(of(Some("label"), &none, None, &[]).expect_err("unknown").message.contains("classify, detect"));
        let odd = of(None, &none, Some("GroundingDinoForZeroShot"), &[]).expect_err("unknown").message;
        assert!(odd.contains("GroundingDino") && odd.contains("set `task`"), "{odd}");
    }
}
