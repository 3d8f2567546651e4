//! Crontabs in five fields, and `@hourly` and friends, in a time zone.
//!
//! Minute, hour, day of month, month, day of week (0 and 7 are Sunday), as Vixie
//! cron reads them: when both day fields are restricted, either is enough. What
//! happens when clocks change:
//! - *forward*: a fixed time (`30 2 * * *`) that does not exist that day runs
//!   once, at the first instant after the gap; a repeating one (`*/15 * * * *`)
//!   simply has fewer ticks. A gap may be a whole day (Samoa, 30 December 2011).
//! - *back*: a fixed time that comes twice runs once, the first time; a repeating
//!   one runs in both hours.
//! - 29 February: only in leap years.
//!
//! Fixed is what names its times, one (`30 2`), a list (`30 2,14`) or a range
//! (`0 1-5`); repeating is what has a `*` in minute or hour, or all values of one.
//!
//! croner is asked about the wall clock alone, as though there were no zones: a
//! *civil* second counts from 1970 as a clock on the wall shows it. Which instant
//! a civil second is, and whether it is one, is decided here.

use std::fmt;

use chrono::{DateTime, LocalResult, Offset, TimeZone, Utc};
use chrono_tz::Tz;
use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};

use nobat_core::{Error, Result};

const FIELDS: [(&str, &str); 5] = [
    ("minute", "0-59"),
    ("hour", "0-23"),
    ("day of month", "1-31"),
    ("month", "1-12 or JAN-DEC"),
    ("day of week", "0-7 or SUN-SAT"),
];
const NICKNAMES: [&str; 7] = ["@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly"];

/// No two changes of a zone's offset lie closer together than this, in seconds.
const DAY: i64 = 86_400;
/// More than any offset from UTC, twice, in seconds.
const WIDEST: i64 = 32 * 3_600;

