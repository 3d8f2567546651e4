//! Crontabs in five fields, and `@hourly` and friends, in a time zone.
//!
//! Minute, hour, day of month, month, day of week (0 and 7 are Sunday), as Vixie
//! cron reads them: when both day fields are restricted, either is enough. What
//! happens when clocks change:
//! - *forward*: a fixed time (`30 2 * * *`) that does not exist that day runs
//!   once, at the first instant after the gap; a repeating one (`*/15 * * * *`)
//!   simply has fewer ticks.
//! - *back*: a fixed time that comes twice runs once, the first time; a repeating
//!   one runs in both hours.
//! - 29 February: only in leap years.

use std::fmt;

use chrono::{DateTime, TimeZone};
use chrono_tz::Tz;
use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};

use crate::error::{Error, ErrorCode, Result};

const FIELDS: [(&str, &str); 5] = [
    ("minute", "0-59"),
    ("hour", "0-23"),
    ("day of month", "1-31"),
    ("month", "1-12 or JAN-DEC"),
    ("day of week", "0-7 or SUN-SAT"),
];
const NICKNAMES: [&str; 7] = ["@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"];

/// A parsed crontab in its time zone.
#[derive(Clone)]
pub struct Crontab {
    cron: Cron,
    zone: Tz,
    text: String,
}

impl Crontab {
    /// Parses a crontab and a zone of the IANA database (`Europe/Berlin`).
    ///
    /// # Errors
    /// `invalid_parameter`, naming the field or zone and what it takes; also for
    /// a crontab that never comes (`0 0 30 2 *`).
    pub fn parse(text: &str, zone: &str) -> Result<Crontab> {
        let text = text.trim();
        let zone: Tz = zone.parse().map_err(|_| {
            invalid(format!("time zone `{zone}` is unknown; take a name of the IANA database, such as `Europe/Berlin`"))
        })?;
        let refuse = |why: String| Err(invalid(format!("crontab `{text}` {why}")));
        if text.starts_with('@') {
            if !NICKNAMES.contains(&text.to_ascii_lowercase().as_str()) {
                return refuse(format!("is unknown; take five fields or one of {}", NICKNAMES.join(", ")));
            }
        } else {
            let fields: Vec<&str> = text.split_whitespace().collect();
            if fields.len() != 5 {
                let hint = if fields.len() == 6 { "; there are no seconds here, leave them out" } else { "" };
                return refuse(format!(
                    "has {} fields; take minute, hour, day of month, month, day of week, such as `0 */3 * * *`{hint}",
                    fields.len()
                ));
            }
            for (at, (name, range)) in FIELDS.iter().enumerate() {
                let mut alone = ["*"; 5];
                alone[at] = fields[at];
                if fields[at].contains('@') || parser().parse(&alone.join(" ")).is_err() {
                    return refuse(format!("has {name} `{}`; take {range}, `*`, lists, ranges, steps", fields[at]));
                }
            }
        }
        let cron = parser().parse(text).map_err(|e| invalid(format!("crontab `{text}` cannot be read: {e}")))?;
        let crontab = Crontab { cron, zone, text: text.into() };
        if crontab.next_after(0).is_none() {
            return refuse("never comes; check day of month against month".into());
        }
        Ok(crontab)
    }

    /// The first tick after `unix_s`; `None` when there is none any more.
    pub fn next_after(&self, unix_s: i64) -> Option<i64> {
        let from: DateTime<Tz> = self.zone.timestamp_opt(unix_s, 0).single()?;
        let next = self.cron.find_next_occurrence(&from, false).ok()?.timestamp();
        // A wall clock that goes back must never give a tick that is not later.
        (next > unix_s).then_some(next)
    }

    /// The crontab as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// What it means, in English.
    pub fn describe(&self) -> String {
        self.cron.describe()
    }
}

impl fmt::Debug for Crontab {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Crontab({} {})", self.text, self.zone)
    }
}

fn parser() -> CronParser {
    CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build()
}

