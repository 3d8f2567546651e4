//! Parameters that several operations have.
#![allow(dead_code, reason = "describes what `query` reads")]

use utoipa::IntoParams;

/// `$duration` is what a duration is written as, `$positive` one that is not zero.
macro_rules! parameters {
    ($duration:tt, $positive:tt) => {
        /// The options of a job.
        #[derive(IntoParams)]
        #[into_params(parameter_in = Query)]
        pub(crate) struct JobParameters {
            /// 0..=255; 10 runs before 1
            #[param(minimum = 0, maximum = 255, required = false)]
            priority: Option<u8>,
            /// How long the result can be read, such as `60s`
            #[param(required = false, pattern = $positive)]
            result_ttl: Option<String>,
            /// Attempts after the first
            #[param(minimum = 0, maximum = 255, required = false)]
            max_retries: Option<u8>,
            /// Delay before a retry, such as `1s`
            #[param(required = false, pattern = $duration)]
            retry_delay: Option<String>,
            /// Time within which it must finish, such as `500ms`
            #[param(required = false, pattern = $positive)]
            deadline: Option<String>,
            /// Time before which it must not run, such as `5s`
            #[param(required = false, pattern = $duration)]
            delay: Option<String>,
            /// Instant before which it must not run, RFC 3339; within ten years
            #[param(required = false, format = "date-time")]
            run_at: Option<String>,
            /// URL that is told of the job's end (Standard Webhooks)
            #[param(required = false, format = "uri")]
            webhook: Option<String>,
            /// By what it is found again: up to 8, each of up to 64 bytes
            #[param(required = false, max_items = 8)]
            tag: Option<Vec<String>>,
            /// The version wanted
            #[param(required = false)]
            version: Option<String>,
            /// The label wanted
            #[param(required = false)]
            label: Option<String>,
        }

        /// How long a call that always waits does so.
        #[derive(IntoParams)]
        #[into_params(parameter_in = Query)]
        pub(crate) struct DeadlineParameter {
            /// As `deadline`; the earlier of both counts
            #[param(required = false, pattern = $positive)]
            wait: Option<String>,
        }

        /// The option of the calls that can wait.
        #[derive(IntoParams)]
        #[into_params(parameter_in = Query)]
        pub(crate) struct WaitParameter {
            /// Wait this long for the answer; seconds, or with a unit
            #[param(required = false, pattern = $duration)]
            wait: Option<String>,
        }

        /// The option of the calls that read a job.
        #[derive(IntoParams)]
        #[into_params(parameter_in = Query)]
        pub(crate) struct EndParameter {
            /// Wait this long for its end; seconds, or with a unit
            #[param(required = false, pattern = $duration)]
            wait: Option<String>,
        }
    };
}

parameters!(
    r"^((0|[1-9][0-9]{0,5})(\.[0-9]{1,3})?s?|[1-9][0-9]{0,8}ms|[1-9][0-9]{0,3}(m|min)|[1-9][0-9]{0,2}h)$",
    r"^((0\.[0-9]{0,2}[1-9]|[1-9][0-9]{0,6}(\.[0-9]{1,3})?)s?|[1-9][0-9]{0,8}ms|[1-9][0-9]{0,5}(m|min)|[1-9][0-9]{0,3}h|[1-9][0-9]{0,2}d)$"
);

/// The model that a path names.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct ModelParameter {
    /// The model's name
    #[param(example = "digits")]
    model: String,
}

/// The job that a path names.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct JobParameter {
    /// The job's id
    id: String,
}

/// The queue that a path names.
#[derive(IntoParams)]
#[into_params(parameter_in = Path)]
pub(crate) struct QueueParameter {
    /// The model whose queue it is
    #[param(example = "digits")]
    model: String,
}
