//! One path of the API: who may use it, what serves it and what the OpenAPI document
//! says of it, given in one place.
//!
//! A handler carries its documentation as `#[utoipa::path(…)]`, the path and the method
//! among it; [`endpoint!`] takes it with its handler. Methods that no handler has are
//! answered by 405 with those that there are.

use actix_web::Route;
use actix_web::dev::{AppService, HttpServiceFactory};
use actix_web::http::Method;
use utoipa::openapi::path::{HttpMethod, Operation, ParameterBuilder, ParameterIn, PathItem, Paths};
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::openapi::{RefOr, Required};
use utoipa_actix_web::OpenApiFactory;

use crate::access::{Access, resource};
use crate::bodies::documented;
use crate::error::not_allowed;

/// The endpoint of these handlers, which have one path: `endpoint!(Access::READ, get, put)`.
/// With `document:` only what they say about themselves is taken; another route serves.
macro_rules! endpoint {
    (document: $($handler:ident),+) => {
        ::pastey::paste! {
            $crate::endpoint::Endpoint::new($crate::access::Access::OPEN)$(.document([<__path_ $handler>]))+
        }
    };
    ($access:expr, $($handler:ident),+) => {
        ::pastey::paste! {
            $crate::endpoint::Endpoint::new($access)
                $(.document([<__path_ $handler>]).serve([<__path_ $handler>], || ::actix_web::web::to($handler)))+
        }
    };
}
pub(crate) use endpoint;

/// A path with its handlers and their documentation.
pub(crate) struct Endpoint {
    access: Access,
    path: String,
    /// Names by which a part of the path says which model version is meant.
    variants: &'static [&'static str],
    routes: Vec<(Method, fn() -> Route)>,
    documented: Paths,
    schemas: Vec<(String, RefOr<Schema>)>,
}

impl Endpoint {
    pub(crate) fn new(access: Access) -> Endpoint {
        let documented = Paths::new();
        Endpoint { access, path: String::new(), variants: &[], routes: vec![], documented, schemas: vec![] }
    }

    /// A path that the document leaves out.
    pub(crate) fn hidden(access: Access, path: &str) -> Endpoint {
        Endpoint { path: path.to_owned(), ..Endpoint::new(access) }
    }

    /// Has a handler serve a method.
    pub(crate) fn route(mut self, method: Method, route: fn() -> Route) -> Endpoint {
        self.routes.push((method, route));
        self
    }

    /// Takes a handler's documentation.
    pub(crate) fn document(mut self, documentation: impl OpenApiFactory) -> Endpoint {
        self.documented.merge(documentation.paths());
        documentation.schemas(&mut self.schemas);
        self
    }

    /// Has a handler serve the path and the method of its documentation.
    pub(crate) fn serve<D: utoipa::Path>(mut self, _: D, route: fn() -> Route) -> Endpoint {
        self.path = D::path();
        self.routes.extend(D::methods().iter().map(|method| (method_of(method), route)));
        self
    }

    /// Serves also the paths on which a segment of this name and a value follow the model.
    pub(crate) fn also_by(mut self, variants: &'static [&'static str]) -> Endpoint {
        self.variants = variants;
        self
    }

    /// Says of what is posted there that it may be a file, a form or a table too.
    pub(crate) fn also_files(mut self) -> Endpoint {
        let posts = self.documented.paths.values_mut().filter_map(|item| item.post.as_mut());
        for body in posts.filter_map(|post| post.request_body.as_mut()) {
            if let RefOr::T(body) = body {
                documented::also_files(body);
            }
        }
        self.schemas.extend(documented::schemas());
        self
    }

    fn allow(&self) -> String {
        let methods = self.routes.iter().map(|(method, _)| match *method {
            Method::GET => "GET, HEAD",
            ref other => other.as_str(),
        });
        methods.collect::<Vec<_>>().join(", ")
    }
}

/// The path on which the model is followed by `versions/{version}`.
fn variant(path: &str, name: &str) -> String {
    path.replacen("{model}", &format!("{{model}}/{name}s/{{{name}}}"), 1)
}

fn method_of(method: &HttpMethod) -> Method {
    match method {
        HttpMethod::Get => Method::GET,
        HttpMethod::Post => Method::POST,
        HttpMethod::Put => Method::PUT,
        HttpMethod::Delete => Method::DELETE,
        HttpMethod::Options => Method::OPTIONS,
        HttpMethod::Head => Method::HEAD,
        HttpMethod::Patch => Method::PATCH,
        HttpMethod::Trace => Method::TRACE,
    }
}

impl HttpServiceFactory for Endpoint {
    fn register(self, config: &mut AppService) {
        // Another endpoint serves what only documents.
        if self.path.is_empty() {
            return;
        }
        let variants = self.variants.iter().map(|name| variant(&self.path, name));
        for path in [self.path.clone()].into_iter().chain(variants) {
            let routes = self.routes.iter().map(|(method, route)| route().method(method.clone()));
            let served = routes.fold(resource(&path, self.access), |served, route| served.route(route));
            served.default_service(not_allowed(self.allow())).register(config);
        }
    }
}

impl OpenApiFactory for Endpoint {
    fn paths(&self) -> Paths {
        let mut documented = self.documented.clone();
        if self.access == Access::OPEN && !self.routes.is_empty() {
            // Read without a key.
            let items = documented.paths.values_mut().filter_map(|item| item.get.as_mut());
            items.for_each(|operation| operation.security = Some(Vec::new()));
        }
        if self.access == Access::ANYONE {
            let items = documented.paths.values_mut();
            let each = items.flat_map(|item| [&mut item.get, &mut item.post, &mut item.delete]).flatten();
            each.for_each(|operation| operation.security = Some(Vec::new()));
        }
        for name in self.variants {
            for (path, item) in &self.documented.paths {
                documented.paths.insert(variant(path, name), with_parameter(item.clone(), name));
            }
        }
        documented
    }

    fn schemas(&self, schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.extend(self.schemas.iter().cloned());
    }
}

fn with_parameter(mut item: PathItem, name: &str) -> PathItem {
    for operation in [&mut item.get, &mut item.post].into_iter().flatten() {
        name_in_path(operation, name);
    }
    item
}

fn name_in_path(operation: &mut Operation, name: &str) {
    if let Some(id) = &mut operation.operation_id {
        *id = format!("{id}_by_{name}");
    }
    let parameter = ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Path)
        .required(Required::True)
        .description(Some(format!("The model's {name}")))
        .example(Some("1".into()))
        .schema(Some(ObjectBuilder::new().schema_type(Type::String)))
        .build();
    operation.parameters.get_or_insert_default().push(RefOr::T(parameter));
}
