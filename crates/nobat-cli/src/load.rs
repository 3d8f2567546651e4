//! The flags of a load test, which `bench` and `test` share.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nobat_check::load::{Arrivals, Baseline, Load, LoadPlan, LoadSettings, Pause, Rate, WarmUpLength, default_threads};

/// How requests come, for how long, and what they are held to.
#[derive(clap::Args)]
pub(crate) struct LoadOptions {
    /// Requests a second that come whatever the answers do (an open loop), at random moments:
    /// a Poisson process.
    #[arg(long, value_name = "PER_SECOND", allow_negative_numbers = true, conflicts_with_all = ["users", "trace"])]
    rate: Option<f64>,
    /// With --rate: at even distances instead of at random.
    #[arg(long, requires = "rate")]
    evenly: bool,
    /// Requests at the moments of a file, a number of seconds a line, such as --samples wrote.
    #[arg(long, value_name = "FILE", conflicts_with = "users")]
    trace: Option<PathBuf>,
    /// Users at once, each of whom waits for the answer (a closed loop).
    #[arg(long, short = 'c', visible_alias = "connections", value_name = "COUNT")]
    users: Option<usize>,
    /// Seconds that a user thinks between an answer and the next request, on average.
    #[arg(
        long,
        value_name = "SECONDS",
        allow_negative_numbers = true,
        requires = "users",
        conflicts_with = "per_minute"
    )]
    think: Option<f64>,
    /// Requests a minute that each user makes, or fewer where answers take longer.
    #[arg(long, value_name = "COUNT", allow_negative_numbers = true, requires = "users")]
    per_minute: Option<f64>,
    /// Latency that is good enough, in milliseconds: what is later does not count as in time.
    #[arg(long, value_name = "MS", allow_negative_numbers = true)]
    slo: Option<f64>,
    /// Search for the highest rate at which 99 of 100 requests are answered within --slo.
    #[arg(long, requires = "slo")]
    knee: bool,
    /// Seconds to measure.
    #[arg(long, short, value_name = "SECONDS", allow_negative_numbers = true)]
    duration: Option<f64>,
    /// Runs that they are cut into; five and more say how sure a figure is.
    #[arg(long, value_name = "COUNT", default_value_t = LoadSettings::default().runs)]
    runs: usize,
    /// Seconds that are not counted; without, until three seconds are alike, at most 30.
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    warm_up: Option<f64>,
    /// Connections of an open loop at most; a request that finds none free waits, and its
    /// waiting counts.
    #[arg(long, value_name = "COUNT", default_value_t = LoadPlan::CONNECTIONS)]
    max_connections: usize,
    /// Threads that send.
    #[arg(long, value_name = "COUNT", default_value_t = default_threads())]
    threads: usize,
    /// Compare with a baseline that --save-baseline wrote.
    #[arg(long, value_name = "FILE")]
    baseline: Option<PathBuf>,
    /// The share by which a figure may be worse than the baseline.
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true, default_value_t = LoadSettings::default().change)]
    change: f64,
    /// Add this session to a baseline, made where it is not there. From three sessions on what
    /// the machine does in between is part of a comparison.
    #[arg(long, value_name = "FILE")]
    save_baseline: Option<PathBuf>,
    /// The server's processes on this machine, whose memory is watched together; without, those that
    /// listen at an address of this machine. What they started is theirs. nobat's workers report their own.
    #[arg(long, value_name = "PIDS", value_delimiter = ',')]
    server_pid: Vec<u32>,
}

impl LoadOptions {
    /// As settings. What these flags do not say is as in `default`.
    pub(crate) fn settings(&self, default: LoadSettings) -> Result<LoadSettings> {
        let baseline = self.baseline.as_deref().map(read_baseline).transpose()?;
        let settings = LoadSettings {
            load: self.load()?.or(default.load),
            length: seconds("duration", self.duration)?.unwrap_or(default.length),
            runs: self.runs,
            warm_up: seconds("warm-up", self.warm_up)?.map_or(default.warm_up, WarmUpLength::Fixed),
            connections: self.max_connections,
            threads: self.threads,
            goal: match self.slo {
                Some(ms) if ms > 0.0 => seconds("slo", Some(ms / 1e3))?,
                Some(ms) => bail!("--slo {ms} is no latency; give milliseconds over 0"),
                None => default.goal,
            },
            baseline,
            change: self.change,
            processes: self.server_pid.clone(),
            knee: self.knee,
            ..default
        };
        settings.check()?;
        Ok(settings)
    }

    /// Whether the flags hold the server to what this finding is about.
    pub(crate) fn asks_for(&self, finding: &str) -> bool {
        match finding {
            "latency" => self.slo.is_some(),
            "knee" => self.knee,
            _ => finding.starts_with("baseline."),
        }
    }

