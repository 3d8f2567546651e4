//! TensorFlow Serving's REST API under `/v1/models`, which kserve's v1 protocol
//! shares: `:predict`, `:classify`, `:regress`, status, metadata.
//!
//! Paths are taken apart by hand ([`Decoded`]): this is the hottest route,
//! and a model's name, version and verb share one segment.

use std::borrow::Cow;

use actix_web::web::{self, Data, Payload, ServiceConfig};
use actix_web::{HttpRequest, HttpResponse};
use nobat_core::job::JobOptions;
use nobat_core::{Error, ErrorCode, Result};
use nobat_serving::registry::{Target, Want};
use nobat_serving::timing::server_timing;
use nobat_serving::{Prediction, Predictor};
use smallvec::SmallVec;

use super::path::segment;
use super::prefer::Prefer;
use super::query::{JobQuery, WITH_WAIT};
use crate::access::{Access, Door, resource};
use crate::context::SERVER_TIMING;
use crate::error::{Shape, finish, method_not_allowed, not_allowed, nothing_at};
use crate::json::{request, write};
use crate::{body, context};

mod describe;
mod rank;

/// Where the protocol lives.
const MODELS: &str = "/v1/models";

/// Adds `/v1/models` and everything under it.
pub(super) fn configure(config: &mut ServiceConfig) {
    config.service(resource(MODELS, Access::READ).get(describe::list).default_service(not_allowed("GET, HEAD")));
    config.service(web::scope(MODELS).wrap(Door(Access::PREDICT)).default_service(web::to(serve)));
}

/// What a path asks for.
#[derive(Debug, PartialEq)]
struct Call<'a> {
    model: &'a str,
    want: Want<'a>,
    action: Action,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Action {
    Predict,
    Classify,
    Regress,
    Status,
    Metadata,
}

/// A path taken apart before its segments are decoded: a slash in a name is none of
/// the path's.
struct Decoded<'a>(SmallVec<[Cow<'a, str>; 4]>);

impl<'a> Decoded<'a> {
    fn of(path: &'a str) -> Decoded<'a> {
        Decoded(path.split('/').map(segment).collect())
    }

    /// Reads `{m}[/versions/{v}|/labels/{l}][:verb|/metadata]`.
    fn call(&self) -> Option<Call<'_>> {
        let (last, before) = self.0.split_last()?;
        let (last, mut action) = match last.rsplit_once(':') {
            Some((last, "predict")) => (last, Action::Predict),
            Some((last, "classify")) => (last, Action::Classify),
            Some((last, "regress")) => (last, Action::Regress),
            Some(_) | None => (&**last, Action::Status),
        };
        let mut segments = before.iter().map(|segment| &**segment).chain([last]);
        let model = segments.next().filter(|model| !model.is_empty())?;
        let mut want = Want::Default;
        let mut next = segments.next();
        if let Some(kind @ ("versions" | "labels")) = next {
            let name = segments.next().filter(|name| !name.is_empty())?;
            want = if kind == "versions" { Want::Version(name) } else { Want::Label(name) };
            next = segments.next();
        }
        if next == Some("metadata") && action == Action::Status {
            action = Action::Metadata;
            next = segments.next();
        }
        next.is_none().then_some(Call { model, want, action })
    }
}

impl Call<'_> {
    fn allow(&self) -> &'static str {
        match self.action {
            Action::Predict | Action::Classify | Action::Regress => "POST",
            Action::Status | Action::Metadata => "GET, HEAD",
        }
    }
}

async fn serve(request: HttpRequest, payload: Payload, predictor: Data<Predictor>) -> HttpResponse {
    let raw = request.path().strip_prefix(MODELS).and_then(|path| path.strip_prefix('/')).unwrap_or_default();
    let path = Decoded::of(raw);
    let Some(call) = path.call() else { return nothing_at(&request) };
    if !call.allow().split(", ").any(|method| method == request.method().as_str()) {
        return method_not_allowed(&request, call.allow());
    }
    if let Err(refusal) = context::require(&request, call.model) {
        return finish(&request, Shape::Plain, Err(refusal));
    }
    let model = Some(call.model);
    let outcome = match call.action {
        Action::Predict => predict_json(&request, payload, &predictor, model, call.want).await,
        // Boxed: the future of the hot route is small without them.
        Action::Classify => Box::pin(rank::classify(&request, payload, &predictor, model, call.want)).await,
        Action::Regress => Box::pin(rank::regress(&request, payload, &predictor, model, call.want)).await,
        Action::Status => describe::status(&predictor, call.model, call.want),
        Action::Metadata => describe::metadata(&predictor, call.model, call.want),
    };
    finish(&request, Shape::Plain, outcome)
}

