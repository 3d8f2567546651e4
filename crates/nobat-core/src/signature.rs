//! What a model takes and gives, as its workers publish it, and the check of a
//! request against it: a bad tensor never reaches the queue.

use serde::{Deserialize, Serialize};
use smol_str::SmolStr;
use xxhash_rust::xxh3::xxh3_64;

use crate::error::{Error, ErrorCode, Result};
use crate::infer::InferRequest;
use crate::spelled::spelled;
use crate::task::{Task, TaskKind};
use crate::tensor::{Datatype, Tensor};

/// One input or output of a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TensorSpec {
    /// Name in the model file.
    pub name: SmolStr,
    /// Element type.
    pub datatype: Datatype,
    /// Dimensions; -1 is any size. The batch axis, where there is one, is first.
    pub shape: Vec<i64>,
    /// Whether a request may leave it out.
    #[serde(default)]
    pub optional: bool,
}

/// Stands for a version's digest in results and cache keys: 8 bytes, the same in every
/// process. 0 for no digest.
pub fn digest_mark(digest: &str) -> u64 {
    if digest.is_empty() { 0 } else { xxh3_64(digest.as_bytes()).max(1) }
}

/// The member of [`ModelSignature::settings`] that says of a chain what it runs.
pub const CHAIN: &str = "chain";

/// Where a model stands with its workers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ModelState {
    /// Being read, warmed up or checked.
    Loading,
    /// Serves.
    #[default]
    Ready,
    /// On its way out.
    Unloading,
    /// Could not be loaded.
    Failed,
}

spelled! {
    /// How it is known whether rows of different requests may share a run.
    #[derive(Default)]
    pub enum RowsVerdict {
        /// The graph shows that they may.
        Proven = "proven",
        /// The graph does not say, and trials on made-up or real input found nothing against it.
        Tried = "tried",
        /// The owner's settings say.
        Told = "told",
        /// The graph or a trial shows that they may not.
        Mixed = "mixed",
        /// The first axes of its inputs and outputs are not one axis.
        NoBatchAxis = "no_batch_axis",
        /// Nothing shows it: each request runs by itself.
        #[default]
        Unknown = "unknown",
    }
}

/// Whether rows of different requests may share a run, and how that is known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rows {
    /// How it is known.
    pub verdict: RowsVerdict,
    /// What shows it, such as the node that mixes rows; empty where it is proven.
    pub why: String,
}

/// One version of a model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelSignature {
    /// The model's name, which is its queue's name.
    pub name: SmolStr,
    /// Version folder, `1` for a plain file.
    pub version: SmolStr,
    /// SHA-256 of the model file and its external data (first 16 bytes, hex); changes
    /// with the weights.
    pub digest: String,
    /// Where it stands.
    #[serde(default)]
    pub state: ModelState,
    /// Why, when it failed or is not ready.
    #[serde(default)]
    pub reason: String,
    /// Inputs, in the file's order.
    pub inputs: Vec<TensorSpec>,
    /// Outputs, in the file's order.
    pub outputs: Vec<TensorSpec>,
    /// Whether the first axis of every input and output is the batch axis, along which
    /// requests are joined and large ones cut.
    pub batched: bool,
    /// Whether rows of different requests may share a run, and how that is known.
    #[serde(default)]
    pub rows: Rows,
    /// Most rows in one run; 1 when not `batched`.
    pub max_batch_size: u32,
    /// Most rows in one request; the worker splits what is over `max_batch_size`
    /// into several runs and joins the answers.
    pub max_rows: u32,
    /// Refuse NaN and infinities in float inputs.
    #[serde(default)]
    pub finite: bool,
    /// Whether it answers those who name no version. Where no version does, the
    /// newest ready one answers.
    #[serde(default)]
    pub default: bool,
    /// Labels such as `stable`, each naming this version.
    #[serde(default)]
    pub labels: Vec<SmolStr>,
    /// What the model's owner sets for the gateways, as it was written. Those that
    /// nobat knows are read by [`ModelSignature::slo_ms`] and its neighbours.
    #[serde(default)]
    pub settings: serde_json::Map<String, serde_json::Value>,
    /// What it does for callers who send texts or pictures; none where they send the
    /// graph's own tensors.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<Task>,
}

