//! Characters of a line of text, by connectionist temporal classification: the best class of each step,
//! repeats dropped, then blanks.

use nobat_core::{Error, Result};
use nobat_transform::SessionOutput;

use crate::folder::ImageFolder;
use crate::graph::Output;
use crate::metadata::Metadata;
use crate::numbers::{Numbers, largest};
use crate::settings::{Activation, Blank, ImageSettings};

/// The way from an output of steps to characters.
#[derive(Clone, Debug)]
pub(crate) struct Reader {
    output: Output,
    /// By class, the blank's in its place.
    characters: Vec<String>,
    blank: usize,
    /// Whether a step's numbers are made scores; else they are.
    softmax: bool,
}

impl Reader {
    /// # Errors
    /// When there are no characters, or not as many as classes.
    pub(crate) fn new(
        output: Output,
        folder: &ImageFolder,
        metadata: &Metadata,
        settings: &ImageSettings,
        operator: Option<&str>,
        found: &mut Vec<String>,
    ) -> Result<Reader> {
        let listed = match &settings.characters {
            Some(file) => Some((folder.characters(file)?, format!("of `{file}`"))),
            None => metadata.characters.clone().map(|all| (all, "of the file's metadata".to_owned())),
        };
        let Some((mut characters, source)) = listed else {
            return Err(Error::invalid(
                "task read needs the characters of its classes, and the file's metadata has no `character`; \
                 put them beside the model, one a line or as a JSON list, and name the file: `characters` in \
                 `[image]` of model.toml",
            ));
        };
        let count = characters.len();
        let blank = settings.blank.unwrap_or_default();
        // A list may hold the blank already, as an empty entry at its place.
        let holds = match blank {
            Blank::First => characters.first().is_some_and(String::is_empty),
            Blank::Last => characters.last().is_some_and(String::is_empty),
        };
        let classes = output.axis(2);
        let mut space = false;
        if !holds {
            if classes == Some(count + 2) {
                // Paddle's readers know a space that their list does not have.
                characters.push(" ".to_owned());
                space = true;
            }
            match blank {
                Blank::First => characters.insert(0, String::new()),
                Blank::Last => characters.push(String::new()),
            }
        }
        if let Some(classes) = classes.filter(|&classes| classes != characters.len()) {
            return Err(Error::invalid(format!(
                "output `{}` has {classes} classes and there are {count} characters {source}; name another file: \
                 `characters` in `[image]` of model.toml",
                output.name
            )));
        }
        let blank_at = if blank == Blank::First { 0 } else { characters.len() - 1 };
        found.push(format!(
            "{count} characters {source}{}, the blank is class {blank_at}",
            if space { " and a space" } else { "" }
        ));
        let softmax = match (settings.activation, operator) {
            (Some(activation), _) => activation == Activation::Softmax,
            (None, Some("Softmax")) => false,
            (None, operator) => {
                let ends = operator.map_or(String::new(), |operator| format!(", the graph ends in {operator}"));
                found.push(format!("scores by softmax: a guess{ends}"));
                true
            }
        };
        Ok(Reader { output, characters, blank: blank_at, softmax })
    }

    /// The text of each row and the mean score of its characters.
    ///
    /// # Errors
    /// `inference_failed` where the output does not fit the rows.
    pub(crate) fn finish(&self, outputs: &[SessionOutput<'_>], rows: usize) -> Result<Vec<(String, f32)>> {
        let Output { at, name, .. } = &self.output;
        // One row alone may have its steps first.
        let steps_first = rows == 1 && outputs.get(*at).is_some_and(|output| matches!(output.shape, [_, 1, _]));
        let numbers = Numbers::new(outputs, *at, name, rows)?;
        let classes = self.characters.len();
        let one = |row: usize| {
            let steps: Vec<f32> = match steps_first {
                true => (0..numbers.axis(0)).flat_map(|step| numbers.row(step)).collect(),
                false => numbers.row(row),
            };
            self.text(&steps, classes)
        };
        Ok((0..rows).map(one).collect())
    }

    fn text(&self, steps: &[f32], classes: usize) -> (String, f32) {
        let (mut text, mut scores, mut before) = (String::new(), Vec::new(), self.blank);
        for step in steps.chunks_exact(classes.max(1)) {
            let (class, score) = largest(step.iter().copied());
            if class != before && class != self.blank {
                text.push_str(&self.characters[class]);
                // What softmax makes of the largest.
                let sum = || step.iter().map(|number| (number - score).exp()).sum::<f32>();
                scores.push(if self.softmax { 1.0 / sum() } else { score });
            }
            before = class;
        }
        let mean = if scores.is_empty() { 0.0 } else { scores.iter().sum::<f32>() / scores.len() as f32 };
        (text, mean)
    }
}

#[cfg(test)]
mod tests {
    use nobat_core::tensor::Datatype;

    use super::*;

    fn reader(classes: i64, characters: &[&str], blank: Option<Blank>) -> Result<Reader> {
        let output = Output { at: 0, name: "y".into(), shape: vec![-1, -1, classes] };
        let metadata = Metadata {
            characters: Some(characters.iter().map(|&text| text.to_owned()).collect()),
            ..Metadata::default()
        };
        let settings = ImageSettings { blank, ..ImageSettings::default() };
        Reader::new(output, &ImageFolder::default(), &metadata, &settings, Some("Softmax"), &mut Vec::new())
    }

    fn steps(classes: &[usize], count: usize) -> Vec<u8> {
        let step = |&class: &usize| (0..count).map(move |at| if at == class { 0.9f32 } else { 0.0 });
        classes.iter().flat_map(step).flat_map(f32::to_le_bytes).collect()
    }

    #[test]
    fn repeats_are_dropped_before_blanks() {
        let reader = reader(4, &["a", "b"], None).expect("with a space");
        let data = steps(&[1, 1, 0, 1, 3, 2, 2, 0], 4);
        let output = SessionOutput { datatype: Datatype::Fp32, shape: &[1, 8, 4], data: &data };
        assert_eq!(reader.finish(&[output], 1).expect("read"), [("aa b".to_owned(), 0.9)]);
        // Steps first, rows second.
        let output = SessionOutput { datatype: Datatype::Fp32, shape: &[8, 1, 4], data: &data };
        assert_eq!(reader.finish(&[output], 1).expect("read")[0].0, "aa b");
    }

    #[test]
    fn a_blank_that_the_list_holds_is_not_put_in_again() {
        let first = reader(-1, &["", "a", "b"], None).expect("the blank is there");
        assert_eq!((first.characters.len(), first.blank), (3, 0));
        let last = reader(3, &["a", "b"], Some(Blank::Last)).expect("the blank is last");
        assert_eq!((last.characters[2].as_str(), last.blank), ("", 2));
        assert!(reader(9, &["a"], None).expect_err("too few").message.contains("9 classes and there are 1 characters"));
    }
}
