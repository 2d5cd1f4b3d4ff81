//! Finds the key that one path through a transaction would write twice.
//!
//! In: a transaction whose keys are known not to be empty. Out: nothing, or [`Refusal::DuplicateKey`].
//! The rule is etcd's documented one: no key is put twice, or put and deleted, at any nesting; deletions may overlap one another; the two
//! branches of a transaction exclude each other. Cost is n log n in the number of operations, whatever the client sends.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
};

use quorate_proto::entry;

use super::status::Refusal;

/// Checks both branches of `txn`.
pub fn check(txn: &entry::Txn) -> Result<(), Refusal> {
    for ops in [&txn.success, &txn.failure] {
        // A lone operation that is not a transaction collides with nothing: the usual case costs nothing.
        if !matches!(
            &ops[..],
            [] | [entry::Op { op: Some(entry::op::Op::Put(_) | entry::op::Op::DeleteRange(_) | entry::op::Op::Range(_)) }]
        ) {
            writes(ops)?;
        }
    }
    Ok(())
}

/// What a list of operations writes, gathered to find keys written twice.
#[derive(Default)]
struct Writes<'a> {
    puts: BTreeSet<&'a [u8]>,
    deletes: Intervals<'a>,
}

impl<'a> Writes<'a> {
    fn overlap(&self, other: &Writes<'a>) -> bool {
        other.puts.iter().any(|key| self.puts.contains(key) || self.deletes.contains(key))
            || other.deletes.points.iter().any(|key| self.puts.contains(key))
            || other.deletes.spans.iter().any(|(start, end)| {
                let end = end.map_or(Bound::Unbounded, Bound::Excluded);
                self.puts.range::<[u8], _>((Bound::Included(*start), end)).next().is_some()
            })
    }

    fn absorb(&mut self, other: Writes<'a>) {
        self.puts.extend(other.puts);
        self.deletes.points.extend(other.deletes.points);
        for (start, end) in other.deletes.spans {
            self.deletes.insert(start, end);
        }
    }
}

/// Finds a key that one path would put twice, or put and delete. The two branches of a nested transaction exclude each other, so each of them
/// is held against the rest and not against its twin.
fn writes(ops: &[entry::Op]) -> Result<Writes<'_>, Refusal> {
    use entry::op::Op;
    let mut all = Writes::default();
    for op in ops {
        if let Some(Op::DeleteRange(delete)) = &op.op {
            match &delete.range_end[..] {
                [] => all.deletes.insert_point(&delete.key),
                [0] => all.deletes.insert(&delete.key, None),
                end => all.deletes.insert(&delete.key, Some(end)),
            }
        }
    }
    for op in ops {
        if let Some(Op::Txn(txn)) = &op.op {
            let (success, failure) = (writes(&txn.success)?, writes(&txn.failure)?);
            if all.overlap(&success) || all.overlap(&failure) {
                return Err(Refusal::DuplicateKey);
            }
            all.absorb(success);
            all.absorb(failure);
        }
    }
    for op in ops {
        if let Some(Op::Put(put)) = &op.op
            && (all.deletes.contains(&put.key) || !all.puts.insert(&put.key))
        {
            return Err(Refusal::DuplicateKey);
        }
    }
    Ok(all)
}

/// A set of keys as points and merged half-open intervals, so that a lookup stays logarithmic however many deletions a transaction brings.
#[derive(Default)]
struct Intervals<'a> {
    points: BTreeSet<&'a [u8]>,
    /// Start to end; no end reaches past every key. Intervals neither touch nor overlap.
    spans: BTreeMap<&'a [u8], Option<&'a [u8]>>,
}

impl<'a> Intervals<'a> {
    fn insert_point(&mut self, key: &'a [u8]) {
        self.points.insert(key);
    }

    fn insert(&mut self, mut start: &'a [u8], mut end: Option<&'a [u8]>) {
        if end.is_some_and(|end| end <= start) {
            return; // an inverted range deletes nothing
        }
        // Swallow every span that begins at or before our end and reaches our start.
        while let Some((&from, &to)) =
            self.spans.range::<[u8], _>((Bound::Unbounded, end.map_or(Bound::Unbounded, Bound::Included))).next_back()
        {
            if to.is_some_and(|to| to < start) {
                break;
            }
            self.spans.remove(from);
            start = start.min(from);
            end = end.zip(to).map(|(a, b)| a.max(b));
        }
        self.spans.insert(start, end);
    }

    fn contains(&self, key: &[u8]) -> bool {
        self.points.contains(key)
            || self
                .spans
                .range::<[u8], _>((Bound::Unbounded, Bound::Included(key)))
                .next_back()
                .is_some_and(|(_, end)| end.is_none_or(|end| key < end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Merged intervals hold exactly the keys of the intervals that went in, in whatever order they came.
    #[test]
    fn intervals_merge() {
        let keys: Vec<String> = ('a'..='j').map(String::from).collect();
        // Every triple of intervals over a small alphabet, some inverted, some without an end.
        let ends: Vec<Option<&str>> = keys.iter().step_by(2).map(|key| Some(key.as_str())).chain([None]).collect();
        let all: Vec<(&str, Option<&str>)> =
            keys.iter().step_by(3).flat_map(|start| ends.iter().map(move |end| (start.as_str(), *end))).collect();
        for first in &all {
            for second in &all {
                for third in &all {
                    let mut merged = Intervals::default();
                    let parts = [first, second, third];
                    for (start, end) in parts {
                        merged.insert(start.as_bytes(), end.map(str::as_bytes));
                    }
                    for key in &keys {
                        let key = key.as_str();
                        let expect = parts.iter().any(|(start, end)| key >= *start && end.is_none_or(|end| key < end));
                        assert_eq!(merged.contains(key.as_bytes()), expect, "{key} in {parts:?}");
                    }
                }
            }
        }
    }

    /// A transaction as wide as a request can make it is checked in far less than the time a quadratic check would take.
    #[test]
    fn wide_transactions_stay_cheap() {
        let key = |n: usize| bytes::Bytes::from(format!("{n:08}"));
        let ops = (0..50_000)
            .map(|n| {
                let op = if n % 2 == 0 {
                    entry::op::Op::Put(entry::Put { key: key(n), ..Default::default() })
                } else {
                    let end = bytes::Bytes::from(format!("{n:08}x"));
                    entry::op::Op::DeleteRange(entry::DeleteRange { key: key(n), range_end: end, prev_kv: false })
                };
                entry::Op { op: Some(op) }
            })
            .collect();
        assert_eq!(check(&entry::Txn { success: ops, ..Default::default() }), Ok(()));
    }
}
