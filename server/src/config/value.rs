//! Scalars as Go's flag package reads them: booleans, integers with base prefixes, durations; and our own byte sizes.
//! In: text from the command line, the environment or the file. Out: a typed value, or the reason it is none.
//! Invariant: whatever etcd's flags accept parses to the same number here; nothing panics or wraps.

use std::time::Duration;

const NANOS_PER_HOUR: u64 = 3_600_000_000_000;

/// Go's `strconv.ParseBool`.
pub fn parse_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("expected true or false".to_owned()),
    }
}

/// An unsigned integer up to `max`; the prefixes 0x, 0o, 0b, a leading 0 (octal) and underscores after a prefix are understood.
pub fn parse_uint(text: &str, max: u64) -> Result<u64, String> {
    let wide = magnitude(text)?;
    if wide > u128::from(max) {
        return Err(format!("value is above {max}"));
    }
    Ok(wide as u64)
}

/// A signed 64-bit integer, with the same prefixes as [`parse_uint`].
pub fn parse_int(text: &str) -> Result<i64, String> {
    let (negative, digits) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let wide = i128::try_from(magnitude(digits)?).map_err(|_| "value does not fit 64 bits".to_owned())?;
    i64::try_from(if negative { -wide } else { wide }).map_err(|_| "value does not fit 64 bits".to_owned())
}

fn magnitude(text: &str) -> Result<u128, String> {
    let lower = text.to_ascii_lowercase();
    let (radix, digits, prefixed) = if let Some(rest) = lower.strip_prefix("0x") {
        (16, rest, true)
    } else if let Some(rest) = lower.strip_prefix("0b") {
        (2, rest, true)
    } else if let Some(rest) = lower.strip_prefix("0o") {
        (8, rest, true)
    } else if lower.len() > 1 && lower.starts_with('0') {
        (8, &lower[1..], true)
    } else {
        (10, lower.as_str(), false)
    };
    let well_spaced = !digits.contains("__") && !digits.ends_with('_') && (prefixed || !digits.starts_with('_'));
    let digits: String = digits.chars().filter(|c| *c != '_').collect();
    // `from_str_radix` would take a sign, which Go refuses here.
    if !well_spaced || digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return Err("expected a whole number".to_owned());
    }
    match u128::from_str_radix(&digits, radix) {
        Ok(n) => Ok(n),
        Err(e) if *e.kind() == std::num::IntErrorKind::PosOverflow => Err("value does not fit 64 bits".to_owned()),
        Err(_) => Err("expected a whole number".to_owned()),
    }
}

/// A Go duration with or without a sign: its length, and whether it is below zero.
pub fn parse_signed_duration(text: &str) -> Result<(Duration, bool), String> {
    match text.strip_prefix('-') {
        Some(rest) if !rest.starts_with(['-', '+']) => parse_duration(rest).map(|d| (d, !d.is_zero())),
        _ => parse_duration(text).map(|d| (d, false)),
    }
}

/// A Go duration such as `100ms`, `1h30m` or `1.5s`. Negative ones are refused.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    const FORM: &str = "expected a duration such as 100ms, 5m or 1h30m";
    let body = match text.strip_prefix('+') {
        Some(rest) => rest,
        None => text,
    };
    if body == "0" || body == "-0" {
        return Ok(Duration::ZERO);
    }
    if let Some(rest) = body.strip_prefix('-') {
        return match parse_duration(rest) {
            Ok(Duration::ZERO) => Ok(Duration::ZERO),
            Ok(_) => Err("a negative duration has no meaning here".to_owned()),
            Err(reason) => Err(reason),
        };
    }
    if body.is_empty() {
        return Err(FORM.to_owned());
    }
    let mut rest = body;
    let mut total: u128 = 0;
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, tail) = rest.split_at(number_end);
        let unit_end = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let unit_nanos: u128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => u128::from(NANOS_PER_HOUR),
            "" => return Err("the unit is missing (ns, us, ms, s, m or h)".to_owned()),
            _ => return Err(format!("unknown unit {unit:?} (ns, us, ms, s, m or h)")),
        };
        total = total.saturating_add(scaled(number, unit_nanos).ok_or_else(|| FORM.to_owned())?);
        rest = tail;
    }
    if total > i64::MAX as u128 {
        return Err("the duration is longer than 292 years".to_owned());
    }
    Ok(Duration::from_nanos(total as u64))
}

/// `number` (digits with at most one point) times `unit`, cut to whole nanoseconds; `None` if it is no number.
fn scaled(number: &str, unit: u128) -> Option<u128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    let mut nanos = if whole.is_empty() { 0 } else { whole.parse::<u128>().ok()?.saturating_mul(unit) };
    // Eighteen digits are finer than a nanosecond of an hour; more would only overflow.
    let fraction = &fraction[..fraction.len().min(18)];
    if !fraction.is_empty() {
        nanos = nanos.saturating_add(fraction.parse::<u128>().ok()? * unit / 10u128.pow(fraction.len() as u32));
    }
    Some(nanos)
}

