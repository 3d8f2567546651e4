//! Files in, labels out, by their first and last bytes: what magika's Python does around its graph.

mod config;
mod cut;
mod settings;

use std::path::Path;
use std::sync::Arc;

use nobat_core::parameters::Parameters;
use nobat_core::signature::TensorSpec;
use nobat_core::task::{ImageTask, Task, TaskKind};
use nobat_core::tensor::{Datatype, Tensor};
use nobat_core::{Error, Result};
use nobat_transform::{CallerSignature, Finished, JobState, Prepared, Row, SessionOutput, Transform};

use crate::classify::{Classifier, Scored, Top};
use crate::folder::ImageFolder;
use crate::graph::Output;
use crate::options::{self, Options};
use crate::settings::Activation;
use crate::tensors;

pub use config::BYTES_FILES;
use config::{MagikaConfig, Rules};
use cut::{Cut, CutFile};
pub use settings::BytesSettings;

/// The name of the one input.
const INPUT: &str = "bytes";
/// Names under which exporters give classes.
const CLASSES: [&str; 5] = ["target_label", "logits", "probabilities", "output", "scores"];

/// A graph that takes the bytes of files, ready to serve.
#[derive(Clone, Debug)]
pub struct BytesModel {
    cut: Cut,
    input: TensorSpec,
    classifier: Classifier,
    labels: Vec<String>,
    rules: Option<Rules>,
    defaults: Options,
    signature: CallerSignature,
    found: Vec<String>,
}

/// A row of a run.
#[derive(Debug)]
struct RunRow {
    numbers: Vec<u16>,
    options: Arc<Options>,
}

/// Of each file of a job in turn, what it is without the graph's help.
type Known = Vec<Option<&'static str>>;

impl BytesModel {
    /// Joins a model's files and settings to its graph's inputs and outputs.
    ///
    /// # Errors
    /// `invalid_parameter`, naming what does not fit and the setting that mends it.
    pub fn read(
        folder: Option<&Path>,
        inputs: &[TensorSpec],
        outputs: &[TensorSpec],
        settings: &BytesSettings,
    ) -> Result<BytesModel> {
        let folder = ImageFolder::at(folder);
        let config = MagikaConfig::read(&folder)?;
        let cut = Cut::new(settings, config.as_ref())?;
        let mut found = vec![format!("files are given by their first {} and last {} bytes", cut.begin, cut.end)];
        let input = input(inputs, settings, &cut)?;
        let output = Output::find(outputs, settings.output.as_deref(), &CLASSES, &[2]).map_err(|_| {
            let there: Vec<String> = outputs.iter().map(|own| format!("{} {:?}", own.name, own.shape)).collect();
            Error::invalid(format!(
                "it is not known which output answers; there are: {}; set `output` in `[bytes]` of model.toml",
                there.join(", ")
            ))
        })?;
        let labels = labels(settings, &folder, config.as_ref(), &output, &mut found)?;
        let rules = match &config {
            Some(config) => {
                let rules = config.rules(&folder)?;
                found.push(match rules {
                    Some(_) => "thresholds of config.min.json: what is not sure is `txt` or `unknown`".to_owned(),
                    None => "thresholds of config.min.json are left out: content_types_kb.min.json is not beside the \
                             model"
                        .to_owned(),
                });
                rules
            }
            None => None,
        };
        let activation = settings.activation.unwrap_or_else(|| match config {
            Some(_) => Activation::None,
            None => {
                found.push("scores by softmax: a guess".to_owned());
                Activation::Softmax
            }
        });
        let defaults = Options {
            top_k: settings.top_k.unwrap_or(5).max(1),
            threshold: 0.0,
            iou: 0.0,
            max_detections: 1,
            normalize: false,
            run_lengths: false,
        };
        let spec = |name: &str, datatype| TensorSpec { name: name.into(), datatype, shape: vec![-1], optional: false };
        let task = Task {
            labels: labels.iter().map(|label| label.as_str().into()).collect(),
            multi_label: activation == Activation::Sigmoid,
            parameters: options::taken(ImageTask::Classify).iter().copied().map(Into::into).collect(),
            json_outputs: vec!["top".into()],
            ..Task::new(TaskKind::Bytes)
        };
        let signature = CallerSignature {
            inputs: vec![spec(INPUT, Datatype::Bytes)],
            outputs: vec![spec("label", Datatype::Bytes), spec("score", Datatype::Fp32), spec("top", Datatype::Bytes)],
            task,
        };
        let classifier = Classifier { output, activation };
        Ok(BytesModel { cut, input, classifier, labels, rules, defaults, signature, found })
    }

