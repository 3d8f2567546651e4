//! Linear quantile regression: a line that so many of the runs stay below.
//!
//! Koenker and Bassett, Econometrica 1978; by iteratively reweighted least squares
//! on the pinball loss, the reweighting after Schlossmacher, JASA 1973. Pure.

use std::time::Duration;

/// A fitted line: `latency_s = base + per_row * rows`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Line {
    pub(crate) base: f64,
    pub(crate) per_row: f64,
}

impl Line {
    /// Seconds that a run of `rows` takes by this line.
    pub(crate) fn at(self, rows: u32) -> f64 {
        self.base + self.per_row * f64::from(rows)
    }

    /// How long a run of `rows` takes by this line.
    pub(crate) fn run(self, rows: u32) -> Duration {
        Duration::from_secs_f64(self.at(rows).max(0.0))
    }
}

/// The line through runs (their rows and seconds) that the share `quantile` of
/// them does not exceed. `None` without runs.
pub(crate) fn fit_quantile(samples: impl Iterator<Item = (u32, f64)> + Clone, quantile: f64) -> Option<Line> {
    let (first_rows, first) = samples.clone().next()?;
    let one_size = samples.clone().all(|(rows, _)| rows == first_rows);
    if one_size {
        // No slope to fit: the quantile itself, as if all of it were per row
        // would promise too much for larger runs, so it is all base.
        let mut sorted: Vec<f64> = samples.map(|(_, latency)| latency).collect();
        sorted.sort_by(f64::total_cmp);
        let at = ((sorted.len() as f64 * quantile).ceil() as usize).clamp(1, sorted.len()) - 1;
        return Some(Line { base: sorted[at], per_row: 0.0 });
    }
    let scale = samples.clone().map(|(_, latency)| latency).fold(first, f64::max).max(1e-9);
    let floor = scale * 1e-4;
    let mut line = weighted_line(samples.clone(), |_, _| 1.0);
    for _ in 0..30 {
        let previous = line;
        line = weighted_line(samples.clone(), |rows, latency| {
            let residual = latency - previous.at(rows);
            let side = if residual >= 0.0 { quantile } else { 1.0 - quantile };
            side / residual.abs().max(floor)
        });
        // A run never gets cheaper with more rows; noise may say so.
        line.per_row = line.per_row.max(0.0);
        if (line.base - previous.base).abs() + (line.per_row - previous.per_row).abs() < scale * 1e-6 {
            break;
        }
    }
    Some(line)
}

fn weighted_line(samples: impl Iterator<Item = (u32, f64)>, weight: impl Fn(u32, f64) -> f64) -> Line {
    let (mut w, mut wx, mut wy, mut wxx, mut wxy) = (0.0, 0.0, 0.0, 0.0, 0.0);
    for (rows, y) in samples {
        let x = f64::from(rows);
        let k = weight(rows, y);
        w += k;
        wx += k * x;
        wy += k * y;
        wxx += k * x * x;
        wxy += k * x * y;
    }
    let spread = w * wxx - wx * wx;
    if spread.abs() <= f64::EPSILON * w * wxx {
        return Line { base: wy / w, per_row: 0.0 };
    }
    let per_row = ((w * wxy - wx * wy) / spread).max(0.0);
    Line { base: (wy - per_row * wx) / w, per_row }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn about_a_hundredth_of_the_runs_lies_above_the_fitted_line(
            base in 0.001f64..0.01, per_row in 0.0001f64..0.01, seed in any::<u64>(),
        ) {
            let mut state = seed | 1;
            let mut samples = Vec::new();
            for at in 0..512 {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                let noise = (state >> 11) as f64 / (1u64 << 53) as f64;
                let rows = 1 + (at % 16) as u32;
                samples.push((rows, (base + per_row * f64::from(rows)) * (1.0 + 0.2 * noise)));
            }
            let line = fit_quantile(samples.iter().copied(), 0.99).expect("samples");
            let above = samples.iter().filter(|&&(rows, latency)| latency > line.at(rows) * 1.0005).count();
            prop_assert!(above <= 512 * 4 / 100, "{above} of 512 above");
        }
    }
}
