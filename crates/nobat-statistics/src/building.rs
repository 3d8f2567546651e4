//! Making a profile from rows and the answers to them, in bounded memory.

use std::collections::BTreeMap;

use nobat_core::tensor::{Datatype, Shape, Tensor};
use rand::RngExt;

use crate::profile::{AnswerProfile, InputProfile, Profile, bin, bins_of};
use crate::random::{Random, quantile, seeded};
use crate::reading::{Reading, Rows};

/// Bins of an input or a score, filled equally by the profile's own rows.
pub const BINS: usize = 20;
/// Values that stand for all rows of an input or a score.
const KEPT: usize = 1_000;
/// Rows whose one element gives the bins of an input.
const BINNED: usize = 20_000;
/// Widest input whose elements have quantiles of their own.
const MOST_ELEMENTS: usize = 1_024;
/// Quantiles of an element's own.
const ELEMENT_QUANTILES: usize = 10;
/// More classes than this are numbers.
const MOST_CLASSES: usize = 1_000;

/// Takes rows and answers, gives a profile. The same rows in the same order give the same one.
pub struct ProfileBuilder {
    random: Random,
    rows: u64,
    inputs: BTreeMap<String, InputRows>,
    answers: Answers,
}

struct InputRows {
    datatype: Datatype,
    shape: Shape,
    range: (f64, f64),
    picked: Reservoir,
    elements: Vec<Reservoir>,
}

impl ProfileBuilder {
    /// An empty one; `seed` decides which rows stand for all where there are too many.
    pub fn new(seed: u64) -> ProfileBuilder {
        let answers = Answers::default();
        ProfileBuilder { random: seeded(seed), rows: 0, inputs: BTreeMap::new(), answers }
    }

    /// Takes `rows` rows and the model's answers to them. With one row the whole tensors are it.
    pub fn add(&mut self, inputs: &[Tensor], outputs: &[Tensor], rows: usize) {
        self.rows += rows as u64;
        for tensor in inputs {
            self.add_input(tensor, rows);
        }
        self.answers.add(outputs, rows, &mut self.random);
    }

    fn add_input(&mut self, tensor: &Tensor, count: usize) {
        let Some(rows) = Rows::of(tensor, count) else { return };
        let random = &mut self.random;
        let input = self.inputs.entry(tensor.name.to_string()).or_insert_with(|| {
            let mut shape = tensor.shape.clone();
            if count > 1 {
                shape[0] = 1;
            }
            let own = if rows.width <= MOST_ELEMENTS { rows.width } else { 0 };
            let elements = (0..own).map(|_| Reservoir::new(KEPT)).collect();
            let range = (f64::INFINITY, f64::NEG_INFINITY);
            InputRows { datatype: tensor.datatype, shape, range, picked: Reservoir::new(BINNED), elements }
        });
        // Inputs of many lengths have no element of their own.
        if input.elements.len() != rows.width {
            input.elements.clear();
        }
        for row in 0..count {
            for (place, value) in rows.numbers(row).enumerate() {
                if value.is_finite() {
                    input.range = (input.range.0.min(value), input.range.1.max(value));
                    if let Some(element) = input.elements.get_mut(place) {
                        element.add(value, random);
                    }
                }
            }
            if rows.width > 0
                && let Some(value) = rows.number(row, random.random_range(0..rows.width))
            {
                input.picked.add(value, random);
            }
        }
    }

    /// Rows taken so far.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// The profile of all rows so far.
    pub fn finish(self, model: &str, version: &str) -> Profile {
        let inputs = self.inputs.into_iter().map(|(name, input)| input.finish(name)).collect();
        let answers = self.answers.finish();
        Profile { model: model.into(), version: version.into(), rows: self.rows, inputs, answers, drawn: vec![] }
    }
}

impl InputRows {
    fn finish(self, name: String) -> InputProfile {
        let picked = self.picked.values;
        let quantiles = edges(&picked, BINS);
        let mut bins = vec![0; bins_of(&quantiles)];
        picked.iter().for_each(|&value| bins[bin(&quantiles, value)] += 1);
        let own = |element: Reservoir| edges(&element.values, ELEMENT_QUANTILES);
        let elements: Vec<Vec<f64>> = self.elements.into_iter().map(own).collect();
        let whole = elements.iter().all(|quantiles| !quantiles.is_empty());
        InputProfile {
            name,
            datatype: self.datatype,
            shape: self.shape.to_vec(),
            range: if self.range.0 <= self.range.1 { self.range } else { (0.0, 0.0) },
            quantiles,
            bins,
            elements: if whole { elements } else { vec![] },
        }
    }
}

/// The lowest finite value, the quantiles between, the highest, short enough to be read.
pub fn edges(values: &[f64], bins: usize) -> Vec<f64> {
    let mut finite: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
    finite.sort_by(f64::total_cmp);
    if finite.is_empty() {
        return vec![];
    }
    (0..=bins).map(|i| rounded(quantile(&finite, i as f64 / bins as f64))).collect()
}

/// Six digits are enough to tell bins apart, and monotone.
fn rounded(value: f64) -> f64 {
    if value == 0.0 { 0.0 } else { format!("{value:.5e}").parse().unwrap_or(value) }
}

