//! Two versions' answers to the same requests, counted and judged: pure.

use std::collections::BTreeMap;

use nobat_core::tensor::Tensor;
use nobat_statistics::pairs::{Gate, GateVerdict, bowker, overall};
use nobat_statistics::random::seeded;
use nobat_statistics::reading::{Reading, Rows};

use serde::Deserialize;

use super::report::{ClassCounts, CompareReport, Disagreement, NamedGate};
use crate::statistical::words::{count, percent};

/// What still counts as safe.
#[derive(Clone, Debug, PartialEq)]
pub struct CompareSettings {
    /// Share of requests that may get another class.
    pub disagreement: f64,
    /// Share of requests that may be lost: right before and wrong now, or answered before and refused now.
    pub lost: f64,
    /// Standard deviations that a score may move.
    pub score: f64,
    /// Share that latency may grow by.
    pub latency: f64,
    /// Disagreements to show.
    pub examples: usize,
    /// Seed of what is drawn.
    pub seed: u64,
}

impl Default for CompareSettings {
    fn default() -> CompareSettings {
        CompareSettings { disagreement: 0.01, lost: 0.01, score: 0.05, latency: 0.1, examples: 10, seed: 1 }
    }
}

/// One version's answer to a request, and how long it took; or why there is none.
pub type VersionAnswer = std::result::Result<(Vec<Tensor>, f64), String>;

/// What is known of one side of a pair that a gateway kept: no inputs, no outputs.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct PairFigures {
    /// The class, where an output gives one.
    pub class: Option<String>,
    /// The score, where an output gives one.
    pub score: Option<f64>,
    /// How long it took.
    pub ms: f64,
    /// Why there is no answer.
    pub error: Option<String>,
}

/// Draws of a resampling test or interval.
const DRAWS: usize = 1_999;
/// Pairs kept for intervals of latency and scores.
const MOST_PAIRS: usize = 20_000;
/// Numbers of an input that an example shows.
const SHOWN: usize = 8;

/// Takes pairs of answers, gives a verdict. Holds no more of them than figures and a few examples.
pub struct Comparison {
    settings: CompareSettings,
    requests: u64,
    only_old_answered: u64,
    only_new_answered: u64,
    both_answered: u64,
    changes: BTreeMap<(String, String), u64>,
    only_old_right: u64,
    only_new_right: u64,
    labelled: u64,
    scores: BTreeMap<String, Vec<(f64, f64)>>,
    milliseconds: Vec<(f64, f64)>,
    examples: Vec<Disagreement>,
}

impl Comparison {
    /// Without any pairs.
    pub fn new(settings: CompareSettings) -> Comparison {
        Comparison {
            settings,
            requests: 0,
            only_old_answered: 0,
            only_new_answered: 0,
            both_answered: 0,
            changes: BTreeMap::new(),
            only_old_right: 0,
            only_new_right: 0,
            labelled: 0,
            scores: BTreeMap::new(),
            milliseconds: Vec::new(),
            examples: Vec::new(),
        }
    }

    /// Takes the answers of the old and the new version to one request of one row.
    pub fn add(&mut self, inputs: &[Tensor], label: Option<&str>, old: &VersionAnswer, new: &VersionAnswer) {
        self.requests += 1;
        match (old, new) {
            (Ok((old, old_ms)), Ok((new, new_ms))) => {
                self.both_answered += 1;
                if self.milliseconds.len() < MOST_PAIRS {
                    self.milliseconds.push((*old_ms, *new_ms));
                }
                self.add_outputs(inputs, label, old, new);
            }
            (Ok(_), Err(why)) => {
                self.only_old_answered += 1;
                self.show(inputs, label, "an answer", why);
            }
            (Err(why), Ok(_)) => {
                self.only_new_answered += 1;
                self.show(inputs, label, why, "an answer");
            }
            (Err(_), Err(_)) => {}
        }
    }

    /// Takes a pair of which a gateway kept the figures; `request` names it.
    pub fn add_figures(&mut self, request: &str, old: &PairFigures, new: &PairFigures) {
        self.requests += 1;
        let input = format!("request {request}");
        match (&old.error, &new.error) {
            (None, None) => {}
            (None, Some(why)) => {
                self.only_old_answered += 1;
                return self.show_input(input, None, "an answer", why);
            }
            (Some(why), None) => {
                self.only_new_answered += 1;
                return self.show_input(input, None, why, "an answer");
            }
            (Some(_), Some(_)) => return,
        }
        self.both_answered += 1;
        if self.milliseconds.len() < MOST_PAIRS {
            self.milliseconds.push((old.ms, new.ms));
        }
        if let (Some(before), Some(after)) = (old.score, new.score) {
            let scores = self.scores.entry("the answer".into()).or_default();
            if before.is_finite() && after.is_finite() && scores.len() < MOST_PAIRS {
                scores.push((before, after));
            }
        }
        if old.class.is_some() || new.class.is_some() {
            let class = |side: &PairFigures| side.class.clone().unwrap_or_else(|| "(none)".into());
            let pair = (class(old), class(new));
            if pair.0 != pair.1 {
                self.show_input(input, None, &pair.0, &pair.1);
            }
            *self.changes.entry(pair).or_default() += 1;
        }
    }

