//! The model and the version that a path of the protocol names.

use std::borrow::Cow;

use actix_web::HttpRequest;
use nobat_core::Result;
use nobat_serving::registry::Want;

use crate::context;
use crate::path::segment;

/// Which model version a path names.
pub(super) struct Named<'a> {
    pub(super) model: Cow<'a, str>,
    pub(super) version: Option<Cow<'a, str>>,
}

impl Named<'_> {
    pub(super) fn want(&self) -> Want<'_> {
        self.version.as_deref().map_or(Want::Default, Want::Version)
    }
}

/// Reads the names in a path.
///
/// # Errors
/// `permission_denied` for a model that the caller's key does not cover.
pub(super) fn named(request: &HttpRequest) -> Result<Named<'_>> {
    let path = request.match_info();
    let model = path.get("model").map(segment).unwrap_or_default();
    if !model.is_empty() {
        context::require(request, &model)?;
    }
    Ok(Named { model, version: path.get("version").map(segment) })
}
