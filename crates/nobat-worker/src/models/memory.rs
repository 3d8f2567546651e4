//! Whether a session fits into memory, decided before ONNX Runtime allocates: it may find
//! out half-way that it cannot, or never on a system that kills the process instead.

use super::files::Files;

/// The memory of this process and its system at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Memory {
    /// What the system still gives.
    pub(crate) free_bytes: u64,
    /// Most memory that all models of the process may take; none is all there is.
    pub(crate) limit_bytes: Option<u64>,
    pub(crate) resident_bytes: u64,
}

impl Memory {
    /// Now, under `loading.memory_limit_bytes`.
    pub(crate) fn now(limit_bytes: Option<u64>) -> Memory {
        Memory { free_bytes: free_bytes(), limit_bytes, resident_bytes: resident_bytes() }
    }

    pub(crate) fn left(&self) -> u64 {
        let within_limit = self.limit_bytes.map_or(u64::MAX, |limit| limit.saturating_sub(self.resident_bytes));
        self.free_bytes.min(within_limit)
    }

    /// Whether one more session of a version fits: it holds its weights at least.
    ///
    /// # Errors
    /// The arithmetic and the remedy.
    pub(crate) fn fits(&self, files: &Files) -> Result<(), String> {
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

/// Resident memory of this process; 0 where the system does not say.
pub(crate) fn resident_bytes() -> u64 {
    counted(&read("/proc/self/status"), "VmRSS:").unwrap_or(0) * 1024
}

/// What the system has available, within the control group's limit.
fn free_bytes() -> u64 {
    let system = counted(&read("/proc/meminfo"), "MemAvailable:").map_or(u64::MAX, |kb| kb * 1024);
    let group = |name: &str| read(&format!("/sys/fs/cgroup/memory.{name}"));
    system.min(left_in_group(&group("max"), &group("current"), &group("stat")))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// What a control group may still take. Cached files count as taken, and reading a
/// model caches it, but the kernel gives them up for memory that is asked for.
fn left_in_group(max: &str, current: &str, stat: &str) -> u64 {
    let (Ok(max), Ok(current)) = (max.trim().parse::<u64>(), current.trim().parse::<u64>()) else { return u64::MAX };
    let cached = ["inactive_file", "active_file"].iter().filter_map(|key| counted(stat, key)).sum();
    max.saturating_sub(current.saturating_sub(cached))
}

/// The number that stands after `key` on a line of its own.
fn counted(text: &str, key: &str) -> Option<u64> {
    let mut words =
        text.lines().map(str::split_whitespace).find_map(|mut words| (words.next()? == key).then_some(words))?;
    words.next()?.parse().ok()
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
    fn cached_files_do_not_count_as_taken() {
        let stat = "anon 1000\nfile 5000\nactive_file 1000\ninactive_file 3000\n";
        assert_eq!(left_in_group("10000\n", "6000\n", stat), 8000);
        assert_eq!(left_in_group("10000\n", "6000\n", ""), 4000);
        assert_eq!(left_in_group("max\n", "6000\n", stat), u64::MAX);
        assert_eq!(left_in_group("", "", ""), u64::MAX);
        assert!(free_bytes() > 0);
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
