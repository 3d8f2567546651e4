//! The access check of each resource: the scope that its reads and its writes need, said
//! where the resource is registered and judged where it was matched. What a path
//! looks like decides nothing: the router has decoded it by then.
//!
//! Every path is registered through [`resource`]; the lint on `web::resource` holds
//! it to that.

use std::rc::Rc;
use std::time::Instant;

use actix_web::body::{BoxBody, EitherBody, MessageBody};
use actix_web::dev::{Service, ServiceFactory, ServiceRequest, ServiceResponse, Transform, forward_ready};
use actix_web::http::Method;
use actix_web::{Error, HttpMessage, Resource, web};
use futures::future::{LocalBoxFuture, Ready, ready};
use nobat_core::Result;
use nobat_serving::auth::{Credential, Scope};
use nobat_serving::limits::AdmissionPermit;
use nobat_serving::{Predictor, RequestContext};

use crate::error::{ApiError, render};
use crate::{changes, context, cookie};

/// What a resource's methods need; `None` is open to everybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Access {
    read: Option<Scope>,
    write: Option<Scope>,
}

impl Access {
    /// What load balancers, probes and people without a key may see. Nothing of it
    /// tells of models, jobs or callers.
    pub(crate) const OPEN: Access = Access { read: None, write: Some(Scope::Admin) };
    /// Read by everybody with a key; writing administers.
    pub(crate) const READ: Access = Access { read: Some(Scope::Read), write: Some(Scope::Admin) };
    /// Open to everybody, writing too: what judges for itself.
    pub(crate) const ANYONE: Access = Access { read: None, write: None };
    /// Asked by a POST that changes nothing.
    pub(crate) const ASK: Access = Access { read: Some(Scope::Read), write: Some(Scope::Read) };
    /// Writing is a prediction, or its job's end.
    pub(crate) const PREDICT: Access = Access { read: Some(Scope::Read), write: Some(Scope::Predict) };
    /// Shows every caller's: administrators only.
    pub(crate) const ADMIN: Access = Access { read: Some(Scope::Admin), write: Some(Scope::Admin) };

    /// The scope that a method needs. OPTIONS asks what there is; a browser sends it
    /// without credentials.
    fn of(self, method: &Method) -> Option<Scope> {
        match *method {
            Method::OPTIONS => None,
            Method::GET | Method::HEAD => self.read,
            _ => self.write,
        }
    }
}

/// A resource behind its access check.
pub(crate) fn resource(
    path: &str,
    access: Access,
) -> Resource<
    impl ServiceFactory<
        ServiceRequest,
        Config = (),
        Response = ServiceResponse<EitherBody<BoxBody>>,
        Error = Error,
        InitError = (),
    > + use<>,
> {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that gives each resource its access check")]
    web::resource(path).wrap(RequireScope(access))
}

/// The middleware of one resource, or of a scope that one handler serves.
pub(crate) struct RequireScope(pub(crate) Access);

impl<S, B> Transform<S, ServiceRequest> for RequireScope
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
    B: MessageBody + 'static,
{
    type Response = ServiceResponse<EitherBody<B>>;
    type Error = Error;
    type Transform = ScopedService<S>;
    type InitError = ();
    type Future = Ready<std::result::Result<ScopedService<S>, ()>>;

    fn new_transform(&self, service: S) -> Self::Future {
        ready(Ok(ScopedService { access: self.0, service: Rc::new(service) }))
    }
}

/// A resource's service behind its access check.
pub(crate) struct ScopedService<S> {
    access: Access,
    service: Rc<S>,
}

impl<S, B> Service<ServiceRequest> for ScopedService<S>
where
    S: Service<ServiceRequest, Response = ServiceResponse<B>, Error = Error> + 'static,
    B: MessageBody + 'static,
{
    type Response = ServiceResponse<EitherBody<B>>;
    type Error = Error;
    type Future = LocalBoxFuture<'static, std::result::Result<Self::Response, Error>>;

    forward_ready!(service);

    fn call(&self, request: ServiceRequest) -> Self::Future {
        let permit = enter(&request, self.access);
        let service = self.service.clone();
        Box::pin(async move {
            // Held until the answer is there: it counts the request as in flight.
            let permit = match permit {
                Ok(permit) => permit,
                Err(refusal) => return Ok(refuse(request, &refusal)),
            };
            if let Some(permit) = permit.as_ref().filter(|permit| permit.has_shared_rate()) {
                let settled = settle(&request, permit).await;
                if let Err(refusal) = settled {
                    return Ok(refuse(request, &refusal));
                }
            }
            let response = service.call(request).await?;
            changes::note(&response);
            let refused = response.response().error().and_then(|error| error.as_error::<ApiError>());
            match refused.map(|refusal| render(&refusal.0, response.request())) {
                Some(refused) => Ok(response.into_response(refused).map_into_right_body()),
                None => Ok(response.map_into_left_body()),
            }
        })
    }
}

/// Lets a request in as far as `access` asks for, and notes who it is from.
fn enter(request: &ServiceRequest, access: Access) -> Result<Option<AdmissionPermit>> {
    let Some(scope) = access.of(request.method()) else { return Ok(None) };
    let Some(predictor) = request.app_data::<web::Data<Predictor>>() else { return Err(unguarded()) };
    let authority = request.uri().authority().map(|authority| authority.as_str());
    let admission = &predictor.state().admission;
    // Where nobody is asked for a key, a session from another day is nobody's business.
    let credential = match admission.auth.is_on() {
        true => cookie::credential(request.method(), request.headers(), authority)?,
        false => Credential::None,
    };
    let mut extensions = request.extensions_mut();
    let Some(context) = extensions.get_mut::<RequestContext>() else { return Err(unguarded()) };
    admission.admit(context, credential, scope, Instant::now())
}

/// Nobody is let in by an application that was put together wrongly.
fn unguarded() -> nobat_core::Error {
    nobat_core::Error::new(nobat_core::ErrorCode::Internal, "this application has no keys to judge by")
}

/// Takes the request out of the rate that all gateways share.
async fn settle(request: &ServiceRequest, permit: &AdmissionPermit) -> Result<()> {
    let Some(predictor) = request.app_data::<web::Data<Predictor>>() else { return Ok(()) };
    predictor.state().admission.settle(permit, &context::of(request.request())).await
}

fn refuse<B>(request: ServiceRequest, refusal: &nobat_core::Error) -> ServiceResponse<EitherBody<B>> {
    let refused = render(refusal, request.request());
    request.into_response(refused).map_into_right_body()
}
