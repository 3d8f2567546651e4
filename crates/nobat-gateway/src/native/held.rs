//! What the caller of a stream came with: a stream goes on for as long as that stands.

use actix_web::HttpRequest;
use actix_web::http::header;
use nobat_serving::Predictor;
use nobat_serving::auth::Credential;

use crate::{cookie, middleware};

/// A key, a session, or neither.
pub(super) enum Held {
    Nothing,
    Authorization(String),
    Session(String),
}

impl Held {
    /// That of a request.
    pub(super) fn of(request: &HttpRequest) -> Held {
        let headers = request.headers();
        match (middleware::text(headers, header::AUTHORIZATION), cookie::session(headers)) {
            (Some(text), _) => Held::Authorization(text.to_owned()),
            (None, Some(text)) => Held::Session(text.to_owned()),
            (None, None) => Held::Nothing,
        }
    }

    /// Whether the key or the session still lets its caller in. Asks no store.
    pub(super) fn stands(&self, predictor: &Predictor) -> bool {
        let credential = match self {
            Held::Nothing => Credential::None,
            Held::Authorization(text) => Credential::Authorization(text),
            Held::Session(text) => Credential::Session(text),
        };
        predictor.state().admission.auth.authenticate(credential).is_ok()
    }
}