/// Counts answers by every reading that their outputs offer.
#[derive(Default)]
pub struct Answers {
    readings: Vec<AnswerRows>,
    begun: bool,
}

struct AnswerRows {
    output: String,
    reading: Reading,
    classes: BTreeMap<String, u64>,
    scores: Reservoir,
    without: u64,
    rows: u64,
}

impl Answers {
    /// Counts by the readings of `profile`, which must be the same on both sides of a comparison.
    pub fn like(profile: &[AnswerProfile], kept: usize) -> Answers {
        let readings = profile.iter().map(|answer| AnswerRows::new(&answer.output, answer.reading, kept)).collect();
        Answers { readings, begun: true }
    }

    /// Takes the outputs of `rows` rows.
    pub fn add(&mut self, outputs: &[Tensor], rows: usize, random: &mut Random) {
        if !self.begun {
            self.begun = true;
            let widths = outputs.iter().filter_map(|tensor| Some((tensor, Rows::of(tensor, rows)?.width)));
            let named =
                widths.clone().any(|(tensor, width)| Reading::of(tensor.datatype, width, true) == [Reading::Class]);
            let readings = widths.flat_map(|(tensor, width)| {
                let readings = Reading::of(tensor.datatype, width, named);
                readings.into_iter().map(|reading| AnswerRows::new(&tensor.name, reading, KEPT))
            });
            self.readings = readings.collect();
        }
        for answer in &mut self.readings {
            let tensor = outputs.iter().find(|tensor| tensor.name == answer.output);
            let cut = tensor.and_then(|tensor| Rows::of(tensor, rows)).filter(|cut| cut.width > 0);
            for row in 0..rows {
                answer.add(cut, row, random);
            }
        }
    }

    /// The counts as a profile's.
    pub fn finish(self) -> Vec<AnswerProfile> {
        let answers = self.readings.into_iter().map(|answer| {
            let AnswerRows { output, mut reading, mut classes, mut scores, without, rows } = answer;
            if classes.len() > MOST_CLASSES && reading == Reading::Class {
                // As many values as that are a regression in whole numbers.
                reading = Reading::Value;
                classes.clear();
            }
            if reading.is_class() {
                scores.values.clear();
            }
            scores.values.sort_by(f64::total_cmp);
            AnswerProfile { output, reading, classes, scores: scores.values, without, rows }
        });
        answers.collect()
    }
}

impl AnswerRows {
    fn new(output: &str, reading: Reading, kept: usize) -> AnswerRows {
        let (output, scores) = (output.to_owned(), Reservoir::new(kept));
        AnswerRows { output, reading, classes: BTreeMap::new(), scores, without: 0, rows: 0 }
    }

    fn add(&mut self, cut: Option<Rows>, row: usize, random: &mut Random) {
        self.rows += 1;
        let score = cut.map_or(f64::NAN, |cut| self.reading.score(cut, row));
        if self.reading.is_class() {
            match cut.and_then(|cut| self.reading.class(cut, row)) {
                Some(class) => *self.classes.entry(class).or_default() += 1,
                None => self.without += 1,
            }
        } else if !score.is_finite() {
            self.without += 1;
        }
        // Kept for classes too: they may turn out to be numbers.
        if score.is_finite() {
            self.scores.add(score, random);
        }
    }
}

/// A fair sample of a stream, whatever its length (Vitter's algorithm R).
struct Reservoir {
    values: Vec<f64>,
    most: usize,
    seen: usize,
}

impl Reservoir {
    fn new(most: usize) -> Reservoir {
        Reservoir { values: Vec::new(), most, seen: 0 }
    }