impl ModelSignature {
    /// The owner's `slo_ms`: the latency that the monitor judges by.
    pub fn slo_ms(&self) -> Option<f64> {
        self.settings.get("slo_ms")?.as_f64().filter(|&slo_ms| slo_ms > 0.0)
    }

    /// The key that topics match: the owner's `routing_key`, or the model's name.
    pub fn routing_key(&self) -> &str {
        self.settings.get("routing_key").and_then(|key| key.as_str()).unwrap_or(&self.name)
    }

    /// The names of an output's classes, by the owner's `class_labels`.
    pub fn class_labels(&self, output: &str) -> Vec<&str> {
        let list = self.settings.get("class_labels").and_then(|table| table.get(output)?.as_array());
        list.into_iter().flatten().map(|label| label.as_str().unwrap_or_default()).collect()
    }

    /// Whether the owner's `extra_columns` is `ignore`: a table may have columns that are no
    /// input's.
    pub fn ignores_extra_columns(&self) -> bool {
        self.settings.get("extra_columns").is_some_and(|value| value == "ignore")
    }

    /// The input that takes pictures, of a model whose task they are: the one named `image`,
    /// or the only one of bytes.
    pub fn picture_input(&self) -> Option<&TensorSpec> {
        self.task.as_ref().filter(|task| task.kind == TaskKind::Image || task.image.is_some())?;
        let of_bytes = || self.inputs.iter().filter(|spec| spec.datatype == Datatype::Bytes);
        let mut all = of_bytes();
        match (of_bytes().find(|spec| spec.name == "image"), all.next(), all.next()) {
            (Some(named), _, _) => Some(named),
            (None, only, None) => only,
            _ => None,
        }
    }

    /// The models that a chain runs, its steps' own included; none for a model of its own graph.
    pub fn runs(&self) -> impl Iterator<Item = &str> {
        let models = self.settings.get(CHAIN).and_then(|chain| chain.get("models")?.as_array());
        models.into_iter().flatten().filter_map(|name| name.as_str())
    }

    /// The owner's `cache`: how answers are kept.
    pub fn cache(&self) -> Option<&serde_json::Value> {
        self.settings.get("cache")
    }

    /// Checks a request as [`ModelSignature::rows_of`] does, and that it is no more than one
    /// job may have. Returns the rows.
    ///
    /// # Errors
    /// Those of `rows_of`; `payload_too_large` for more rows than `max_rows`.
    pub fn validate(&self, request: &InferRequest) -> Result<u32> {
        let rows = self.rows_of(request)?;
        if self.batched && rows > i64::from(self.max_rows) {
            return Err(Error::new(
                ErrorCode::PayloadTooLarge,
                format!(
                    "{rows} rows are over the limit of {} for model `{}`; split the request",
                    self.max_rows, self.name
                ),
            ));
        }
        Ok(rows as u32)
    }

    /// Checks a request of any number of rows: names, datatypes, shapes, byte counts, one batch
    /// size over all inputs, and finite numbers where asked; parameters, where it has a task.
    /// Returns the rows.
    ///
    /// # Errors
    /// `invalid_tensor`, naming the input, what it has and what the model takes;
    /// `invalid_parameter` for an output or a parameter that it does not have.
    pub fn rows_of(&self, request: &InferRequest) -> Result<i64> {
        for spec in &self.inputs {
            if !spec.optional && !request.inputs.iter().any(|tensor| tensor.name == spec.name) {
                return Err(invalid(format!("input `{}` is missing", spec.name)));
            }
        }
        let mut rows = None;
        for (at, tensor) in request.inputs.iter().enumerate() {
            let Some(spec) = self.inputs.iter().find(|spec| spec.name == tensor.name) else {
                return Err(invalid(format!("input `{}` is unknown", tensor.name)));
            };
            if request.inputs[..at].iter().any(|earlier| earlier.name == tensor.name) {
                return Err(invalid(format!("input `{}` is given twice", tensor.name)));
            }
            let own_rows = self.validate_tensor(spec, tensor)?;
            if self.batched {
                match rows {
                    None => rows = Some((own_rows, &spec.name)),
                    Some((first, name)) if first != own_rows => {
                        return Err(invalid(format!(
                            "input `{}` has {own_rows} rows and input `{name}` has {first}; the batch axis must agree",
                            spec.name
                        )));
                    }
                    Some(_) => {}
                }
            }
        }
        for name in &request.outputs {
            if !self.outputs.iter().any(|spec| &spec.name == name) {
                let known: Vec<_> = self.outputs.iter().map(|spec| spec.name.as_str()).collect();
                return Err(Error::invalid(format!(
                    "model `{}` has no output `{name}`; outputs: {}",
                    self.name,
                    known.join(", ")
                )));
            }
        }
        if let Some(task) = &self.task {
            task.check(&request.parameters)?;
        }
        let rows = rows.map_or(1, |(rows, _)| rows);
        if rows == 0 {
            return Err(invalid("the batch is empty; send at least one row".into()));
        }
        Ok(rows)
    }

