//! What a server keeps of its traffic to tell drift: counters, and nothing else.
//!
//! A [`DriftReference`] is a profile cut down to cells and the rows expected in each, small
//! enough to travel with a model's signature. A [`DriftSketch`] counts one row of each
//! request in the same cells, with one addition per reading: a few hundred bytes a model,
//! whatever comes. Counters add up over processes.

use std::sync::atomic::{AtomicU64, Ordering};

use nobat_core::signature::TensorSpec;
use nobat_core::tensor::{Datatype, Tensor};
use serde::{Deserialize, Serialize};

use crate::building::{BINS, edges};
use crate::profile::{AnswerProfile, Profile, bin, bins_of};
use crate::reading::{Reading, Rows};

/// Classes with a cell of their own; the others share the last.
const MOST_CELLS: usize = 50;
/// Inputs and answers that are followed.
const MOST_GROUPS: usize = 16;

/// The setting of a signature under which a worker publishes what became of the profile.
pub const PROFILE_SETTING: &str = "drift_profile";
/// Most bytes of a published reference: a worker sends it with every heartbeat.
const MOST_PUBLISHED: usize = 64 << 10;

/// What a worker publishes of a model's profile.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PublishedProfile {
    /// It is followed.
    Reference(DriftReference),
    /// It cannot be, for this reason.
    Unusable(String),
}

/// What each row is counted by, and what a right model's rows look like.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DriftReference {
    /// The version that the profile was made with.
    pub version: String,
    /// Rows the profile came from.
    pub rows: u64,
    /// What is followed.
    pub groups: Vec<DriftGroup>,
}

/// One thing that is followed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DriftGroup {
    /// The input or output.
    pub tensor: String,
    /// How the output is read; `None` for an input, of which one element a row is taken.
    pub reading: Option<Reading>,
    /// What falls into which cell.
    pub cells: DriftCells,
    /// The profile's rows in each cell.
    pub expected: Vec<u64>,
}

/// What falls into which cell.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DriftCells {
    /// One cell per class, one for all others, one for rows with none.
    Classes(Vec<String>),
    /// Bins between edges, one for NaN.
    Edges(Vec<f64>),
}

impl DriftReference {
    /// What to follow of a model with this profile.
    pub fn of(profile: &Profile) -> DriftReference {
        let answers = profile.answers.iter().filter_map(DriftGroup::of_answer);
        let inputs = profile.inputs.iter().filter(|input| !input.quantiles.is_empty()).map(|input| DriftGroup {
            tensor: input.name.clone(),
            reading: None,
            cells: DriftCells::Edges(input.quantiles.clone()),
            expected: input.bins.clone(),
        });
        let groups = answers.chain(inputs).take(MOST_GROUPS).collect();
        DriftReference { version: profile.version.clone(), rows: profile.rows, groups }
    }

    /// What to follow of the model `name` with these inputs and outputs.
    ///
    /// # Errors
    /// Why the profile is not this model's, in words.
    pub fn for_model(
        profile: &Profile,
        name: &str,
        inputs: &[TensorSpec],
        outputs: &[TensorSpec],
    ) -> Result<DriftReference, String> {
        if profile.model != name {
            let remedy = "`nobat test init` makes one";
            return Err(format!("it is the profile of model `{}`, not of `{name}`; {remedy}", profile.model));
        }
        let made = format!("it was made with version {}, which has", profile.version);
        let has = |specs: &[TensorSpec], name: &str| specs.iter().any(|spec| spec.name == name);
        if let Some(answer) = profile.answers.iter().find(|answer| !has(outputs, &answer.output)) {
            return Err(format!("{made} an output `{}` that this version lacks; make it anew", answer.output));
        }
        for input in &profile.inputs {
            match inputs.iter().find(|spec| spec.name == input.name) {
                Some(spec) if spec.datatype == input.datatype => {}
                Some(spec) => {
                    let (own, other) = (spec.datatype, input.datatype);
                    return Err(format!("{made} `{}` as {other}, this version as {own}; make it anew", input.name));
                }
                None => return Err(format!("{made} an input `{}` that this version lacks; make it anew", input.name)),
            }
        }
        let reference = DriftReference::of(profile);
        if reference.groups.is_empty() {
            return Err("it holds no classes, scores or numbers to follow".into());
        }
        let bytes = serde_json::to_vec(&reference).map_or(0, |json| json.len());
        if bytes > MOST_PUBLISHED {
            return Err(format!(
                "what is to be followed takes {bytes} bytes, over {MOST_PUBLISHED}; shorten its class names"
            ));
        }
        Ok(reference)
    }
}

