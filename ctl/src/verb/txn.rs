//! `txn`: a transaction, read from standard input in three paragraphs: compares, what to do if they hold, what to do if not.
//!
//! A compare is `target("key") op "value"` with target `ver`, `c`, `m`, `val` or `lease` (or their long names) and op `=`, `!=`,
//! `<` or `>`. What to do is a `get`, `put` or `del` line with the flags of those commands.

use std::io::{self, BufRead};

use bytes::Bytes;
use quorate_client::proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use quorate_client::proto::etcdserverpb::{Compare, RequestOp, TxnRequest, request_op::Request};

use super::{del, get, put};
use crate::context::Context;
use crate::failure::{self, Done};
use crate::flags::{Flag, Kind, Parsed, flag};
use crate::notation::{self, quote};
use crate::print;

/// Flags of the command.
pub const FLAGS: &[Flag] = &[flag("interactive", Kind::Bool, "say what comes next").short('i')];

/// Runs the command.
pub async fn run(mut cx: Context) -> Done {
    if !cx.args().is_empty() {
        return Err(failure::bad_args("txn command does not accept argument"));
    }
    let (client, printer) = cx.connect_patiently().await?;
    let talk = cx.flags.bool("interactive");
    let say = |text: &str| if talk { print::line(text) } else { Ok(()) };
    let mut input = io::stdin().lock();
    say("compares:")?;
    let compare = paragraph(&mut input, parse_compare)?;
    say("success requests (get, put, del):")?;
    let success = paragraph(&mut input, parse_operation)?;
    say("failure requests (get, put, del):")?;
    let failure = paragraph(&mut input, parse_operation)?;
    printer.txn(&client.txn(TxnRequest { compare, success, failure }).await?)
}

/// Reads lines up to an empty one. The input must not end before.
fn paragraph<T>(input: &mut impl BufRead, parse: impl Fn(&[u8]) -> Done<T>) -> Done<Vec<T>> {
    let mut parsed = Vec::new();
    loop {
        let mut line = Vec::new();
        input.read_until(b'\n', &mut line)?;
        if line.pop() != Some(b'\n') {
            return Err(failure::invalid_input("EOF"));
        }
        match line.trim_ascii() {
            b"" => return Ok(parsed),
            line => parsed.push(parse(line)?),
        }
    }
}

fn parse_compare(line: &[u8]) -> Done<Compare> {
    let shown = String::from_utf8_lossy(line).into_owned();
    let malformed = |why: String| failure::invalid_input(format!("malformed comparison: {shown}{why}"));
    let open = line.iter().position(|byte| *byte == b'(').ok_or_else(|| malformed(String::new()))?;
    let target = String::from_utf8_lossy(&line[..open]).into_owned();
    let (key, op, value) = operands(&line[open + 1..]);
    let (Some(key), Some(op), Some(value)) = (&key, &op, &value) else {
        let text = |part: &Part| quote(part.as_deref().unwrap_or_default());
        let op = op.clone().unwrap_or_default();
        return Err(malformed(format!("; got {target}({}) {} {}", text(&key), String::from_utf8_lossy(&op), text(&value))));
    };
    let result = match op.as_slice() {
        b"=" => CompareResult::Equal,
        b"!=" => CompareResult::NotEqual,
        b">" => CompareResult::Greater,
        b"<" => CompareResult::Less,
        op => return Err(malformed(format!(" (unknown operator {})", String::from_utf8_lossy(op)))),
    };
    let number = |radix| {
        notation::parse_int(&String::from_utf8_lossy(value), radix)
            .map_err(|_| failure::invalid_input(format!("invalid txn compare request: {shown}")))
    };
    let (target, operand) = match target.as_str() {
        "ver" | "version" => (CompareTarget::Version, TargetUnion::Version(number(10)?)),
        "c" | "create" => (CompareTarget::Create, TargetUnion::CreateRevision(number(10)?)),
        "m" | "mod" => (CompareTarget::Mod, TargetUnion::ModRevision(number(10)?)),
        "val" | "value" => (CompareTarget::Value, TargetUnion::Value(value.clone().into())),
        // Leases are written in hexadecimal everywhere.
        "lease" => (CompareTarget::Lease, TargetUnion::Lease(number(16)?)),
        target => return Err(malformed(format!(" (unknown target {target})"))),
    };
    Ok(Compare {
        result: result as i32,
        target: target as i32,
        key: key.clone().into(),
        range_end: Bytes::new(),
        target_union: Some(operand),
    })
}

/// A part of a compare, where there is one.
type Part = Option<Vec<u8>>;

