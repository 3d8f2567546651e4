//! Two graphs that serve as one: the towers of texts and of pictures, where each was exported into a
//! file of its own.

use nobat_core::tensor::Datatype;
use smallvec::SmallVec;
use smol_str::{SmolStr, format_smolstr};

use super::api::{Engine, InputData, InputView, OutputData, OutputView, RunError, RunLimit};
use super::onnx::{Description, OnnxEngine, OpenError};
use crate::config::ProviderKind;

/// What stands before the names of outputs that both towers have.
pub(crate) const OF_TEXTS: &str = "text_model.";
pub(crate) const OF_PICTURES: &str = "vision_model.";

/// A version's graph, or both of its graphs.
pub(crate) enum Graphs {
    One(Box<OnnxEngine>),
    Two(Box<TowerEngines>),
}

impl Graphs {
    /// Names, datatypes and shapes: of two graphs as if they were one.
    pub(crate) fn describe(&self) -> Result<Description, OpenError> {
        match self {
            Graphs::One(engine) => engine.describe(),
            Graphs::Two(towers) => {
                joined(towers.texts.describe()?, towers.pictures.describe()?).map_err(OpenError::Model)
            }
        }
    }

    /// Where it runs.
    pub(crate) fn provider(&self) -> ProviderKind {
        match self {
            Graphs::One(engine) => engine.provider(),
            Graphs::Two(towers) => towers.texts.provider(),
        }
    }
}

