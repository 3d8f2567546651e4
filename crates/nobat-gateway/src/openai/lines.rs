//! Lines of batches answered: a line's body is a call's.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use nobat_batches::{AnswerLine, LineAnswer};
use nobat_core::{Error, ErrorCode, OwnerId};
use nobat_serving::auth::Scope;
use nobat_serving::auth::keyring::Grant;
use nobat_serving::{Predictor, RequestContext};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use smol_str::SmolStr;

use super::embeddings::{self, answer_line};
use crate::error::http_status;
use crate::shape::Shape;

/// What a batch keeps of its owner's key: what that may use when the batch was made.
#[derive(Debug, Serialize, Deserialize)]
struct Caller {
    owner: OwnerId,
    name: SmolStr,
    models: Vec<SmolStr>,
    tokens_per_min: u32,
    max_priority: Option<u8>,
}

/// What a batch keeps of who makes it; null where callers need no key.
pub(super) fn caller(context: &RequestContext) -> Value {
    let kept = context.grant.as_ref().map(|grant| Caller {
        owner: grant.owner,
        name: grant.name.clone(),
        models: grant.models.clone(),
        tokens_per_min: grant.tokens_per_min,
        max_priority: grant.max_priority,
    });
    serde_json::to_value(kept).unwrap_or_default()
}

/// Answers lines that ask for embeddings.
pub(crate) struct EmbeddingLines {
    predictor: Predictor,
}

impl EmbeddingLines {
    /// With this predictor, made inside the runtime that carries batches out.
    pub(crate) fn new(predictor: Predictor) -> EmbeddingLines {
        EmbeddingLines { predictor }
    }
}

#[async_trait]
impl AnswerLine for EmbeddingLines {
    async fn answer(&self, caller: &Value, endpoint: &str, body: &str, key: &str, left: Duration) -> LineAnswer {
        let mut context = RequestContext::anonymous();
        let answered = async {
            if endpoint != embeddings::PATH {
                return Err(Error::invalid(format!("endpoint `{endpoint}` is not served in batches")));
            }
            let caller: Option<Caller> = serde_json::from_value(caller.clone())
                .map_err(|error| Error::internal(format!("a batch's caller cannot be read: {error}")))?;
            if let Some(caller) = caller {
                context.owner = caller.owner;
                context.grant = Some(Arc::new(grant(caller)));
            }
            let late = |_| Error::new(ErrorCode::DeadlineExceeded, "the completion window ended");
            tokio::time::timeout(left, answer_line(&self.predictor, &context, body, key)).await.map_err(late)?
        };
        let (status, body) = match answered.await {
            Ok(body) => (200, body),
            Err(error) => {
                let status = http_status(error.code);
                (status.as_u16(), Shape::OpenAi.body(&error, status, &context.request_id))
            }
        };
        LineAnswer { status, request_id: context.request_id.to_string(), body }
    }
}

/// Limits of requests are no limits of a batch's lines, which are as many as there is room for.
fn grant(caller: Caller) -> Grant {
    Grant {
        owner: caller.owner,
        name: caller.name,
        scope: Scope::Predict,
        models: caller.models,
        rate_per_s: 0.0,
        burst: 0,
        max_in_flight: 0,
        tokens_per_min: caller.tokens_per_min,
        max_priority: caller.max_priority,
        webhook: None,
    }
}