/// A parsed crontab in its time zone.
#[derive(Clone)]
pub struct Crontab {
    cron: Cron,
    zone: Tz,
    text: String,
    repeats: bool,
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
            Error::invalid(format!(
                "time zone `{zone}` is unknown; take a name of the IANA database, such as `Europe/Berlin`"
            ))
        })?;
        let refuse = |why: String| Err(Error::invalid(format!("crontab `{text}` {why}")));
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
        let cron = parser().parse(text).map_err(|e| Error::invalid(format!("crontab `{text}` cannot be read: {e}")))?;
        let repeats = repeats(text, &cron);
        let crontab = Crontab { cron, zone, text: text.into(), repeats };
        if crontab.next_after(0).is_none() {
            return refuse("never comes; check day of month against month".into());
        }
        Ok(crontab)
    }

    /// The first tick after `unix_s`; `None` when there is none any more.
    ///
    /// # Complexity
    /// One search of croner's; a repeating crontab adds a look at the zone per day
    /// until its tick.
    pub fn next_after(&self, unix_s: i64) -> Option<i64> {
        if self.repeats { self.next_repeating(unix_s) } else { self.next_fixed(unix_s) }
    }

    /// Each time on the wall is one instant, and later times are never earlier
    /// instants: what does not exist is the gap's end, what comes twice the first.
    fn next_fixed(&self, unix_s: i64) -> Option<i64> {
        let mut civil = unix_s + self.offset(unix_s)?;
        loop {
            civil = self.next_on_the_wall(civil)?;
            let at = self.instant(civil)?;
            // In the second of two equal hours, the wall shows what has been already.
            if at > unix_s {
                return Some(at);
            }
        }
    }

    /// The clock on the wall is followed from one change of the offset to the next.
    fn next_repeating(&self, unix_s: i64) -> Option<i64> {
        let (mut from, mut offset) = (unix_s, self.offset(unix_s)?);
        loop {
            let at = self.next_on_the_wall(from + offset)? - offset;
            match self.change(from, at, offset)? {
                None => return Some(at),
                // The instant of the change may itself be a tick.
                Some(change) => (from, offset) = (change - 1, self.offset(change)?),
            }
        }
    }

    fn next_on_the_wall(&self, civil: i64) -> Option<i64> {
        let from: DateTime<Utc> = DateTime::from_timestamp(civil, 0)?;
        let next = self.cron.find_next_occurrence(&from, false).ok()?.timestamp();
        (next > civil).then_some(next)
    }

    /// What the wall clock is ahead of UTC at an instant, in seconds.
    fn offset(&self, unix_s: i64) -> Option<i64> {
        let at = DateTime::from_timestamp(unix_s, 0)?.naive_utc();
        Some(i64::from(self.zone.offset_from_utc_datetime(&at).fix().local_minus_utc()))
    }

    fn instant(&self, civil: i64) -> Option<i64> {
        let wall = DateTime::from_timestamp(civil, 0)?.naive_utc();
        match self.zone.from_local_datetime(&wall) {
            LocalResult::Single(at) => Some(at.timestamp()),
            LocalResult::Ambiguous(one, other) => Some(one.timestamp().min(other.timestamp())),
            LocalResult::None => first(civil - WIDEST, civil + WIDEST, |at| Some(at + self.offset(at)? >= civil)),
        }
    }

    /// The first instant in `(from, until]` whose offset is not `offset`.
    fn change(&self, from: i64, until: i64, offset: i64) -> Option<Option<i64>> {
        let mut same = from;
        while same < until {
            let next = until.min(same + DAY);
            if self.offset(next)? != offset {
                return first(same, next, |at| Some(self.offset(at)? != offset)).map(Some);
            }
            same = next;
        }
        Some(None)
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

/// Whether a crontab says "every so often" and not "at these times".
fn repeats(text: &str, cron: &Cron) -> bool {
    let starred = text.split_whitespace().take(2).any(|field| field.contains('*'));
    starred || cron.pattern.minutes.values().len() == 60 || cron.pattern.hours.values().len() == 24
}

/// The first of `(no, yes]` for which `is` holds, where it holds for `yes`, and for
/// all that come after one for which it holds.
fn first(mut no: i64, mut yes: i64, is: impl Fn(i64) -> Option<bool>) -> Option<i64> {
    while yes - no > 1 {
        let middle = no + (yes - no) / 2;
        if is(middle)? { yes = middle } else { no = middle }
    }
    Some(yes)
}

fn parser() -> CronParser {
    CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build()
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
    fn a_list_or_range_of_times_is_fixed_as_one_time_is() {
        let march = ("2026-03-28T12:00:00Z", "2026-03-29T20:00:00Z");
        let october = ("2026-10-24T12:00:00Z", "2026-10-25T20:00:00Z");
        let berlin = |crontab: &str, (from, to)| ticks(crontab, "Europe/Berlin", from, to);
        assert_eq!(berlin("30 2,14 * * *", march), ["28T14:30+0100", "29T03:00+0200", "29T14:30+0200"]);
        assert_eq!(berlin("30 2,14 * * *", october), ["24T14:30+0200", "25T02:30+0200", "25T14:30+0100"]);
        assert_eq!(berlin("0,30 2 * * *", march), ["29T03:00+0200"], "two times in one gap end together");
        assert_eq!(berlin("0,30 2 * * *", october), ["25T02:00+0200", "25T02:30+0200"]);
        assert_eq!(berlin("0 1-4 * * *", march), ["29T01:00+0100", "29T03:00+0200", "29T04:00+0200"]);
        assert_eq!(berlin("0 1-3 * * *", october), ["25T01:00+0200", "25T02:00+0200", "25T03:00+0100"]);
        assert_eq!(berlin("15-45/15 2 * * *", october), ["25T02:15+0200", "25T02:30+0200", "25T02:45+0200"]);
        // All hours, however they are written, are every hour.
        let night = ("2026-10-24T23:00:00Z", "2026-10-25T03:00:00Z");
        let hours = ["25T01:30+0200", "25T02:30+0200", "25T02:30+0100", "25T03:30+0100"];
        assert_eq!(berlin("30 * * * *", night), hours);
        assert_eq!(berlin("30 0-23 * * *", night), hours);
        assert_eq!(berlin("@hourly", night), ["25T01:00+0200", "25T02:00+0200", "25T02:00+0100", "25T03:00+0100"]);
        assert_eq!(berlin("30 */2 * * *", night), ["25T02:30+0200", "25T02:30+0100"]);
    }

    #[test]
    fn a_day_that_a_zone_skips_is_a_gap_like_any_other() {
        // Samoa went from 29 December 2011, 24:00 to 31 December, 00:00.
        let days = ("2011-12-29T00:00:00-10:00", "2012-01-01T00:00:00+14:00");
        let apia = |crontab: &str| ticks(crontab, "Pacific/Apia", days.0, days.1);
        assert_eq!(apia("0 12 * * *"), ["29T12:00-1000", "31T00:00+1400", "31T12:00+1400"]);
        assert_eq!(apia("0 9,17 30 12 *"), ["31T00:00+1400"]);
        assert_eq!(apia("0 */12 * * *"), ["29T00:00-1000", "29T12:00-1000", "31T00:00+1400", "31T12:00+1400"]);
    }

    #[test]
    fn half_an_hour_s_change_is_a_change_too() {
        // Lord Howe, 5 April 2026: 02:00 becomes 01:30.
        let night = ("2026-04-04T14:00:00Z", "2026-04-04T16:00:00Z");
        let lord_howe = |crontab: &str| ticks(crontab, "Australia/Lord_Howe", night.0, night.1);
        assert_eq!(lord_howe("45 1 * * *"), ["05T01:45+1100"]);
        assert_eq!(lord_howe("*/15 * * * *").len(), 8, "two hours of quarters");
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
        /// Ticks of a repeating crontab are the instants whose time on the wall it
        /// matches, those of a fixed one are as many as the days it names.
        #[test]
        fn ticks_are_what_the_wall_clock_says(hours in prop::sample::subsequence((0u32..24).collect::<Vec<_>>(), 1..23), minute in 0u32..60, start in 0i64..400) {
            let zone = "Europe/Berlin";
            let day = |n: i64| 1_767_225_600 - 3_600 + n * 86_400;
            let list = hours.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
            let fixed = Crontab::parse(&format!("{minute} {list} * * *"), zone).expect("a crontab");
            let mut now = day(start) - 1;
            let mut found = 0;
            while let Some(next) = fixed.next_after(now).filter(|&next| next < day(start + 7)) {
                prop_assert!(next > now);
                now = next;
                found += 1;
            }
            // The week's ends may lie an hour beside midnight, and a gap may end at a time of the list.
            prop_assert!((found - 7 * hours.len() as i64).abs() <= 2, "{found} of {}", 7 * hours.len());
            let every = Crontab::parse(&format!("{minute} * * * *"), zone).expect("a crontab");
            let mut now = day(start) - 1;
            for _ in 0..(7 * 24) {
                let next = every.next_after(now).expect("comes");
                prop_assert!(next - now <= 3_600);
                now = next;
            }
        }

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