    fn load(&self) -> Result<Option<Load>> {
        if let Some(rate) = self.rate {
            let rate = Rate::per_second(rate).context("--rate")?;
            return Ok(Some(Load::Open(if self.evenly { Arrivals::Constant(rate) } else { Arrivals::Poisson(rate) })));
        }
        if let Some(path) = &self.trace {
            let shown = path.display();
            let text = std::fs::read_to_string(path).with_context(|| format!("cannot read `{shown}`"))?;
            return Ok(Some(Load::Open(Arrivals::trace(&text).with_context(|| format!("`{shown}`"))?)));
        }
        let Some(users) = self.users else { return Ok(None) };
        let pause = match (self.think, self.per_minute) {
            (Some(_), _) => Pause::Think(seconds("think", self.think)?.unwrap_or_default()),
            (None, Some(requests)) => Pause::requests_a_minute(requests).context("--per-minute")?,
            (None, None) => Pause::None,
        };
        Ok(Some(Load::Closed { users, pause }))
    }

    /// The baseline that is written to, as it is now; told here where that cannot be.
    pub(crate) fn kept_baseline(&self) -> Result<Option<(PathBuf, Option<Baseline>)>> {
        let Some(path) = &self.save_baseline else { return Ok(None) };
        let opened = std::fs::OpenOptions::new().append(true).create(true).open(path);
        let length = opened.and_then(|file| file.metadata()).map(|metadata| metadata.len());
        let length = length.with_context(|| format!("cannot write the baseline `{}`", path.display()))?;
        let earlier = if length > 0 { Some(read_baseline(path)?) } else { None };
        Ok(Some((path.clone(), earlier)))
    }
}

/// Seconds of a flag as a duration.
fn seconds(flag: &str, seconds: Option<f64>) -> Result<Option<Duration>> {
    let duration = |seconds| match Duration::try_from_secs_f64(seconds) {
        Ok(duration) => Ok(duration),
        Err(_) => bail!("--{flag} {seconds} is no time; give a number, not below 0"),
    };
    seconds.map(duration).transpose()
}

fn read_baseline(path: &Path) -> Result<Baseline> {
    let shown = path.display();
    let bytes = std::fs::read(path)
        .with_context(|| format!("cannot read the baseline `{shown}`; --save-baseline FILE writes one"))?;
    Baseline::parse(&bytes).with_context(|| format!("`{shown}`"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        options: LoadOptions,
    }

    fn settings(flags: &[&str]) -> Result<LoadSettings, String> {
        let line = Line::try_parse_from([&["load"][..], flags].concat()).map_err(|error| error.to_string())?;
        line.options.settings(LoadSettings::default()).map_err(|error| format!("{error:#}"))
    }

    #[test]
    fn flags_become_a_load() {
        let words = |flags: &[&str]| settings(flags).expect("settings").load.map(|load| load.words());
        assert_eq!(words(&[]), None);
        assert_eq!(words(&["--rate", "200"]).as_deref(), Some("200 requests a second at random"));
        assert_eq!(words(&["--rate", "200", "--evenly"]).as_deref(), Some("200 requests a second evenly"));
        assert_eq!(words(&["--connections", "64"]).as_deref(), Some("64 users without pause"));
        let paced = ["--users", "20", "--per-minute", "6"];
        assert_eq!(words(&paced).as_deref(), Some("20 users at 6 requests a minute each"));
        assert_eq!(words(&["-c", "2", "--think", "0.5"]).as_deref(), Some("2 users who think for 0.5 s"));
        let goal = settings(&["--slo", "2.5", "--duration", "3", "--warm-up", "1"]).expect("settings");
        assert_eq!((goal.goal, goal.length), (Some(Duration::from_micros(2_500)), Duration::from_secs(3)));
        assert_eq!(goal.warm_up, WarmUpLength::Fixed(Duration::from_secs(1)));
    }

    #[test]
    fn flags_that_cannot_be_are_named() {
        for (flags, why) in [
            (&["--rate", "0"][..], "0 is no rate"),
            (&["--rate", "-5"], "-5 is no rate"),
            (&["--rate", "NaN"], "NaN is no rate"),
            (&["--users", "0"], "0 users"),
            (&["--users", "3", "--per-minute", "-1"], "-1 is no number of requests a minute"),
            (&["--users", "3", "--think", "-1"], "--think -1 is no time"),
            (&["--slo", "0"], "--slo 0 is no latency"),
            (&["--slo", "NaN"], "--slo NaN is no latency"),
            (&["--duration", "-2"], "--duration -2 is no time"),
            (&["--duration", "0"], "give 0.1 to 86400 seconds"),
            (&["--runs", "0"], "0 runs cannot be"),
            (&["--threads", "0"], "0 threads cannot be"),
            (&["--change", "NaN"], "NaN is no change"),
            (&["--trace", "/nowhere"], "cannot read `/nowhere`"),
            (&["--baseline", "/nowhere"], "--save-baseline FILE writes one"),
            (&["--knee"], "--slo"),
            (&["--server-pid", "4294967295"], "no process 4294967295"),
            (&["--rate", "3", "--users", "3"], "cannot be used with"),
        ] {
            let error = settings(flags).expect_err(why);
            assert!(error.contains(why), "{flags:?}: {error}");
        }
        let line = Line::parse_from(["load", "--save-baseline", "/nowhere/baseline.json"]);
        let error = line.options.kept_baseline().expect_err("unwritable").to_string();
        assert!(error.contains("cannot write the baseline `/nowhere/baseline.json`"), "{error}");
    }
}