/// Key, operator and value of `"key") op "value"`, as far as they are there.
fn operands(text: &[u8]) -> (Part, Part, Part) {
    let Some((key, rest)) = notation::unquote(text.trim_ascii_start()) else {
        return (None, None, None);
    };
    let Some(rest) = rest.strip_prefix(b")") else {
        return (Some(key), None, None);
    };
    let rest = rest.trim_ascii_start();
    let end = rest.iter().position(u8::is_ascii_whitespace).unwrap_or(rest.len());
    let op = Some(rest[..end].to_vec()).filter(|op| !op.is_empty());
    (Some(key), op, notation::unquote(rest[end..].trim_ascii_start()).map(|(value, _)| value))
}

fn parse_operation(line: &[u8]) -> Done<RequestOp> {
    let shown = String::from_utf8_lossy(line);
    let words = split(line)?;
    if words.len() < 2 {
        return Err(failure::invalid_input(format!("invalid txn compare request: {shown}")));
    }
    let flags: &[Flag] = match words[0].as_ref() {
        b"get" => get::FLAGS,
        b"put" => put::FLAGS,
        b"del" => del::FLAGS,
        _ => return Err(failure::invalid_input(format!("invalid txn request: {shown}"))),
    };
    let known: Vec<&Flag> = flags.iter().collect();
    let parsed = Parsed::read(&words[1..], &known)
        .ok()
        .filter(|parsed| !parsed.help)
        .ok_or_else(|| failure::invalid_input(format!("invalid txn request: {shown}")))?;
    let request = match words[0].as_ref() {
        b"get" => Request::RequestRange(get::request(&parsed)?),
        // Standard input holds the transaction, so it holds no values.
        b"put" => Request::RequestPut(put::request(&parsed, io::empty())?),
        _ => Request::RequestDeleteRange(del::request(&parsed)?),
    };
    Ok(RequestOp { request: Some(request) })
}

/// Splits a line into words. Words in double quotes may hold escapes, words in single quotes are taken as they are.
pub fn split(line: &[u8]) -> Done<Vec<Bytes>> {
    let mut words = Vec::new();
    let mut rest = line;
    while let Some(&first) = rest.first() {
        match first {
            b'"' => match quoted_end(rest) {
                Some(end) => {
                    let (word, _) = notation::unquote(&rest[..end]).ok_or_else(|| failure::invalid_input("invalid syntax"))?;
                    words.push(word.into());
                    rest = &rest[end..];
                }
                // A quote without its twin is dropped.
                None => rest = &rest[1..],
            },
            b'\'' => match rest[1..].iter().position(|byte| *byte == b'\'') {
                Some(length) => {
                    words.push(Bytes::copy_from_slice(&rest[1..=length]));
                    rest = &rest[length + 2..];
                }
                None => rest = &rest[1..],
            },
            byte if byte.is_ascii_whitespace() => rest = &rest[1..],
            _ => {
                let end = rest.iter().position(u8::is_ascii_whitespace).unwrap_or(rest.len());
                words.push(Bytes::copy_from_slice(&rest[..end]));
                rest = &rest[end..];
            }
        }
    }
    Ok(words)
}

/// Where the string that begins with a double quote ends, past the closing one.
fn quoted_end(text: &[u8]) -> Option<usize> {
    let mut at = 1;
    loop {
        match text.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines split into words as a shell user expects.
    #[test]
    fn splitting() {
        let words = split(br#"put k "a \"b\"\n" 'c d' e"f "#).unwrap();
        assert_eq!(words, [&b"put"[..], b"k", b"a \"b\"\n", b"c d", b"e\"f"]);
    }

    /// Compares are read with all targets, and mistakes are shown as they were understood.
    #[test]
    fn compares() {
        let compare = parse_compare(br#"mod("a b") > "5""#).unwrap();
        assert_eq!(
            (compare.result(), compare.target(), &compare.key[..]),
            (CompareResult::Greater, CompareTarget::Mod, &b"a b"[..])
        );
        assert_eq!(compare.target_union, Some(TargetUnion::ModRevision(5)));
        assert!(parse_compare(br#"lease("a") = "1f""#).is_ok_and(|compare| compare.target_union == Some(TargetUnion::Lease(0x1f))));
        for (line, message) in [
            ("mod(a) > \"0\"", r#"malformed comparison: mod(a) > "0"; got mod("")  """#),
            ("nonsense", "malformed comparison: nonsense"),
            (r#"foo("a") > "0""#, r#"malformed comparison: foo("a") > "0" (unknown target foo)"#),
            (r#"ver("a") > "x""#, r#"invalid txn compare request: ver("a") > "x""#),
        ] {
            assert_eq!(parse_compare(line.as_bytes()).unwrap_err(), failure::invalid_input(message));
        }
    }
}
