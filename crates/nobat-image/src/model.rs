//! A picture model: from callers' encoded pictures to the session's inputs, and from its outputs to answers.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use nobat_core::parameters::Parameters;
use nobat_core::signature::TensorSpec;
use nobat_core::task::{ImageTask, Task, TaskKind};
use nobat_core::tensor::{Datatype, Tensor};
use nobat_core::{Error, ErrorCode, Result};
use nobat_transform::{CallerSignature, Finished, JobState, Prepared, Row, SessionOutput, Transform};

use crate::classify::Classifier;
use crate::detect::Detector;
use crate::folder::ImageFolder;
use crate::graph::{GraphInputs, Output};
use crate::head::{Head, RowAnswer};
use crate::metadata::Metadata;
use crate::options::{self, Options};
use crate::picture::Picture;
use crate::preparation;
use crate::processor::{Drawn, Processor};
use crate::read::Reader;
use crate::segment::{MOST_CLASSES, Segmenter};
use crate::settings::{Activation, ImageSettings};
use crate::sizes::{Placement, Resize};
use crate::task::{self, FoundTask};
use crate::tensors;

/// Pixels of a unit of cost, where pictures have sizes of their own.
const UNIT: u64 = 4096;
/// Names under which exporters give classes, and vectors.
const CLASSES: [&str; 5] = ["logits", "probabilities", "output0", "output", "scores"];
const VECTORS: [&str; 6] = ["image_embeds", "pooler_output", "embeddings", "embedding", "features", "output"];

/// What the graph and its file say.
#[derive(Clone, Copy, Debug)]
pub struct Graph<'a> {
    /// In the graph's order.
    pub inputs: &'a [TensorSpec],
    /// In the graph's order.
    pub outputs: &'a [TensorSpec],
    /// The file's own metadata.
    pub metadata: &'a BTreeMap<String, String>,
    /// By output, the operator that makes it.
    pub operators: &'a BTreeMap<String, String>,
}

/// What a model turned out to be.
#[derive(Clone, Debug)]
pub enum Reading {
    /// A model of pictures.
    Pictures(Box<ImageModel>),
    /// Callers send the graph's own tensors. Says why.
    Tensors(String),
}

/// A graph and what is known of its pictures, ready to serve.
#[derive(Clone, Debug)]
pub struct ImageModel {
    processor: Processor,
    inputs: GraphInputs,
    head: Head,
    labels: Vec<String>,
    /// A request's options where it sets none.
    defaults: Options,
    signature: CallerSignature,
    found: Vec<String>,
}

/// A row of a run.
#[derive(Debug)]
struct RunRow {
    drawn: Drawn,
    options: Arc<Options>,
}

impl ImageModel {
    /// Joins a model's files and settings to its graph; `settings` where its owner says that it takes pictures.
    ///
    /// # Errors
    /// `invalid_parameter`, naming what does not fit and the setting that mends it.
    pub fn read(folder: Option<&Path>, graph: Graph<'_>, settings: Option<&ImageSettings>) -> Result<Reading> {
        let folder = ImageFolder::read(folder)?;
        let metadata = Metadata::read(graph.metadata);
        let asked = settings.is_some();
        let none = ImageSettings::default();
        let settings = settings.unwrap_or(&none);
        let config = folder.config.as_ref();
        let task = task::find(settings.task.as_deref(), asked, &metadata, config, graph.outputs)?;
        let (task, how) = match task {
            FoundTask::Pictures(task, how) => (task, how),
            FoundTask::Tensors(why) => return Ok(Reading::Tensors(why)),
        };
        let mut found = vec![how];
        let inputs = GraphInputs::new(graph.inputs, settings, &mut found)?;
        let processor = preparation::processor(&folder, &metadata, &inputs, task, settings, &mut found)?;
        let named = labels(&folder, &metadata, settings, &mut found);
        let head = head(task, graph, &folder, &metadata, settings, named.as_deref(), &mut found)?;
        let labels = match task {
            ImageTask::Classify | ImageTask::Detect | ImageTask::Segment => named.unwrap_or_default(),
            ImageTask::Read | ImageTask::Embed => Vec::new(),
        };
        let threshold = match &head {
            Head::Detect(detector) => detector.default_threshold(),
            _ => 0.0,
        };
        let defaults = Options {
            top_k: settings.top_k.unwrap_or(5).max(1),
            threshold: options::share("threshold", settings.threshold)?.unwrap_or(threshold),
            iou: options::share("iou", settings.iou)?.unwrap_or(0.7),
            max_detections: settings.max_detections.unwrap_or(300).max(1),
            normalize: settings.normalize.unwrap_or(false),
            run_lengths: false,
        };
        let signature = signature(&head, &labels);
        Ok(Reading::Pictures(Box::new(ImageModel { processor, inputs, head, labels, defaults, signature, found })))
    }

