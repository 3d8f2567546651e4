//! How many sessions fit: computed from cores and measured memory, never guessed.
//!
//! Pure, but for the number of cores.

use crate::config::Sessions;

/// Cost per row above which more than one session pays; below it one thread is faster
/// than the transport.
const TINY_ROW_S: f64 = 1e-3;

/// The resources that sizing is based on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Resources {
    pub(crate) cores: u32,
    /// Memory that may still be used, in bytes.
    pub(crate) free_bytes: u64,
    pub(crate) session_bytes: u64,
    /// Measured run time per row at the best batch size, in seconds.
    pub(crate) row_s: f64,
    /// The GPU that runs execute on, if they do.
    pub(crate) gpu: Option<Gpu>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Gpu {
    /// Memory that may still be used, in bytes; `None` where the driver does not say.
    pub(crate) free_bytes: Option<u64>,
    pub(crate) session_bytes: u64,
}

/// Sessions for a model whose first session is already open.
///
/// # Errors
/// When more are asked for than fit: the arithmetic and the remedy.
pub(crate) fn sessions(asked: Sessions, resources: Resources) -> Result<u32, String> {
    let Resources { cores, free_bytes, session_bytes, row_s, gpu } = resources;
    let by_cores = 2 * cores + 1;
    let by_memory = fit(free_bytes, session_bytes);
    let on_gpu = gpu.and_then(|gpu| Some((gpu.free_bytes?, gpu.session_bytes)));
    let by_gpu = on_gpu.map_or(u32::MAX, |(free, session)| fit(free, session));
    let most = by_cores.min(by_memory).min(by_gpu).max(1);
    match asked {
        // One session keeps a GPU busy; each further one takes its memory once more.
        Sessions::Auto if gpu.is_some() || row_s < TINY_ROW_S => Ok(1),
        Sessions::Auto => Ok(cores.clamp(1, most)),
        Sessions::Count(count) if count <= most => Ok(count),
        Sessions::Count(count) => {
            let gpu = on_gpu.map_or_else(String::new, |(free, session)| {
                format!(", and {} on the GPU allow {by_gpu}", room(free, session))
            });
            Err(format!(
                "{count} sessions do not fit: {cores} cores allow 2 x {cores} + 1 = {by_cores}, and {} allow {by_memory}{gpu}; ask for {most} or fewer, or for `auto`",
                room(free_bytes, session_bytes),
            ))
        }
    }
}

/// How many sessions memory holds. The open session's is no longer free: it counts itself.
fn fit(free_bytes: u64, session_bytes: u64) -> u32 {
    u32::try_from(free_bytes / session_bytes.max(1)).unwrap_or(u32::MAX).saturating_add(1)
}

fn room(free_bytes: u64, session_bytes: u64) -> String {
    format!("{} MB free at {} MB a session", free_bytes / 1_000_000, session_bytes / 1_000_000)
}

pub(crate) fn cores() -> u32 {
    std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MB: u64 = 1_000_000;

    fn box_of(cores: u32, free_mb: u64, session_mb: u64, row_s: f64) -> Resources {
        Resources { cores, free_bytes: free_mb * MB, session_bytes: session_mb * MB, row_s, gpu: None }
    }

    #[test]
    fn auto_gives_tiny_models_one_session_and_heavy_ones_a_session_per_core() {
        assert_eq!(sessions(Sessions::Auto, box_of(4, 10_000, 1, 1e-5)), Ok(1));
        assert_eq!(sessions(Sessions::Auto, box_of(4, 10_000, 100, 0.01)), Ok(4));
        assert_eq!(sessions(Sessions::Auto, box_of(4, 250, 100, 0.01)), Ok(3));
        assert_eq!(sessions(Sessions::Auto, on_gpu(Some(10_000), 100)), Ok(1));
    }

    /// A GPU in a box of 16 cores and memory enough.
    fn on_gpu(free_mb: Option<u64>, session_mb: u64) -> Resources {
        let gpu = Gpu { free_bytes: free_mb.map(|mb| mb * MB), session_bytes: session_mb * MB };
        Resources { gpu: Some(gpu), ..box_of(16, 100_000, 100, 0.01) }
    }

    #[test]
    fn a_gpus_memory_bounds_its_sessions() {
        assert_eq!(sessions(Sessions::Count(3), on_gpu(Some(4_000), 2_000)), Ok(3));
        let refusal = sessions(Sessions::Count(4), on_gpu(Some(4_000), 2_000)).expect_err("four of 2 GB");
        assert!(refusal.contains("4000 MB free at 2000 MB a session on the GPU allow 3; ask for 3"), "{refusal}");
        assert_eq!(sessions(Sessions::Count(4), on_gpu(None, 0)), Ok(4));
    }

    #[test]
    fn too_many_are_refused_with_the_arithmetic() {
        let refusal = sessions(Sessions::Count(9), box_of(2, 4_000, 1_000, 0.1)).expect_err("nine on two cores");
        assert!(refusal.contains("2 x 2 + 1 = 5"), "{refusal}");
        assert!(refusal.contains("4000 MB free at 1000 MB a session allow 5"), "{refusal}");
    }

    proptest! {
        #[test]
        fn what_is_granted_fits(
            asked in 1u32..64, cores in 1u32..64, free_mb in 0u64..100_000, session_mb in 1u64..10_000, row_s in 0.0f64..1.0,
        ) {
            let resources = box_of(cores, free_mb, session_mb, row_s);
            for asked in [Sessions::Auto, Sessions::Count(asked)] {
                if let Ok(count) = sessions(asked, resources) {
                    prop_assert!(count >= 1 && count <= 2 * cores + 1);
                    prop_assert!(count == 1 || u64::from(count - 1) * session_mb <= free_mb);
                }
            }
        }
    }
}
