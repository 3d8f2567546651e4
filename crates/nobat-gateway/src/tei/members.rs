//! The members that bodies of this API share.

use nobat_core::json::Reader;
use nobat_core::parameters::{Parameter, Parameters};
use nobat_core::{Error, ErrorCode, Result, clip};
use serde_json::Value;

/// What a body says besides its texts.
#[derive(Debug, Default)]
pub(super) struct Members {
    pub(super) model: Option<String>,
    pub(super) parameters: Parameters,
}

impl Members {
    /// Reads a body. `own` takes the members of its route, and says of others that it does
    /// not; of the shared ones those in `known` are taken.
    ///
    /// # Errors
    /// `invalid_json`; `invalid_parameter` for a member that is not known.
    pub(super) fn read<'a>(
        body: &'a [u8],
        known: &[&str],
        mut own: impl FnMut(&mut Reader<'a>, &str) -> Result<bool>,
    ) -> Result<Members> {
        let mut members = Members::default();
        let mut reader = Reader::new(body);
        reader.object("the body", |reader, member| {
            if own(reader, &member)? {
                return Ok(());
            }
            let is_known = *member == *"model" || known.contains(&&*member);
            if !is_known {
                let message =
                    format!("member `{}` is not known; this call takes model, {}", clip(&member), known.join(", "));
                return Err(Error::invalid(message));
            }
            if reader.null() {
                return Ok(());
            }
            if *member == *"model" {
                members.model = Some(reader.string("model")?.into_owned());
                return Ok(());
            }
            members.set(&member, reader.parse(&member)?)
        })?;
        reader.end()?;
        Ok(members)
    }

    fn set(&mut self, name: &str, value: Value) -> Result<()> {
        let refused = |takes: &str| {
            Error::new(ErrorCode::InvalidJson, format!("{name} is {}; it takes {takes}", clip(&value.to_string())))
        };
        let parameter = match name {
            "truncation_direction" => match value.as_str().map(str::to_ascii_lowercase).as_deref() {
                Some(side @ ("left" | "right")) => Parameter::Text(side.into()),
                _ => return Err(refused("left or right")),
            },
            "prompt_name" => Parameter::Text(value.as_str().ok_or_else(|| refused("a text"))?.into()),
            "dimensions" => Parameter::Int64(
                value.as_i64().filter(|&count| count > 0).ok_or_else(|| refused("a number of 1 or more"))?,
            ),
            _ => Parameter::Bool(value.as_bool().ok_or_else(|| refused("true or false"))?),
        };
        self.parameters.set(name, parameter);
        Ok(())
    }
}

/// A member that has to be there.
pub(super) fn missing(name: &str) -> Error {
    Error::new(ErrorCode::InvalidJson, format!("{name} is missing; see /docs for what this call takes"))
}