    /// What was found and what was guessed, a line each, for the log.
    pub fn found(&self) -> &[String] {
        &self.found
    }

    /// What it makes of pictures.
    pub fn task(&self) -> ImageTask {
        self.head.task()
    }

    /// Whether pictures of unlike sizes may share a run: all are of one size in it, or the graph is told
    /// what is picture.
    pub fn rows_may_differ_in_size(&self) -> bool {
        self.size().is_some() || self.inputs.mask.is_some()
    }

    /// The width and height of every run's tensor, where all have one.
    fn size(&self) -> Option<(u32, u32)> {
        self.processor.fixed().or(self.inputs.width.zip(self.inputs.height))
    }

    /// What a picture on its canvas costs to run.
    fn cost(&self, canvas: (u32, u32)) -> u32 {
        match self.size() {
            Some(_) => 1,
            None => {
                let pixels = u64::from(canvas.0) * u64::from(canvas.1);
                u32::try_from(pixels.div_ceil(UNIT)).unwrap_or(u32::MAX).clamp(1, self.max_cost())
            }
        }
    }

    /// A canvas that costs so much.
    fn canvas_of(&self, cost: u32) -> (u32, u32) {
        let pixels = u64::from(cost) * UNIT;
        match (self.size(), self.processor.recipe.resize) {
            (Some(size), _) => size,
            (None, Resize::Height { height, most, .. }) => {
                let width = (pixels / u64::from(height.max(1))) as u32;
                (width.clamp(height.min(most), most), height)
            }
            (None, Resize::ShortestEdge(edge, _) | Resize::ShortestEdge16(edge, _)) => {
                let long = (pixels / u64::from(edge.max(1))) as u32;
                (long.max(edge), edge)
            }
            (None, _) => {
                let side = ((pixels as f64).sqrt() as u32).max(1);
                (side, side)
            }
        }
    }
}

impl Transform for ImageModel {
    fn signature(&self) -> &CallerSignature {
        &self.signature
    }

    fn max_cost(&self) -> u32 {
        if self.size().is_some() {
            return 1;
        }
        let most = match self.processor.recipe.resize {
            Resize::Height { height, most, .. } => u64::from(height) * u64::from(most),
            Resize::ShortestEdge(edge, Some(longest)) | Resize::ShortestEdge16(edge, Some(longest)) => {
                u64::from(edge) * u64::from(longest)
            }
            _ => self.processor.bounds.most_pixels,
        };
        u32::try_from(most.div_ceil(UNIT)).unwrap_or(u32::MAX).max(1)
    }

    fn bytes_per_cost(&self) -> u64 {
        let pixels = self.size().map_or(UNIT, |(width, height)| u64::from(width) * u64::from(height));
        let numbers = pixels * self.processor.recipe.channels.count() as u64;
        numbers * self.inputs.datatype.size().unwrap_or(4) as u64
    }

    fn prepare(&self, inputs: &[Option<Tensor>], parameters: &Parameters) -> Result<Prepared> {
        let options = Arc::new(self.defaults.read(parameters)?);
        let pictures = tensors::pictures(inputs)?;
        let mut rows = Vec::with_capacity(pictures.len());
        for (at, bytes) in pictures.into_iter().enumerate() {
            let drawn = self.processor.draw(bytes).map_err(|what| {
                Error::new(ErrorCode::InvalidTensor, format!("element {at} of input `{}` {what}", tensors::INPUT))
            })?;
            rows.push(Row::new(self.cost(drawn.placement.canvas), RunRow { drawn, options: Arc::clone(&options) }));
        }
        Ok(Prepared { rows, job: JobState::new(()) })
    }