impl Engine for Graphs {
    fn run(
        &mut self,
        inputs: &[InputView<'_>],
        limit: Option<RunLimit<'_>>,
        take: &mut dyn FnMut(&[OutputView<'_>]),
    ) -> Result<(), RunError> {
        match self {
            Graphs::One(engine) => engine.run(inputs, limit, take),
            Graphs::Two(towers) => towers.run(inputs, limit, take),
        }
    }
}

/// The sessions of both towers. Inputs and outputs are those of texts, and then those of pictures.
pub(crate) struct TowerEngines {
    texts: OnnxEngine,
    pictures: OnnxEngine,
    /// How many inputs are those of texts.
    inputs: usize,
    /// The datatypes of the outputs of texts and of pictures.
    outputs: [Vec<Datatype>; 2],
}

impl TowerEngines {
    /// Joins two sessions.
    ///
    /// # Errors
    /// [`OpenError::Model`] where a tensor cannot travel in a request.
    pub(crate) fn new(texts: OnnxEngine, pictures: OnnxEngine) -> Result<TowerEngines, OpenError> {
        let (of_texts, of_pictures) = (texts.describe()?, pictures.describe()?);
        let datatypes = |own: &Description| own.outputs.iter().map(|output| output.datatype).collect();
        let outputs = [datatypes(&of_texts), datatypes(&of_pictures)];
        Ok(TowerEngines { texts, pictures, inputs: of_texts.inputs.len(), outputs })
    }
}

impl Engine for TowerEngines {
    /// A tower whose inputs have no rows does not run, and its outputs have none.
    fn run(
        &mut self,
        inputs: &[InputView<'_>],
        limit: Option<RunLimit<'_>>,
        take: &mut dyn FnMut(&[OutputView<'_>]),
    ) -> Result<(), RunError> {
        let TowerEngines { texts, pictures, inputs: first, outputs } = self;
        let of = |wanted: bool| -> SmallVec<[InputView<'_>; 4]> {
            let own = inputs.iter().filter(|input| (input.index >= *first) == wanted);
            own.map(|input| moved(input, if wanted { *first } else { 0 })).collect()
        };
        let (of_texts, of_pictures) = (of(false), of(true));
        let none = |own: &[InputView<'_>]| own.iter().all(|input| input.shape.first() == Some(&0));
        let [none_of_texts, none_of_pictures] = outputs.each_ref().map(|datatypes| without_rows(datatypes));
        match (none(&of_texts), none(&of_pictures)) {
            (_, true) => texts.run(&of_texts, limit, &mut |outputs| take(&beside(outputs, &none_of_pictures))),
            (true, false) => pictures.run(&of_pictures, limit, &mut |outputs| take(&beside(&none_of_texts, outputs))),
            (false, false) => {
                let (again, mut second) = (limit.as_ref().map(same), None);
                let mut again = Some(again);
                texts.run(&of_texts, limit, &mut |of_texts| {
                    let limit = again.take().flatten();
                    second = Some(
                        pictures.run(&of_pictures, limit, &mut |of_pictures| take(&beside(of_texts, of_pictures))),
                    );
                })?;
                second.unwrap_or_else(|| Err(RunError::Failed("the graph of texts gave nothing".into())))
            }
        }
    }
}

type Outputs<'a> = SmallVec<[OutputView<'a>; 8]>;

fn without_rows(datatypes: &[Datatype]) -> Outputs<'static> {
    let none = |&datatype: &Datatype| {
        let data = if datatype == Datatype::Bytes { OutputData::Text(Vec::new()) } else { OutputData::Raw(&[]) };
        OutputView { datatype, shape: &[0], data }
    };
    datatypes.iter().map(none).collect()
}

fn beside<'a>(first: &'a [OutputView<'a>], second: &'a [OutputView<'a>]) -> Outputs<'a> {
    let lent = |output: &'a OutputView<'a>| OutputView {
        datatype: output.datatype,
        shape: output.shape,
        data: match &output.data {
            OutputData::Raw(raw) => OutputData::Raw(raw),
            OutputData::Text(elements) => OutputData::Text(elements.clone()),
        },
    };
    first.iter().chain(second).map(lent).collect()
}

/// An input of one of the graphs, which begins at `first` of all.
fn moved<'a>(input: &'a InputView<'_>, first: usize) -> InputView<'a> {
    let data = match &input.data {
        InputData::Raw(raw) => InputData::Raw(raw),
        InputData::Text(elements) => InputData::Text(elements),
    };
    InputView { index: input.index - first, datatype: input.datatype, shape: input.shape, data }
}

fn same<'a>(limit: &RunLimit<'a>) -> RunLimit<'a> {
    RunLimit { at: limit.at, lease: limit.lease, watchdog: limit.watchdog }
}

/// What both graphs say, as if they were one.
///
/// # Errors
/// One line: an input that both take.
pub(crate) fn joined(texts: Description, pictures: Description) -> Result<Description, String> {
    if let Some(both) = texts.inputs.iter().find(|own| pictures.inputs.iter().any(|other| other.name == own.name)) {
        return Err(format!(
            "the graphs of texts and of pictures both take `{}`; export them again, or serve each as a model of its \
             own: a folder for each, with `variant` in its model.toml",
            both.name
        ));
    }
    let names = |own: &Description| -> Vec<SmolStr> { own.outputs.iter().map(|output| output.name.clone()).collect() };
    let (of_texts, of_pictures) = (names(&texts), names(&pictures));
    let told_apart = |mut own: Description, others: &[SmolStr], prefix: &str| {
        for output in own.outputs.iter_mut().filter(|output| others.contains(&output.name)) {
            output.name = format_smolstr!("{prefix}{}", output.name);
        }
        own
    };
    let mut both = told_apart(texts, &of_pictures, OF_TEXTS);
    let pictures = told_apart(pictures, &of_texts, OF_PICTURES);
    both.inputs.extend(pictures.inputs);
    both.outputs.extend(pictures.outputs);
    both.classes.extend(pictures.classes);
    both.metadata.extend(pictures.metadata);
    Ok(both)
}

#[cfg(test)]
mod tests {
    use nobat_core::signature::TensorSpec;
    use nobat_testkit::signatures::spec;

    use super::*;

    fn description(inputs: &[&str], outputs: &[&str]) -> Description {
        let specs = |names: &[&str]| names.iter().map(|name| spec(name, Datatype::Fp32, &[-1, 3])).collect();
        Description {
            inputs: specs(inputs),
            outputs: specs(outputs),
            classes: Vec::new(),
            metadata: Default::default(),
        }
    }

    #[test]
    fn what_both_graphs_give_has_two_names() {
        let texts = description(&["input_ids"], &["text_embeds", "last_hidden_state"]);
        let pictures = description(&["pixel_values"], &["last_hidden_state", "image_embeds"]);
        let both = joined(texts, pictures).expect("two graphs");
        let names = |specs: &[TensorSpec]| specs.iter().map(|own| own.name.to_string()).collect::<Vec<_>>();
        assert_eq!(names(&both.inputs), ["input_ids", "pixel_values"]);
        let outputs = ["text_embeds", "text_model.last_hidden_state", "vision_model.last_hidden_state", "image_embeds"];
        assert_eq!(names(&both.outputs), outputs);
        let error = joined(description(&["x"], &[]), description(&["x"], &[])).expect_err("one input");
        assert!(error.contains("both take `x`") && error.contains("variant"), "{error}");
    }
}
