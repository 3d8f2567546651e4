//! The parameters of an inference request, as HTTP and gRPC both take them,
//! and what they mean for a job.
//!
//! Parameters that begin with `triton_` belong to that server's extensions: one
//! that nobat does not keep is refused rather than ignored. Other unknown
//! parameters are a model's own business: they go on to one that has a task.

use std::collections::HashMap;
use std::time::Duration;

use nobat_core::job::JobOptions;
use nobat_core::oip::InferParameter;
use nobat_core::oip::infer_parameter::ParameterChoice;
use nobat_core::parameters::{Parameter, Parameters as ModelParameters};
use nobat_core::{Error, ErrorCode, Result, clip};
use serde_json::{Map, Value};

/// Parameters by name.
pub(crate) type Parameters = Map<String, Value>;

/// The parameters of a gRPC message; null for one that has no value.
pub(crate) fn of_message(parameters: HashMap<String, InferParameter>) -> Parameters {
    let value = |parameter: InferParameter| match parameter.parameter_choice {
        None => Value::Null,
        Some(ParameterChoice::BoolParam(value)) => value.into(),
        Some(ParameterChoice::Int64Param(value)) => value.into(),
        Some(ParameterChoice::StringParam(value)) => value.into(),
        Some(ParameterChoice::DoubleParam(value)) => value.into(),
        Some(ParameterChoice::Uint64Param(value)) => value.into(),
    };
    parameters.into_iter().map(|(name, parameter)| (name, value(parameter))).collect()
}

fn truth(name: &str, value: &Value) -> Result<bool> {
    value.as_bool().ok_or_else(|| refused(name, value, "true or false"))
}

/// A count; numbers in text are taken too, as some clients send them so.
fn count(name: &str, value: &Value) -> Result<u64> {
    let count = value.as_u64().or_else(|| value.as_str()?.parse().ok());
    count.ok_or_else(|| refused(name, value, "a whole number of at least 0"))
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
    /// What is set for the model.
    pub of_model: ModelParameters,
}

impl RequestParameters {
    /// Reads the parameters. `grpc` allows those that clients send with every
    /// gRPC call, streamed or not.
    ///
    /// # Errors
    /// `invalid_parameter` naming the parameter and what it takes;
    /// `unsupported` for sequences.
    pub(crate) fn read(parameters: &Parameters, grpc: bool) -> Result<RequestParameters> {
        let mut read = RequestParameters::default();
        for (name, value) in parameters {
            match name.as_str() {
                _ if value.is_null() && grpc => {
                    return Err(Error::new(ErrorCode::InvalidParameter, format!("parameter `{name}` has no value")));
                }
                // Left out.
                _ if value.is_null() => {}
                "priority" => read.priority = priority(count(name, value)?),
                "timeout" => read.deadline = Some(count(name, value)?).filter(|&us| us > 0).map(Duration::from_micros),
                "binary_data_output" => read.binary_data_output = truth(name, value)?,
                // Every answer is its request's last, and says so in a stream.
                "triton_enable_empty_final_response" if grpc => drop(truth(name, value)?),
                "sequence_id" if value.as_u64() != Some(0) => {
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
                // Says that there is no sequence.
                _ if name.starts_with("sequence_") => {}
                name => {
                    if let Some(value) = Parameter::of_json(value) {
                        read.of_model.set(name, value);
                    }
                }
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
    pub(crate) fn read(parameters: &Parameters) -> Result<OutputParameters> {
        let mut read = OutputParameters::default();
        for (name, value) in parameters.iter().filter(|(_, value)| !value.is_null()) {
            match name.as_str() {
                "binary_data" => read.binary_data = Some(truth(name, value)?),
                "classification" => read.classification = count(name, value)?,
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
pub(crate) fn binary_data_size(parameters: &Parameters) -> Result<Option<u64>> {
    let mut size = None;
    for (name, value) in parameters.iter().filter(|(_, value)| !value.is_null()) {
        match name.as_str() {
            "binary_data_size" => size = Some(count(name, value)?),
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
    let given = value.to_string();
    let given = clip(&given);
    Error::new(ErrorCode::InvalidParameter, format!("parameter `{name}` is {given}; it takes {wanted}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(pairs: &[(&str, Value)], grpc: bool) -> Result<RequestParameters> {
        let pairs = pairs.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
        RequestParameters::read(&pairs.collect(), grpc)
    }

    #[test]
    fn priority_1_is_the_highest_and_0_the_default() {
        let of = |asked| read(&[("priority", json!(asked))], false).expect("a priority").priority;
        assert_eq!((of(0), of(1), of(255), of(256), of(u64::MAX)), (0, 255, 1, 0, 0));
    }

    #[test]
    fn timeout_is_microseconds_and_0_is_none() {
        let of = |asked| read(&[("timeout", asked)], false).map(|read| read.deadline);
        assert_eq!(of(json!(1500)).expect("a number"), Some(Duration::from_micros(1500)));
        assert_eq!(of(json!("1500")).expect("a number in text"), Some(Duration::from_micros(1500)));
        assert_eq!(of(json!(0)).expect("none"), None);
        assert_eq!(
            of(json!(-1)).expect_err("negative").message,
            "parameter `timeout` is -1; it takes a whole number of at least 0"
        );
    }

    #[test]
    fn unknown_parameters_of_the_server_are_refused_and_those_of_models_pass() {
        assert!(read(&[("triton_unknown", json!(true))], true).is_err());
        assert!(read(&[("triton_enable_empty_final_response", json!(true))], false).is_err());
        assert!(read(&[("triton_enable_empty_final_response", json!(true))], true).is_ok());
        assert!(read(&[("triton_enable_empty_final_response", json!(1))], true).is_err());
        let passed = read(&[("temperature", json!(0.5)), ("timeout", json!(1))], false).expect("a model's own");
        let own = passed.of_model.iter().map(|(name, value)| (name.as_str(), value.clone())).collect::<Vec<_>>();
        assert_eq!(own, [("temperature", Parameter::Double(0.5))]);
        assert_eq!(read(&[("sequence_id", json!(7))], false).expect_err("a sequence").code, ErrorCode::Unsupported);
    }

    #[test]
    fn shared_memory_is_refused_by_name() {
        let value = json!("region");
        let parameters = Parameters::from_iter([("shared_memory_region".to_owned(), value)]);
        assert_eq!(OutputParameters::read(&parameters).expect_err("refused").code, ErrorCode::Unsupported);
        assert_eq!(binary_data_size(&parameters).expect_err("refused").code, ErrorCode::Unsupported);
    }
}
