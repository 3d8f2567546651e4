//! What a request sets beside its tensors: plain values by name, such as
//! `normalize = false`. They travel as the Open Inference Protocol's parameters.
//!
//! Requests without any, which most are, allocate nothing for them.

use std::collections::BTreeMap;

use prost::Message;
use serde_json::Value;
use smol_str::{SmolStr, ToSmolStr};

use crate::error::{Error, Result, clip};
use crate::oip::InferParameter;
use crate::oip::infer_parameter::ParameterChoice;

/// One value.
#[derive(Clone, Debug, PartialEq)]
pub enum Parameter {
    /// True or false.
    Bool(bool),
    /// A whole number.
    Int64(i64),
    /// A number.
    Double(f64),
    /// A text; of a list or an object, its JSON.
    Text(SmolStr),
}

impl Parameter {
    /// Reads a JSON value; `None` for null.
    pub fn of_json(value: &Value) -> Option<Parameter> {
        Some(match value {
            Value::Null => return None,
            Value::Bool(value) => Parameter::Bool(*value),
            Value::Number(number) => match number.as_i64() {
                Some(whole) => Parameter::Int64(whole),
                None => Parameter::Double(number.as_f64().unwrap_or(f64::NAN)),
            },
            Value::String(text) => Parameter::Text(text.as_str().into()),
            Value::Array(_) | Value::Object(_) => Parameter::Text(value.to_smolstr()),
        })
    }

    fn of_message(parameter: InferParameter) -> Option<Parameter> {
        Some(match parameter.parameter_choice? {
            ParameterChoice::BoolParam(value) => Parameter::Bool(value),
            ParameterChoice::Int64Param(value) => Parameter::Int64(value),
            ParameterChoice::Uint64Param(value) => match i64::try_from(value) {
                Ok(value) => Parameter::Int64(value),
                Err(_) => Parameter::Double(value as f64),
            },
            ParameterChoice::DoubleParam(value) => Parameter::Double(value),
            ParameterChoice::StringParam(value) => Parameter::Text(value.into()),
        })
    }

    fn message(&self) -> InferParameter {
        let choice = match self {
            Parameter::Bool(value) => ParameterChoice::BoolParam(*value),
            Parameter::Int64(value) => ParameterChoice::Int64Param(*value),
            Parameter::Double(value) => ParameterChoice::DoubleParam(*value),
            Parameter::Text(value) => ParameterChoice::StringParam(value.to_string()),
        };
        InferParameter { parameter_choice: Some(choice) }
    }
}

impl std::fmt::Display for Parameter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Parameter::Bool(value) => value.fmt(f),
            Parameter::Int64(value) => value.fmt(f),
            Parameter::Double(value) => value.fmt(f),
            Parameter::Text(value) => write!(f, "`{}`", clip(value)),
        }
    }
}

/// A request's parameters, in the order of their names.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Parameters(BTreeMap<SmolStr, Parameter>);

impl Parameters {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Sets one, in the place of an earlier one of its name.
    pub fn set(&mut self, name: impl Into<SmolStr>, value: Parameter) {
        self.0.insert(name.into(), value);
    }

    /// Takes one out.
    pub fn take(&mut self, name: &str) -> Option<Parameter> {
        self.0.remove(name)
    }

    /// Drops all of them.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// One of them, as it was given.
    pub fn get(&self, name: &str) -> Option<&Parameter> {
        self.0.get(name)
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&SmolStr, &Parameter)> {
        self.0.iter()
    }

    /// One that is true or false; `None` where it is not given.
    ///
    /// # Errors
    /// `invalid_parameter`, naming the parameter, its value and what it takes. So also below.
    pub fn truth(&self, name: &str) -> Result<Option<bool>> {
        self.read(name, "true or false", |value| match value {
            Parameter::Bool(value) => Some(*value),
            _ => None,
        })
    }

