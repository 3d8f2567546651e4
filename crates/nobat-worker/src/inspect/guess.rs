//! What a model is for. What its files say is found, by the code that finds it when the model is loaded; what is
//! only likely is guessed, and said to be.

use nobat_core::task::{Task, TaskKind};
use nobat_image::ImageSettings;
use serde::Serialize;

use super::facts::{Facts, Input};
use crate::config::WorkerConfig;
use crate::engine::towers::joined;
use crate::models::scan::{FoundModel, FoundVersion};
use crate::models::settings::{self, ModelSettings};
use crate::models::transforms::{self, OpenedTransform};

/// What comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Texts.
    Text,
    /// Pictures.
    Image,
    /// Texts or pictures.
    TextAndImage,
    /// Files of any kind.
    Files,
    /// Rows of named columns.
    Table,
    /// Tensors, of which nothing more is known.
    Tensors,
}

/// What a model is for, and why that is thought.
#[derive(Clone, Debug, Serialize)]
pub struct Guess {
    /// What comes in.
    pub kind: Kind,
    /// What is done with it, of texts and pictures.
    pub task: Option<String>,
    /// What files say.
    pub found: Vec<String>,
    /// What is likely.
    pub guessed: Vec<String>,
    /// What has to be done before it serves so.
    pub needed: Vec<String>,
    /// Whether it takes pictures only where its owner says so: by a table `[image]`.
    #[serde(skip)]
    pub(super) is_for_its_owner_to_say: bool,
}

impl Guess {
    /// Of what the files say.
    pub(super) fn of(facts: &Facts, model: &FoundModel, version: &FoundVersion) -> Guess {
        let mut guess = Guess {
            kind: Kind::Tensors,
            task: None,
            found: Vec::new(),
            guessed: Vec::new(),
            needed: Vec::new(),
            is_for_its_owner_to_say: false,
        };
        for domain in &facts.custom_domains {
            guess.found.push(format!("operators of the domain `{domain}`, which the runtime does not have by itself"));
            guess.needed.push(format!(
                "a library with the operators of `{domain}`, named in worker.provider.custom_ops of the server's configuration"
            ));
        }
        let settings = settings::read(model, &WorkerConfig::default());
        let own = settings.as_ref().map_err(Clone::clone).and_then(|own| opened(facts, model, version, own));
        match own {
            Ok(Some(opened)) => guess.opened(&opened),
            // What the server would refuse it with.
            Err(reason) => {
                guess.kind = match (&version.text_folder, &version.image_folder) {
                    (_, Some(_)) => Kind::Image,
                    (Some(_), None) => Kind::Text,
                    (None, None) => Kind::Tensors,
                };
                guess.needed.push(reason);
            }
            // Whose owner says `task = "tensors"` has decided.
            Ok(None) if is_picture(facts) && settings.as_ref().is_ok_and(|own| own.image.is_none()) => {
                let asked = ModelSettings { image: Some(ImageSettings::default()), ..settings.unwrap_or_default() };
                guess.kind = Kind::Image;
                guess.is_for_its_owner_to_say = true;
                match opened(facts, model, version, &asked) {
                    Ok(Some(opened)) => guess.opened(&opened),
                    Ok(None) => {}
                    Err(reason) => guess.needed.push(reason),
                }
                guess.needed.push(
                    "`[image]` in model.toml, as below: check what is guessed against how it was trained".to_owned(),
                );
            }
            Ok(None) => guess.table(facts),
        }
        guess
    }

    /// What the server finds and guesses when it loads the model.
    fn opened(&mut self, opened: &OpenedTransform) {
        let task = &opened.transform.signature().task;
        let says_nothing_of_classes = |task: &Task| {
            task.image.is_some_and(|of| of == nobat_core::task::ImageTask::Classify) && task.labels.is_empty()
        };
        self.kind = match (task.kind, task.image) {
            (TaskKind::Bytes, _) => Kind::Files,
            (TaskKind::Image, _) => Kind::Image,
            (_, Some(_)) => Kind::TextAndImage,
            (_, None) => Kind::Text,
        };
        self.task = Some(task.image.map_or(task.kind.as_str(), |image| image.as_str()).to_owned());
        let (guessed, found): (Vec<String>, Vec<String>) =
            opened.found.iter().cloned().partition(|line| line.contains("a guess"));
        self.guessed.extend(guessed);
        self.found.extend(found);
        if says_nothing_of_classes(task) {
            self.needed.push("labels.txt beside the model, a name a line, for answers with names".to_owned());
        }
    }

    fn table(&mut self, facts: &Facts) {
        let required = || facts.inputs.iter().filter(|input| !input.optional);
        let is_column = |input: &Input| {
            matches!(input.shape.len(), 1 | 2)
                && input.fixed(1).is_none_or(|width| width == 1)
                && input.fixed(0).is_none()
        };
        let columns = required().count() > 1 && required().all(is_column);
        let learned = facts.operators.keys().any(|operator| operator.starts_with("ai.onnx.ml:"));
        let is_map = |output: &&Input| output.datatype.contains("map");
        if columns {
            self.kind = Kind::Table;
            self.found.push(format!("{} inputs of one value a row: the columns of a table", required().count()));
        } else if learned && required().count() == 1 {
            self.kind = Kind::Table;
            self.guessed.push("one matrix of features: the columns of a table, in their order".into());
        }
        if let Some(output) = facts.outputs.iter().find(is_map) {
            self.found.push(format!("output `{}` names its classes (a ZipMap)", output.name));
        }
    }
}

/// What stands before and after the graph under these settings, as at load.
fn opened(
    facts: &Facts,
    model: &FoundModel,
    version: &FoundVersion,
    settings: &ModelSettings,
) -> Result<Option<OpenedTransform>, String> {
    let Some(graph) = facts.description() else { return Ok(None) };
    let served = transforms::graphs(version, settings)?;
    let graph = match served.pictures.as_deref() {
        None => graph,
        Some(file) => match Facts::read(file, None)?.description() {
            Some(pictures) => joined(graph, pictures)?,
            None => return Ok(None),
        },
    };
    transforms::open(&model.name, &served, settings, &graph)
}

/// Whether the only input that must be given could be a picture's: four axes, one of them of 1 or 3 channels.
fn is_picture(facts: &Facts) -> bool {
    let mut required = facts.inputs.iter().filter(|input| !input.optional);
    let (Some(input), None) = (required.next(), required.next()) else { return false };
    let is_channels = |axis: usize| matches!(input.fixed(axis), Some(1 | 3));
    input.shape.len() == 4
        && matches!(input.datatype.as_str(), "FP32" | "FP16" | "UINT8")
        && (is_channels(1) || is_channels(3))
}
