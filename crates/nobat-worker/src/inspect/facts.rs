//! What the files say: the model's own, and those beside it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use nobat_core::signature::TensorSpec;
use nobat_core::tensor::Datatype;
use serde::Serialize;
use serde_json::Value;

use super::file::{self, Dim, Model};
use crate::engine::onnx::Description;

/// Domains of operators that the runtime has.
const OWN_DOMAINS: [&str; 6] =
    ["", "ai.onnx", "ai.onnx.ml", "ai.onnx.training", "ai.onnx.preview.training", "com.microsoft"];
/// Most bytes of a file beside the model that is read.
const MOST_BYTES: u64 = 4 << 20;

/// What a model's files say.
#[derive(Clone, Debug, Serialize)]
pub struct Facts {
    /// The model's file.
    pub file: PathBuf,
    /// Its size, without external data.
    pub bytes: u64,
    /// The version of the format.
    pub ir_version: i64,
    /// What wrote it, such as `pytorch 2.9`.
    pub producer: String,
    /// Versions of operator sets, by domain; `ai.onnx` is the standard one.
    pub opsets: BTreeMap<String, i64>,
    /// How many nodes of the graph each operator has, as `domain:Name` outside the standard domain.
    pub operators: BTreeMap<String, usize>,
    /// Domains of operators that the runtime does not have by itself.
    pub custom_domains: BTreeSet<String>,
    /// What it takes.
    pub inputs: Vec<Input>,
    /// What it gives.
    pub outputs: Vec<Input>,
    /// What its maker wrote into it.
    pub metadata: BTreeMap<String, String>,
    /// Files beside it that are read, and what they say.
    pub files: BTreeMap<String, String>,
    /// Names of classes that a file beside it gives.
    #[serde(skip)]
    pub(super) labels: Vec<String>,
}

/// An input or an output.
#[derive(Clone, Debug, Serialize)]
pub struct Input {
    /// Its name.
    pub name: String,
    /// As the Open Inference Protocol spells it, or what no tensor is, such as `sequence`.
    pub datatype: String,
    /// Numbers, and the names of free axes; -1 for one without a name.
    pub shape: Vec<Value>,
    /// Whether it has a default.
    pub optional: bool,
}

impl Input {
    /// A fixed axis.
    pub(super) fn fixed(&self, axis: usize) -> Option<u64> {
        self.shape.get(axis)?.as_i64().and_then(|dim| u64::try_from(dim).ok())
    }
}

impl Facts {
    /// Reads a model's file and what is beside it; `folder` is the one of its settings.
    pub(super) fn read(path: &Path, folder: Option<&Path>) -> Result<Facts, String> {
        let model = file::read(path)?;
        let bytes = std::fs::metadata(path).map_or(0, |meta| meta.len());
        let mut facts = Facts {
            file: path.to_owned(),
            bytes,
            ir_version: model.ir_version,
            producer: format!("{} {}", model.producer_name, model.producer_version).trim().to_owned(),
            opsets: opsets(&model),
            operators: BTreeMap::new(),
            custom_domains: BTreeSet::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            metadata: BTreeMap::new(),
            files: BTreeMap::new(),
            labels: Vec::new(),
        };
        facts.metadata.extend(model.metadata_props.iter().map(|entry| (entry.key.clone(), entry.value.clone())));
        facts.read_graph(&model);
        let mut folders = BTreeSet::new();
        folders.extend(path.parent().map(Path::to_owned));
        folders.extend(folder.map(Path::to_owned));
        // A Hugging Face folder keeps its graph one below.
        folders
            .extend(path.parent().filter(|parent| parent.ends_with("onnx")).and_then(Path::parent).map(Path::to_owned));
        folders.iter().for_each(|folder| facts.read_beside(folder));
        Ok(facts)
    }

    /// What a session would say of the graph; `None` where an input or output is no tensor that it can give.
    pub(super) fn description(&self) -> Option<Description> {
        let spec = |own: &Input| {
            let dim = |dim: &Value| dim.as_i64().filter(|&dim| dim >= 0).unwrap_or(-1);
            Some(TensorSpec {
                name: own.name.as_str().into(),
                datatype: Datatype::parse(&own.datatype)?,
                shape: own.shape.iter().map(dim).collect(),
                optional: own.optional,
            })
        };
        let specs = |all: &[Input]| all.iter().map(spec).collect::<Option<Vec<_>>>();
        let (inputs, outputs) = (specs(&self.inputs)?, specs(&self.outputs)?);
        Some(Description { inputs, outputs, classes: Vec::new(), metadata: self.metadata.clone() })
    }

