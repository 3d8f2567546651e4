//! The parameters of an inference request, as HTTP and gRPC both take them,
//! and what they mean for a job.
//!
//! Parameters that begin with `triton_` belong to that server's extensions: one
//! that nobat does not keep is refused rather than ignored. Other unknown
//! parameters are a model's own business and are accepted.

use std::time::Duration;

use nobat_core::job::JobOptions;
use nobat_core::oip::InferParameter;
use nobat_core::oip::infer_parameter::ParameterChoice;
use nobat_core::{Error, ErrorCode, Result};
use serde::Deserialize;

/// One parameter's value.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(untagged)]
pub(crate) enum Value {
    /// `true` or `false`.
    Bool(bool),
    /// A whole number of at least 0.
    Uint(u64),
    /// A negative whole number.
    Int(i64),
    /// Any other number.
    Double(f64),
    /// Text.
    Text(String),
}

impl Value {
    /// The value of a gRPC parameter; `None` when it has none.
    pub(crate) fn of_message(parameter: &InferParameter) -> Option<Value> {
        Some(match parameter.parameter_choice.as_ref()? {
            ParameterChoice::BoolParam(value) => Value::Bool(*value),
            ParameterChoice::Int64Param(value) => match u64::try_from(*value) {
                Ok(value) => Value::Uint(value),
                Err(_) => Value::Int(*value),
            },
            ParameterChoice::StringParam(value) => Value::Text(value.clone()),
            ParameterChoice::DoubleParam(value) => Value::Double(*value),
            ParameterChoice::Uint64Param(value) => Value::Uint(*value),
        })
    }

    fn truth(&self, name: &str) -> Result<bool> {
        match self {
            Value::Bool(value) => Ok(*value),
            _ => Err(refused(name, self, "true or false")),
        }
    }

    /// A count; numbers in text are taken too, as some clients send them so.
    fn count(&self, name: &str) -> Result<u64> {
        match self {
            Value::Uint(value) => Ok(*value),
            Value::Text(text) => text.parse().map_err(|_| refused(name, self, "a whole number of at least 0")),
            _ => Err(refused(name, self, "a whole number of at least 0")),
        }
    }
}

/// What a request's parameters ask for.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct RequestParameters {
    /// The job's priority: 0..=255, larger first.
    pub priority: u8,
    /// The job's deadline, from its enqueue.
    pub deadline: Option<Duration>,
    /// Whether outputs are binary unless they say otherwise.
    pub binary_data_output: bool,
}

impl RequestParameters {
    /// Reads the parameters. `grpc` allows those that clients send with every
    /// gRPC call, streamed or not.
    ///
    /// # Errors
    /// `invalid_parameter` naming the parameter and what it takes;
    /// `unsupported` for sequences.
    pub(crate) fn read<'a>(
        parameters: impl Iterator<Item = (&'a str, Option<&'a Value>)>,
        grpc: bool,
    ) -> Result<RequestParameters> {
        let mut read = RequestParameters::default();
        for (name, value) in parameters {
            let Some(value) = value else {
                return Err(Error::new(ErrorCode::InvalidParameter, format!("parameter `{name}` has no value")));
            };
            match name {
                "priority" => read.priority = priority(value.count(name)?),
                "timeout" => read.deadline = Some(value.count(name)?).filter(|&us| us > 0).map(Duration::from_micros),
                "binary_data_output" => read.binary_data_output = value.truth(name)?,
                // Every answer is its request's last, and says so in a stream.
                "triton_enable_empty_final_response" if grpc => drop(value.truth(name)?),
                "sequence_id" if !matches!(value, Value::Uint(0)) => {
                    return Err(Error::new(
                        ErrorCode::Unsupported,
                        "parameter `sequence_id` asks for a stateful sequence; models here are stateless",
                    ));
                }
                _ if name.starts_with("triton_") => {
                    return Err(Error::new(
                        ErrorCode::InvalidParameter,
                        format!("parameter `{}` is not known here; leave it out", clip(name)),
                    ));
                }
                _ => {}
            }
        }
        Ok(read)
    }

    /// The options of the job that the request becomes.
    pub(crate) fn job_options(&self) -> JobOptions {
        JobOptions { priority: self.priority, deadline: self.deadline, ..JobOptions::default() }
    }
}

/// What one output's parameters ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct OutputParameters {
    /// Binary or not; `None` leaves it to the request.
    pub binary_data: Option<bool>,
    /// The best so many classes instead of the tensor; 0: the tensor.
    pub classification: u64,
}

