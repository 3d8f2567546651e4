//! Texts and pictures in one space: a graph of two towers, as CLIP's is, and a transformation for each.
//!
//! A job has texts, or pictures, or pictures with labels that are compared with them. A run has rows of
//! both kinds, each on an axis of its own; a graph wants both inputs, so where a run has rows of one kind alone,
//! a made-up row stands for the other. Towers of a graph each are not run without rows.

mod compared;

use std::sync::Arc;

use nobat_core::parameters::Parameters;
use nobat_core::signature::TensorSpec;
use nobat_core::task::{ImageTask, Task, TaskKind};
use nobat_core::tensor::{Datatype, Tensor};
use nobat_core::{Error, ErrorCode, Result};
use smol_str::SmolStr;

use crate::contract::{CallerSignature, Finished, JobState, Prepared, Row, SessionOutput, Transform};
use compared::{Compared, Similarity, TEXT};

/// Names of the inputs that callers see.
const IMAGE: &str = "image";
const LABELS: &str = "labels";
/// Parameters of texts that pictures have nothing of: their vectors are those of the graph.
const OF_TEXTS_ALONE: [&str; 3] = ["dimensions", "pooling", "prompt_name"];
/// Parameters of pictures that are compared with labels.
const OF_LABELS: [&str; 4] = ["hypothesis_template", "normalize", "truncate", "truncation_direction"];
/// The costliest text that is told apart from a picture.
const MOST_TEXT: u32 = 511;

/// Two transformations, of one graph or of one each.
#[derive(Debug)]
pub struct Towers {
    texts: Arc<dyn Transform>,
    pictures: Arc<dyn Transform>,
    /// The graph's inputs, in its order.
    inputs: Vec<SmolStr>,
    /// How alike pictures and texts are found; none where nothing says.
    likeness: Option<Likeness>,
    /// Inputs of texts and of pictures without rows, where each tower has its own graph.
    without_rows: Option<[Vec<Tensor>; 2]>,
    /// Every picture costs so much, and no text does.
    picture_cost: u32,
    signature: CallerSignature,
}

/// What says by how much likeness is scaled.
#[derive(Clone, Copy, Debug)]
enum Likeness {
    /// The graph's outputs.
    Shown(Similarity),
    /// Whoever serves it.
    Told(f32),
}

/// A row of either tower.
#[derive(Debug)]
enum TowerRow {
    Text(Row),
    Picture(Row),
}

/// What a row came to.
#[derive(Debug)]
struct TowerFinished {
    own: Finished,
    /// What the run showed of how the graph scales likeness.
    scale: Option<f32>,
}

/// A job between its inputs and its answer.
#[derive(Debug)]
enum Asked {
    Texts(JobState),
    Pictures(JobState),
    Compared(Compared),
}

impl Towers {
    /// Joins two transformations whose vectors are of one space; `inputs` and `outputs` are the whole graph's,
    /// `family` is what its makers call it.
    ///
    /// # Errors
    /// `invalid_parameter` where a tower gives no vectors, or they have unlike lengths.
    pub fn new(
        texts: Arc<dyn Transform>,
        pictures: Arc<dyn Transform>,
        inputs: &[TensorSpec],
        outputs: &[TensorSpec],
        family: Option<&str>,
    ) -> Result<Towers> {
        // SigLIP scores each pair by itself, not labels against each other.
        let each = family.is_some_and(|family| family.starts_with("siglip"));
        let likeness = if each { None } else { Similarity::find(outputs).map(Likeness::Shown) };
        Towers::of(texts, pictures, inputs, likeness)
    }

    /// Joins two transformations of a graph each; `inputs` are those of texts and then those of pictures, `scale`
    /// is what the cosine of a picture and a text is multiplied by.
    ///
    /// # Errors
    /// As [`Towers::new`]; `invalid_parameter` for a scale that is none.
    pub fn apart(
        texts: Arc<dyn Transform>,
        pictures: Arc<dyn Transform>,
        inputs: &[TensorSpec],
        scale: Option<f32>,
    ) -> Result<Towers> {
        if let Some(scale) = scale.filter(|scale| !(scale.is_finite() && *scale > 0.0)) {
            let message =
                format!("`logit_scale` in `[image]` of model.toml is {scale}; it takes a number over 0, often 100");
            return Err(Error::invalid(message));
        }
        let without_rows = [&texts, &pictures].map(|transform| without_rows(&**transform));
        let [of_texts, of_pictures] = without_rows;
        let towers = Towers::of(texts, pictures, inputs, scale.map(Likeness::Told))?;
        Ok(Towers { without_rows: Some([of_texts?, of_pictures?]), ..towers })
    }