    fn add(&mut self, value: f64, random: &mut Random) {
        self.seen += 1;
        if self.values.len() < self.most {
            self.values.push(value);
        } else {
            let place = random.random_range(0..self.seen);
            if place < self.most {
                self.values[place] = value;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reading::element;
    use proptest::prelude::*;

    fn tensor(name: &str, datatype: Datatype, shape: &[i64], values: &[f64]) -> Tensor {
        let data: Vec<u8> = values.iter().flat_map(|&value| element(value, datatype).expect("a number")).collect();
        Tensor { name: name.into(), datatype, shape: shape.into(), data: data.into() }
    }

    fn built(rows: usize) -> Profile {
        let mut builder = ProfileBuilder::new(1);
        let mut random = seeded(2);
        for row in 0..rows {
            let x = [random.random::<f64>(), 10.0 + 5.0 * random.random::<f64>()];
            let outputs = [
                tensor("label", Datatype::Int64, &[1], &[(row % 3) as f64]),
                tensor("probabilities", Datatype::Fp32, &[1, 3], &[0.2, 0.3, 0.5]),
            ];
            builder.add(&[tensor("x", Datatype::Fp32, &[1, 2], &x)], &outputs, 1);
        }
        builder.finish("m", "1")
    }

    #[test]
    fn a_profile_counts_predictions_and_keeps_ranges() {
        let profile = built(3_000);
        assert_eq!((profile.rows, profile.answers.len()), (3_000, 2));
        assert_eq!(profile.answers[0].reading, Reading::Class);
        assert!(profile.answers[0].classes.values().eq(&[1_000; 3]) && profile.answers[0].scores.is_empty());
        assert_eq!((profile.answers[1].reading, profile.answers[1].scores.len()), (Reading::Highest, 1_000));
        let x = &profile.inputs[0];
        assert!(x.range.0 < 0.01 && x.range.1 > 14.9 && x.elements.len() == 2, "{x:?}");
        assert_eq!(x.bins.iter().sum::<u64>(), 3_000);
        assert!(x.bins[1..=BINS].iter().all(|&rows| rows >= 140), "filled alike: {:?}", x.bins);
        let json = serde_json::to_vec(&profile).expect("serializes");
        assert_eq!(Profile::parse(&json), Ok(profile));
    }

    #[test]
    fn drawn_inputs_have_each_elements_own_values() {
        let (profile, mut random) = (built(2_000), seeded(3));
        let (mut first, mut second) = (0.0, 0.0);
        for _ in 0..1_000 {
            let drawn = profile.draw(&mut random).expect("draws");
            assert_eq!((drawn.len(), drawn[0].shape.as_slice()), (1, &[1, 2][..]));
            let numbers: Vec<f64> = Rows::of(&drawn[0], 1).expect("a row").numbers(0).collect();
            assert!((0.0..=1.0).contains(&numbers[0]) && (10.0..=15.0).contains(&numbers[1]), "{numbers:?}");
            (first, second) = (first + numbers[0], second + numbers[1]);
        }
        assert!((first / 1e3 - 0.5).abs() < 0.05 && (second / 1e3 - 12.5).abs() < 0.2, "{first} {second}");
        let mut again = seeded(3);
        assert_eq!(profile.draw(&mut again), profile.draw(&mut seeded(3)), "a seed gives the same inputs");
    }

    #[test]
    fn batches_and_single_rows_give_the_same_profile_of_answers() {
        let labels: Vec<f64> = (0..120).map(|row| f64::from(row % 7)).collect();
        let (mut one, mut many) = (ProfileBuilder::new(1), ProfileBuilder::new(1));
        let batch = |values: &[f64]| tensor("label", Datatype::Int64, &[values.len() as i64], values);
        labels.iter().for_each(|&label| one.add(&[batch(&[label])], &[batch(&[label])], 1));
        many.add(&[batch(&labels)], &[batch(&labels)], labels.len());
        let (one, many) = (one.finish("m", "1"), many.finish("m", "1"));
        assert_eq!(one.answers, many.answers);
        assert_eq!(one.inputs[0].shape, many.inputs[0].shape);
    }

    #[test]
    fn text_is_not_made_up_and_broken_profiles_are_told() {
        let text = Tensor {
            name: "text".into(),
            datatype: Datatype::Bytes,
            shape: [1].as_slice().into(),
            data: bytes::Bytes::from_static(b"\x02\0\0\0hi"),
        };
        let mut builder = ProfileBuilder::new(1);
        builder.add(std::slice::from_ref(&text), std::slice::from_ref(&text), 1);
        let profile = builder.finish("m", "1");
        assert_eq!(profile.answers[0].classes.get("hi"), Some(&1));
        assert!(profile.draw(&mut seeded(1)).expect_err("text").contains("`text` (BYTES) cannot be drawn"));
        assert!(Profile::parse(b"{}").expect_err("empty").contains("model"));
        let mut broken = built(100);
        broken.inputs[0].bins.pop();
        let json = serde_json::to_vec(&broken).expect("serializes");
        assert!(Profile::parse(&json).expect_err("bins").contains("bins"));
        broken.inputs[0].quantiles.reverse();
        let json = serde_json::to_vec(&broken).expect("serializes");
        assert!(Profile::parse(&json).expect_err("order").contains("ascend"));
    }

    #[test]
    fn whole_numbers_of_many_values_are_a_regression() {
        let mut builder = ProfileBuilder::new(1);
        for row in 0..3_000 {
            let value = tensor("y", Datatype::Int64, &[1], &[f64::from(row)]);
            builder.add(std::slice::from_ref(&value), std::slice::from_ref(&value), 1);
        }
        let answer = &builder.finish("m", "1").answers[0];
        assert_eq!((answer.reading, answer.scores.len(), answer.classes.len()), (Reading::Value, 1_000, 0));
    }

    proptest! {
        #[test]
        fn no_values_break_a_profile(values in prop::collection::vec(any::<f32>(), 1..60)) {
            let mut builder = ProfileBuilder::new(1);
            for value in values {
                let one = tensor("x", Datatype::Fp32, &[1, 1], &[f64::from(value)]);
                builder.add(std::slice::from_ref(&one), std::slice::from_ref(&one), 1);
            }
            let profile = builder.finish("m", "1");
            let json = serde_json::to_vec(&profile).expect("serializes");
            let read = Profile::parse(&json).expect("reads");
            prop_assert_eq!((&read.inputs[0].bins, read.answers[0].rows), (&profile.inputs[0].bins, profile.rows));
        }
    }
}