/// Bytes: a plain integer, or one with KiB, MiB, GiB, TiB (powers of 1024).
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let lower = text.to_ascii_lowercase();
    let suffixes = [("kib", 1u64 << 10), ("mib", 1 << 20), ("gib", 1 << 30), ("tib", 1 << 40)];
    for (suffix, factor) in suffixes {
        if let Some(number) = lower.strip_suffix(suffix) {
            let n: u64 = number.trim_end().parse().map_err(|_| byte_form())?;
            return n.checked_mul(factor).ok_or_else(|| "value does not fit 64 bits".to_owned());
        }
    }
    lower.parse().map_err(|_| byte_form())
}

fn byte_form() -> String {
    "expected bytes, or a whole number with KiB, MiB, GiB or TiB".to_owned()
}

/// A duration in Go's form with the largest units that leave no fraction, for messages and help.
pub fn show_duration(d: Duration) -> String {
    let nanos = d.as_nanos();
    let units: [(u128, &str); 6] = [
        (u128::from(NANOS_PER_HOUR), "h"),
        (60_000_000_000, "m"),
        (1_000_000_000, "s"),
        (1_000_000, "ms"),
        (1_000, "us"),
        (1, "ns"),
    ];
    let mut rest = nanos;
    let mut out = String::new();
    for (unit, name) in units {
        if rest >= unit {
            out.push_str(&format!("{}{name}", rest / unit));
            rest %= unit;
        }
    }
    if out.is_empty() { "0s".to_owned() } else { out }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn booleans_are_go_s_twelve_words() {
        for yes in ["1", "t", "T", "true", "TRUE", "True"] {
            assert_eq!(parse_bool(yes), Ok(true), "{yes}");
        }
        for no in ["0", "f", "F", "false", "FALSE", "False"] {
            assert_eq!(parse_bool(no), Ok(false), "{no}");
        }
        for bad in ["", "yes", "tRUE", "2", " true"] {
            assert!(parse_bool(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn integers_take_base_prefixes_and_refuse_overflow() {
        assert_eq!(parse_uint("10000", u64::MAX), Ok(10_000));
        assert_eq!(parse_uint("0x10", u64::MAX), Ok(16));
        assert_eq!(parse_uint("010", u64::MAX), Ok(8));
        assert_eq!(parse_uint("1_000", u64::MAX), Ok(1000));
        assert_eq!(parse_uint("18446744073709551615", u64::MAX), Ok(u64::MAX));
        assert_eq!(parse_int("-9223372036854775808"), Ok(i64::MIN));
        for bad in
            ["", "-1", "+1", "1.5", "18446744073709551616", "0x", "1_", "12a", "é", "99999999999999999999999999999999999999999"]
        {
            assert!(parse_uint(bad, u64::MAX).is_err(), "{bad:?}");
        }
        assert!(parse_uint("4294967296", u64::from(u32::MAX)).is_err());
        assert!(parse_int("9223372036854775808").is_err());
    }

    #[test]
    fn durations_follow_go() {
        let cases = [
            ("100ms", 100_000_000u64),
            ("5m", 300_000_000_000),
            ("1h30m", 5_400_000_000_000),
            ("1.5s", 1_500_000_000),
            (".5s", 500_000_000),
            ("1µs", 1_000),
            ("0", 0),
            ("-0s", 0),
            ("+3ns", 3),
        ];
        for (text, nanos) in cases {
            assert_eq!(parse_duration(text), Ok(Duration::from_nanos(nanos)), "{text}");
        }
        for bad in ["", "5", "-5s", "1x", ".s", "1..5s", "m", "9999999h", "1d", "é"] {
            assert!(parse_duration(bad).is_err(), "{bad:?}");
        }
        assert_eq!(parse_signed_duration("-5s"), Ok((Duration::from_secs(5), true)));
        assert_eq!(parse_signed_duration("-0s"), Ok((Duration::ZERO, false)));
        assert_eq!(parse_signed_duration("+5s"), Ok((Duration::from_secs(5), false)));
        for bad in ["-", "--5s", "-+5s", "-5"] {
            assert!(parse_signed_duration(bad).is_err(), "{bad:?}");
        }
        assert_eq!(show_duration(Duration::from_secs(5400)), "1h30m");
        assert_eq!(show_duration(Duration::ZERO), "0s");
    }

    #[test]
    fn byte_sizes_take_binary_suffixes() {
        assert_eq!(parse_bytes("512MiB"), Ok(512 << 20));
        assert_eq!(parse_bytes("2 gib"), Ok(2 << 30));
        assert_eq!(parse_bytes("1024"), Ok(1024));
        for bad in ["", "MiB", "-1", "1.5GiB", "1GB", "99999999999TiB"] {
            assert!(parse_bytes(bad).is_err(), "{bad:?}");
        }
    }
}