    /// One that is a whole number of at least 0.
    ///
    /// # Errors
    /// `invalid_parameter`.
    pub fn count(&self, name: &str) -> Result<Option<u64>> {
        self.read(name, "a whole number of at least 0", |value| match value {
            Parameter::Int64(value) => u64::try_from(*value).ok(),
            _ => None,
        })
    }

    /// One that is a number.
    ///
    /// # Errors
    /// `invalid_parameter`.
    pub fn number(&self, name: &str) -> Result<Option<f64>> {
        self.read(name, "a number", |value| match value {
            Parameter::Int64(value) => Some(*value as f64),
            Parameter::Double(value) => Some(*value),
            _ => None,
        })
    }

    /// One that is a text.
    ///
    /// # Errors
    /// `invalid_parameter`.
    pub fn text(&self, name: &str) -> Result<Option<&str>> {
        self.read(name, "a text", |value| match value {
            Parameter::Text(value) => Some(value.as_str()),
            _ => None,
        })
    }

    fn read<'a, T>(&'a self, name: &str, takes: &str, read: impl Fn(&'a Parameter) -> Option<T>) -> Result<Option<T>> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let refused = || Error::invalid(format!("parameter `{name}` is {value}; it takes {takes}"));
        read(value).map(Some).ok_or_else(refused)
    }

    /// Those of a message.
    pub(crate) fn of_message(message: std::collections::HashMap<String, InferParameter>) -> Parameters {
        let named = |(name, value): (String, InferParameter)| Some((name.into(), Parameter::of_message(value)?));
        message.into_iter().filter_map(named).collect()
    }

    /// Each as an entry of a message's map, encoded.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&SmolStr, Vec<u8>)> {
        self.0.iter().map(|(name, value)| (name, value.message().encode_to_vec()))
    }
}

impl FromIterator<(SmolStr, Parameter)> for Parameters {
    fn from_iter<I: IntoIterator<Item = (SmolStr, Parameter)>>(pairs: I) -> Parameters {
        Parameters(pairs.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(pairs: &[(&str, Value)]) -> Parameters {
        pairs.iter().filter_map(|(name, value)| Some((SmolStr::new(name), Parameter::of_json(value)?))).collect()
    }

    #[test]
    fn each_is_read_as_what_it_takes_or_refused_with_name_and_value() {
        let given = of(&[("normalize", json!(false)), ("dimensions", json!(64)), ("prompt_name", json!("query"))]);
        assert_eq!(given.truth("normalize").expect("a bool"), Some(false));
        assert_eq!(given.count("dimensions").expect("a count"), Some(64));
        assert_eq!(given.number("dimensions").expect("a number"), Some(64.0));
        assert_eq!(given.text("prompt_name").expect("a text"), Some("query"));
        assert_eq!(given.truth("truncate").expect("absent"), None);
        let refused = given.truth("prompt_name").expect_err("no bool");
        assert_eq!(refused.message, "parameter `prompt_name` is `query`; it takes true or false");
        assert!(of(&[("n", json!(-1))]).count("n").is_err());
        assert!(of(&[("n", json!([1]))]).count("n").expect_err("a list").message.contains("`[1]`"));
    }

    #[test]
    fn many_in_any_order_cost_no_more_each_than_few() {
        // One after the other before all that are there: a list would move them all each time.
        let mut given = Parameters::default();
        for number in (0..500_000).rev() {
            given.set(smol_str::format_smolstr!("{number:06}"), Parameter::Bool(true));
        }
        assert_eq!((given.iter().len(), given.iter().next().map(|(name, _)| name.as_str())), (500_000, Some("000000")));
    }

    #[test]
    fn the_last_of_a_name_holds_and_null_is_left_out() {
        let mut given = of(&[("b", json!(1)), ("a", json!(2.5)), ("b", json!(u64::MAX)), ("c", json!(null))]);
        assert_eq!(given.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(given.get("b"), Some(&Parameter::Double(u64::MAX as f64)));
        assert_eq!(given.take("a"), Some(Parameter::Double(2.5)));
        assert!(given.get("a").is_none() && !given.is_empty());
    }
}
