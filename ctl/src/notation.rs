//! Numbers, texts and times in the notation of Go, which etcdctl's users and their scripts know: quoted strings, durations,
//! sizes, and the words of a failed conversion.

use std::fmt::Write;
use std::time::Duration;

/// `text` in double quotes, with everything escaped that does not print. Bytes that are no UTF-8 become `\xNN`.
pub fn quote(text: &[u8]) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for chunk in text.utf8_chunks() {
        for c in chunk.valid().chars() {
            quote_char(c, &mut out);
        }
        for byte in chunk.invalid() {
            write!(out, "\\x{byte:02x}").expect("writing to a string");
        }
    }
    out.push('"');
    out
}

fn quote_char(c: char, out: &mut String) {
    let escape = match c {
        '"' => "\\\"",
        '\\' => "\\\\",
        '\x07' => "\\a",
        '\x08' => "\\b",
        '\x0c' => "\\f",
        '\n' => "\\n",
        '\r' => "\\r",
        '\t' => "\\t",
        '\x0b' => "\\v",
        c if (c as u32) < 0x20 || c as u32 == 0x7f => {
            write!(out, "\\x{:02x}", c as u32).expect("writing to a string");
            return;
        }
        ' '..='~' => {
            out.push(c);
            return;
        }
        // The standard library's idea of what prints agrees with Go's but for characters newer than either's tables.
        c if c.escape_debug().len() == 1 => {
            out.push(c);
            return;
        }
        c if (c as u32) < 0x1_0000 => {
            write!(out, "\\u{:04x}", c as u32).expect("writing to a string");
            return;
        }
        c => {
            write!(out, "\\U{:08x}", c as u32).expect("writing to a string");
            return;
        }
    };
    out.push_str(escape);
}

/// What the system said, without the number behind it.
pub fn system_text(error: &std::io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    text.chars().take(1).flat_map(char::to_lowercase).chain(text.chars().skip(1)).collect()
}

/// Reads a quoted string at the start of `text`: `"..."` with escapes, or `` `...` `` as it is. Gives the bytes meant, and the
/// rest. `None` when there is no whole quoted string.
pub fn unquote(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    if let Some(raw) = text.strip_prefix(b"`") {
        let end = raw.iter().position(|byte| *byte == b'`')?;
        return Some((raw[..end].to_vec(), &raw[end + 1..]));
    }
    let mut rest = text.strip_prefix(b"\"")?;
    let mut out = Vec::new();
    loop {
        let (&first, after) = rest.split_first()?;
        rest = after;
        match first {
            b'"' => return Some((out, rest)),
            b'\n' => return None,
            b'\\' => rest = unescape(rest, &mut out)?,
            byte => out.push(byte),
        }
    }
}

fn unescape<'a>(rest: &'a [u8], out: &mut Vec<u8>) -> Option<&'a [u8]> {
    let (&kind, rest) = rest.split_first()?;
    let plain = match kind {
        b'a' => 7,
        b'b' => 8,
        b'f' => 12,
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'v' => 11,
        b'\\' | b'"' => kind,
        b'x' => {
            let (digits, rest) = rest.split_at_checked(2)?;
            out.push(number(digits, 16)? as u8);
            return Some(rest);
        }
        b'0'..=b'7' => {
            let (more, rest) = rest.split_at_checked(2)?;
            let value = number(&[kind, more[0], more[1]], 8)?;
            out.push(u8::try_from(value).ok()?);
            return Some(rest);
        }
        b'u' | b'U' => {
            let (digits, rest) = rest.split_at_checked(if kind == b'u' { 4 } else { 8 })?;
            let c = char::from_u32(number(digits, 16)?)?;
            out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            return Some(rest);
        }
        _ => return None,
    };
    out.push(plain);
    Some(rest)
}

fn number(digits: &[u8], radix: u32) -> Option<u32> {
    u32::from_str_radix(std::str::from_utf8(digits).ok().filter(|text| !text.starts_with('+'))?, radix).ok()
}

/// A signed number. The error reads as Go's does.
pub fn parse_int(text: &str, radix: u32) -> Result<i64, String> {
    i64::from_str_radix(text, radix).map_err(|error| not_a_number("ParseInt", text, error.kind()))
}

/// An unsigned number. The error reads as Go's does.
pub fn parse_uint(text: &str, radix: u32) -> Result<u64, String> {
    // Rust takes a plus sign where Go does not.
    match text.strip_prefix('+') {
        Some(_) => Err(not_a_number("ParseUint", text, &std::num::IntErrorKind::InvalidDigit)),
        None => u64::from_str_radix(text, radix).map_err(|error| not_a_number("ParseUint", text, error.kind())),
    }
}

/// Yes or no, in the spellings that Go takes.
pub fn parse_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        _ => Err(format!("strconv.ParseBool: parsing {}: invalid syntax", quote(text.as_bytes()))),
    }
}

fn not_a_number(function: &str, text: &str, kind: &std::num::IntErrorKind) -> String {
    let why = match kind {
        std::num::IntErrorKind::PosOverflow | std::num::IntErrorKind::NegOverflow => "value out of range",
        _ => "invalid syntax",
    };
    format!("strconv.{function}: parsing {}: {why}", quote(text.as_bytes()))
}

const UNITS: &[(&str, f64)] =
    &[("ns", 1.0), ("us", 1e3), ("µs", 1e3), ("μs", 1e3), ("ms", 1e6), ("s", 1e9), ("m", 60e9), ("h", 3600e9)];

