//! Whether a session fits into memory, decided before ONNX Runtime is asked:
//! what it cannot allocate it may only find out half-way, or never on a system
//! that kills instead.

use super::files::Files;
use crate::sizing;

/// The memory of this process and its system at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// What the system still gives.
    pub free_bytes: u64,
    /// Most memory that all models of the process may take; none is all there is.
    pub limit_bytes: Option<u64>,
    /// What the process holds.
    pub resident_bytes: u64,
}

impl Memory {
    /// Now, under `loading.memory_limit_bytes`.
    pub fn now(limit_bytes: Option<u64>) -> Memory {
        Memory { free_bytes: sizing::free_bytes(), limit_bytes, resident_bytes: sizing::resident_bytes() }
    }

    /// What may still be taken.
    pub fn left(&self) -> u64 {
        let within_limit = self.limit_bytes.map_or(u64::MAX, |limit| limit.saturating_sub(self.resident_bytes));
        self.free_bytes.min(within_limit)
    }

    /// Whether one more session of a version fits: it holds its weights at least.
    ///
    /// # Errors
    /// The arithmetic and the remedy.
    pub fn fits(&self, files: &Files) -> Result<(), String> {
        let needed = files.model_bytes.saturating_add(files.external_bytes);
        let left = self.left();
        if needed <= left {
            return Ok(());
        }
        let mb = |bytes: u64| bytes as f64 / 1e6;
        let (why, remedy) = match self.limit_bytes {
            Some(limit) if left < self.free_bytes => (
                format!("loading.memory_limit_bytes of {:.1} MB - {:.1} MB in use", mb(limit), mb(self.resident_bytes)),
                "raise the limit or serve fewer models here",
            ),
            _ => ("free on this system".to_owned(), "serve fewer models here or add memory"),
        };
        Err(format!(
            "a session takes at least {:.1} MB (model file {:.1} MB + external data {:.1} MB) and {:.1} MB are left ({why}); {remedy}",
            mb(needed),
            mb(files.model_bytes),
            mb(files.external_bytes),
            mb(left),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1_000_000;

    fn files(model_mb: u64, external_mb: u64) -> Files {
        Files { digest: String::new(), model_bytes: model_mb * MB, external_bytes: external_mb * MB }
    }

    #[test]
    fn what_is_left_is_the_least_of_the_system_and_the_limit() {
        let memory = Memory { free_bytes: 500 * MB, limit_bytes: None, resident_bytes: 200 * MB };
        assert_eq!(memory.left(), 500 * MB);
        assert_eq!(Memory { limit_bytes: Some(600 * MB), ..memory }.left(), 400 * MB);
        assert_eq!(Memory { limit_bytes: Some(100 * MB), ..memory }.left(), 0);
    }

    #[test]
    fn what_does_not_fit_is_refused_with_the_arithmetic() {
        let memory = Memory { free_bytes: 500 * MB, limit_bytes: None, resident_bytes: 200 * MB };
        assert_eq!(memory.fits(&files(100, 400)), Ok(()));
        let refusal = memory.fits(&files(101, 400)).expect_err("501 of 500 MB");
        assert!(refusal.contains("501.0 MB (model file 101.0 MB + external data 400.0 MB)"), "{refusal}");
        assert!(refusal.contains("500.0 MB are left (free on this system)"), "{refusal}");
        let limited = Memory { limit_bytes: Some(250 * MB), ..memory };
        let refusal = limited.fits(&files(51, 0)).expect_err("51 of 50 MB");
        assert!(
            refusal.contains("50.0 MB are left (loading.memory_limit_bytes of 250.0 MB - 200.0 MB in use)"),
            "{refusal}"
        );
    }
}