fn invalid(message: String) -> Error {
    Error::new(ErrorCode::InvalidParameter, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Every tick in `[from, to)` given as local times, as local times.
    fn ticks(crontab: &str, zone: &str, from: &str, to: &str) -> Vec<String> {
        let tz: Tz = zone.parse().expect("a zone");
        let at = |text: &str| DateTime::parse_from_rfc3339(text).expect("a time").timestamp();
        let cron = Crontab::parse(crontab, zone).expect("a crontab");
        let mut found = Vec::new();
        let mut now = at(from) - 1;
        while let Some(next) = cron.next_after(now).filter(|&next| next < at(to)) {
            found.push(tz.timestamp_opt(next, 0).single().expect("an instant").format("%dT%H:%M%z").to_string());
            now = next;
        }
        found
    }

    #[test]
    fn a_fixed_time_in_the_skipped_hour_runs_once_after_the_gap() {
        // Berlin, 29 March 2026: 02:00 becomes 03:00.
        let day = ("2026-03-28T12:00:00Z", "2026-03-30T12:00:00Z");
        assert_eq!(ticks("30 2 * * *", "Europe/Berlin", day.0, day.1), ["29T03:00+0200", "30T02:30+0200"]);
    }

    #[test]
    fn a_repeating_crontab_has_fewer_ticks_on_the_short_day_and_more_on_the_long_one() {
        let count = |day: &str, next: &str| ticks("*/15 * * * *", "Europe/Berlin", day, next).len();
        assert_eq!(count("2026-03-29T00:00:00+01:00", "2026-03-30T00:00:00+02:00"), 23 * 4);
        assert_eq!(count("2026-10-25T00:00:00+02:00", "2026-10-26T00:00:00+01:00"), 25 * 4);
    }

    #[test]
    fn a_fixed_time_that_comes_twice_runs_once_the_first_time() {
        // Berlin, 25 October 2026: 03:00 becomes 02:00.
        let found = ticks("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", "2026-10-26T12:00:00Z");
        assert_eq!(found, ["25T02:30+0200", "26T02:30+0100"]);
    }

    #[test]
    fn a_leap_day_comes_in_leap_years_only() {
        let cron = Crontab::parse("0 12 29 2 *", "UTC").expect("a crontab");
        let year_2027 = DateTime::parse_from_rfc3339("2027-01-01T00:00:00Z").expect("a time").timestamp();
        let next = cron.next_after(year_2027).expect("comes");
        assert_eq!(DateTime::from_timestamp(next, 0).expect("a time").to_rfc3339(), "2028-02-29T12:00:00+00:00");
        let after = cron.next_after(next).expect("comes");
        assert_eq!(DateTime::from_timestamp(after, 0).expect("a time").to_rfc3339(), "2032-02-29T12:00:00+00:00");
    }

    #[test]
    fn days_are_read_as_cron_reads_them() {
        // 1 is Monday; with both day fields restricted either is enough.
        let week = ("2026-06-01T00:00:00Z", "2026-06-08T00:00:00Z");
        assert_eq!(ticks("0 9 * * 1", "UTC", week.0, week.1), ["01T09:00+0000"]);
        assert_eq!(ticks("0 9 3 * 1", "UTC", week.0, week.1), ["01T09:00+0000", "03T09:00+0000"]);
        assert_eq!(ticks("@weekly", "UTC", week.0, week.1), ["07T00:00+0000"]);
        assert_eq!(ticks("0 */3 * * *", "UTC", "2026-06-01T00:00:00Z", "2026-06-02T00:00:00Z").len(), 8);
    }

    #[test]
    fn each_misfit_names_the_field_and_what_it_takes() {
        let refused = |text: &str| Crontab::parse(text, "UTC").expect_err("refused").message;
        assert!(refused("61 * * * *").contains("has minute `61`; take 0-59"));
        assert!(refused("* 24 * * *").contains("has hour `24`; take 0-23"));
        assert!(refused("* * 32 * *").contains("has day of month `32`"));
        assert!(refused("* * * FOO *").contains("has month `FOO`; take 1-12 or JAN-DEC"));
        assert!(refused("* * * * 8").contains("has day of week `8`"));
        assert!(refused("0 0 3 * * *").contains("has 6 fields") && refused("0 0 3 * * *").contains("no seconds here"));
        assert!(refused("").contains("has 0 fields"));
        assert!(refused("@reboot").contains("is unknown; take five fields or one of @yearly"));
        assert!(refused("0 0 30 2 *").contains("never comes"));
        let zone = Crontab::parse("* * * * *", "Mars/Olympus").expect_err("refused").message;
        assert!(zone.contains("time zone `Mars/Olympus` is unknown"));
    }

    proptest! {
        #[test]
        fn no_text_panics_and_ticks_only_go_forward(text in "[-0-9*/,@a-zA-Z ]{0,20}", from in 0i64..4_000_000_000) {
            if let Ok(cron) = Crontab::parse(&text, "America/New_York") {
                let mut now = from;
                for _ in 0..5 {
                    let Some(next) = cron.next_after(now) else { break };
                    prop_assert!(next > now);
                    now = next;
                }
            }
        }
    }
}
