//! The request of a route's own job: what every child is asked, and the key by which
//! weighted routes choose.

use std::collections::HashMap;

use bytes::Bytes;
use nobat_core::infer::InferRequest;
use nobat_core::oip::infer_parameter::ParameterChoice;
use nobat_core::oip::{InferParameter, ModelInferRequest};
use nobat_core::{Error, Result};
use prost::Message;
use smol_str::SmolStr;

use crate::context::ROUTE_KEY_NAME;

/// A request to a route that nobody waits for.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct RouteRequest {
    /// The caller's key; empty without one.
    pub(super) route_key: SmolStr,
    /// What is asked; a route has no version.
    pub(super) request: InferRequest,
}

impl RouteRequest {
    /// As a job's payload: the request with the key among its parameters.
    pub(super) fn encode(&self) -> Bytes {
        let mut payload = self.request.encode();
        if !self.route_key.is_empty() {
            let key = ParameterChoice::StringParam(self.route_key.to_string());
            let parameters =
                HashMap::from([(ROUTE_KEY_NAME.to_owned(), InferParameter { parameter_choice: Some(key) })]);
            // Fields of one message may come in any order: these are merged with the request's.
            payload
                .extend_from_slice(&ModelInferRequest { parameters, ..ModelInferRequest::default() }.encode_to_vec());
        }
        payload.into()
    }

    /// Reads [`RouteRequest::encode`], and payloads of earlier releases, which have the
    /// key where a model's request has its version.
    ///
    /// # Errors
    /// As [`InferRequest::decode`].
    pub(super) fn decode(payload: &Bytes) -> Result<RouteRequest> {
        let mut request = InferRequest::decode(payload.clone())?;
        let earlier = std::mem::take(&mut request.version);
        let message = ModelInferRequest::decode(payload.clone())
            .map_err(|error| Error::invalid(format!("job payload is corrupt: {error}")))?;
        let key = message.parameters.get(ROUTE_KEY_NAME).and_then(|key| key.parameter_choice.as_ref());
        let route_key = match key {
            Some(ParameterChoice::StringParam(key)) => key.as_str().into(),
            _ => earlier,
        };
        Ok(RouteRequest { route_key, request })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nobat_core::tensor::{Datatype, Tensor};

    #[test]
    fn a_key_travels_beside_the_request_and_where_earlier_releases_had_it() {
        let shape = [2].into_iter().collect();
        let tensor = Tensor { name: "x".into(), datatype: Datatype::Uint8, shape, data: vec![1, 2].into() };
        let request = InferRequest { version: "".into(), inputs: vec![tensor], outputs: vec!["y".into()] };
        for key in ["", "user-7"] {
            let sent = RouteRequest { route_key: key.into(), request: request.clone() };
            assert_eq!(RouteRequest::decode(&sent.encode()).expect("reads back"), sent);
        }
        let earlier = InferRequest { version: "user-7".into(), ..request.clone() };
        let read = RouteRequest::decode(&earlier.encode().into()).expect("reads");
        assert_eq!(read, RouteRequest { route_key: "user-7".into(), request });
    }
}