impl OutputParameters {
    /// Reads one output's parameters.
    ///
    /// # Errors
    /// As [`RequestParameters::read`]; `unsupported` for shared memory.
    pub(crate) fn read<'a>(parameters: impl Iterator<Item = (&'a str, Option<&'a Value>)>) -> Result<OutputParameters> {
        let mut read = OutputParameters::default();
        for (name, value) in parameters {
            match (name, value) {
                ("binary_data", Some(value)) => read.binary_data = Some(value.truth(name)?),
                ("classification", Some(value)) => read.classification = value.count(name)?,
                _ => refuse_shared_memory(name)?,
            }
        }
        Ok(read)
    }
}

/// Reads one input's parameters: the size of its binary data, where it has any.
///
/// # Errors
/// As [`OutputParameters::read`].
pub(crate) fn binary_data_size<'a>(
    parameters: impl Iterator<Item = (&'a str, Option<&'a Value>)>,
) -> Result<Option<u64>> {
    let mut size = None;
    for (name, value) in parameters {
        match (name, value) {
            ("binary_data_size", Some(value)) => size = Some(value.count(name)?),
            _ => refuse_shared_memory(name)?,
        }
    }
    Ok(size)
}

fn refuse_shared_memory(name: &str) -> Result<()> {
    if name.starts_with("shared_memory") {
        return Err(super::settings::no_shared_memory());
    }
    Ok(())
}

/// This protocol's priority (0 is the default, 1 the highest) as a job's
/// (larger first): 1 becomes 255, 255 becomes 1, and all beyond the default.
fn priority(asked: u64) -> u8 {
    match asked {
        0 => 0,
        asked => u8::try_from(256u64.saturating_sub(asked)).unwrap_or(0),
    }
}

fn refused(name: &str, value: &Value, wanted: &str) -> Error {
    let given = match value {
        Value::Bool(value) => value.to_string(),
        Value::Uint(value) => value.to_string(),
        Value::Int(value) => value.to_string(),
        Value::Double(value) => value.to_string(),
        Value::Text(text) => format!("\"{}\"", clip(text)),
    };
    Error::new(ErrorCode::InvalidParameter, format!("parameter `{name}` is {given}; it takes {wanted}"))
}

/// A caller's text, short enough to repeat in a message.
pub(crate) fn clip(text: &str) -> &str {
    &text[..text.floor_char_boundary(80)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, Value)], grpc: bool) -> Result<RequestParameters> {
        RequestParameters::read(pairs.iter().map(|(name, value)| (*name, Some(value))), grpc)
    }

    #[test]
    fn priority_1_is_the_highest_and_0_the_default() {
        let of = |asked| read(&[("priority", Value::Uint(asked))], false).expect("a priority").priority;
        assert_eq!((of(0), of(1), of(255), of(256), of(u64::MAX)), (0, 255, 1, 0, 0));
    }

    #[test]
    fn timeout_is_microseconds_and_0_is_none() {
        let of = |asked| read(&[("timeout", asked)], false).map(|read| read.deadline);
        assert_eq!(of(Value::Uint(1500)).expect("a number"), Some(Duration::from_micros(1500)));
        assert_eq!(of(Value::Text("1500".into())).expect("a number in text"), Some(Duration::from_micros(1500)));
        assert_eq!(of(Value::Uint(0)).expect("none"), None);
        assert_eq!(
            of(Value::Int(-1)).expect_err("negative").message,
            "parameter `timeout` is -1; it takes a whole number of at least 0"
        );
    }

    #[test]
    fn unknown_parameters_of_the_server_are_refused_and_those_of_models_pass() {
        assert!(read(&[("triton_unknown", Value::Bool(true))], true).is_err());
        assert!(read(&[("triton_enable_empty_final_response", Value::Bool(true))], false).is_err());
        assert!(read(&[("triton_enable_empty_final_response", Value::Bool(true))], true).is_ok());
        assert!(read(&[("triton_enable_empty_final_response", Value::Uint(1))], true).is_err());
        assert!(read(&[("temperature", Value::Double(0.5))], false).is_ok());
        assert_eq!(
            read(&[("sequence_id", Value::Uint(7))], false).expect_err("a sequence").code,
            ErrorCode::Unsupported
        );
    }

    #[test]
    fn shared_memory_is_refused_by_name() {
        let value = Value::Text("region".into());
        let pairs = [("shared_memory_region", Some(&value))];
        assert_eq!(OutputParameters::read(pairs.into_iter()).expect_err("refused").code, ErrorCode::Unsupported);
        assert_eq!(binary_data_size(pairs.into_iter()).expect_err("refused").code, ErrorCode::Unsupported);
    }
}