impl DriftGroup {
    fn of_answer(answer: &AnswerProfile) -> Option<DriftGroup> {
        let (cells, expected) = if answer.reading.is_class() {
            let mut classes: Vec<(&String, u64)> = answer.classes.iter().map(|(class, &rows)| (class, rows)).collect();
            // By the profile's counts alone: what is seen must not choose its own cells.
            classes.sort_by_key(|&(_, rows)| std::cmp::Reverse(rows));
            let rest = classes.split_off(classes.len().min(MOST_CELLS));
            let (names, mut expected): (Vec<String>, Vec<u64>) =
                classes.into_iter().map(|(class, rows)| (class.clone(), rows)).unzip();
            expected.extend([rest.iter().map(|(_, rows)| rows).sum(), answer.without]);
            (DriftCells::Classes(names), expected)
        } else {
            let edges = edges(&answer.scores, BINS);
            let mut expected = vec![0; bins_of(&edges)];
            answer.scores.iter().for_each(|&score| expected[bin(&edges, score)] += 1);
            let kept = answer.scores.len() as u64;
            expected[edges.len() + 1] += answer.without * kept / answer.rows.max(1);
            if edges.is_empty() {
                return None;
            }
            (DriftCells::Edges(edges), expected)
        };
        Some(DriftGroup { tensor: answer.output.clone(), reading: Some(answer.reading), cells, expected })
    }

    /// What it follows, as a person reads it.
    pub fn title(&self) -> String {
        match self.reading {
            None => format!("input `{}`", self.tensor),
            Some(reading) if reading.is_class() => format!("output `{}`", self.tensor),
            Some(Reading::Highest) => format!("highest score of output `{}`", self.tensor),
            Some(_) => format!("value of output `{}`", self.tensor),
        }
    }

    /// What a cell is called.
    pub fn cell_name(&self, cell: usize) -> String {
        match &self.cells {
            DriftCells::Classes(names) if cell < names.len() => names[cell].clone(),
            DriftCells::Classes(names) if cell == names.len() => beside(names, "other"),
            DriftCells::Classes(names) => beside(names, "none"),
            DriftCells::Edges(edges) if cell > edges.len() => "nan".into(),
            DriftCells::Edges(edges) => match (cell.checked_sub(1).and_then(|i| edges.get(i)), edges.get(cell)) {
                (None, Some(high)) => format!("<{high}"),
                (Some(low), None) => format!(">={low}"),
                (Some(low), Some(high)) => format!("{low}..{high}"),
                (None, None) => "any".into(),
            },
        }
    }

    /// The share of rows that is expected in each cell; half a row more in each, since a
    /// profile never shows that something cannot be.
    pub fn expected_shares(&self) -> Vec<f64> {
        let all = self.expected.iter().sum::<u64>() as f64 + self.expected.len() as f64 / 2.0;
        self.expected.iter().map(|&rows| (rows as f64 + 0.5) / all).collect()
    }

    /// Classes as numbers where they are: comparing those makes no text of each row's class.
    fn numbers(&self) -> Vec<f64> {
        match &self.cells {
            DriftCells::Classes(names) => names.iter().map(|name| name.parse().unwrap_or(f64::NAN)).collect(),
            DriftCells::Edges(_) => vec![],
        }
    }

    fn cell(&self, numbers: &[f64], tensor: &Tensor, rows: usize, pick: u64) -> Option<usize> {
        let cut = Rows::of(tensor, rows)?;
        let row = (pick % cut.count as u64) as usize;
        let value = match self.reading {
            None if cut.width == 0 => return None,
            None => cut.number(row, (pick / cut.count as u64 % cut.width as u64) as usize)?,
            Some(reading) if reading.is_class() => {
                let DriftCells::Classes(names) = &self.cells else { return None };
                if tensor.datatype != Datatype::Bytes {
                    let Some(class) = reading.class_number(cut, row) else { return Some(names.len() + 1) };
                    return Some(numbers.iter().position(|&number| number == class).unwrap_or(names.len()));
                }
                return Some(match reading.class(cut, row) {
                    None => names.len() + 1,
                    Some(class) => names.iter().position(|name| *name == class).unwrap_or(names.len()),
                });
            }
            Some(reading) => reading.score(cut, row),
        };
        let DriftCells::Edges(edges) = &self.cells else { return None };
        Some(bin(edges, value))
    }
}