    fn add_outputs(&mut self, inputs: &[Tensor], label: Option<&str>, old: &[Tensor], new: &[Tensor]) {
        let rows = |outputs: &'_ [Tensor], name: &str| -> Option<(Tensor, usize)> {
            let tensor = outputs.iter().find(|tensor| tensor.name == name)?;
            Some((tensor.clone(), Rows::of(tensor, 1)?.width))
        };
        let widths = old.iter().filter_map(|tensor| Some((tensor, Rows::of(tensor, 1)?.width)));
        let named = widths.clone().any(|(tensor, width)| Reading::of(tensor.datatype, width, true) == [Reading::Class]);
        let mut class_is_read = false;
        for (tensor, width) in widths {
            for reading in Reading::of(tensor.datatype, width, named) {
                let before = Rows::of(tensor, 1);
                let after = rows(new, &tensor.name);
                let after =
                    after.as_ref().and_then(|(tensor, _)| Rows::of(tensor, 1)).filter(|rows| rows.width == width);
                if !reading.is_class() {
                    let score = |rows: Option<Rows>| rows.map_or(f64::NAN, |rows| reading.score(rows, 0));
                    let pair = (score(before), score(after));
                    let scores = self.scores.entry(tensor.name.to_string()).or_default();
                    if pair.0.is_finite() && pair.1.is_finite() && scores.len() < MOST_PAIRS {
                        scores.push(pair);
                    }
                } else if !class_is_read {
                    class_is_read = true;
                    let class = |rows: Option<Rows>| {
                        rows.and_then(|rows| reading.class(rows, 0)).unwrap_or_else(|| "(none)".into())
                    };
                    let pair = (class(before), class(after));
                    if let Some(label) = label {
                        let right = |class: &str| {
                            class == label || class.parse::<f64>().is_ok_and(|class| label.parse() == Ok(class))
                        };
                        self.labelled += 1;
                        self.only_old_right += u64::from(right(&pair.0) && !right(&pair.1));
                        self.only_new_right += u64::from(!right(&pair.0) && right(&pair.1));
                    }
                    if pair.0 != pair.1 {
                        self.show(inputs, label, &pair.0, &pair.1);
                    }
                    *self.changes.entry(pair).or_default() += 1;
                }
            }
        }
    }

    fn show(&mut self, inputs: &[Tensor], label: Option<&str>, old: &str, new: &str) {
        let input = inputs.first().map(preview).unwrap_or_default();
        self.show_input(input, label, old, new);
    }

    fn show_input(&mut self, input: String, label: Option<&str>, old: &str, new: &str) {
        if self.examples.len() < self.settings.examples {
            let request = self.requests - 1;
            self.examples.push(Disagreement {
                request,
                input,
                old: old.into(),
                new: new.into(),
                label: label.map(str::to_owned),
            });
        }
    }

    /// Judges all pairs so far.
    pub fn finish(self) -> CompareReport {
        let (settings, mut random) = (&self.settings, seeded(self.settings.seed));
        let mut gates = vec![named(
            "answered",
            Gate::lost(self.only_old_answered, self.only_new_answered, self.requests, settings.lost),
            format!(
                "{} requests only the old version answered, {} only the new one",
                count(self.only_old_answered),
                count(self.only_new_answered)
            ),
            percent,
        )];
        let classified: u64 = self.changes.values().sum();
        if classified > 0 {
            let differ = self.changes.iter().filter(|((old, new), _)| old != new).map(|(_, rows)| rows).sum();
            let gate = Gate::disagreement(differ, classified, settings.disagreement);
            gates.push(named(
                "same class",
                gate,
                format!("{} of {} requests get another class", count(differ), count(classified)),
                percent,
            ));
        }
        if self.labelled > 0 {
            let gate = Gate::lost(self.only_old_right, self.only_new_right, self.labelled, settings.lost);
            let words = format!(
                "{} requests only the old version got right, {} only the new one",
                count(self.only_old_right),
                count(self.only_new_right)
            );
            gates.push(named("accuracy", gate, words, percent));
        }
        for (output, pairs) in &self.scores {
            let gate = Gate::score(pairs, settings.score, DRAWS, &mut random);
            gates.push(named(
                &format!("scores of {output}"),
                gate,
                "the mean score moved, in standard deviations".into(),
                |by| format!("{by:.3}"),
            ));
        }
        for (name, q) in [("median latency", 0.5), ("p99 latency", 0.99)] {
            let gate = Gate::latency(&self.milliseconds, q, settings.latency, DRAWS, &mut random);
            gates.push(named(name, gate, "slower, requests paired".into(), percent));
        }
        let mut classes: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
        for ((old, new), rows) in &self.changes {
            classes.entry(old).or_default().0 += rows;
            classes.entry(new).or_default().1 += rows;
        }
        let moved: u64 = classes.values().map(|(old, new)| old.abs_diff(*new)).sum();
        let verdict = overall(gates.iter().map(|gate| gate.gate.verdict));
        CompareReport {
            verdict,
            summary: match verdict {
                GateVerdict::Safe => format!(
                    "Safe at 95 %: each of {} gates holds its margin over {} requests.",
                    gates.len(),
                    count(self.requests)
                ),
                GateVerdict::Unsafe => {
                    let failed: Vec<_> = gates
                        .iter()
                        .filter(|gate| gate.gate.verdict == GateVerdict::Unsafe)
                        .map(|gate| gate.name.as_str())
                        .collect();
                    format!("Unsafe: shown to be worse by more than the margin: {}.", failed.join(", "))
                }
                GateVerdict::MoreNeeded(rows) => format!(
                    "Not shown yet: {} requests are too few; about {} would do.",
                    count(self.requests),
                    count(rows)
                ),
            },
            requests: self.requests,
            class_shift_p: bowker(&self.changes, DRAWS, &mut random),
            classes_moved: moved as f64 / 2.0 / classified.max(1) as f64,
            classes: classes
                .iter()
                .map(|(class, &(old, new))| ClassCounts { class: (*class).into(), old, new })
                .collect(),
            gates,
            examples: self.examples,
        }
    }
}

