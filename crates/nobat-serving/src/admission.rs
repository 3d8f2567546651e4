//! Admission: who a request is from and whether it may come in now, whatever protocol
//! it speaks. All of it is decided by the request's head, before any body is read.

use std::time::Instant;

use nobat_core::Result;

use crate::auth::{AuthConfig, Authenticator, Scope};
use crate::context::RequestContext;
use crate::limits::{Limits, LimitsConfig, Permit};

/// Authentication and limits of one gateway.
pub struct Admission {
    /// Checks credentials.
    pub auth: Authenticator,
    /// Counts what is let in.
    pub limits: Limits,
}

impl Admission {
    /// As the configuration says.
    ///
    /// # Errors
    /// `invalid_parameter` for keys that cannot be read.
    pub fn new(auth: &AuthConfig, limits: LimitsConfig) -> Result<Admission> {
        Ok(Admission { auth: Authenticator::new(auth)?, limits: Limits::new(limits) })
    }

    /// Lets a request with this `Authorization` in that needs `scope`, and notes in
    /// its context who it is from and where its limits stand. A prediction's permit
    /// is counted until it is dropped.
    ///
    /// # Errors
    /// `unauthenticated`, `permission_denied`, and the refusals of [`Limits::admit`].
    pub fn enter(
        &self,
        context: &mut RequestContext,
        authorization: Option<&str>,
        scope: Scope,
        now: Instant,
    ) -> Result<Option<Permit>> {
        self.identify(context, authorization, scope)?;
        match scope {
            Scope::Predict => self.limits.admit(context.grant.as_deref(), &context.notes, now).map(Some),
            Scope::Read | Scope::Admin => Ok(None),
        }
    }

    /// Notes who a request is from, and refuses one whose key does not go as far as
    /// `scope`. Nothing is counted.
    ///
    /// # Errors
    /// `unauthenticated`, `permission_denied`.
    pub fn identify(&self, context: &mut RequestContext, authorization: Option<&str>, scope: Scope) -> Result<()> {
        if let Some(grant) = self.auth.authenticate(authorization)? {
            context.owner = grant.owner;
            let judged = grant.require(scope);
            context.grant = Some(grant);
            judged?;
        }
        Ok(())
    }
}
