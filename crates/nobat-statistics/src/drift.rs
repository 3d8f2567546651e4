//! Whether the rows that a model sees and answers still look like its profile.
//!
//! Each thing that is followed (a class, a score, an input) has a watch of its own that may
//! be looked at for ever ([`DriftWatch`]); together they share the level. A shift that is
//! found but too small to matter is none: at a million rows a tenth of a point is certain,
//! and nobody wants to be woken for it. What was found stays until somebody has seen it.

use serde::Serialize;

use crate::anytime::{AnytimeClasses, CONCENTRATION, DriftWatch};
use crate::classes::shares_of;
use crate::sketch::DriftReference;

/// When a shift counts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DriftLimits {
    /// Chance of a false alarm over a model version's whole life.
    pub level: f64,
    /// Share of the rows that must have moved between cells.
    pub moved: f64,
}

/// One model version's watch.
#[derive(Clone, Debug)]
pub struct ProfileWatch {
    reference: DriftReference,
    groups: Vec<DriftWatch>,
    found: Option<DriftFinding>,
}

/// How one followed thing stands.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DriftFinding {
    /// What is followed.
    pub of: String,
    /// Rows seen.
    pub rows: u64,
    /// Chance of so much evidence, at any time, from a right model; all that is followed considered.
    pub p: f64,
    /// The newest so many rows tell most; shares are of them.
    pub newest: u64,
    /// Share of the rows that moved between cells.
    pub moved: f64,
    /// The cell that moved most.
    pub cell: String,
    /// Its share in the profile.
    pub expected: f64,
    /// Its share of the newest rows.
    pub seen: f64,
}

impl ProfileWatch {
    /// Watches for rows leaving what `reference` says.
    pub fn new(reference: DriftReference) -> ProfileWatch {
        let fresh = |expected: &[u64]| DriftWatch::new(AnytimeClasses::against_sample(expected, CONCENTRATION));
        let groups = reference.groups.iter().map(|group| fresh(&group.expected)).collect();
        ProfileWatch { reference, groups, found: None }
    }

    /// What it watches by.
    pub fn reference(&self) -> &DriftReference {
        &self.reference
    }

    /// Counts rows that were seen since the last call, group by group and cell by cell, and
    /// looks. What it finds first stays.
    pub fn count(&mut self, rows: &[Vec<u64>], limits: DriftLimits) {
        for ((watch, group), rows) in self.groups.iter_mut().zip(&self.reference.groups).zip(rows) {
            // Counts by another profile's cells say nothing here.
            if rows.len() == group.expected.len() && rows.iter().any(|&rows| rows > 0) {
                watch.count(rows);
            }
        }
        if self.found.is_none() {
            let findings = self.findings().into_iter();
            let over = findings.filter(|finding| finding.p <= limits.level && finding.moved >= limits.moved);
            self.found = over.min_by(|a, b| a.p.total_cmp(&b.p));
        }
    }

    /// What was found first; `None` while all is well.
    pub fn found(&self) -> Option<&DriftFinding> {
        self.found.as_ref()
    }

    /// Rows of the group that has seen most.
    pub fn rows(&self) -> u64 {
        self.groups.iter().map(DriftWatch::rows).max().unwrap_or(0)
    }

