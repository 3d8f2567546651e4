//! The document before any operation: what it is about, its tags, the shared refusals
//! and the key.

use utoipa::openapi::OpenApi;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::{Modify, OpenApi as _};

use super::refusals::Components;

/// The document without operations.
pub(crate) fn base() -> OpenApi {
    Document::openapi()
}

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "nobat",
        description = "A model server built around a queue. Every prediction is a durable, prioritized job; waiting for it is an option. \
            The promise is at-least-once: an accepted job reaches exactly one terminal state that its caller can read until its ttl.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    tags(
        (name = "predict", description = "Send a prediction"),
        (name = "jobs", description = "Follow your jobs"),
        (name = "models", description = "What is served"),
        (name = "queues", description = "For operators"),
        (name = "routes", description = "Exchanges in front of the models"),
        (name = "periodic", description = "What starts by itself"),
        (name = "webhooks", description = "Who is told of a job's end"),
        (name = "keys", description = "API keys, for administrators"),
        (name = "tensorflow-serving", description = "TensorFlow Serving's REST API, and kserve's v1 protocol"),
        (name = "open-inference-protocol", description = "The Open Inference Protocol v2 over HTTP, as Triton's and KServe's clients speak it"),
        (name = "openai", description = "OpenAI's embeddings, files and batches"),
        (name = "tei", description = "The API of Hugging Face's text-embeddings-inference"),
        (name = "rerank", description = "Cohere's and Jina's rerankers"),
        (name = "sagemaker", description = "The SageMaker container contract"),
        (name = "health", description = "For probes"),
    ),
    modifiers(&Components, &Keys),
)]
struct Document;

/// API keys: where they are on, every operation needs one that does not say otherwise.
struct Keys;

impl Modify for Keys {
    fn modify(&self, document: &mut OpenApi) {
        const NAME: &str = "api_key";
        let scheme = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .bearer_format("nobat_<id>_<secret>")
            .description(Some("A key made by `nobat keys new`; a server without keys asks for none"))
            .build();
        document.components.get_or_insert_default().add_security_scheme(NAME, SecurityScheme::Http(scheme));
        // The empty requirement is an alternative: keys may be off.
        let none: [String; 0] = [];
        document.security = Some(vec![SecurityRequirement::new(NAME, none), SecurityRequirement::default()]);
    }
}