fn named(name: &str, gate: Gate, what: String, unit: impl Fn(f64) -> String) -> NamedGate {
    let words = format!(
        "{what}: {} (at most {} at 95 %; {} is accepted)",
        unit(gate.worse_by),
        unit(gate.bounds.1),
        unit(gate.margin)
    );
    NamedGate { name: name.into(), gate, words }
}

fn preview(tensor: &Tensor) -> String {
    let Some(rows) = Rows::of(tensor, 1) else { return String::new() };
    let mut numbers: Vec<String> = rows
        .numbers(0)
        .take(SHOWN + 1)
        .map(|number| format!("{number:.4}").trim_end_matches('0').trim_end_matches('.').to_owned())
        .collect();
    if numbers.is_empty() {
        return Reading::Class.class(rows, 0).unwrap_or_default().chars().take(80).collect();
    }
    if numbers.len() > SHOWN {
        numbers[SHOWN] = "…".into();
    }
    format!("[{}]", numbers.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nobat_core::tensor::Datatype;
    use nobat_statistics::reading::element;

    fn tensor(name: &str, datatype: Datatype, values: &[f64]) -> Tensor {
        let data: Vec<u8> = values.iter().flat_map(|&value| element(value, datatype).expect("a number")).collect();
        Tensor { name: name.into(), datatype, shape: [1, values.len() as i64].as_slice().into(), data: data.into() }
    }

    fn answer(label: u32, sure: f64, ms: f64) -> VersionAnswer {
        Ok((
            vec![
                tensor("label", Datatype::Int64, &[f64::from(label)]),
                tensor("probabilities", Datatype::Fp32, &[sure, 1.0 - sure]),
            ],
            ms,
        ))
    }

    fn compared(rows: u32, pair: impl Fn(u32) -> (VersionAnswer, VersionAnswer)) -> CompareReport {
        let mut comparison = Comparison::new(CompareSettings::default());
        for row in 0..rows {
            let (old, new) = pair(row);
            comparison.add(
                &[tensor("x", Datatype::Fp32, &[f64::from(row), 0.25])],
                Some(&(row % 10).to_string()),
                &old,
                &new,
            );
        }
        comparison.finish()
    }

    fn gate<'a>(report: &'a CompareReport, name: &str) -> &'a NamedGate {
        report.gates.iter().find(|gate| gate.name == name).expect("the gate is there")
    }

    fn ms(row: u32) -> f64 {
        1.0 + f64::from(row * 37 % 100) / 50.0
    }

    #[test]
    fn pairs_that_a_gateway_kept_are_judged_as_those_that_were_sent() {
        let side = |class: u32, ms: f64| PairFigures {
            class: Some((class % 10).to_string()),
            score: Some(0.9 - f64::from(class % 7) / 100.0),
            ms,
            error: None,
        };
        let judged = |new: &dyn Fn(u32) -> PairFigures| {
            let mut comparison = Comparison::new(CompareSettings::default());
            for row in 0..2_000 {
                comparison.add_figures(&format!("id-{row}"), &side(row, ms(row)), &new(row));
            }
            comparison.finish()
        };
        let alike = judged(&|row| side(row, ms(row) * 1.01));
        assert_eq!((alike.verdict, alike.gates.len()), (GateVerdict::Safe, 5), "{alike:#?}");
        let bad = judged(&|row| if row % 10 == 3 { side(row + 1, ms(row)) } else { side(row, ms(row)) });
        assert_eq!(bad.verdict, GateVerdict::Unsafe);
        assert_eq!((bad.examples[0].input.as_str(), bad.examples[0].new.as_str()), ("request id-3", "4"));
        let failing = judged(&|row| match row % 20 {
            0 => PairFigures { error: Some("inference_failed".into()), ..PairFigures::default() },
            _ => side(row, ms(row)),
        });
        assert_eq!(gate(&failing, "answered").gate.verdict, GateVerdict::Unsafe);
    }

    #[test]
    fn versions_that_answer_alike_are_safe_once_there_are_enough_requests() {
        let alike = |row: u32| {
            (
                answer(row % 10, 0.9 - f64::from(row % 7) / 100.0, ms(row)),
                answer(row % 10, 0.9 - f64::from(row % 7) / 100.0, ms(row) * 1.01),
            )
        };
        let report = compared(2_000, alike);
        assert_eq!(report.verdict, GateVerdict::Safe, "{report:#?}");
        assert!(
            report.summary.starts_with("Safe at 95 %: each of 6 gates") && report.summary.contains("2,000"),
            "{}",
            report.summary
        );
        assert_eq!((report.class_shift_p, report.classes_moved, report.examples.len()), (1.0, 0.0, 0));
        let few = compared(50, alike);
        let GateVerdict::MoreNeeded(rows) = few.verdict else { panic!("{few:#?}") };
        assert!(rows >= 300 && few.summary.contains("50 requests are too few"), "{}", few.summary);
    }

    #[test]
    fn what_is_worse_is_named_with_examples() {
        // Every other nine becomes an eight: five requests in a hundred.
        let report = compared(2_000, |row| {
            (answer(row % 10, 0.9, ms(row)), answer(if row % 20 == 9 { 8 } else { row % 10 }, 0.9, ms(row)))
        });
        assert_eq!(report.verdict, GateVerdict::Unsafe);
        assert!(report.summary.contains("same class, accuracy"), "{}", report.summary);
        assert!(report.class_shift_p < 1e-6 && (report.classes_moved - 0.05).abs() < 1e-9);
        assert_eq!(report.examples.len(), 10);
        let first = &report.examples[0];
        assert_eq!(
            (first.request, first.old.as_str(), first.new.as_str(), first.label.as_deref()),
            (9, "9", "8", Some("9"))
        );
        assert_eq!(first.input, "[9, 0.25]");
        assert_eq!(
            report.classes.iter().find(|counts| counts.class == "8"),
            Some(&ClassCounts { class: "8".into(), old: 200, new: 300 })
        );
        let words = &gate(&report, "same class").words;
        assert!(
            words.contains("100 of 2,000 requests get another class: 5.0 %") && words.contains("1.0 % is accepted"),
            "{words}"
        );
    }

    #[test]
    fn slower_unsure_and_refusing_versions_are_each_caught_by_their_gate() {
        let slow = compared(2_000, |row| (answer(1, 0.9, ms(row)), answer(1, 0.9, ms(row) * 1.5)));
        assert_eq!(gate(&slow, "p99 latency").gate.verdict, GateVerdict::Unsafe);
        let sure = |row: u32| 0.6 + f64::from(row % 30) / 100.0;
        let unsure = compared(2_000, |row| (answer(1, sure(row), 1.0), answer(1, sure(row) - 0.05, 1.0)));
        assert_eq!(gate(&unsure, "scores of probabilities").gate.verdict, GateVerdict::Unsafe);
        let refusing = compared(2_000, |row| {
            (answer(1, 0.9, 1.0), if row % 20 == 0 { Err("HTTP 500".into()) } else { answer(1, 0.9, 1.0) })
        });
        assert_eq!(gate(&refusing, "answered").gate.verdict, GateVerdict::Unsafe);
        assert_eq!(refusing.examples[0].new, "HTTP 500");
    }

    #[test]
    fn nothing_is_not_safe() {
        assert!(matches!(compared(0, |_| unreachable!()).verdict, GateVerdict::MoreNeeded(_)));
        let dead = compared(500, |_| (Err("gone".into()), Err("gone".into())));
        assert!(matches!(dead.verdict, GateVerdict::MoreNeeded(_)), "{dead:#?}");
    }
}