/// A time such as `1h30m` or `250ms`, never negative.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let quoted = quote(text.as_bytes());
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() || rest.starts_with('-') {
        return Err(format!("time: invalid duration {quoted}"));
    }
    let mut nanoseconds = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let value: f64 = rest[..digits].parse().map_err(|_| format!("time: invalid duration {quoted}"))?;
        rest = &rest[digits..];
        let length = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let unit = &rest[..length];
        if unit.is_empty() {
            return Err(format!("time: missing unit in duration {quoted}"));
        }
        let Some((_, factor)) = UNITS.iter().find(|(name, _)| *name == unit) else {
            return Err(format!("time: unknown unit {} in duration {quoted}", quote(unit.as_bytes())));
        };
        nanoseconds += value * factor;
        rest = &rest[length..];
    }
    if nanoseconds >= i64::MAX as f64 {
        return Err(format!("time: invalid duration {quoted}"));
    }
    Ok(Duration::from_nanos(nanoseconds as u64))
}

/// A time as `1h2m3.5s`, `12.652753ms`, `840ns`.
pub fn duration(time: Duration) -> String {
    let nanoseconds = time.as_nanos();
    let fraction = |value: u128, per: u128, unit: &str| {
        let digits = per.ilog10() as usize;
        let text = format!("{}.{:0digits$}", value / per, value % per);
        format!("{}{unit}", text.trim_end_matches('0').trim_end_matches('.'))
    };
    match nanoseconds {
        0 => "0s".to_string(),
        1..1_000 => format!("{nanoseconds}ns"),
        1_000..1_000_000 => fraction(nanoseconds, 1_000, "µs"),
        1_000_000..1_000_000_000 => fraction(nanoseconds, 1_000_000, "ms"),
        _ => {
            let minutes = nanoseconds / 60_000_000_000;
            let seconds = fraction(nanoseconds % 60_000_000_000, 1_000_000_000, "s");
            match (minutes / 60, minutes % 60) {
                (0, 0) => seconds,
                (0, minutes) => format!("{minutes}m{seconds}"),
                (hours, minutes) => format!("{hours}h{minutes}m{seconds}"),
            }
        }
    }
}

/// A size in powers of 1000, to two digits: `25 kB`, `2.1 GB`.
pub fn size(bytes: u64) -> String {
    const NAMES: &[&str] = &["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 10 {
        return format!("{bytes} B");
    }
    let power = bytes.ilog(1000);
    let value = (bytes as f64 / 1000_f64.powi(power as i32) * 10.0 + 0.5).floor() / 10.0;
    let name = NAMES[power as usize];
    if value < 10.0 { format!("{value:.1} {name}") } else { format!("{value:.0} {name}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Quoting escapes what does not print, byte by byte where the text is no UTF-8, and reading it back gives the same bytes.
    #[test]
    fn quoting() {
        for (text, quoted) in [
            (&b"a b"[..], r#""a b""#),
            (b"\0\x7f\n\"\\", r#""\x00\x7f\n\"\\""#),
            (b"\xff\xc3\xa9", "\"\\xff\u{e9}\""),
            ("\u{a0}\u{200b}".as_bytes(), r#""\u00a0\u200b""#),
        ] {
            assert_eq!(quote(text), quoted);
            assert_eq!(unquote(quoted.as_bytes()), Some((text.to_vec(), &b""[..])));
        }
        assert_eq!(unquote(b"`a\\n`) x"), Some((b"a\\n".to_vec(), &b") x"[..])));
        assert_eq!(unquote(br#""\101\u00e9" >"#), Some(("A\u{e9}".as_bytes().to_vec(), &b" >"[..])));
        assert_eq!(unquote(br#""open"#), None);
    }

    /// Times print and read as Go's do.
    #[test]
    fn durations() {
        for (nanoseconds, text) in [
            (0, "0s"),
            (840, "840ns"),
            (1_500, "1.5µs"),
            (12_652_753, "12.652753ms"),
            (1_000_000_000, "1s"),
            (90_500_000_000, "1m30.5s"),
            (3_600_000_000_000, "1h0m0s"),
        ] {
            assert_eq!(duration(Duration::from_nanos(nanoseconds)), text);
            assert_eq!(parse_duration(text), Ok(Duration::from_nanos(nanoseconds)));
        }
        assert_eq!(parse_duration("5"), Err(r#"time: missing unit in duration "5""#.to_string()));
        assert_eq!(parse_duration("5x"), Err(r#"time: unknown unit "x" in duration "5x""#.to_string()));
    }

    /// Sizes are rounded to two digits.
    #[test]
    fn sizes() {
        for (bytes, text) in [(0, "0 B"), (999, "999 B"), (20_480, "20 kB"), (1_500, "1.5 kB"), (2_147_483_648, "2.1 GB")] {
            assert_eq!(size(bytes), text);
        }
    }

    /// A failed conversion says so in Go's words.
    #[test]
    fn failed_conversions() {
        assert_eq!(parse_int("zz", 16), Err(r#"strconv.ParseInt: parsing "zz": invalid syntax"#.to_string()));
        assert_eq!(parse_uint("-1", 10), Err(r#"strconv.ParseUint: parsing "-1": invalid syntax"#.to_string()));
        assert!(parse_int("9223372036854775808", 10).is_err_and(|error| error.ends_with("value out of range")));
    }
}