    /// What was found and what was guessed, a line each, for the log.
    pub fn found(&self) -> &[String] {
        &self.found
    }

    fn label(&self, class: usize) -> String {
        self.labels.get(class).cloned().unwrap_or_else(|| class.to_string())
    }
}

/// The graph's input, which takes so many integers a row.
fn input(inputs: &[TensorSpec], settings: &BytesSettings, cut: &Cut) -> Result<TensorSpec> {
    let most = |datatype: Datatype| match datatype {
        Datatype::Uint8 => Some(255),
        Datatype::Int16 => Some(i16::MAX as u16),
        Datatype::Uint16 | Datatype::Int32 | Datatype::Uint32 | Datatype::Int64 | Datatype::Uint64 => Some(u16::MAX),
        _ => None,
    };
    let there = || {
        let each = inputs.iter().map(|own| format!("{} {} {:?}", own.name, own.datatype, own.shape));
        each.collect::<Vec<_>>().join(", ")
    };
    let mut required = inputs.iter().filter(|own| !own.optional);
    let spec = match (&settings.input, required.next(), required.next()) {
        (None, only, None) => only,
        (Some(name), Some(only), None) if only.name == *name => Some(only),
        _ => None,
    };
    let spec = spec.filter(|own| own.shape.len() == 2 && most(own.datatype).is_some()).ok_or_else(|| {
        Error::invalid(format!(
            "the graph has no input of integers alone that takes bytes, rows of {}; there are: {}; leave `[bytes]` out \
             of model.toml for the graph's own tensors",
            cut.width(),
            there()
        ))
    })?;
    if spec.shape[1] > 0 && spec.shape[1] != cut.width() as i64 {
        return Err(Error::invalid(format!(
            "input `{}` takes {} numbers a row, and the first {} and last {} bytes are given; set `begin` and `end` in \
             `[bytes]` of model.toml",
            spec.name, spec.shape[1], cut.begin, cut.end
        )));
    }
    match most(spec.datatype).filter(|&most| cut.padding > most) {
        Some(most) => Err(Error::invalid(format!(
            "`padding` is {} and input `{}` is {}, up to {most}; set less in `[bytes]` of model.toml",
            cut.padding, spec.name, spec.datatype
        ))),
        None => Ok(spec.clone()),
    }
}

/// The names of the classes, as many as there are.
fn labels(
    settings: &BytesSettings,
    folder: &ImageFolder,
    config: Option<&MagikaConfig>,
    output: &Output,
    found: &mut Vec<String>,
) -> Result<Vec<String>> {
    let sources = [
        (settings.labels.clone(), "model.toml"),
        (folder.labels_file()?, "labels.txt"),
        (config.map(|own| own.target_labels_space.clone()), "config.min.json"),
    ];
    let named = sources.into_iter().find_map(|(labels, source)| Some((labels?, source)));
    let Some((labels, source)) = named else {
        found.push("no labels: classes are numbers".to_owned());
        return Ok(Vec::new());
    };
    if let Some(classes) = output.axis(1).filter(|&classes| classes != labels.len()) {
        return Err(Error::invalid(format!(
            "output `{}` has {classes} classes and there are {} labels of {source}; give as many: labels.txt beside \
             the model, or `labels` in `[bytes]` of model.toml",
            output.name,
            labels.len()
        )));
    }
    found.push(format!("{} labels of {source}", labels.len()));
    Ok(labels)
}

