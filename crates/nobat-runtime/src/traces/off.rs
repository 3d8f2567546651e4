//! A build without traces.

use std::time::Duration;

/// Holds the exporter open; nothing here.
pub struct Exporting;

/// Says so where traces are asked for.
///
/// # Errors
/// None.
pub fn start(_service: &'static str) -> nobat_core::Result<Exporting> {
    if super::collector::is_asked_for() {
        log::warn!("traces are asked for, but this build has none; build it with `--features otlp`");
    }
    Ok(Exporting)
}

/// Whether spans are made: never here.
pub fn is_on() -> bool {
    false
}

/// No span.
#[derive(Clone, Debug, Default)]
pub struct Span {}

impl Span {
    /// No span.
    #[must_use]
    pub fn request(_traceparent: &str) -> Span {
        Span {}
    }

    /// None: the caller's own goes on.
    pub fn traceparent(&self) -> Option<String> {
        None
    }

    /// Nothing to note.
    pub fn note(&self, _name: &'static str, _value: &str) {}

    /// Nothing to end.
    pub fn end(&self, _status: u16) {}

    /// Nothing to record.
    pub fn run(_traceparent: &str, _took: Duration, _notes: &[(&'static str, &str)]) {}
}
