//! Which jobs a call is about: the filters that listing them and changing many of them take.

use nobat_core::job::JobState;
use nobat_core::{Error, ErrorCode, Result, clip, tags};
use nobat_runtime::now_ms;
use nobat_serving::auth::KeyId;
use nobat_serving::{ListFilter, Predictor, RequestContext};
use utoipa::IntoParams;

use crate::query;

/// Filters of jobs; all of them count.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code, reason = "describes what `JobFilter` reads")]
pub(crate) struct FilterParameters {
    /// Only this model's
    #[param(required = false)]
    model: Option<String>,
    /// Only in this state
    #[param(required = false, inline)]
    state: Option<super::job_objects::JobStateName>,
    /// Only of this priority
    #[param(required = false, minimum = 0, maximum = 255)]
    priority: Option<u8>,
    /// Only of the key with this id; for a key of scope `admin`
    #[param(required = false)]
    owner: Option<String>,
    /// Only those whose last error has this code
    #[param(required = false, example = "inference_failed")]
    error: Option<String>,
    /// Only those with this tag
    #[param(required = false)]
    tag: Option<String>,
    /// Only those that were made for the job of this id
    #[param(required = false)]
    parent: Option<String>,
    /// Only the job of this id or idempotency key, those with this tag, and those of the
    /// request of this id that its caller gave (`x-request-id`)
    #[param(required = false)]
    q: Option<String>,
    /// Only those enqueued then or later: RFC 3339, or a duration before now such as `15m`
    #[param(required = false)]
    since: Option<String>,
    /// Only those enqueued before then, written likewise
    #[param(required = false)]
    until: Option<String>,
}

/// A filter as it is read.
pub(crate) struct JobFilter<'a> {
    filter: ListFilter,
    context: &'a RequestContext,
}

impl<'a> JobFilter<'a> {
    /// All jobs that this caller may see.
    pub(crate) fn of(context: &'a RequestContext) -> JobFilter<'a> {
        let owner = (!context.administers()).then_some(context.owner);
        JobFilter { filter: ListFilter { owner, ..ListFilter::default() }, context }
    }

    /// Reads one parameter.
    ///
    /// # Errors
    /// `invalid_parameter`, naming it; `permission_denied` for another's jobs.
    pub(crate) fn read(&mut self, predictor: &Predictor, name: &'static str, value: &str) -> Result<()> {
        let filter = &mut self.filter;
        match name {
            // A name that is neither lists nothing, as it always did.
            "model" => filter.model = Some(predictor.queue_named(self.context, value).unwrap_or_else(|_| value.into())),
            "state" => filter.state = Some(state(value)?),
            "priority" => filter.priority = Some(query::number(name, value, 0, u8::MAX)?),
            "owner" if !self.context.administers() => {
                let message = "owner is for keys of scope `admin`; a list has your own jobs without it";
                return Err(Error::new(ErrorCode::PermissionDenied, message));
            }
            "owner" => {
                let id = KeyId::parse(value).ok_or_else(|| {
                    invalid(format!("owner is `{}`; it takes the id of a key, of 11 letters and digits", clip(value)))
                })?;
                filter.owner = Some(id.owner());
            }
            "error" => {
                let code = ErrorCode::ALL.iter().find(|code| code.as_str() == value);
                let code = code.ok_or_else(|| {
                    invalid(format!("error is `{}`; it takes a code such as inference_failed", clip(value)))
                })?;
                filter.error = Some(*code);
            }
            // A job may have several, and a filter asks for one.
            "tag" if filter.tag.is_some() => {
                return Err(invalid("query parameter `tag` is given twice; a filter takes one".to_owned()));
            }
            "tag" => {
                tags::check(value)?;
                filter.tag = Some(value.into());
            }
            "parent" => {
                let id =
                    value.parse().map_err(|_| invalid(format!("parent is `{}`; it takes a job's id", clip(value))))?;
                filter.parent = Some(id);
            }
            "q" if value.trim().is_empty() => {}
            "q" => filter.text = Some(value.trim().into()),
            "since" => filter.since_ms = Some(query::instant(name, value, now_ms())?),
            _ => filter.until_ms = Some(query::instant(name, value, now_ms())?),
        }
        Ok(())
    }

    /// The filter.
    pub(crate) fn into_inner(self) -> ListFilter {
        self.filter
    }
}

fn state(value: &str) -> Result<JobState> {
    JobState::parse(value).ok_or_else(|| {
        let states: Vec<_> = JobState::ALL.iter().map(|state| state.as_str()).collect();
        let shown: String = value.chars().take(40).collect();
        invalid(format!("state is `{shown}`; it takes one of {}", states.join(", ")))
    })
}

fn invalid(message: String) -> Error {
    Error::new(ErrorCode::InvalidParameter, message)
}
