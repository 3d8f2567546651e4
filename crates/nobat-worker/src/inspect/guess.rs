//! What a model is for. What its files say is found; what is only likely is guessed, and
//! said to be.

use serde::Serialize;

use super::facts::{Facts, Input};
use super::words::{names, numbers};

/// What comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Texts.
    Text,
    /// Pictures.
    Image,
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
    /// What is done with it, of pictures.
    pub task: Option<String>,
    /// What files say.
    pub found: Vec<String>,
    /// What is likely.
    pub guessed: Vec<String>,
    /// What has to be done before it serves.
    pub needed: Vec<String>,
    /// How pictures go in, where it does not follow from files beside the model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub picture: Option<Picture>,
}

/// The input of pictures.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Picture {
    /// The graph's input.
    pub input: String,
    /// `nchw` or `nhwc`.
    pub layout: &'static str,
    /// Height and width, where they are known.
    pub size: Option<[u64; 2]>,
    /// How many channels it has.
    pub channels: u64,
}

impl Guess {
    /// Of what the files say.
    pub(super) fn of(facts: &Facts) -> Guess {
        let mut guess = Guess {
            kind: Kind::Tensors,
            task: None,
            found: Vec::new(),
            guessed: Vec::new(),
            needed: Vec::new(),
            picture: None,
        };
        for domain in &facts.custom_domains {
            guess.found.push(format!("operators of the domain `{domain}`, which the runtime does not have by itself"));
            guess.needed.push(format!(
                "a library with the operators of `{domain}`, named in worker.provider.custom_ops of the server's configuration"
            ));
        }
        guess.metadata(facts);
        if facts.files.contains_key("tokenizer.json") && facts.files.contains_key("config.json") {
            guess.kind = Kind::Text;
            guess
                .found
                .push("a Hugging Face folder with a tokenizer: a model of texts, whose task follows from it".into());
        } else if facts.files.contains_key("preprocessor_config.json") {
            guess.kind = Kind::Image;
            guess.found.push("a processor's configuration: a model of pictures, prepared as it says".into());
        } else if let Some(picture) = picture(facts) {
            guess.pictures(facts, picture);
        } else {
            guess.table(facts);
        }
        guess
    }

    /// What the maker wrote into the file.
    fn metadata(&mut self, facts: &Facts) {
        let said = |key: &str| facts.metadata.get(key).map(String::as_str);
        if let Some(task) = said("task") {
            self.found.push(format!("task `{}` in the file's metadata", super::words::short(task)));
            self.task = Some(task.to_owned());
        }
        let classes = said("names").map(names).unwrap_or_default();
        if let Some(first) = classes.first() {
            self.found.push(format!(
                "{} names of classes in the file's metadata, the first `{}`",
                classes.len(),
                super::words::short(first)
            ));
        }
        if let Some(size) = said("imgsz") {
            self.found.push(format!("pictures of size {} in the file's metadata", super::words::short(size)));
        }
        if let Some(stride) = said("stride") {
            self.found.push(format!("stride {} in the file's metadata", super::words::short(stride)));
        }
        if let Some(characters) = said("character") {
            let count = characters.lines().count();
            self.found.push(format!("{count} characters to read in the file's metadata"));
            self.task = Some("read".to_owned());
        }
        if !facts.labels.is_empty() {
            self.found.push(format!("{} labels beside the model", facts.labels.len()));
        }
    }

    fn pictures(&mut self, facts: &Facts, mut picture: Picture) {
        self.kind = Kind::Image;
        let size = |size: Option<[u64; 2]>| {
            size.map_or("a free size".to_owned(), |[height, width]| format!("{height} x {width}"))
        };
        self.guessed.push(format!(
            "input `{}` takes pictures of {}, {} channels, {}",
            picture.input,
            size(picture.size),
            picture.channels,
            picture.layout
        ));
        if picture.size.is_none()
            && let [height, rest @ ..] = &facts.metadata.get("imgsz").map(|text| numbers(text)).unwrap_or_default()[..]
        {
            picture.size = Some([u64::from(*height), u64::from(*rest.first().unwrap_or(height))]);
        }
        if self.task.is_none()
            && let Some((task, why)) = task_of(facts)
        {
            self.guessed.push(format!("task `{task}`: {why}"));
            self.task = Some(task.to_owned());
        }
        if self.task.as_deref() == Some("classify") && facts.labels.is_empty() && !facts.metadata.contains_key("names")
        {
            self.needed.push("labels.txt beside the model, a name a line, for answers with names".into());
        }
        self.needed
            .push("`[image]` in model.toml, as below: check rescale, mean and std against how it was trained".into());
        self.picture = Some(picture);
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

/// The only input that could be a picture's: four axes, one of them of 1 or 3 channels.
fn picture(facts: &Facts) -> Option<Picture> {
    let mut required = facts.inputs.iter().filter(|input| !input.optional);
    let (Some(input), None) = (required.next(), required.next()) else { return None };
    if input.shape.len() != 4 || !matches!(input.datatype.as_str(), "FP32" | "FP16" | "UINT8") {
        return None;
    }
    let channels = |axis: usize| input.fixed(axis).filter(|count| matches!(count, 1 | 3));
    let (layout, channels, height, width) = match (channels(1), channels(3)) {
        (Some(count), _) => ("nchw", count, 2, 3),
        (None, Some(count)) => ("nhwc", count, 1, 2),
        (None, None) => return None,
    };
    let size = input.fixed(height).zip(input.fixed(width)).map(|(height, width)| [height, width]);
    Some(Picture { input: input.name.clone(), layout, size, channels })
}

/// What the outputs' shapes make likely.
fn task_of(facts: &Facts) -> Option<(&'static str, String)> {
    let output = facts.outputs.first()?;
    let named = |part: &str| facts.outputs.iter().any(|output| output.name.contains(part));
    if named("detection_boxes") || named("pred_boxes") {
        return Some(("detect", "outputs are named boxes".into()));
    }
    match output.shape.len() {
        2 => Some(match output.fixed(1) {
            Some(count) if facts.labels.len() as u64 == count => {
                ("classify", format!("{count} numbers a picture, and as many labels"))
            }
            Some(count @ 2..=1024) => ("classify", format!("output `{}` has {count} numbers a picture", output.name)),
            _ => ("embed", format!("output `{}` is a row of numbers a picture", output.name)),
        }),
        3 => Some(match (output.fixed(1), output.fixed(2)) {
            // A row of numbers for each of many places of the picture.
            (Some(few), Some(many)) if few < many && many > 1000 => {
                ("detect", format!("output `{}` is {few} numbers for each of {many} places", output.name))
            }
            (Some(many), Some(few)) if many > few && many > 100 => {
                ("detect", format!("output `{}` is {few} numbers for each of {many} places", output.name))
            }
            _ => return None,
        }),
        4 => Some(("segment", format!("output `{}` has numbers for each pixel", output.name))),
        _ => None,
    }
}