    fn of(
        texts: Arc<dyn Transform>,
        pictures: Arc<dyn Transform>,
        inputs: &[TensorSpec],
        likeness: Option<Likeness>,
    ) -> Result<Towers> {
        let (text, picture) = (&texts.signature().task, &pictures.signature().task);
        if text.kind != TaskKind::Embed || picture.image != Some(ImageTask::Embed) {
            let other = picture.image.map_or("none", ImageTask::as_str);
            return Err(Error::invalid(format!(
                "a graph of two towers gives vectors, and its tasks are {} for texts and {other} for pictures; leave \
                 `task` out in `[text]` and `[image]` of model.toml, or set `task = \"tensors\"`",
                text.kind
            )));
        }
        let width = |transform: &dyn Transform| transform.signature().task.dimensions;
        let (of_text, of_picture) = (width(&*texts), width(&*pictures));
        if let (Some(text), Some(picture)) = (of_text, of_picture)
            && text != picture
        {
            return Err(Error::invalid(format!(
                "vectors of texts have {text} numbers and those of pictures {picture}, so they are of no one space; \
                 export the graph with `text_embeds` and `image_embeds`"
            )));
        }
        let dimensions = of_text.or(of_picture);
        let signature = signature(&texts.signature().task, dimensions, likeness.is_some());
        let picture_cost = texts.max_cost().min(MOST_TEXT) + 1;
        let inputs = inputs.iter().map(|spec| spec.name.clone()).collect();
        Ok(Towers { texts, pictures, inputs, likeness, without_rows: None, picture_cost, signature })
    }

    fn text_row(&self, row: Row) -> Row {
        Row::new(row.cost.min(self.picture_cost - 1), TowerRow::Text(row))
    }

    fn picture_row(&self, row: Row) -> Row {
        Row::new(self.picture_cost, TowerRow::Picture(row))
    }

    fn texts_of(&self, inputs: &[Option<Tensor>], parameters: &Parameters) -> Result<Prepared> {
        let Prepared { rows, job } = self.texts.prepare(inputs, parameters)?;
        let rows = rows.into_iter().map(|row| self.text_row(row)).collect();
        Ok(Prepared { rows, job: JobState::new(Asked::Texts(job)) })
    }

    fn pictures_of(&self, image: &Tensor, parameters: &Parameters) -> Result<Prepared> {
        takes_only(parameters, &["normalize"], "pictures")?;
        let Prepared { rows, job } = self.pictures.prepare(&[Some(image.clone())], parameters)?;
        let rows = rows.into_iter().map(|row| self.picture_row(row)).collect();
        Ok(Prepared { rows, job: JobState::new(Asked::Pictures(job)) })
    }

    fn compared(&self, image: &Tensor, labels: &Tensor, parameters: &Parameters) -> Result<Prepared> {
        takes_only(parameters, &OF_LABELS, "pictures with labels")?;
        let (sentences, of_picture) = compared::sentences(labels, parameters)?;
        let pictures = self.pictures.prepare(&[Some(image.clone())], &Parameters::default())?;
        let texts = self.texts.prepare(&[Some(sentences)], parameters)?;
        let count = pictures.rows.len();
        let of_pictures = pictures.rows.into_iter().map(|row| self.picture_row(row));
        let of_texts = texts.rows.into_iter().map(|row| self.text_row(row));
        let rows = of_pictures.chain(of_texts).collect();
        let compared = Compared { pictures: pictures.job, texts: texts.job, count, labels: of_picture };
        Ok(Prepared { rows, job: JobState::new(Asked::Compared(compared)) })
    }
}

impl Transform for Towers {
    fn signature(&self) -> &CallerSignature {
        &self.signature
    }

    fn max_cost(&self) -> u32 {
        self.picture_cost
    }

    fn bytes_per_cost(&self) -> u64 {
        let picture = self.pictures.bytes_per_cost() * u64::from(self.pictures.max_cost());
        self.texts.bytes_per_cost().max(picture / u64::from(self.picture_cost))
    }

    fn prepare(&self, inputs: &[Option<Tensor>], parameters: &Parameters) -> Result<Prepared> {
        let given = |name: &str| {
            let at = self.signature.inputs.iter().position(|spec| spec.name == name)?;
            inputs.get(at)?.as_ref()
        };
        match (given(IMAGE), given(TEXT), given(LABELS)) {
            (Some(image), None, None) => self.pictures_of(image, parameters),
            (Some(image), None, Some(labels)) => self.compared(image, labels, parameters),
            (None, Some(text), None) => self.texts_of(&[Some(text.clone())], parameters),
            _ => {
                let labels = if self.likeness.is_some() { ", or `image` with `labels`" } else { "" };
                let message = format!("a request of this model has `image`, or `text`{labels}; send one of these");
                Err(Error::new(ErrorCode::InvalidTensor, message))
            }
        }
    }

    fn example(&self, cost: u32) -> Row {
        match cost < self.picture_cost {
            true => self.text_row(self.texts.example(cost)),
            false => self.picture_row(self.pictures.example(self.pictures.max_cost())),
        }
    }

