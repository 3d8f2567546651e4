//! What a model's inputs and answers look like on rows that it was not trained on:
//! `profile.json`, beside the model.
//!
//! It holds counts and quantiles, never rows. The classes are the model's *predictions*:
//! labels have another distribution, and so have predictions on rows it has learned. How
//! many rows they came from is part of it, because a profile is a sample and not the truth.

use bytes::Bytes;
use nobat_core::tensor::{Datatype, Tensor};
use rand::RngExt;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use crate::random::{Random, quantile};
use crate::reading::{Reading, element};

/// A model's profile.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// The model it was made with.
    pub model: String,
    /// Its version.
    pub version: String,
    /// The rows it came from.
    pub rows: u64,
    /// What the inputs look like.
    pub inputs: Vec<InputProfile>,
    /// What the model answered to them.
    pub answers: Vec<AnswerProfile>,
    /// What it answered to inputs drawn from this profile: made-up inputs may only be
    /// compared with made-up inputs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub drawn: Vec<AnswerProfile>,
}

/// One input.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InputProfile {
    /// Its name.
    pub name: String,
    /// Its element type.
    pub datatype: Datatype,
    /// Shape of one request's tensor, a batch axis counted as 1.
    pub shape: Vec<i64>,
    /// Lowest and highest value; both 0 for BYTES.
    pub range: (f64, f64),
    /// Quantiles of one element a row, taken at random: more would depend on each other.
    pub quantiles: Vec<f64>,
    /// Rows of that element by [`bin`] of the quantiles; the last bin is NaN.
    pub bins: Vec<u64>,
    /// Quantiles of each element; empty for inputs of more than a thousand.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub elements: Vec<Vec<f64>>,
}

/// One reading of one output.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnswerProfile {
    /// The output.
    pub output: String,
    /// How it is read.
    pub reading: Reading,
    /// Rows of each class, for classes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub classes: BTreeMap<String, u64>,
    /// Ascending scores of up to a thousand rows, for scores.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scores: Vec<f64>,
    /// Rows whose score is NaN or infinite, or which have no class.
    #[serde(default)]
    pub without: u64,
    /// Rows in all.
    pub rows: u64,
}

impl Profile {
    /// Reads `profile.json`.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn parse(json: &[u8]) -> Result<Profile, String> {
        let profile: Profile = serde_json::from_slice(json).map_err(|e| format!("it is no profile: {e}"))?;
        for input in &profile.inputs {
            let ascending = |values: &[f64]| values.windows(2).all(|pair| pair[0] <= pair[1]);
            if !ascending(&input.quantiles) || !input.elements.iter().all(|values| ascending(values)) {
                return Err(format!("the quantiles of input `{}` do not ascend", input.name));
            }
            if input.bins.len() != bins_of(&input.quantiles) {
                return Err(format!(
                    "input `{}` has {} bins for {} quantiles",
                    input.name,
                    input.bins.len(),
                    input.quantiles.len()
                ));
            }
        }
        Ok(profile)
    }

    /// Draws one request's inputs: each element by its own quantiles, independent of the
    /// others. Such inputs show whether a model still answers as it did, not how it does on
    /// real ones.
    ///
    /// # Errors
    /// Names the input that cannot be made up, such as text.
    pub fn draw(&self, random: &mut Random) -> Result<Vec<Tensor>, String> {
        self.inputs.iter().map(|input| input.draw(random)).collect()
    }
}

impl InputProfile {
    fn draw(&self, random: &mut Random) -> Result<Tensor, String> {
        let refuse = || {
            format!("input `{}` ({}) cannot be drawn from a profile; give a file of inputs", self.name, self.datatype)
        };
        if self.quantiles.is_empty() {
            return Err(refuse());
        }
        let count = nobat_core::tensor::elements(&self.name, &self.shape).map_err(|e| e.message)?;
        let mut data = Vec::new();
        for place in 0..count {
            let quantiles = self.elements.get(place).unwrap_or(&self.quantiles);
            let value = quantile(quantiles, random.random::<f64>());
            data.extend(element(value, self.datatype).ok_or_else(refuse)?);
        }
        let shape = self.shape.iter().copied().collect();
        Ok(Tensor { name: self.name.as_str().into(), datatype: self.datatype, shape, data: Bytes::from(data) })
    }
}

/// Which bin of ascending `quantiles` a value is in: 0 below the first, one more after each
/// that it reaches, and a last one for NaN.
pub fn bin(quantiles: &[f64], value: f64) -> usize {
    if value.is_nan() { quantiles.len() + 1 } else { quantiles.partition_point(|&edge| edge <= value) }
}

/// How many bins there are.
pub fn bins_of(quantiles: &[f64]) -> usize {
    quantiles.len() + 2
}