impl Transform for BytesModel {
    fn signature(&self) -> &CallerSignature {
        &self.signature
    }

    fn max_cost(&self) -> u32 {
        1
    }

    fn bytes_per_cost(&self) -> u64 {
        (self.cut.width() * self.input.datatype.size().unwrap_or(8)) as u64
    }

    fn prepare(&self, inputs: &[Option<Tensor>], parameters: &Parameters) -> Result<Prepared> {
        let options = Arc::new(self.defaults.read(parameters)?);
        let files = tensors::elements(inputs, INPUT, "file")?;
        let (mut rows, mut known) = (Vec::with_capacity(files.len()), Known::with_capacity(files.len()));
        for file in files {
            known.push(match self.cut.of(file) {
                CutFile::TooShort(what) => Some(what),
                CutFile::Numbers(numbers) => {
                    rows.push(Row::new(1, RunRow { numbers, options: Arc::clone(&options) }));
                    None
                }
            });
        }
        Ok(Prepared { rows, job: JobState::new(known) })
    }

    fn example(&self, _cost: u32) -> Row {
        let numbers = (0..self.cut.width()).map(|at| (at % 256) as u16).collect();
        Row::new(1, RunRow { numbers, options: Arc::new(self.defaults.clone()) })
    }

    fn collate(&self, rows: &[&Row]) -> Result<Vec<Tensor>> {
        let rows: Vec<&RunRow> = rows.iter().map(|row| row.state::<RunRow>()).collect::<Result<_>>()?;
        // Little-endian, none of them negative: wider integers only have more zeros.
        let size = self.input.datatype.size().unwrap_or(8);
        let mut data = Vec::with_capacity(rows.len() * self.cut.width() * size);
        for number in rows.iter().flat_map(|row| &row.numbers) {
            data.extend_from_slice(&u64::from(*number).to_le_bytes()[..size]);
        }
        let shape = [rows.len() as i64, self.cut.width() as i64];
        let (name, datatype) = (self.input.name.clone(), self.input.datatype);
        Ok(vec![Tensor { name, datatype, shape: shape.as_slice().into(), data: data.into() }])
    }

