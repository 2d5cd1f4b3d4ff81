//! Transactions: which branches are taken, what could refuse them, then the operations in order.
//!
//! All comparisons, nested ones too, are made before the first write, and everything that could refuse is checked on the branches
//! taken before the first write: a transaction happens whole or not at all.

use super::machine::Refusal;
use super::outcome::{ApplyError, TxnOpOutcome, TxnOutcome};
use crate::base::BaseError;
use crate::env::plant::{self, Plant};
use crate::lease::LeaseTable;
use crate::mvcc::{ReadError, Store, WriteTxn};
use crate::types::KeyRange;
use bytes::Bytes;
use prost::Message;
use quorate_proto::RawKv;
use quorate_proto::entry::{self, CompareResult, CompareTarget, op::Op};
use quorate_proto::mvccpb::KeyValue;
use std::cmp::Ordering;

/// The branches taken by a transaction and those nested in its taken branch, in order.
struct Path {
    succeeded: bool,
    nested: Vec<Path>,
}

fn holds(compare: &entry::Compare, kv: Option<&KeyValue>) -> bool {
    let missing = KeyValue::default();
    let value_of = kv.unwrap_or(&missing);
    let order = match compare.target() {
        CompareTarget::Value if kv.is_none() => return false,
        CompareTarget::Value => value_of.value.cmp(&compare.value),
        CompareTarget::Version => value_of.version.cmp(&compare.number),
        CompareTarget::Create => value_of.create_revision.cmp(&compare.number),
        CompareTarget::Mod => value_of.mod_revision.cmp(&compare.number),
        CompareTarget::Lease => value_of.lease.cmp(&compare.number),
    };
    match compare.result() {
        CompareResult::Equal => order == Ordering::Equal,
        CompareResult::NotEqual => order != Ordering::Equal,
        CompareResult::Greater => order == Ordering::Greater,
        CompareResult::Less => order == Ordering::Less,
    }
}

