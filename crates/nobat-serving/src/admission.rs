//! Admission: who a request is from and whether it may come in now, whatever protocol
//! it speaks. All of it is decided by the request's head, before any body is read.

use std::sync::Arc;
use std::time::Instant;

use nobat_core::Result;
use nobat_core::job::JobOptions;
use nobat_queue::Queue;

use crate::auth::{AuthConfig, Authenticator, Credential, Scope};
use crate::context::RequestContext;
use crate::limits::{AdmissionPermit, HeldBytes, Limits, LimitsConfig};

/// Authentication and limits of one gateway.
pub struct Admission {
    /// Checks credentials.
    pub auth: Authenticator,
    /// Counts what is let in.
    pub limits: Limits,
    /// Has the rates that all gateways share.
    queue: Arc<dyn Queue>,
}

impl Admission {
    /// As the configuration says.
    ///
    /// # Errors
    /// `invalid_parameter` for keys that cannot be read.
    pub fn new(auth: &AuthConfig, limits: LimitsConfig, queue: Arc<dyn Queue>) -> Result<Admission> {
        let auth = Authenticator::new(auth)?.with_sessions(salt(&*queue));
        Ok(Admission { auth, limits: Limits::new(limits), queue })
    }

    /// Lets a request with this credential in that needs `scope`, and notes in
    /// its context who it is from and where its limits stand. A prediction's permit
    /// is counted until it is dropped; [`Admission::settle`] follows.
    ///
    /// # Errors
    /// `unauthenticated`, `permission_denied`, and the refusals of [`Limits::admit`].
    pub fn admit(
        &self,
        context: &mut RequestContext,
        credential: Credential<'_>,
        scope: Scope,
        now: Instant,
    ) -> Result<Option<AdmissionPermit>> {
        self.identify(context, credential, scope)?;
        match scope {
            Scope::Predict => self.limits.admit(context.grant.as_deref(), &context.notes.quota, now).map(Some),
            Scope::Read | Scope::Admin => Ok(None),
        }
    }

    /// Notes who a request is from, and refuses one whose key does not go as far as
    /// `scope`. Nothing is counted.
    ///
    /// # Errors
    /// `unauthenticated`, `permission_denied`.
    pub fn identify(&self, context: &mut RequestContext, credential: Credential<'_>, scope: Scope) -> Result<()> {
        if let Some(grant) = self.auth.authenticate(credential)? {
            context.owner = grant.owner;
            let judged = grant.require(scope);
            context.grant = Some(grant);
            judged?;
        }
        Ok(())
    }

    /// Takes an admitted request out of the rate that all gateways share.
    ///
    /// # Errors
    /// `rate_limited` with `retry_after`.
    pub async fn settle(&self, permit: &AdmissionPermit, context: &RequestContext) -> Result<()> {
        self.limits.settle_rate(permit, &*self.queue, &context.notes.quota).await
    }

    /// Counts the other jobs of a call that turned out to be `jobs` of them.
    ///
    /// # Errors
    /// As [`Limits::charge`].
    pub async fn charge(&self, context: &RequestContext, jobs: usize) -> Result<()> {
        self.limits.charge(context.grant.as_deref(), jobs, &*self.queue, &context.notes.quota).await
    }

    /// Refuses a priority over the caller's highest.
    ///
    /// # Errors
    /// `permission_denied`, naming both.
    pub fn check_priority(&self, context: &RequestContext, options: &JobOptions) -> Result<()> {
        self.limits.check_priority(context.grant.as_deref(), options.priority)
    }

    /// The bytes of a request's body, counted until the request ends.
    pub fn held_bytes<'a>(&self, context: &'a RequestContext) -> &'a HeldBytes {
        context.notes.held(|| self.limits.hold_bytes(context.grant.as_deref()))
    }
}

/// What sessions are sealed with beside their key's secret.
fn salt(queue: &dyn Queue) -> [u8; 32] {
    let mut salt = [0; 32];
    for (at, part) in salt.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        *part = queue.ids().derive(&format!("session {at}")).to_le_bytes();
    }
    salt
}