    fn example(&self, cost: u32) -> Row {
        let (width, height) = self.canvas_of(cost);
        let channels = self.processor.recipe.channels.count();
        let placement =
            Placement { from: (width, height), resized: (width, height), canvas: (width, height), offset: (0, 0) };
        let drawn = Drawn { canvas: Picture::filled(width, height, channels, 128), placement };
        Row::new(self.cost((width, height)), RunRow { drawn, options: Arc::new(self.defaults.clone()) })
    }

    fn collate(&self, rows: &[&Row]) -> Result<Vec<Tensor>> {
        let rows: Vec<&RunRow> = rows.iter().map(|row| row.state::<RunRow>()).collect::<Result<_>>()?;
        let pictures: Vec<&Picture> = rows.iter().map(|row| &row.drawn.canvas).collect();
        let most = |side: fn(&Picture) -> u32| pictures.iter().map(|picture| side(picture)).max().unwrap_or(1);
        let own = || (most(|picture| picture.width).max(self.processor.least_width), most(|picture| picture.height));
        let (width, height) = self.size().unwrap_or_else(own);
        let (data, shape) = self.processor.tensor(&pictures, width, height);
        let pictured = Tensor {
            name: self.inputs.name.as_str().into(),
            datatype: self.inputs.datatype,
            shape: shape.as_slice().into(),
            data: data.into(),
        };
        let Some((at, datatype)) = self.inputs.mask else { return Ok(vec![pictured]) };
        let mask = mask(&pictures, width, height, datatype);
        // The graph's order; `count` is 2 where there is a mask.
        Ok(if at < self.inputs.at { vec![mask, pictured] } else { vec![pictured, mask] })
    }

