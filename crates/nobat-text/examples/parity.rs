//! A text model without its session: whoever drives it over standard input runs the graph.
//!
//! `parity FOLDER` reads a line with the graph's inputs and outputs, then a line for each job, and
//! answers in lines: the session's inputs of each run, for whose outputs it waits, then the job's
//! answer. `scripts/text_parity` compares the answers with transformers and sentence-transformers.

use std::io::{BufRead, Lines, StdinLock, Write};
use std::path::Path;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use nobat_core::parameters::{Parameter, Parameters};
use nobat_core::signature::TensorSpec;
use nobat_core::tensor::{Datatype, Tensor, put_bytes_element};
use nobat_text::{Reading, TextFolder, TextModel, TextSettings};
use nobat_transform::{Finished, SessionOutput, Transform};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use smallvec::smallvec;

type Failure = Box<dyn std::error::Error>;

#[derive(Deserialize)]
struct Graph {
    inputs: Vec<TensorSpec>,
    outputs: Vec<TensorSpec>,
    #[serde(default)]
    settings: TextSettings,
}

#[derive(Deserialize)]
struct Job {
    /// The inputs in the signature's order, their elements in base64.
    inputs: Vec<Option<Vec<String>>>,
    #[serde(default)]
    parameters: Map<String, Value>,
    /// Rows of a run.
    batch: usize,
}

#[derive(Serialize, Deserialize)]
struct Written {
    #[serde(default)]
    name: String,
    datatype: Datatype,
    shape: Vec<i64>,
    data: String,
}

impl Written {
    fn of(tensor: &Tensor) -> Written {
        Written {
            name: tensor.name.to_string(),
            datatype: tensor.datatype,
            shape: tensor.shape.to_vec(),
            data: BASE64_STANDARD.encode(&tensor.data),
        }
    }
}

fn main() -> Result<(), Failure> {
    let folder = std::env::args().nth(1).ok_or("give a folder")?;
    let mut lines = std::io::stdin().lock().lines();
    let graph: Graph = read(&mut lines)?.ok_or("no graph")?;
    let model = match open(Path::new(&folder), &graph) {
        Ok(model) => model,
        Err(error) => return say(&json!({ "error": error })),
    };
    let signature = model.signature();
    say(&json!({
        "found": model.found(), "task": signature.task,
        "inputs": signature.inputs, "outputs": signature.outputs, "most": model.max_cost(),
    }))?;
    while let Some(job) = read::<Job>(&mut lines)? {
        match answer(&model, &job, &mut lines) {
            Ok(tensors) => say(&json!({ "answer": tensors.iter().map(Written::of).collect::<Vec<_>>() }))?,
            Err(error) => say(&json!({ "error": error.to_string() }))?,
        }
    }
    Ok(())
}

fn open(folder: &Path, graph: &Graph) -> Result<TextModel, String> {
    match TextFolder::read(folder, &graph.settings).map_err(|error| error.message)? {
        Reading::Text(read) => {
            TextModel::new(*read, &graph.inputs, &graph.outputs, &graph.settings).map_err(|error| error.message)
        }
        Reading::Tensors(why) => Err(why),
    }
}

fn answer(model: &TextModel, job: &Job, lines: &mut Lines<StdinLock<'static>>) -> Result<Vec<Tensor>, Failure> {
    let mut inputs = Vec::new();
    for (given, spec) in job.inputs.iter().zip(&model.signature().inputs) {
        inputs.push(match given {
            None => None,
            Some(elements) => {
                let mut data = Vec::new();
                for element in elements {
                    put_bytes_element(&mut data, &BASE64_STANDARD.decode(element)?);
                }
                let shape = smallvec![elements.len() as i64];
                Some(Tensor { name: spec.name.clone(), datatype: Datatype::Bytes, shape, data: data.into() })
            }
        });
    }
    let parameters: Parameters = job
        .parameters
        .iter()
        .filter_map(|(name, value)| Some((name.as_str().into(), Parameter::of_json(value)?)))
        .collect();
    model.signature().task.check(&parameters)?;
    let prepared = model.prepare(&inputs, &parameters)?;
    let mut finished: Vec<Finished> = Vec::new();
    for rows in prepared.rows.chunks(job.batch) {
        let rows: Vec<_> = rows.iter().collect();
        let run: Vec<Written> = model.collate(&rows)?.iter().map(Written::of).collect();
        say(&json!({ "run": run }))?;
        let outputs: Vec<Written> = read(lines)?.ok_or("no outputs")?;
        let data: Vec<Vec<u8>> =
            outputs.iter().map(|output| BASE64_STANDARD.decode(&output.data)).collect::<Result<_, _>>()?;
        let outputs: Vec<SessionOutput<'_>> = outputs
            .iter()
            .zip(&data)
            .map(|(output, data)| SessionOutput { datatype: output.datatype, shape: &output.shape, data })
            .collect();
        finished.extend(model.finish(&rows, &outputs)?);
    }
    Ok(model.answer(&prepared.job, finished)?)
}

fn read<T: serde::de::DeserializeOwned>(lines: &mut Lines<StdinLock<'static>>) -> Result<Option<T>, Failure> {
    lines.next().map(|line| Ok(serde_json::from_str(&line?)?)).transpose()
}

fn say(line: &Value) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}
