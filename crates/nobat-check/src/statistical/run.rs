//! Sending rows to a model: to make its profile, and to hold it to one.

use std::fmt::Display;

use futures::StreamExt;
use nobat_core::tensor::Tensor;
use nobat_core::{Error, Result};
use nobat_statistics::building::{Answers, ProfileBuilder};
use nobat_statistics::profile::Profile;
use nobat_statistics::random::seeded;
use nobat_statistics::reading::{Reading, Rows};

use super::judge::{StatisticalSettings, judge};
use super::report::{StatisticalReport, StatisticalVerdict};
use super::words::count;
use crate::data::Dataset;

/// Requests in flight.
const IN_FLIGHT: usize = 16;
/// Scores kept of a run.
const KEPT: usize = 2_000;
/// Failures in a row after which the server counts as gone.
const GONE_AFTER: u64 = 20;
/// Inputs drawn for the part of a profile that drawn inputs are compared with.
pub const DRAWN_ROWS: u64 = 20_000;

/// Makes the profile of a model from rows that it was not trained on, by asking it.
/// `predict` answers one row; `progress` hears of rows done.
///
/// # Errors
/// `invalid_parameter` for no rows, or when the model does not answer one.
pub async fn make_profile<E: Display>(
    predict: &impl AsyncFn(Vec<Tensor>) -> Result<Vec<Tensor>, E>,
    data: &Dataset,
    model: (&str, &str),
    progress: impl Fn(u64),
) -> Result<Profile> {
    if data.is_empty() {
        return Err(Error::invalid("there are no rows to make a profile from"));
    }
    let mut builder = ProfileBuilder::new(1);
    let rows = (0..data.len()).filter_map(|row| data.row(row));
    let mut answers = std::pin::pin!(answered(predict, rows));
    while let Some((inputs, outputs)) = answers.next().await {
        let outputs = outputs.map_err(|e| Error::invalid(format!("row {} got no answer: {e}", builder.rows() + 1)))?;
        builder.add(&inputs, &outputs, 1);
        progress(builder.rows());
    }
    let mut profile = builder.finish(model.0, model.1);
    let mut random = seeded(2);
    // Text cannot be made up: such a model is tested with rows from files alone.
    if profile.draw(&mut random).is_ok() {
        let mut drawn = Answers::like(&profile.answers, KEPT / 2);
        let (source, mut kept) = (profile.clone(), seeded(3));
        let inputs = (0..DRAWN_ROWS).filter_map(|_| source.draw(&mut random).ok());
        let mut answers = std::pin::pin!(answered(predict, inputs));
        let mut done = profile.rows;
        while let Some((_, outputs)) = answers.next().await {
            drawn.add(&outputs.map_err(|e| Error::invalid(format!("a drawn input got no answer: {e}")))?, 1, &mut kept);
            done += 1;
            progress(done);
        }
        profile.drawn = drawn.finish();
    }
    Ok(profile)
}