    fn finish(&self, rows: &[&Row], outputs: &[SessionOutput<'_>]) -> Result<Vec<Finished>> {
        let rows: Vec<&RunRow> = rows.iter().map(|row| row.state::<RunRow>()).collect::<Result<_>>()?;
        let placed: Vec<(Placement, &Options)> =
            rows.iter().map(|row| (row.drawn.placement, row.options.as_ref())).collect();
        Ok(self.head.finish(&placed, outputs, &self.labels)?.into_iter().map(Finished::new).collect())
    }

    fn answer(&self, _job: &JobState, rows: Vec<Finished>) -> Result<Vec<Tensor>> {
        let rows: Vec<RowAnswer> = rows.into_iter().map(Finished::take::<RowAnswer>).collect::<Result<_>>()?;
        self.head.answer(rows, &self.labels)
    }
}

/// Ones where a run's tensor is picture, zeros where it is free space.
fn mask(pictures: &[&Picture], width: u32, height: u32, datatype: Datatype) -> Tensor {
    let size = datatype.size().unwrap_or(1);
    let (wide, high) = (width as usize, height as usize);
    let mut data = vec![0u8; pictures.len() * wide * high * size];
    let one: &[u8] = match datatype {
        Datatype::Fp32 => &[0, 0, 0x80, 0x3F],
        _ => &[1, 0, 0, 0, 0, 0, 0, 0][..size],
    };
    for (picture, rows) in pictures.iter().zip(data.chunks_exact_mut((wide * high * size).max(1))) {
        for line in rows.chunks_exact_mut((wide * size).max(1)).take(picture.height as usize) {
            line.chunks_exact_mut(size).take(picture.width as usize).for_each(|pixel| pixel.copy_from_slice(one));
        }
    }
    let shape = [pictures.len() as i64, i64::from(height), i64::from(width)];
    Tensor { name: "pixel_mask".into(), datatype, shape: shape.as_slice().into(), data: data.into() }
}

/// The names of the classes, where anything names them.
fn labels(
    folder: &ImageFolder,
    metadata: &Metadata,
    settings: &ImageSettings,
    found: &mut Vec<String>,
) -> Option<Vec<String>> {
    let of_config = || folder.config.as_ref().and_then(|config| config.labels());
    let sources = [
        (settings.labels.clone(), "model.toml"),
        (folder.labels.clone(), "labels.txt"),
        (of_config(), "config.json"),
        (metadata.names.clone(), "the file's metadata"),
    ];
    let (labels, source) = sources.into_iter().find_map(|(labels, source)| Some((labels?, source)))?;
    found.push(format!("{} labels of {source}", labels.len()));
    Some(labels)
}

fn head(
    task: ImageTask,
    graph: Graph<'_>,
    folder: &ImageFolder,
    metadata: &Metadata,
    settings: &ImageSettings,
    labels: Option<&[String]>,
    found: &mut Vec<String>,
) -> Result<Head> {
    let set = settings.output.as_deref();
    let count = labels.map(<[String]>::len);
    let fits = |classes: Option<usize>, output: &str| match (classes, count) {
        (Some(classes), Some(count)) if classes != count => Err(Error::invalid(format!(
            "output `{output}` has {classes} classes and there are {count} labels; give as many: labels.txt beside the \
             model, or `labels` in `[image]` of model.toml"
        ))),
        _ => Ok(()),
    };
    Ok(match task {
        ImageTask::Classify => {
            // Some graphs keep the axes of their last pooling.
            let output = Output::find(graph.outputs, set, &CLASSES, &[2])
                .or_else(|error| Output::find(graph.outputs, set, &CLASSES, &[4]).map_err(|_| error))?;
            fits(output.axis(1), &output.name)?;
            let activation = activation(&output, graph, folder, metadata, settings, found);
            Head::Classify(Classifier { output, activation })
        }
        ImageTask::Detect => {
            let model_type = folder.config.as_ref().and_then(|config| config.model_type.as_deref());
            let detector = Detector::new(graph.outputs, settings, metadata, model_type, count, found)?;
            found.push(format!("boxes as {:?} lays them out", detector.layout()));
            Head::Detect(detector)
        }
        ImageTask::Segment => {
            let output = Output::find(graph.outputs, set, &["logits", "output", "out"], &[4])?;
            if let Some(classes) = output.axis(1).filter(|&classes| classes > MOST_CLASSES) {
                return Err(Error::invalid(format!(
                    "output `{}` has {classes} classes; a mask tells {MOST_CLASSES} apart; set another `output`, or \
                     `task = \"tensors\"`, in `[image]` of model.toml",
                    output.name
                )));
            }
            fits(output.axis(1), &output.name)?;
            Head::Segment(Segmenter { output })
        }
        ImageTask::Read => {
            let output = Output::find(graph.outputs, set, &["logits", "output"], &[2, 3])?;
            let operator = graph.operators.get(&output.name).map(String::as_str);
            Head::Read(Reader::new(output, folder, metadata, settings, operator, found)?)
        }
        ImageTask::Embed => Head::Embed(Output::find(graph.outputs, set, &VECTORS, &[2])?),
    })
}

fn activation(
    output: &Output,
    graph: Graph<'_>,
    folder: &ImageFolder,
    metadata: &Metadata,
    settings: &ImageSettings,
    found: &mut Vec<String>,
) -> Activation {
    if let Some(activation) = settings.activation {
        return activation;
    }
    let operator = graph.operators.get(&output.name).map(String::as_str);
    if metadata.ultralytics || matches!(operator, Some("Softmax" | "Sigmoid")) {
        found.push("scores as they are: the graph makes them".to_owned());
        return Activation::None;
    }
    match &folder.config {
        Some(config) if config.problem_type.as_deref() == Some("multi_label_classification") => Activation::Sigmoid,
        Some(_) => Activation::Softmax,
        None => {
            let ends = operator.map_or(String::new(), |operator| format!(", the graph ends in {operator}"));
            found.push(format!("scores by softmax: a guess{ends}"));
            Activation::Softmax
        }
    }
}

fn signature(head: &Head, labels: &[String]) -> CallerSignature {
    let masks = matches!(head, Head::Detect(detector) if detector.has_masks()).then_some("mask");
    let shape = vec![-1];
    let input = TensorSpec { name: tensors::INPUT.into(), datatype: Datatype::Bytes, shape, optional: false };
    let task = Task {
        image: Some(head.task()),
        labels: labels.iter().map(|label| label.as_str().into()).collect(),
        multi_label: matches!(head, Head::Classify(own) if own.activation == Activation::Sigmoid),
        dimensions: head.dimensions().and_then(|count| u32::try_from(count).ok()),
        parameters: options::taken(head.task()).iter().copied().chain(masks).map(Into::into).collect(),
        json_outputs: head.json_outputs().iter().map(|&name| name.into()).collect(),
        ..Task::new(TaskKind::Image)
    };
    CallerSignature { inputs: vec![input], outputs: head.outputs(), task }
}
