//! The request of a route's own job: what every child is asked, and the key by which
//! weighted routes choose.

use bytes::Bytes;
use nobat_core::Result;
use nobat_core::infer::InferRequest;
use nobat_core::parameters::Parameter;
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
        if self.route_key.is_empty() {
            return self.request.encode().into();
        }
        let mut keyed = self.request.clone();
        keyed.parameters.set(ROUTE_KEY_NAME, Parameter::Text(self.route_key.clone()));
        keyed.encode().into()
    }

    /// Reads [`RouteRequest::encode`], and payloads of earlier releases, which have the
    /// key where a model's request has its version.
    ///
    /// # Errors
    /// As [`InferRequest::decode`].
    pub(super) fn decode(payload: &Bytes) -> Result<RouteRequest> {
        let mut request = InferRequest::decode(payload.clone())?;
        let earlier = std::mem::take(&mut request.version);
        let route_key = match request.parameters.take(ROUTE_KEY_NAME) {
            Some(Parameter::Text(key)) => key,
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
        let mut request = InferRequest { inputs: vec![tensor], outputs: vec!["y".into()], ..InferRequest::default() };
        request.parameters.set("normalize", Parameter::Bool(false));
        for key in ["", "user-7"] {
            let sent = RouteRequest { route_key: key.into(), request: request.clone() };
            assert_eq!(RouteRequest::decode(&sent.encode()).expect("reads back"), sent);
        }
        let earlier = InferRequest { version: "user-7".into(), ..request.clone() };
        let read = RouteRequest::decode(&earlier.encode().into()).expect("reads");
        assert_eq!(read, RouteRequest { route_key: "user-7".into(), request });
    }
}