    fn collate(&self, rows: &[&Row]) -> Result<Vec<Tensor>> {
        let (texts, pictures) = apart(rows)?;
        let of_tower = |transform: &dyn Transform, rows: Placed<'_>, tower: usize| match &self.without_rows {
            _ if !rows.is_empty() => transform.collate(&of(&rows)),
            Some(without_rows) => Ok(without_rows[tower].clone()),
            None => transform.collate(&[&transform.example(1)]),
        };
        let mut tensors = of_tower(&*self.texts, texts, 0)?;
        tensors.extend(of_tower(&*self.pictures, pictures, 1)?);
        let place = |tensor: &Tensor| self.inputs.iter().position(|name| *name == tensor.name);
        tensors.sort_by_key(place);
        Ok(tensors)
    }

    fn finish(&self, rows: &[&Row], outputs: &[SessionOutput<'_>]) -> Result<Vec<Finished>> {
        let scale = match self.likeness {
            Some(Likeness::Shown(own)) => own.scale(outputs),
            Some(Likeness::Told(scale)) => Some(scale),
            None => None,
        };
        let mut finished: Vec<Option<Finished>> = rows.iter().map(|_| None).collect();
        let (texts, pictures) = apart(rows)?;
        for (transform, own) in [(&self.texts, texts), (&self.pictures, pictures)] {
            if own.is_empty() {
                continue;
            }
            let came_to = transform.finish(&of(&own), outputs)?;
            for ((at, _), came_to) in own.iter().zip(came_to) {
                let bytes = came_to.bytes();
                finished[*at] = Some(Finished::new(TowerFinished { own: came_to, scale }).of_bytes(bytes));
            }
        }
        let missing = || Error::internal("a row of a tower came to nothing");
        finished.into_iter().map(|own| own.ok_or_else(missing)).collect()
    }

    fn answer(&self, job: &JobState, rows: Vec<Finished>) -> Result<Vec<Tensor>> {
        let rows: Vec<TowerFinished> = rows.into_iter().map(Finished::take).collect::<Result<_>>()?;
        let scale = rows.iter().find_map(|row| row.scale);
        let rows = rows.into_iter().map(|row| row.own).collect();
        match job.state::<Asked>()? {
            Asked::Texts(job) => self.texts.answer(job, rows),
            Asked::Pictures(job) => self.pictures.answer(job, rows),
            Asked::Compared(compared) => compared.answer(&*self.texts, &*self.pictures, rows, scale),
        }
    }
}

type Placed<'a> = Vec<(usize, &'a Row)>;

/// Rows of texts and of pictures, with their places.
fn apart<'a>(rows: &[&'a Row]) -> Result<(Placed<'a>, Placed<'a>)> {
    let (mut texts, mut pictures) = (Vec::new(), Vec::new());
    for (at, row) in rows.iter().enumerate() {
        match row.state::<TowerRow>()? {
            TowerRow::Text(own) => texts.push((at, own)),
            TowerRow::Picture(own) => pictures.push((at, own)),
        }
    }
    Ok((texts, pictures))
}

/// A graph's inputs, with no row in them.
fn without_rows(transform: &dyn Transform) -> Result<Vec<Tensor>> {
    let mut tensors = transform.collate(&[&transform.example(1)])?;
    for tensor in &mut tensors {
        if let Some(rows) = tensor.shape.first_mut() {
            *rows = 0;
        }
        tensor.data = Default::default();
    }
    Ok(tensors)
}

fn of<'a>(placed: &Placed<'a>) -> Vec<&'a Row> {
    placed.iter().map(|(_, row)| *row).collect()
}

/// Refuses parameters that say nothing of what was sent.
fn takes_only(parameters: &Parameters, known: &[&str], what: &str) -> Result<()> {
    match parameters.iter().find(|(name, _)| !known.contains(&name.as_str())) {
        None => Ok(()),
        Some((name, _)) => Err(Error::invalid(format!(
            "parameter `{name}` is not for {what}, which take: {}; leave it out",
            known.join(", ")
        ))),
    }
}

fn signature(of_texts: &Task, dimensions: Option<u32>, compares: bool) -> CallerSignature {
    let spec = |name: &str, datatype, shape: &[i64]| TensorSpec {
        name: name.into(),
        datatype,
        shape: shape.to_vec(),
        optional: true,
    };
    let mut inputs = vec![spec(IMAGE, Datatype::Bytes, &[-1]), spec(TEXT, Datatype::Bytes, &[-1])];
    let mut outputs = vec![
        spec("embedding", Datatype::Fp32, &[-1, dimensions.map_or(-1, i64::from)]),
        spec("tokens", Datatype::Int32, &[-1]),
        spec("result", Datatype::Bytes, &[-1]),
    ];
    let kept = |name: &&SmolStr| !OF_TEXTS_ALONE.contains(&name.as_str());
    let mut parameters: Vec<SmolStr> = of_texts.parameters.iter().filter(kept).cloned().collect();
    if compares {
        inputs.push(spec(LABELS, Datatype::Bytes, &[-1]));
        outputs.push(spec("scores", Datatype::Bytes, &[-1]));
        parameters.push("hypothesis_template".into());
    }
    let task = Task {
        image: Some(ImageTask::Embed),
        dimensions,
        max_tokens: of_texts.max_tokens,
        parameters,
        json_outputs: if compares { vec!["scores".into()] } else { Vec::new() },
        ..Task::new(TaskKind::Embed)
    };
    CallerSignature { inputs, outputs, task }
}