fn compare(store: &Store, compare: &entry::Compare, at: i64) -> Result<bool, ReadError> {
    let at = at - i64::from(plant::is(Plant::StaleCompare));
    if compare.range_end.is_empty() && compare.target() != CompareTarget::Value {
        // The numbers of one key need not its value.
        let found = store.get_at(&compare.key, at)?.filter(|f| !f.tombstone);
        match &found {
            None => return Ok(holds(compare, None)),
            Some(f) => {
                if let Some((create, version, lease)) = f.numbers {
                    let kv = KeyValue { create_revision: create, mod_revision: f.rev.main, version, lease, ..Default::default() };
                    return Ok(holds(compare, Some(&kv)));
                }
            }
        }
    }
    let q = entry::Range { key: compare.key.clone(), range_end: compare.range_end.clone(), revision: 0, ..Default::default() };
    let rows = store.range_at(&q, at)?.kvs;
    if rows.is_empty() {
        return Ok(holds(compare, None));
    }
    for row in rows {
        let kv = KeyValue::decode(row.0).map_err(|e| ReadError::Corrupt(format!("a KeyValue of the history: {e}")))?;
        if !holds(compare, Some(&kv)) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn choose(store: &Store, txn: &entry::Txn, at: i64) -> Result<Path, ReadError> {
    let mut succeeded = true;
    for c in &txn.compare {
        if !compare(store, c, at)? {
            succeeded = false;
            break;
        }
    }
    let mut nested = Vec::new();
    for op in branch(txn, succeeded) {
        if let Some(Op::Txn(inner)) = &op.op {
            nested.push(choose(store, inner, at)?);
        }
    }
    Ok(Path { succeeded, nested })
}

fn branch(txn: &entry::Txn, succeeded: bool) -> &[entry::Op] {
    if succeeded { &txn.success } else { &txn.failure }
}

/// True when some operation of either branch puts a key.
pub(super) fn has_put(txn: &entry::Txn) -> bool {
    txn.success.iter().chain(&txn.failure).any(|op| match &op.op {
        Some(Op::Put(_)) => true,
        Some(Op::Txn(inner)) => has_put(inner),
        _ => false,
    })
}

/// How often reading at the newest revision begins anew when a compaction overtakes it; each time the compaction is a newer one.
const MAX_READS: u32 = 100;

/// Executes a transaction that only reads, all of it at the newest published revision. Writing operations are refused as corrupt
/// input: the door sends them through the log.
pub fn read_txn(store: &Store, txn: &entry::Txn) -> Result<TxnOutcome, ReadError> {
    let mut left = MAX_READS;
    loop {
        left -= 1;
        let at = store.revision();
        match read_at(store, txn, at) {
            // Nobody asked for this revision, which was the newest: it is another by now.
            Err(ReadError::Compacted) if at < store.compact_revision() && left > 0 => {}
            result => return result,
        }
    }
}

fn read_at(store: &Store, txn: &entry::Txn, at: i64) -> Result<TxnOutcome, ReadError> {
    let path = choose(store, txn, at)?;
    let outcome = read_branch(store, txn, &path, at)?;
    // Comparisons look at single rows, and a snapshot may have been installed between two steps.
    store.check_whole(at)?;
    let (compares, steps) = walked(txn, &outcome);
    count(store, &[compares + steps]);
    Ok(outcome)
}

/// Counts what etcd's `etcd_mvcc_txn_total` counts: accesses to the store of more than one step each. A writing transaction makes its
/// comparisons in one access and its operations in another.
pub(super) fn count(store: &Store, accesses: &[usize]) {
    let several = accesses.iter().filter(|steps| **steps > 1).count() as u64;
    if several > 0 {
        store.stats.txns.fetch_add(several, std::sync::atomic::Ordering::Relaxed);
    }
}

/// The comparisons made and the operations executed on the branches that were taken.
pub(super) fn walked(txn: &entry::Txn, outcome: &TxnOutcome) -> (usize, usize) {
    let (mut compares, mut steps) = (txn.compare.len(), 0);
    for (op, outcome) in branch(txn, outcome.succeeded).iter().zip(&outcome.ops) {
        match (&op.op, outcome) {
            (Some(Op::Txn(inner)), TxnOpOutcome::Txn(outcome, _)) => {
                let (more_compares, more_steps) = walked(inner, outcome);
                compares += more_compares;
                steps += more_steps;
            }
            (Some(Op::Put(put)), _) => steps += put_steps(put),
            (Some(Op::DeleteRange(delete)), _) => steps += delete_steps(delete),
            _ => steps += 1,
        }
    }
    (compares, steps)
}

/// A put that looks at what it replaces is a read as well.
pub(super) fn put_steps(put: &entry::Put) -> usize {
    1 + usize::from(put.prev_kv || put.ignore_value || put.ignore_lease)
}

/// So is a deletion that shows what it deletes.
pub(super) fn delete_steps(delete: &entry::DeleteRange) -> usize {
    1 + usize::from(delete.prev_kv)
}

fn read_branch(store: &Store, txn: &entry::Txn, path: &Path, at: i64) -> Result<TxnOutcome, ReadError> {
    let mut nested = path.nested.iter();
    let mut ops = Vec::new();
    for op in branch(txn, path.succeeded) {
        ops.push(match &op.op {
            Some(Op::Range(q)) => {
                check_range(store, q, at)?;
                TxnOpOutcome::Range(store.range_at(q, at)?)
            }
            Some(Op::Txn(inner)) => {
                let path = nested.next().expect("a path for each nested transaction");
                TxnOpOutcome::Txn(read_branch(store, inner, path, at)?, at)
            }
            _ => return Err(ReadError::Corrupt("a write in a read-only transaction".into())),
        });
    }
    Ok(TxnOutcome { succeeded: path.succeeded, ops })
}

/// What a put needs to hold before it may run.
pub(super) fn check_put(store: &Store, leases: &LeaseTable, put: &entry::Put, at: i64) -> Result<(), Refusal> {
    if put.lease != 0 && leases.get(put.lease).is_none() {
        return Err(ApplyError::LeaseNotFound.into());
    }
    if (put.ignore_value || put.ignore_lease) && store.get_at(&put.key, at)?.is_none_or(|f| f.tombstone) {
        return Err(ApplyError::KeyNotFound.into());
    }
    Ok(())
}

/// Inside a transaction a negative revision is one below the compacted one, not the newest as it is outside.
fn check_range(store: &Store, q: &entry::Range, at: i64) -> Result<(), ReadError> {
    match q.revision {
        0 => Ok(()),
        revision if revision > at => Err(ReadError::FutureRevision),
        revision if revision < store.compact_revision() => Err(ReadError::Compacted),
        _ => Ok(()),
    }
}

fn check_branch(store: &Store, leases: &LeaseTable, txn: &entry::Txn, path: &Path, at: i64) -> Result<(), Refusal> {
    let mut nested = path.nested.iter();
    for op in branch(txn, path.succeeded) {
        match &op.op {
            Some(Op::Put(put)) => check_put(store, leases, put, at)?,
            Some(Op::Range(q)) => check_range(store, q, at)?,
            Some(Op::Txn(inner)) => {
                check_branch(store, leases, inner, nested.next().expect("a path for each nested transaction"), at)?;
            }
            _ => {}
        }
    }
    Ok(())
}

/// Executes a put that was checked.
pub(super) fn run_put(write: &mut WriteTxn, put: &entry::Put) -> Result<Option<RawKv>, BaseError> {
    let mut prev = None;
    let (mut value, mut lease) = (put.value.clone(), put.lease);
    if put.ignore_value || put.ignore_lease {
        let found = write.current(&put.key)?.ok_or_else(|| BaseError::Corrupt("a checked key is gone".into()))?;
        let raw = write.load(&found)?;
        let kv = raw.decode().map_err(|e| BaseError::Corrupt(format!("a KeyValue of the history: {e}")))?;
        if put.ignore_value {
            value = kv.value;
        }
        if put.ignore_lease {
            lease = kv.lease;
        }
        prev = Some(raw);
    }
    let replaced = write.put(&put.key, &value, lease)?;
    match (put.prev_kv, replaced) {
        (true, Some(found)) if prev.is_none() => Ok(Some(write.load(&found)?)),
        (true, _) => Ok(prev),
        (false, _) => Ok(None),
    }
}

/// Executes a delete.
pub(super) fn run_delete(write: &mut WriteTxn, key: &Bytes, end: &Bytes, want_prev: bool) -> Result<(i64, Vec<RawKv>), BaseError> {
    let deleted = write.delete_range(&KeyRange::from_request(key, end))?;
    let prev = if want_prev { deleted.iter().map(|f| write.load(f)).collect::<Result<_, _>>()? } else { Vec::new() };
    Ok((deleted.len() as i64, prev))
}

/// Executes a transaction, whole or not at all.
pub(super) fn run_txn(store: &Store, leases: &LeaseTable, write: &mut WriteTxn, txn: &entry::Txn) -> Result<TxnOutcome, Refusal> {
    let at = store.revision();
    let path = choose(store, txn, at)?;
    check_branch(store, leases, txn, &path, at)?;
    run_branch(store, write, txn, &path)
}

fn run_branch(store: &Store, write: &mut WriteTxn, txn: &entry::Txn, path: &Path) -> Result<TxnOutcome, Refusal> {
    let mut nested = path.nested.iter();
    let mut ops = Vec::new();
    for op in branch(txn, path.succeeded) {
        ops.push(match &op.op {
            Some(Op::Range(q)) => TxnOpOutcome::Range(store.range_at(q, write.revision())?),
            Some(Op::Put(put)) => {
                let prev = run_put(write, put)?;
                TxnOpOutcome::Put { prev, revision: write.revision() }
            }
            Some(Op::DeleteRange(d)) => {
                let (deleted, prev) = run_delete(write, &d.key, &d.range_end, d.prev_kv)?;
                TxnOpOutcome::DeleteRange { deleted, prev, revision: write.revision() }
            }
            Some(Op::Txn(inner)) => {
                let path = nested.next().expect("a path for each nested transaction");
                let outcome = run_branch(store, write, inner, path)?;
                TxnOpOutcome::Txn(outcome, write.revision())
            }
            None => continue,
        });
    }
    Ok(TxnOutcome { succeeded: path.succeeded, ops })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Base, MemBase};
    use crate::mvcc::DeltaPolicy;
    use std::sync::{Arc, Barrier};

    /// A snapshot that takes the place of the rows between two steps of a transaction that reads leaves no half answer: what was
    /// superseded since is gone from the new rows, and the transaction begins anew.
    #[test]
    fn rows_replaced_under_a_transaction() {
        let policy = DeltaPolicy { freeze_bytes: 1 << 20, inline: false };
        let open = |base: &Arc<MemBase>| Store::open(Arc::new(base.clone()) as Arc<dyn Base>, policy).unwrap();
        let put = |store: &Store| {
            let mut write = store.write();
            write.put(b"k", b"v", 0).unwrap();
            write.finish();
        };
        let (old, new) = (Arc::<MemBase>::default(), Arc::<MemBase>::default());
        let (store, ahead) = (open(&old), open(&new));
        put(&store);
        (0..9).for_each(|_| put(&ahead));
        ahead.compact(9).unwrap();
        let applied = quorate_proto::state::Applied { revision: ahead.revision(), ..Default::default() };
        ahead.put_sys(crate::base::kind::sys::single(crate::base::kind::sys::APPLIED), Some(applied.encode_to_vec().into()));
        ahead.freeze();
        ahead.checkpoint(true).unwrap();
        let mut sweep = ahead.next_sweep().unwrap();
        while !ahead.sweep(&mut sweep, 100).unwrap() {}
        drop(ahead);
        let exists = entry::Compare {
            target: CompareTarget::Version.into(),
            result: CompareResult::Greater.into(),
            key: "k".into(),
            ..Default::default()
        };
        let txn = entry::Txn { compare: vec![exists], ..Default::default() };
        let at = store.revision();
        store.replace(Arc::new(new)).unwrap();
        assert!(matches!(read_at(&store, &txn, at), Err(ReadError::Compacted)));
        assert!(read_txn(&store, &txn).unwrap().succeeded);
    }

    /// A transaction that reads what is newest is never told that it is compacted, however often the newest revision is; one that asks
    /// for a revision that is gone is.
    #[test]
    fn what_is_newest_is_never_compacted_away() {
        let policy = DeltaPolicy { freeze_bytes: 1 << 20, inline: false };
        let store = Arc::new(Store::open(Arc::new(MemBase::new()), policy).unwrap());
        let put = |store: &Store| {
            let mut write = store.write();
            write.put(b"a", b"value", 0).unwrap();
            write.finish();
        };
        put(&store);
        put(&store);
        store.compact(3).unwrap();
        let read = |revision| {
            let range = entry::Range { key: "a".into(), range_end: "b".into(), revision, ..Default::default() };
            let compare = entry::Compare { key: "a".into(), range_end: "b".into(), ..Default::default() };
            let success = vec![entry::Op { op: Some(Op::Range(range)) }];
            entry::Txn { compare: vec![compare], failure: success.clone(), success }
        };
        // Fewer compactions in a round than a read begins anew at most, however the two threads meet.
        let rounds = 400;
        let round = Arc::new(Barrier::new(2));
        let compacts = std::thread::spawn({
            let (store, round) = (store.clone(), round.clone());
            move || {
                for _ in 0..rounds {
                    round.wait();
                    for _ in 0..MAX_READS / 2 {
                        put(&store);
                        store.compact(store.revision()).unwrap();
                    }
                    round.wait();
                }
            }
        });
        let mut failed = Vec::new();
        for _ in 0..rounds {
            round.wait();
            failed.extend((0..20).filter_map(|_| read_txn(&store, &read(0)).err()));
            round.wait();
        }
        compacts.join().unwrap();
        assert!(failed.is_empty(), "{failed:?}");
        assert_eq!(read_txn(&store, &read(2)), Err(ReadError::Compacted));
    }
}
