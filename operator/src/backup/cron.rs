//! Crontab's five fields, and the next minute that they name. Pure; times are UTC.

use k8s_openapi::jiff::civil::DateTime;
use k8s_openapi::jiff::tz::TimeZone;
use k8s_openapi::jiff::{Timestamp, ToSpan};

/// A parsed schedule: for each field the set of its values, a bit each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cron {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Either of the two day fields is `*`, so the other decides alone.
    any_day: bool,
    any_weekday: bool,
}

/// How far ahead a due time is looked for: the 29th of February comes within eight years, minus what no schedule names.
const YEARS: i16 = 9;

impl Cron {
    /// Reads five fields. Each is `*`, a number, a range, a list of these, each with an optional `/step`. Sunday is 0 or 7.
    ///
    /// # Errors
    /// Which field cannot be read.
    pub fn parse(text: &str) -> Result<Self, String> {
        let fields: Vec<&str> = text.split_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = fields[..] else {
            return Err(format!("a schedule has five fields, not {}", fields.len()));
        };
        let mut weekday_set = field(weekdays, 0, 7, "day of week")?;
        if weekday_set & (1 << 7) != 0 {
            weekday_set |= 1;
        }
        Ok(Self {
            minutes: field(minutes, 0, 59, "minute")?,
            hours: field(hours, 0, 23, "hour")?,
            days: field(days, 1, 31, "day of month")?,
            months: field(months, 1, 12, "month")?,
            weekdays: weekday_set,
            any_day: days == "*",
            any_weekday: weekdays == "*",
        })
    }

    /// The first minute after `after` that the schedule names. None when it names none, such as the 30th of February.
    pub fn next(&self, after: Timestamp) -> Option<Timestamp> {
        let start = after.to_zoned(TimeZone::UTC).datetime();
        let mut at = start.checked_add(1.minute()).ok()?.with().second(0).subsec_nanosecond(0).build().ok()?;
        let last = start.year() + YEARS;
        while at.year() <= last {
            at = if !has(self.months, at.month()) {
                at.first_of_month().with().hour(0).minute(0).build().ok()?.checked_add(1.month()).ok()?
            } else if !self.names_day(at) {
                at.with().hour(0).minute(0).build().ok()?.checked_add(1.day()).ok()?
            } else if !has(self.hours, at.hour()) {
                at.with().minute(0).build().ok()?.checked_add(1.hour()).ok()?
            } else if !has(self.minutes, at.minute()) {
                at.checked_add(1.minute()).ok()?
            } else {
                return Some(at.to_zoned(TimeZone::UTC).ok()?.timestamp());
            };
        }
        None
    }

    /// As in every cron: when both day fields are restricted, one of them is enough.
    fn names_day(&self, at: DateTime) -> bool {
        let day = has(self.days, at.day());
        let weekday = has(self.weekdays, at.weekday().to_sunday_zero_offset());
        match (self.any_day, self.any_weekday) {
            (false, false) => day || weekday,
            _ => day && weekday,
        }
    }
}

fn has(set: u64, value: i8) -> bool {
    set & (1 << value) != 0
}

fn field(text: &str, low: u32, high: u32, name: &str) -> Result<u64, String> {
    let bad = || format!("the field {name} cannot be {text:?}: use *, or numbers from {low} to {high}, as in 1,5-10,*/15");
    let mut set = 0;
    for part in text.split(',') {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => (range, step.parse::<u32>().ok().filter(|step| *step > 0).ok_or_else(bad)?),
            None => (part, 1),
        };
        let number = |text: &str| text.parse::<u32>().ok().filter(|number| (low..=high).contains(number)).ok_or_else(bad);
        let (from, to) = match range.split_once('-') {
            _ if range == "*" => (low, high),
            Some((from, to)) => (number(from)?, number(to)?),
            // A step after a single number runs to the end.
            None if part.contains('/') => (number(range)?, high),
            None => (number(range)?, number(range)?),
        };
        if from > to {
            return Err(bad());
        }
        set |= (from..=to).step_by(step as usize).fold(0, |set, value| set | 1 << value);
    }
    Ok(set)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(schedule: &str, after: &str, next: Option<&str>) {
        let found = Cron::parse(schedule).unwrap().next(after.parse().unwrap());
        assert_eq!(found.map(|at| at.to_string()).as_deref(), next, "{schedule} after {after}");
    }

    /// Each kind of field leads to the right minute, across hours, days, months and leap years.
    #[test]
    fn next_times() {
        check("*/15 * * * *", "2026-11-21T10:07:30Z", Some("2026-11-21T10:15:00Z"));
        check("*/15 * * * *", "2026-11-21T10:15:00Z", Some("2026-11-21T10:30:00Z"));
        check("0 3 * * *", "2026-12-31T03:00:00Z", Some("2027-01-01T03:00:00Z"));
        check("30 1-5/2 * * 1", "2026-11-21T00:00:00Z", Some("2026-11-23T01:30:00Z"));
        check("0 0 1 * 0", "2026-11-21T00:00:00Z", Some("2026-11-22T00:00:00Z"));
        check("0 0 * * 7", "2026-11-21T00:00:00Z", Some("2026-11-22T00:00:00Z"));
        check("0 0 29 2 *", "2026-11-21T00:00:00Z", Some("2028-02-29T00:00:00Z"));
        check("0 0 30 2 *", "2026-11-21T00:00:00Z", None);
        check("5 4 31 * *", "2026-11-21T00:00:00Z", Some("2026-12-31T04:05:00Z"));
    }

    /// What cannot be read is refused with the field's name.
    #[test]
    fn refusals() {
        for (schedule, word) in [
            ("* * * *", "five"),
            ("60 * * * *", "minute"),
            ("* 5-1 * * *", "hour"),
            ("* * 0 * *", "day of month"),
            ("* * * */0 *", "month"),
            ("* * * * x", "day of week"),
        ] {
            assert!(Cron::parse(schedule).unwrap_err().contains(word), "{schedule}");
        }
    }
}
