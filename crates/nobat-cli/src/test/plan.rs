//! What a run is made of: flags over `tests/MODEL.toml` over what stands beside the model.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use nobat_check::data::{GoldenSet, Tolerances};
use nobat_check::load::{Arrivals, Baseline, Load, LoadSettings, Rate};
use nobat_check::stage::TestStage;
use nobat_check::statistical::StatisticalSettings;
use nobat_statistics::profile::Profile;
use serde::Deserialize;
use std::collections::BTreeMap;

use super::args::RunArgs;

/// `tests/MODEL.toml`. Paths are relative to its folder.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct TestFile {
    golden: Option<PathBuf>,
    profile: Option<PathBuf>,
    functional: FunctionalTable,
    statistical: StatisticalTable,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct FunctionalTable {
    latency_ms: Option<f64>,
    tolerance: BTreeMap<String, f64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct StatisticalTable {
    data: Option<PathBuf>,
    rows: Option<u64>,
    alpha: Option<f64>,
    shift: Option<f64>,
    power: Option<f64>,
    seed: Option<u64>,
}

/// What is asked, read and checked.
pub(super) struct Plan {
    pub(super) golden: Option<GoldenSet>,
    pub(super) profile: Option<Profile>,
    pub(super) data: Option<PathBuf>,
    pub(super) tolerances: Tolerances,
    pub(super) latency_ms: Option<f64>,
    pub(super) statistical: StatisticalSettings,
    pub(super) load: LoadSettings,
    /// The baseline that is written to, and what it holds.
    pub(super) kept: Option<(PathBuf, Option<Baseline>)>,
}

impl Plan {
    /// Reads what there is for `model`.
    ///
    /// # Errors
    /// Files that are named and cannot be used, settings out of range.
    pub(super) fn read(args: &RunArgs, model: &str) -> Result<Plan> {
        let usual = PathBuf::from(format!("tests/{model}.toml"));
        let tests = args.tests.clone().or_else(|| usual.is_file().then_some(usual));
        let file = match &tests {
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .with_context(|| format!("cannot read the tests `{}`", path.display()))?;
                toml::from_str(&text).with_context(|| format!("`{}` cannot be used", path.display()))?
            }
            None => TestFile::default(),
        };
        let folder = tests.as_deref().and_then(Path::parent).unwrap_or(Path::new(""));
        let found = |flag: &Option<PathBuf>, own: &Option<PathBuf>, beside: &str| {
            let beside = PathBuf::from(format!("models/{model}/{beside}"));
            let own = own.as_ref().map(|own| folder.join(own));
            flag.clone().or(own).or_else(|| beside.is_file().then_some(beside))
        };
        let golden = found(&args.golden, &file.golden, "golden.json").map(|path| {
            let golden = GoldenSet::parse(&bytes(&path, "golden inputs")?);
            golden.with_context(|| format!("`{}` cannot be used", path.display()))
        });
        let profile = found(&args.profile, &file.profile, "profile.json").map(|path| {
            let profile = Profile::parse(&bytes(&path, "profile")?);
            let shown = path.display();
            let profile = profile.map_err(|why| anyhow::anyhow!("`{shown}` cannot be used: {why}"))?;
            ensure!(
                profile.model == model || !args.wants(TestStage::Statistical),
                "`{shown}` cannot be used: it is the profile of model `{}`, not of `{model}`; `nobat test init {model} --data FILE` makes one",
                profile.model
            );
            Ok(profile)
        });
        let golden: Option<GoldenSet> = golden.transpose()?;
        let own = StatisticalSettings::default();
        let statistical = StatisticalSettings {
            rows: args.rows.or(file.statistical.rows).unwrap_or(own.rows),
            alpha: args.alpha.or(file.statistical.alpha).unwrap_or(own.alpha),
            shift: args.shift.or(file.statistical.shift),
            power: args.power.or(file.statistical.power).unwrap_or(own.power),
            seed: args.seed.or(file.statistical.seed).unwrap_or(own.seed),
        };
        let shares =
            [("alpha", statistical.alpha), ("power", statistical.power), ("shift", statistical.shift.unwrap_or(0.5))];
        for (name, share) in shares {
            ensure!(share > 0.0 && share < 1.0, "{name} is {share}; it is a share: give more than 0 and less than 1");
        }
        ensure!(statistical.rows > 0, "rows is 0; give 1 or more");
        let latency_ms = args.latency.or(file.functional.latency_ms);
        ensure!(latency_ms.is_none_or(|ms| ms > 0.0), "the latency must be over 0 milliseconds");
        for (output, tolerance) in &file.functional.tolerance {
            ensure!(*tolerance >= 0.0, "the tolerance of output `{output}` is {tolerance}; give 0 or more");
        }
        let kept = args.load.kept_baseline()?;
        let mut load = args.load.settings(LoadSettings::default())?;
        // A rate that is found anew would be another each time: sessions could not be added.
        if let (None, None, Some((_, Some(Baseline { rate: Some(rate), .. })))) = (&load.load, &load.baseline, &kept) {
            load.load = Some(Load::Open(Arrivals::Poisson(Rate::per_second(*rate)?)));
        }
        Ok(Plan {
            profile: profile.transpose()?,
            data: args.data.clone().or(file.statistical.data.map(|data| folder.join(data))),
            tolerances: Tolerances {
                default: golden.as_ref().map_or(1e-5, |golden| golden.tolerance),
                named: file.functional.tolerance,
            },
            golden,
            latency_ms,
            statistical,
            load,
            kept,
        })
    }
}

impl Plan {
    /// Whether the baselines are of this model, protocol and load, before anything is sent.
    ///
    /// # Errors
    /// Naming the file and what is another.
    pub(super) fn check_baselines(&self, model: &str, protocol: &str) -> Result<()> {
        self.load.check_baseline(model, protocol).context("--baseline cannot be compared with")?;
        let Some((path, Some(kept))) = &self.kept else { return Ok(()) };
        // Without a load the kept sessions had none that can be repeated.
        let load = self.load.known_load()?.map_or_else(|| "a rate that is found".to_owned(), |load| load.words());
        kept.check(model, protocol, &load).with_context(|| format!("nothing can be added to `{}`", path.display()))
    }
}

fn bytes(path: &Path, what: &str) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| {
        format!("cannot read the {what} `{}`; `nobat test init MODEL --data FILE` writes it", path.display())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tests_file_is_read_and_unknown_settings_are_named() {
        let file: TestFile = toml::from_str(
            "golden = \"a.json\"\n[functional]\nlatency_ms = 5.0\n[functional.tolerance]\np = 1e-3\n[statistical]\nrows = 10\n",
        )
        .expect("reads");
        assert_eq!((file.functional.latency_ms, file.functional.tolerance["p"]), (Some(5.0), 1e-3));
        assert_eq!(file.statistical.rows, Some(10));
        let error = toml::from_str::<TestFile>("[functional]\nlatency = 5.0\n").expect_err("unknown");
        assert!(error.to_string().contains("latency_ms"), "{error}");
    }
}