    fn finish(&self, rows: &[&Row], outputs: &[SessionOutput<'_>]) -> Result<Vec<Finished>> {
        let rows: Vec<&RunRow> = rows.iter().map(|row| row.state::<RunRow>()).collect::<Result<_>>()?;
        let options: Vec<&Options> = rows.iter().map(|row| row.options.as_ref()).collect();
        Ok(self.classifier.finish(outputs, &options)?.into_iter().map(Finished::new).collect())
    }

    fn answer(&self, job: &JobState, rows: Vec<Finished>) -> Result<Vec<Tensor>> {
        let (mut best, mut scores, mut tops) = (Vec::new(), Vec::new(), Vec::new());
        let mut rows = rows.into_iter();
        for known in job.state::<Known>()? {
            let named: Vec<(String, f32)> = match known {
                Some(what) => vec![((*what).to_owned(), 1.0)],
                None => {
                    let row = rows.next().ok_or_else(|| Error::internal("a row is of another job"))?;
                    let scored = row.take::<Vec<Scored>>()?;
                    scored.into_iter().map(|(class, score)| (self.label(class), score)).collect()
                }
            };
            let (label, score) = named.first().cloned().unwrap_or_default();
            best.push(match (&self.rules, known) {
                (Some(rules), None) => rules.label(&label, score).to_owned(),
                _ => label,
            });
            scores.push(score);
            tops.push(named.into_iter().map(|(label, score)| Top { label, score }).collect::<Vec<_>>());
        }
        Ok(vec![tensors::bytes("label", &best), tensors::floats("score", &scores, None), tensors::json("top", &tops)?])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(name: &str, datatype: Datatype, shape: &[i64]) -> TensorSpec {
        TensorSpec { name: name.into(), datatype, shape: shape.to_vec(), optional: false }
    }

    fn read(settings: &str, input: TensorSpec) -> Result<BytesModel> {
        let outputs = [spec("y", Datatype::Fp32, &[-1, 2])];
        BytesModel::read(None, &[input], &outputs, &serde_json::from_str(settings).expect("settings"))
    }

    #[test]
    fn bytes_become_the_graphs_integers() {
        for (datatype, size) in [(Datatype::Uint8, 1), (Datatype::Int16, 2), (Datatype::Int32, 4), (Datatype::Int64, 8)]
        {
            let model =
                read(r#"{"begin": 2, "end": 1, "padding": 7}"#, spec("x", datatype, &[-1, 3])).expect("a model");
            let rows = [
                model.example(1),
                Row::new(1, RunRow { numbers: vec![255, 7, 255], options: Arc::new(model.defaults.clone()) }),
            ];
            let collated = model.collate(&[&rows[0], &rows[1]]).expect("rows");
            assert_eq!((collated[0].shape.as_slice(), collated[0].data.len()), (&[2, 3][..], 6 * size));
            let at = |place: usize| collated[0].data[place * size..(place + 1) * size].to_vec();
            assert!(at(3)[0] == 255 && at(4)[0] == 7 && at(3)[1..].iter().all(|&byte| byte == 0), "{datatype}");
        }
    }

    #[test]
    fn what_does_not_fit_the_graph_is_refused_with_the_setting() {
        let wide = spec("x", Datatype::Int32, &[-1, 16]);
        for (settings, input, says) in [
            (r#"{"begin": 8}"#, wide.clone(), "takes 16 numbers a row, and the first 8 and last 0"),
            (r#"{"begin": 16, "labels": ["a"]}"#, wide.clone(), "2 classes and there are 1 labels of model.toml"),
            (r#"{"begin": 16, "input": "y"}"#, wide.clone(), "no input of integers alone"),
            (r#"{"begin": 16, "output": "z"}"#, wide, "there are: y [-1, 2]; set `output` in `[bytes]`"),
            (r#"{"begin": 3}"#, spec("x", Datatype::Fp32, &[-1, 3]), "there are: x FP32 [-1, 3]"),
            (r#"{"begin": 3, "padding": 256}"#, spec("x", Datatype::Uint8, &[-1, 3]), "`padding` is 256"),
        ] {
            let refused = read(settings, input).expect_err(settings).message;
            assert!(refused.contains(says), "{settings}: {refused}");
        }
    }

    /// What magika's Python makes of files of all lengths; `scripts/compare_examples --golden` wrote it.
    #[test]
    fn numbers_are_those_of_magika() {
        let golden: Vec<(String, Option<Vec<u16>>)> =
            serde_json::from_str(include_str!("../../tests/magika_numbers.json")).expect("golden numbers");
        assert!(golden.len() >= 40, "{}", golden.len());
        let settings = r#"{"begin": 16, "end": 12, "padding": 256, "strip": true, "block": 32, "least": 8}"#;
        let cut = Cut::new(&serde_json::from_str(settings).expect("settings"), None).expect("a cut");
        for (hex, wanted) in golden {
            let digits = hex.as_bytes().as_chunks::<2>().0.iter();
            let byte = |digits: &[u8; 2]| u8::from_str_radix(std::str::from_utf8(digits).expect("hex"), 16);
            let file: Vec<u8> = digits.map(|pair| byte(pair).expect("hex")).collect();
            match (cut.of(&file), wanted) {
                (CutFile::Numbers(numbers), Some(wanted)) => assert_eq!(numbers, wanted, "{hex}"),
                (CutFile::TooShort(_), None) => {}
                (other, wanted) => panic!("{hex}: {other:?}, not {wanted:?}"),
            }
        }
    }
}