    fn validate_tensor(&self, spec: &TensorSpec, tensor: &Tensor) -> Result<i64> {
        if tensor.datatype != spec.datatype {
            return Err(invalid(format!(
                "input `{}` has datatype {}; model `{}` takes {}",
                spec.name, tensor.datatype, self.name, spec.datatype
            )));
        }
        let fits = tensor.shape.len() == spec.shape.len()
            && tensor.shape.iter().zip(&spec.shape).all(|(&have, &want)| want < 0 || have == want);
        if !fits {
            return Err(invalid(format!(
                "input `{}` has shape {:?}; model `{}` takes {:?}",
                spec.name,
                tensor.shape.as_slice(),
                self.name,
                spec.shape
            )));
        }
        tensor.check()?;
        if self.finite
            && let Some(at) = tensor.first_non_finite()
        {
            return Err(invalid(format!(
                "input `{}` is NaN or infinite at element {at}; model `{}` takes finite numbers",
                spec.name, self.name
            )));
        }
        Ok(tensor.shape.first().copied().unwrap_or(1))
    }
}

fn invalid(message: String) -> Error {
    Error::new(ErrorCode::InvalidTensor, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use smallvec::smallvec;

    fn digits() -> ModelSignature {
        ModelSignature {
            name: "digits".into(),
            version: "1".into(),
            digest: String::new(),
            state: ModelState::Ready,
            reason: String::new(),
            inputs: vec![TensorSpec {
                name: "input".into(),
                datatype: Datatype::Fp32,
                shape: vec![-1, 2],
                optional: false,
            }],
            outputs: vec![TensorSpec {
                name: "label".into(),
                datatype: Datatype::Int64,
                shape: vec![-1],
                optional: false,
            }],
            batched: true,
            rows: Default::default(),
            max_batch_size: 2,
            max_rows: 4,
            finite: true,
            default: false,
            labels: vec![],
            settings: serde_json::Map::new(),
            task: None,
        }
    }

    fn request(values: &[f32], rows: i64) -> InferRequest {
        let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let width = values.len() as i64 / rows.max(1);
        let input =
            Tensor { name: "input".into(), datatype: Datatype::Fp32, shape: smallvec![rows, width], data: data.into() };
        InferRequest { inputs: vec![input], ..InferRequest::default() }
    }

    #[test]
    fn a_fitting_request_gives_its_rows() {
        assert_eq!(digits().validate(&request(&[0.0; 6], 3)).expect("fits"), 3);
    }

    #[test]
    fn each_misfit_is_named() {
        let model = digits();
        let message = |request: &InferRequest| model.validate(request).expect_err("misfit").message;
        assert!(message(&request(&[0.0; 3], 1)).contains("has shape [1, 3]; model `digits` takes [-1, 2]"));
        assert!(message(&request(&[0.0, f32::NAN], 1)).contains("NaN or infinite at element 1"));
        assert!(message(&request(&[0.0; 10], 5)).contains("5 rows are over the limit of 4"));
        assert!(message(&InferRequest::default()).contains("input `input` is missing"));
        let mut twice = request(&[0.0; 2], 1);
        twice.inputs.push(twice.inputs[0].clone());
        assert!(message(&twice).contains("given twice"));
        let mut wrong = request(&[0.0; 2], 1);
        wrong.outputs.push("nope".into());
        assert!(message(&wrong).contains("outputs: label"));
        let mut empty = request(&[], 0);
        empty.inputs[0].shape = smallvec![0, 2];
        assert!(message(&empty).contains("the batch is empty"));
    }
}