    fn read_graph(&mut self, model: &Model) {
        let Some(graph) = &model.graph else { return };
        // Functions of the file's own are operators that it brings along.
        let own: BTreeSet<&str> = model.functions.iter().map(|function| function.domain.as_str()).collect();
        for node in &graph.node {
            let standard = matches!(node.domain.as_str(), "" | "ai.onnx");
            let name = if standard { node.op_type.clone() } else { format!("{}:{}", node.domain, node.op_type) };
            *self.operators.entry(name).or_default() += 1;
            if !OWN_DOMAINS.contains(&node.domain.as_str()) && !own.contains(node.domain.as_str()) {
                self.custom_domains.insert(node.domain.clone());
            }
        }
        let defaults: BTreeSet<&str> = graph.initializer.iter().map(|tensor| tensor.name.as_str()).collect();
        self.inputs = graph
            .input
            .iter()
            // Older files list every weight among the inputs.
            .filter(|input| model.ir_version > 3 || !defaults.contains(input.name.as_str()))
            .map(|input| described(input, defaults.contains(input.name.as_str())))
            .collect();
        self.outputs = graph.output.iter().map(|output| described(output, false)).collect();
    }

    /// Looks for the files that are known.
    fn read_beside(&mut self, folder: &Path) {
        let json = |name: &str| read_small(folder, name).and_then(|text| serde_json::from_str::<Value>(&text).ok());
        if let Some(text) = read_small(folder, "labels.txt") {
            let labels: Vec<String> = text.lines().map(|line| line.trim_end_matches('\r').to_owned()).collect();
            self.tell(
                "labels.txt",
                format!("{} labels, the first `{}`", labels.len(), labels.first().map_or("", |label| label)),
            );
            self.labels = labels;
        }
        if let Some(config) = json("config.json") {
            let architecture = config["architectures"][0].as_str().unwrap_or("no architecture");
            let names = config["id2label"].as_object().map(|labels| labels.len());
            let labels = names.map_or(String::new(), |count| format!(", id2label with {count} labels"));
            self.tell("config.json", format!("Hugging Face: {architecture}{labels}"));
            if self.labels.is_empty()
                && let Some(labels) = config["id2label"].as_object()
            {
                let mut labels: Vec<(usize, &str)> =
                    labels.iter().filter_map(|(at, label)| Some((at.parse().ok()?, label.as_str()?))).collect();
                labels.sort_unstable();
                self.labels = labels.into_iter().map(|(_, label)| label.to_owned()).collect();
            }
        }
        if let Some(processor) = json("preprocessor_config.json") {
            let kind =
                ["image_processor_type", "feature_extractor_type"].iter().find_map(|key| processor[key].as_str());
            self.tell("preprocessor_config.json", format!("how inputs are prepared: {}", kind.unwrap_or("of no type")));
        }
        for (name, says) in [
            ("tokenizer.json", "the tokenizer of texts"),
            ("modules.json", "how vectors of texts are made"),
            ("config.pbtxt", "Triton's settings"),
            ("model.toml", "nobat's settings"),
        ] {
            if folder.join(name).is_file() {
                self.tell(name, says.to_owned());
            }
        }
        let data: Vec<String> =
            entries(folder).filter(|name| name.ends_with(".onnx_data") || name.ends_with(".onnx.data")).collect();
        data.into_iter().for_each(|name| self.tell(&name, "external weights".to_owned()));
    }

    fn tell(&mut self, name: &str, says: String) {
        self.files.insert(name.to_owned(), says);
    }
}

fn entries(folder: &Path) -> impl Iterator<Item = String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok())
}

fn read_small(folder: &Path, name: &str) -> Option<String> {
    let path = folder.join(name);
    let small = std::fs::metadata(&path).is_ok_and(|meta| meta.is_file() && meta.len() <= MOST_BYTES);
    small.then(|| std::fs::read_to_string(path).ok()).flatten()
}

fn opsets(model: &Model) -> BTreeMap<String, i64> {
    let named = |domain: &str| if domain.is_empty() { "ai.onnx".to_owned() } else { domain.to_owned() };
    model.opset_import.iter().map(|opset| (named(&opset.domain), opset.version)).collect()
}

fn described(value: &file::Value, optional: bool) -> Input {
    let kind = value.kind.as_ref();
    let tensor = kind.and_then(|kind| kind.tensor.as_ref());
    let datatype = match (tensor, kind) {
        (Some(tensor), _) => datatype(tensor.element).to_owned(),
        // What scikit-learn's exporters give: a map from class to probability for each row.
        (None, Some(kind)) if kind.sequence.is_some() => "sequence of maps".to_owned(),
        (None, Some(kind)) if kind.map.is_some() => "map".to_owned(),
        _ => "unknown".to_owned(),
    };
    let dim = |dim: &Dim| match (dim.value, dim.name.as_str()) {
        (Some(value), _) if value >= 0 => Value::from(value),
        (_, "") => Value::from(-1),
        (_, name) => Value::from(name),
    };
    let shape = tensor.and_then(|tensor| tensor.shape.as_ref()).map(|shape| shape.dim.iter().map(dim).collect());
    Input { name: value.name.clone(), datatype, shape: shape.unwrap_or_default(), optional }
}

/// A datatype by its number in the ONNX specification.
fn datatype(number: i32) -> &'static str {
    match number {
        1 => "FP32",
        2 => "UINT8",
        3 => "INT8",
        4 => "UINT16",
        5 => "INT16",
        6 => "INT32",
        7 => "INT64",
        8 => "BYTES",
        9 => "BOOL",
        10 => "FP16",
        11 => "FP64",
        12 => "UINT32",
        13 => "UINT64",
        16 => "BF16",
        _ => "a datatype that no request carries",
    }
}