    /// How everything stands, in the reference's order.
    pub fn findings(&self) -> Vec<DriftFinding> {
        let all = self.groups.len() as f64;
        let findings = self.groups.iter().zip(&self.reference.groups).map(|(watch, group)| {
            let (expected, seen) = (group.expected_shares(), shares_of(watch.telling()));
            let moves = || seen.iter().zip(&expected).map(|(seen, expected)| (seen - expected).abs());
            let newest: u64 = watch.telling().iter().sum();
            let moved = if newest > 0 { moves().sum::<f64>() / 2.0 } else { 0.0 };
            let most = moves().enumerate().max_by(|a, b| a.1.total_cmp(&b.1)).map_or(0, |(cell, _)| cell);
            DriftFinding {
                of: group.title(),
                rows: watch.rows(),
                newest,
                p: (watch.p() * all).min(1.0),
                moved,
                cell: group.cell_name(most),
                expected: expected.get(most).copied().unwrap_or(0.0),
                seen: seen.get(most).copied().unwrap_or(0.0),
            }
        });
        findings.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{multinomial, seeded};
    use crate::reading::Reading;
    use crate::sketch::{DriftCells, DriftGroup};

    const LIMITS: DriftLimits = DriftLimits { level: 0.01, moved: 0.02 };

    fn reference(rows: u64) -> DriftReference {
        let group = |tensor: &str, reading| DriftGroup {
            tensor: tensor.into(),
            reading,
            cells: match reading {
                Some(_) => DriftCells::Classes((0..8).map(|class| class.to_string()).collect()),
                None => DriftCells::Edges((0..8).map(f64::from).collect()),
            },
            expected: [&[rows / 8; 8][..], &[0, 0][..]].concat(),
        };
        let groups = vec![group("label", Some(Reading::Class)), group("x", None)];
        DriftReference { version: "1".into(), rows, groups }
    }

    /// Feeds `rows` rows of these shares in the label and right ones in the input; when it was found.
    fn feed(watch: &mut ProfileWatch, shares: &[f64], rows: u64, seed: u64) -> Option<u64> {
        let mut random = seeded(seed);
        let right = [0.125, 0.125, 0.125, 0.125, 0.125, 0.125, 0.125, 0.125, 0.0, 0.0];
        for fed in 1..=rows / 50 {
            watch.count(&[multinomial(&mut random, 50, shares), multinomial(&mut random, 50, &right)], LIMITS);
            if watch.found().is_some() {
                return Some(fed * 50);
            }
        }
        None
    }

    #[test]
    fn a_class_that_moves_is_found_named_and_kept() {
        let mut moved = [0.825 / 7.0; 10];
        (moved[3], moved[8], moved[9]) = (0.175, 0.0, 0.0);
        let mut watch = ProfileWatch::new(reference(20_000));
        let rows = feed(&mut watch, &moved, 20_000, 5).expect("five points are found in 20,000 rows");
        assert!(rows < 6_000, "{rows}");
        let found = watch.found().expect("found").clone();
        assert_eq!((found.of.as_str(), found.cell.as_str()), ("output `label`", "3"), "{found:?}");
        assert!(found.p <= 0.01 && found.seen > 0.14 && (found.expected - 0.125).abs() < 0.001, "{found:?}");
        let mut right = [0.125; 10];
        (right[8], right[9]) = (0.0, 0.0);
        feed(&mut watch, &right, 2_000, 6);
        assert_eq!(watch.found(), Some(&found), "until somebody has seen it");
    }

    #[test]
    fn classes_that_the_profile_lacks_are_found_within_a_few_rows() {
        let mut watch = ProfileWatch::new(reference(5_000));
        let row = |cell: usize| (0..10).map(|own| u64::from(own == cell)).collect::<Vec<u64>>();
        let found = (1..=60).find(|_| {
            watch.count(&[row(8), row(2)], LIMITS);
            watch.found().is_some()
        });
        assert!(found.is_some_and(|rows| rows <= 10), "{found:?}");
        assert_eq!(watch.found().expect("found").cell, "other");
    }

    #[test]
    fn what_is_certain_but_small_is_no_alarm() {
        let mut moved = [0.124; 10];
        (moved[0], moved[8], moved[9]) = (0.132, 0.0, 0.0);
        let mut random = seeded(7);
        let mut watch = ProfileWatch::new(reference(8_000_000));
        for _ in 0..20 {
            watch.count(&[multinomial(&mut random, 20_000, &moved), vec![]], LIMITS);
        }
        let finding = &watch.findings()[0];
        assert!(finding.p < 0.01 && finding.moved < 0.02, "{finding:?}");
        assert_eq!(watch.found(), None);
    }

    #[test]
    fn counts_of_other_cells_and_none_at_all_change_nothing() {
        let mut watch = ProfileWatch::new(reference(1_000));
        watch.count(&[vec![1; 3], vec![]], LIMITS);
        watch.count(&[], LIMITS);
        assert_eq!((watch.rows(), watch.found()), (0, None));
        assert!(watch.findings().iter().all(|finding| finding.p == 1.0 && finding.moved == 0.0));
    }
}