/// Sends rows, from `data` where there are any and drawn from the profile elsewhere, and
/// judges the answers. A server that goes away is told; what it answered is judged.
///
/// # Errors
/// `invalid_parameter` for another model's profile, or one whose inputs cannot be drawn.
pub async fn run<E: Display>(
    predict: &impl AsyncFn(Vec<Tensor>) -> Result<Vec<Tensor>, E>,
    profile: &Profile,
    data: Option<&Dataset>,
    model: (&str, &str),
    settings: &StatisticalSettings,
    progress: impl Fn(u64),
) -> Result<StatisticalReport> {
    if profile.model != model.0 {
        return Err(Error::invalid(format!("the profile is that of model `{}`, not of `{}`", profile.model, model.0)));
    }
    let mut notes = Vec::new();
    if profile.version != model.1 {
        notes.push(format!("The profile was made with version {}; version {} answered.", profile.version, model.1));
    }
    let (mut random, mut source) = (seeded(settings.seed), seeded(settings.seed ^ 0x5eed));
    let (expected, asked) = match data {
        Some(data) => (&profile.answers, settings.rows.min(data.len() as u64)),
        None if profile.drawn.is_empty() => {
            let why = profile
                .draw(&mut source)
                .err()
                .unwrap_or_else(|| "the profile has no answers to drawn inputs; give a file of inputs".into());
            return Err(Error::invalid(why));
        }
        None => (&profile.drawn, settings.rows),
    };
    let rows = (0..asked).filter_map(|row| match data {
        Some(data) => data.row(row as usize),
        None => profile.draw(&mut source).ok(),
    });
    let (mut seen, mut labelled, mut failures) = (Answers::like(expected, KEPT), Vec::new(), Failures::default());
    let (mut answers, mut sent) = (std::pin::pin!(answered(predict, rows)), 0);
    while let Some((_, outputs)) = answers.next().await {
        match outputs {
            Ok(outputs) => {
                seen.add(&outputs, 1, &mut random);
                failures.in_a_row = 0;
                let label = data.and_then(|data| data.label(sent as usize));
                labelled.extend(label.and_then(|label| graded(&outputs, &label)));
            }
            Err(error) => failures.add(error.to_string()),
        }
        sent += 1;
        progress(sent);
        if failures.in_a_row == GONE_AFTER {
            break;
        }
    }
    let answered = sent - failures.all;
    if failures.all > 0 {
        let gone = if failures.in_a_row == GONE_AFTER { "; the server counts as gone" } else { "" };
        notes.push(format!(
            "{} of {} requests were not answered{gone}: {}",
            count(failures.all),
            count(sent),
            failures.last
        ));
    }
    let findings = judge(expected, &seen.finish(), &labelled, settings);
    let any = |verdict| findings.iter().any(|finding| finding.verdict == verdict);
    // Answers that are missing may be missing for what they are.
    let incomplete = failures.all * 100 > sent || answered == 0 || any(StatisticalVerdict::NotJudged);
    let verdict = match (any(StatisticalVerdict::Failed), incomplete) {
        (true, _) => StatisticalVerdict::Failed,
        (false, true) => StatisticalVerdict::NotJudged,
        (false, false) => StatisticalVerdict::Passed,
    };
    let source = if data.is_some() { "rows from files" } else { "inputs drawn from the profile" };
    Ok(StatisticalReport {
        verdict,
        source,
        rows: answered,
        asked: settings.rows,
        unanswered: failures.all,
        profile_rows: profile.rows,
        findings,
        notes,
    })
}

#[derive(Default)]
struct Failures {
    all: u64,
    in_a_row: u64,
    last: String,
}

impl Failures {
    fn add(&mut self, why: String) {
        (self.all, self.in_a_row, self.last) = (self.all + 1, self.in_a_row + 1, why);
    }
}

/// The answers in the order of the rows, several in flight.
fn answered<E: Display>(
    predict: &impl AsyncFn(Vec<Tensor>) -> Result<Vec<Tensor>, E>,
    rows: impl Iterator<Item = Vec<Tensor>>,
) -> impl futures::Stream<Item = (Vec<Tensor>, Result<Vec<Tensor>, E>)> {
    let ask = async |inputs: Vec<Tensor>| {
        let outputs = predict(inputs.clone()).await;
        (inputs, outputs)
    };
    futures::stream::iter(rows).map(ask).buffered(IN_FLIGHT)
}

/// The probability an answer was given with, and whether it was right.
fn graded(outputs: &[Tensor], label: &str) -> Option<(f64, bool)> {
    let rows: Vec<(&Tensor, Rows)> = outputs.iter().filter_map(|tensor| Some((tensor, Rows::of(tensor, 1)?))).collect();
    let read = |of_class: bool| {
        let mut readings = rows.iter().flat_map(|&(tensor, rows)| {
            Reading::of(tensor.datatype, rows.width, false).into_iter().map(move |r| (r, rows))
        });
        readings.find(|(reading, _)| if of_class { reading.is_class() } else { *reading == Reading::Highest })
    };
    let ((class, class_rows), (sure, sure_rows)) = (read(true)?, read(false)?);
    let stated = sure.score(sure_rows, 0);
    let same = |class: String| class == label || class.parse::<f64>().is_ok_and(|class| label.parse() == Ok(class));
    (0.0..=1.0).contains(&stated).then_some((stated, same(class.class(class_rows, 0)?)))
}