/// `:predict`: rows or columns in, the same form out.
///
/// # Errors
/// Those of the body, of validation, admission, the queue and the job.
pub(super) async fn predict_json(
    request: &HttpRequest,
    payload: Payload,
    predictor: &Predictor,
    model: Option<&str>,
    want: Want<'_>,
) -> Result<HttpResponse> {
    let asked = Asked::read(request, payload, predictor, model, want).await?;
    let (tensors, form) = request::read(&asked.body, &asked.target.signature, "instances")?;
    let prediction = asked.predict(request, predictor, tensors).await?;
    let timing = server_timing(&prediction);
    let outputs = &prediction.response.outputs;
    let mut json = Vec::with_capacity(64 + 3 * outputs.iter().map(|output| output.data.len()).sum::<usize>());
    write::answer(&mut json, outputs, form);
    Ok(answered(timing, json))
}

/// 200 with a predicting call's JSON.
fn answered(timing: String, json: Vec<u8>) -> HttpResponse {
    HttpResponse::Ok().content_type("application/json").insert_header((SERVER_TIMING, timing)).body(json)
}

/// A predicting call, its body read and its model found.
struct Asked {
    target: Target,
    options: JobOptions,
    body: bytes::Bytes,
}

impl Asked {
    async fn read(
        request: &HttpRequest,
        payload: Payload,
        predictor: &Predictor,
        model: Option<&str>,
        want: Want<'_>,
    ) -> Result<Asked> {
        let query = match request.query_string() {
            "" => JobQuery::default(),
            query => JobQuery::read(query, WITH_WAIT, std::time::SystemTime::now())?,
        };
        let want = match (want, &query.version, &query.label) {
            (Want::Default, Some(version), _) => Want::Version(version),
            (Want::Default, None, Some(label)) => Want::Label(label),
            (want, None, None) => want,
            (_, _, _) => {
                let message = "the path names the version already; leave `version` and `label` out of the query";
                return Err(Error::new(ErrorCode::InvalidParameter, message));
            }
        };
        let mut options = query.options;
        if query.wait.is_some_and(|wait| wait.is_zero()) {
            let message = "wait is 0, and this call always waits; give 1ms or more, or POST to /api/v1/predict/MODEL";
            return Err(Error::new(ErrorCode::InvalidParameter, message));
        }
        let preferred = || Prefer::of(request.headers()).wait.filter(|wait| !wait.is_zero());
        let wait = query.wait.or_else(preferred);
        options.deadline = options.deadline.into_iter().chain(wait).min();
        let patience = options.deadline.unwrap_or_else(|| predictor.state().settings.sync_timeout);
        let target = predictor.resolve_loaded(model, want, patience).await?;
        let options = target.after_wait(options);
        let body = body::read_json(request, payload, predictor).await?;
        Ok(Asked { target, options, body })
    }

    async fn predict(
        self,
        request: &HttpRequest,
        predictor: &Predictor,
        tensors: nobat_core::infer::InferRequest,
    ) -> Result<Prediction> {
        predictor.predict(&context::of(request), &self.target, tensors, self.options).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_taken_apart() {
        let call = |model, want, action| Some(Call { model, want, action });
        for (path, expected) in [
            ("m:predict", call("m", Want::Default, Action::Predict)),
            ("m/versions/3:classify", call("m", Want::Version("3"), Action::Classify)),
            ("m/labels/stable:regress", call("m", Want::Label("stable"), Action::Regress)),
            ("m", call("m", Want::Default, Action::Status)),
            ("m/versions/3", call("m", Want::Version("3"), Action::Status)),
            ("m/metadata", call("m", Want::Default, Action::Metadata)),
            ("m/labels/a/metadata", call("m", Want::Label("a"), Action::Metadata)),
            ("m:other", call("m:other", Want::Default, Action::Status)),
            ("", None),
            (":predict", None),
            ("m/", None),
            ("m/versions", None),
            ("m/versions/:predict", None),
            ("m/metadata:predict", None),
            ("m/versions/1/labels/2", None),
            ("../m:predict", None),
            ("a%2Fb:predict", call("a/b", Want::Default, Action::Predict)),
            ("a%252Fb%3Apredict", call("a%2Fb", Want::Default, Action::Predict)),
            ("m%2Fversions%2F3:predict", call("m/versions/3", Want::Default, Action::Predict)),
            ("na%C3%AFve+1/versions/%31", call("naïve+1", Want::Version("1"), Action::Status)),
        ] {
            assert_eq!(Decoded::of(path).call(), expected, "{path}");
        }
    }
}
