//! Entries for the fuzz targets and the replay of their corpora (`fuzz/`).

use bytes::Bytes;

use crate::id::{IdIssuer, JobId, OwnerId};
use crate::infer::{InferRequest, InferResponse};
use crate::job::JobResult;

/// A job's id, as a caller sends it.
pub fn job_id(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(id) = text.parse::<JobId>() {
        assert_eq!(id.to_string().parse().ok(), Some(id), "{text} reads back");
        assert_eq!(JobId::parse_key(&id.key()), Some(id.random));
        let issuer = IdIssuer::new([7; 16]);
        let own = issuer.issue(id.random, id.tombstone_min, id.locator, OwnerId::ANONYMOUS);
        assert_eq!(issuer.verify(id, OwnerId::ANONYMOUS), id == own, "only an id of ours is ours");
    }
}

/// What a queue gives back: a request, a worker's answer, a result.
pub fn payload(data: &[u8]) {
    let bytes = Bytes::copy_from_slice(data);
    if let Ok(request) = InferRequest::decode(bytes.clone()) {
        let again = InferRequest::decode(Bytes::from(request.encode())).expect("what was written is read");
        assert_eq!(again, request);
    }
    if let Ok(response) = InferResponse::decode(&bytes) {
        let mut packed = Vec::new();
        response.encode(&mut packed);
        assert_eq!(InferResponse::decode(&packed.into()).ok(), Some(response));
    }
    if let Some(result) = JobResult::decode(bytes) {
        assert_eq!(JobResult::decode(result.encode()).map(|again| again.outputs), Some(result.outputs));
    }
}