/// A name that none of the classes has: `other`, or `(other)` beside a class of that name.
fn beside(classes: &[String], name: &str) -> String {
    let mut name = name.to_owned();
    while classes.contains(&name) {
        name = format!("({name})");
    }
    name
}

/// The rows seen in each cell of each group. Never holds more than it began with.
#[derive(Debug)]
pub struct DriftSketch {
    reference: DriftReference,
    numbers: Vec<Vec<f64>>,
    counts: Vec<Vec<AtomicU64>>,
}

impl DriftSketch {
    /// Counts by `reference`.
    pub fn new(reference: DriftReference) -> DriftSketch {
        let zeroes = |group: &DriftGroup| group.expected.iter().map(|_| AtomicU64::new(0)).collect();
        let counts = reference.groups.iter().map(zeroes).collect();
        let numbers = reference.groups.iter().map(DriftGroup::numbers).collect();
        DriftSketch { reference, numbers, counts }
    }

    /// What it counts by.
    pub fn reference(&self) -> &DriftReference {
        &self.reference
    }

    /// Counts one row, and one element of it, of a request of `rows`: `pick`, which must
    /// not depend on the request, says which. Rows of one request depend on each other.
    pub fn count(&self, inputs: &[Tensor], outputs: &[Tensor], rows: usize, pick: u64) {
        for ((group, numbers), counts) in self.reference.groups.iter().zip(&self.numbers).zip(&self.counts) {
            let side = if group.reading.is_some() { outputs } else { inputs };
            let tensor = side.iter().find(|tensor| tensor.name == group.tensor);
            let cell = tensor.and_then(|tensor| group.cell(numbers, tensor, rows, pick));
            if let Some(counter) = cell.and_then(|cell| counts.get(cell)) {
                counter.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// The rows so far, group by group.
    pub fn counts(&self) -> Vec<Vec<u64>> {
        let load = |counts: &Vec<AtomicU64>| counts.iter().map(|count| count.load(Ordering::Relaxed)).collect();
        self.counts.iter().map(load).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::building::ProfileBuilder;
    use crate::reading::element;
    use proptest::prelude::*;

    fn tensor(name: &str, datatype: Datatype, rows: i64, values: &[f64]) -> Tensor {
        let data: Vec<u8> = values.iter().flat_map(|&value| element(value, datatype).expect("a number")).collect();
        let width = values.len() as i64 / rows;
        Tensor { name: name.into(), datatype, shape: [rows, width].as_slice().into(), data: data.into() }
    }

    fn reference(classes: i32) -> DriftReference {
        let mut builder = ProfileBuilder::new(1);
        for row in 0..1_000 {
            let x = tensor("x", Datatype::Fp32, 1, &[f64::from(row), f64::from(row)]);
            let outputs = [
                tensor("label", Datatype::Int64, 1, &[f64::from(row % classes)]),
                tensor("score", Datatype::Fp32, 1, &[f64::from(row % 100) / 100.0]),
            ];
            builder.add(&[x], &outputs, 1);
        }
        DriftReference::of(&builder.finish("m", "1"))
    }

    #[test]
    fn rows_are_counted_in_the_cells_of_the_profile() {
        let sketch = DriftSketch::new(reference(3));
        let names: Vec<_> =
            sketch.reference().groups.iter().map(|group| (group.tensor.as_str(), group.reading)).collect();
        assert_eq!(names, [("label", Some(Reading::Class)), ("score", Some(Reading::Value)), ("x", None)]);
        for (label, x) in [(1.0, 500.0), (1.0, -3.0), (9.0, f64::NAN)] {
            let outputs = [tensor("label", Datatype::Int64, 1, &[label]), tensor("score", Datatype::Fp32, 1, &[0.5])];
            sketch.count(&[tensor("x", Datatype::Fp32, 1, &[x, x])], &outputs, 1, 7);
        }
        let counts = sketch.counts();
        let label = &sketch.reference().groups[0];
        let one = (0..5).find(|&cell| label.cell_name(cell) == "1").expect("a cell");
        assert_eq!((counts[0][one], counts[0][3], label.cell_name(3).as_str()), (2, 1, "other"));
        let x = &sketch.reference().groups[2];
        assert_eq!((counts[2][0], x.cell_name(0).as_str()), (1, "<0"), "below all that was seen");
        assert_eq!((counts[2].last(), x.cell_name(BINS + 2).as_str()), (Some(&1), "nan"));
        assert!((x.expected_shares().iter().sum::<f64>() - 1.0).abs() < 1e-9);
    }

    #[test]
    fn every_cell_has_a_name_of_its_own_whatever_the_classes_are_called() {
        let group = |classes: &[&str]| DriftGroup {
            tensor: "label".into(),
            reading: Some(Reading::Class),
            cells: DriftCells::Classes(classes.iter().map(|&class| class.to_owned()).collect()),
            expected: vec![0; classes.len() + 2],
        };
        let names = |group: DriftGroup| (0..group.expected.len()).map(|cell| group.cell_name(cell)).collect::<Vec<_>>();
        assert_eq!(names(group(&["cat"])), ["cat", "other", "none"]);
        assert_eq!(names(group(&["none", "other", "(other)"])), ["none", "other", "(other)", "((other))", "(none)"]);
    }

    #[test]
    fn a_thousand_classes_take_no_more_than_fifty_cells() {
        let reference = reference(200);
        let DriftCells::Classes(names) = &reference.groups[0].cells else { panic!("classes") };
        assert_eq!((names.len(), reference.groups[0].expected[50]), (50, 750));
        let json = serde_json::to_string(&reference).expect("serializes");
        assert!(json.len() < 4_000, "{}", json.len());
        assert_eq!(serde_json::from_str::<DriftReference>(&json).expect("reads"), reference);
    }

    #[test]
    fn one_row_of_a_batch_is_counted_and_what_does_not_fit_is_not() {
        let sketch = DriftSketch::new(reference(3));
        let batch = [tensor("label", Datatype::Int64, 3, &[0.0, 1.0, 2.0])];
        sketch.count(&[], &batch, 3, 4);
        assert_eq!(sketch.counts()[0].iter().sum::<u64>(), 1);
        let one = (0..5).find(|&cell| sketch.reference().groups[0].cell_name(cell) == "1").expect("a cell");
        assert_eq!(sketch.counts()[0][one], 1, "row 4 % 3");
        sketch.count(&[], &batch, 2, 0);
        sketch.count(&[], &[tensor("other", Datatype::Int64, 1, &[1.0])], 1, 0);
        assert_eq!(sketch.counts().iter().flatten().sum::<u64>(), 1);
    }

    #[test]
    fn a_profile_that_is_not_this_models_is_told() {
        let spec = |name: &str, datatype| TensorSpec { name: name.into(), datatype, shape: vec![-1], optional: false };
        let (inputs, outputs) = ([spec("x", Datatype::Fp32)], [spec("label", Datatype::Int64)]);
        let mut builder = ProfileBuilder::new(1);
        for row in 0..100 {
            let x = tensor("x", Datatype::Fp32, 1, &[f64::from(row)]);
            builder.add(&[x], &[tensor("label", Datatype::Int64, 1, &[f64::from(row % 4)])], 1);
        }
        let profile = builder.finish("m", "1");
        let refused = |profile: &Profile, inputs: &[TensorSpec], outputs: &[TensorSpec]| {
            DriftReference::for_model(profile, "m", inputs, outputs).expect_err("refused")
        };
        assert_eq!(DriftReference::for_model(&profile, "m", &inputs, &outputs), Ok(DriftReference::of(&profile)));
        let other = Profile { model: "n".into(), ..profile.clone() };
        assert!(refused(&other, &inputs, &outputs).contains("of model `n`, not of `m`"));
        assert!(refused(&profile, &inputs, &[spec("y", Datatype::Int64)]).contains("output `label` that this version"));
        assert!(
            refused(&profile, &[spec("x", Datatype::Int64)], &outputs).contains("`x` as FP32, this version as INT64")
        );
        assert!(refused(&profile, &[], &outputs).contains("input `x` that this version lacks"));
        assert!(
            refused(&Profile { inputs: vec![], answers: vec![], ..profile.clone() }, &[], &[]).contains("no classes")
        );
        let mut long = profile;
        long.answers[0].classes = (0..50).map(|class| (format!("{class}{}", "x".repeat(4_000)), 1)).collect();
        assert!(refused(&long, &inputs, &outputs).contains("shorten its class names"));
    }

    proptest! {
        #[test]
        fn each_row_lands_in_one_cell(values in prop::collection::vec(any::<f32>(), 1..50), pick: u64) {
            let sketch = DriftSketch::new(reference(3));
            for &value in &values {
                sketch.count(&[tensor("x", Datatype::Fp32, 1, &[f64::from(value)])], &[], 1, pick);
            }
            prop_assert_eq!(sketch.counts()[2].iter().sum::<u64>(), values.len() as u64);
        }
    }
}
