//! A log of requests to replay: a sample of what callers sent, opt-in, bounded, on disk.
//!
//! Owns which requests are taken ([`Recorder`], on the request's way), their lines (`line`)
//! and the files (`files`, on a thread of its own). `nobat compare --traffic` reads them.
//!
//! Invariants:
//! - Off, it costs a request one comparison. On, a request waits for no disk: what the
//!   writer cannot take is dropped and counted.
//! - No key is ever written, no owner unless asked, no input that is to be redacted.
//! - A line is one row; memory, files, their sizes and ages are bounded.
//! - A disk that is full or away is told once, and serving goes on.

mod files;
mod line;
mod recorder;
mod settings;

pub use recorder::Recorder;
pub use settings::RecordConfig;
