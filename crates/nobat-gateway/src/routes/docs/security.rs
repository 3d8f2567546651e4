//! API keys in the document: where they are on, every operation but these needs one.

use utoipa::Modify;
use utoipa::openapi::OpenApi;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};

const NAME: &str = "api_key";
/// What is read without a key.
const OPEN: [&str; 6] = ["/", "/livez", "/readyz", "/ping", "/v2/health/live", "/v2/health/ready"];

/// Adds the scheme, and what needs it.
pub(super) struct Security;

impl Modify for Security {
    fn modify(&self, document: &mut OpenApi) {
        let scheme = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .bearer_format("nobat_<id>_<secret>")
            .description(Some("A key made by `nobat keys new`; a server without keys asks for none"))
            .build();
        let components = document.components.get_or_insert_default();
        components.add_security_scheme(NAME, SecurityScheme::Http(scheme));
        // The empty requirement is an alternative: keys may be off.
        let none: [String; 0] = [];
        document.security = Some(vec![SecurityRequirement::new(NAME, none), SecurityRequirement::default()]);
        for path in OPEN {
            let item = document.paths.paths.get_mut(path).and_then(|item| item.get.as_mut());
            if let Some(operation) = item {
                operation.security = Some(Vec::new());
            }
        }
    }
}
