//! Jobs of routes: what gateways and schedulers agree on about them.
//!
//! A request to a route that nobody waits for is one job in the route's own
//! queue. Gateways lease it, carry the route out and settle it with the joined
//! answer. Any process that knows the metadata store may enqueue one: it first marks the
//! route's queue as in use, and gateways serve marked queues only, so a route
//! that nobody uses this way costs nothing.

use nobat_core::Result;
use smol_str::{SmolStr, format_smolstr};

use crate::api::MetadataStore;

/// The metadata store's space of routes. A key without `:` is a route's name and holds
/// its JSON, or `null` for one of the configuration that was removed.
pub const SPACE: &str = "routes";

/// Begins the name of a route's queue, and its mark. No model's name has a `:`.
const QUEUE: &str = "route:";
/// Begins the mark of a route that the gateways' configuration declares.
const DECLARED: &str = "declared:";

/// The queue that a route's jobs wait in.
pub fn queue_of(route: &str) -> SmolStr {
    format_smolstr!("{QUEUE}{route}")
}

/// The route whose queue, or queue's mark, this is.
pub fn route_of(queue: &str) -> Option<&str> {
    queue.strip_prefix(QUEUE)
}

/// What a caller calls a queue's model: a route's queue bears the route's name.
pub fn shown(queue: &str) -> &str {
    route_of(queue).unwrap_or(queue)
}

/// Marks a route's queue as in use; gateways serve it from then on.
///
/// # Errors
/// `queue_unavailable`.
pub async fn open(metadata: &dyn MetadataStore, route: &str) -> Result<()> {
    metadata.put(SPACE, &queue_of(route), b"true").await
}

/// Makes the routes of the configuration known to processes that do not read it.
///
/// # Errors
/// `queue_unavailable`.
pub async fn declare(metadata: &dyn MetadataStore, routes: &[SmolStr]) -> Result<()> {
    for (key, _) in metadata.documents(SPACE).await? {
        if key.strip_prefix(DECLARED).is_some_and(|name| !routes.iter().any(|route| route == name)) {
            metadata.remove(SPACE, &key).await?;
        }
    }
    for route in routes {
        metadata.put(SPACE, &format!("{DECLARED}{route}"), b"true").await?;
    }
    Ok(())
}

/// Whether `name` is a route now.
///
/// # Errors
/// `queue_unavailable`.
pub async fn is_route(metadata: &dyn MetadataStore, name: &str) -> Result<bool> {
    let declared = format!("{DECLARED}{name}");
    let mut found = false;
    for (key, value) in metadata.documents(SPACE).await? {
        if key == name {
            // An admin call stands over the configuration.
            return Ok(&value[..] != b"null");
        }
        found |= key == declared;
    }
    Ok(found)
}
