//! The generator: a seed becomes a script. Pure; it sees no answer.
//!
//! In: a seed and a length. Out: operations over a small key space, so that keys are rewritten, deleted, ranged over and compared
//! often, with a share of requests that no sane client sends.
//! Invariant: the same seed and length give the same script, and a shorter script is the beginning of the longer one.

use crate::rng::Rng;
use crate::script::{Blob, Compare, Delete, Op, Operand, Put, Range, Rev, Txn, TxnOp, Watch};

/// Streams a script watches on, 0-based.
pub const STREAMS: usize = 3;

/// The limit both servers run with, small enough that scripts meet it.
pub const MAX_TXN_OPS: usize = 12;

pub fn script(seed: u64, ops: usize) -> Vec<Op> {
    let mut g = Generator { rng: Rng::new(seed), alarmed: 0 };
    (0..ops).map(|_| g.op()).collect()
}

struct Generator {
    rng: Rng,
    /// Kind of the alarm that was raised, 0 for none; it stays for a few operations only.
    alarmed: i32,
}

const KEYS: &[&[u8]] = &[
    b"a",
    b"a/",
    b"a/0",
    b"a/1",
    b"a/2",
    b"a/3",
    b"a/4",
    b"a/5",
    b"a/6",
    b"a/7",
    b"a\x00",
    b"a\x00b",
    b"b",
    b"b/x",
    b"b/y",
    b"b/z",
    b"b0",
    b"c",
    b"ca",
    b"cb",
    b"cc",
    b"\x00",
    b"\x00\x00",
    b"\x01",
    b"\xff",
    b"\xff\x00",
    b"\xff\xff",
    b"key with blanks",
    "schlüssel".as_bytes(),
    b"registry/pods/default/one",
    b"registry/pods/default/two",
    b"registry/services/default/one",
];

const LEASES: &[i64] = &[1, 2, 3, 4, 5, 6, 7, 8, -5, i64::MAX, i64::MIN];

impl Generator {
    fn op(&mut self) -> Op {
        if self.alarmed != 0 && self.rng.one_in(6) {
            let kind = std::mem::take(&mut self.alarmed);
            return Op::Alarm { action: 2, kind, local: true, member: 0 };
        }
        const WEIGHTS: &[u64] =
            &[3000, 2300, 350, 500, 1700, 60, 220, 100, 150, 60, 150, 2, 330, 150, 80, 200, 40, 16, 20, 8, 6, 400, 8];
        match self.rng.weighted(WEIGHTS) {
            0 => Op::Put(self.put()),
            1 => Op::Range(self.range()),
            2 => Op::RangeStream(self.streamed()),
            3 => Op::Delete(self.delete()),
            4 => Op::Txn(self.txn(0)),
            5 => self.compact(),
            6 => self.grant(),
            7 => Op::Revoke { id: self.lease() },
            8 => Op::TimeToLive { id: self.lease(), keys: self.rng.one_in(2) },
            9 => Op::Leases,
            10 => Op::KeepAlive { id: self.lease() },
            11 => {
                let keys = (0..self.rng.between(1, 3)).map(|_| self.key()).collect();
                Op::Expire { id: 900 + self.rng.between(0, 9), ttl: self.rng.between(0, 1), keys }
            }
            12 => Op::Watch(self.watch()),
            13 => Op::Cancel { stream: self.stream(), id: self.watch_id() },
            14 => Op::Progress { stream: self.stream() },
            15 => Op::HashKv { revision: self.revision(3) },
            16 => Op::Status,
            17 => self.alarm(),
            18 => Op::Members { linearizable: self.rng.one_in(2) },
            19 => Op::AuthStatus,
            20 => Op::Defragment,
            21 => Op::Check,
            _ => Op::Restart { kill: !self.rng.one_in(3) },
        }
    }

    fn stream(&mut self) -> usize {
        self.rng.below(STREAMS as u64) as usize
    }

    fn watch_id(&mut self) -> i64 {
        if self.rng.one_in(4) { self.rng.between(100, 105) } else { self.rng.between(0, 9) }
    }

    fn lease(&mut self) -> i64 {
        if self.rng.one_in(20) { self.rng.between(0, 12) } else { *self.rng.pick(LEASES) }
    }

    fn key(&mut self) -> Blob {
        if self.rng.one_in(300) {
            return Blob(vec![b'k'; self.rng.between(100, 3000) as usize]);
        }
        Blob::from(*self.rng.pick(KEYS))
    }

    fn value(&mut self) -> Blob {
        let n = self.rng.below(400);
        match n {
            0 => Blob(vec![b'L'; self.rng.between(10_000, 200_000) as usize]),
            1 if self.rng.one_in(8) => Blob(vec![b'X'; self.rng.between(1_500_000, 1_650_000) as usize]),
            2 if self.rng.one_in(8) => Blob(vec![b'Y'; self.rng.between(2_090_000, 2_200_000) as usize]),
            3..40 => Blob::default(),
            40..60 => Blob(vec![0, 255, b'\n', (n & 255) as u8]),
            _ => Blob(format!("v{}", self.rng.below(30)).into_bytes()),
        }
    }

    /// A revision to ask for; one in `zero` is 0.
    fn revision(&mut self, zero: u64) -> Rev {
        if !self.rng.one_in(zero) {
            return match self.rng.below(20) {
                0 => Rev::Now(1),
                1 => Rev::Now(self.rng.between(1, 50)),
                2 => Rev::At(-1),
                3 => Rev::Floor(0),
                4 => Rev::Floor(-1),
                5 => Rev::Floor(1),
                6 => Rev::At(self.rng.between(1, 40)),
                7 => Rev::Now(0),
                8 => Rev::At(*self.rng.pick(&[i64::MAX, i64::MIN, 1])),
                _ => Rev::Now(-self.rng.between(0, 60)),
            };
        }
        Rev::At(0)
    }

    /// A key and a range_end in each of the ways to write them.
    fn span(&mut self) -> (Blob, Blob) {
        let key = self.key();
        let end = match self.rng.below(16) {
            0 => Blob::from(&b"\0"[..]),
            1 => return (Blob::from(&b"\0"[..]), Blob::from(&b"\0"[..])),
            2 => return (Blob::default(), Blob::from(&b"\0"[..])),
            3 => key.clone(),
            4..=6 => self.key(),
            7..=10 => {
                let prefix = self.rng.pick(&["a/", "b", "registry/", "a", "c"]).as_bytes();
                let mut end = prefix.to_vec();
                if let Some(last) = end.last_mut() {
                    *last += 1;
                }
                return (Blob::from(prefix), Blob(end));
            }
            _ => Blob::default(),
        };
        (if self.rng.one_in(150) { Blob::default() } else { key }, end)
    }

    fn put(&mut self) -> Put {
        let mut put = Put { key: self.key(), value: self.value(), prev_kv: self.rng.one_in(4), ..Default::default() };
        if self.rng.one_in(6) {
            put.lease = self.lease();
        }
        if self.rng.one_in(15) {
            put.ignore_value = true;
            if !self.rng.one_in(4) {
                put.value = Blob::default();
            }
        }
        if self.rng.one_in(15) {
            put.ignore_lease = true;
            if !self.rng.one_in(4) {
                put.lease = 0;
            }
        }
        if self.rng.one_in(150) {
            put.key = Blob::default();
        }
        put
    }

    fn range(&mut self) -> Range {
        let (key, range_end) = self.span();
        let mut range = Range { key, range_end, serializable: self.rng.one_in(3), ..Default::default() };
        range.revision = self.revision(2);
        if self.rng.one_in(3) {
            range.limit = *self.rng.pick(&[1, 1, 2, 3, 5, 10, 1000, -1, i64::MAX]);
        }
        if self.rng.one_in(3) {
            range.sort_order = self.rng.between(0, 2) as i32;
            range.sort_target = self.rng.between(0, 4) as i32;
        }
        range.keys_only = self.rng.one_in(6);
        range.count_only = self.rng.one_in(8);
        for bound in [&mut range.min_mod, &mut range.max_mod, &mut range.min_create, &mut range.max_create] {
            if self.rng.one_in(14) {
                *bound = match self.rng.below(8) {
                    0 => Rev::At(self.rng.between(-1, 5)),
                    _ => Rev::Now(-self.rng.between(0, 80)),
                };
            }
        }
        if self.rng.one_in(100) {
            range.sort_order = *self.rng.pick(&[3, -1, i32::MAX]);
        }
        if self.rng.one_in(100) {
            range.sort_target = *self.rng.pick(&[5, -1, i32::MIN]);
        }
        range
    }

    /// Streams refuse most options, so most of them are left out.
    fn streamed(&mut self) -> Range {
        let mut range = self.range();
        if range.sort_order == 0 {
            // etcd sorts each chunk by itself then, wherever it cut them.
            range.sort_target = 0;
        }
        if !self.rng.one_in(5) {
            range.sort_order = 0;
            range.sort_target = 0;
            (range.min_mod, range.max_mod, range.min_create, range.max_create) = Default::default();
        }
        range
    }

    fn delete(&mut self) -> Delete {
        let (key, range_end) = self.span();
        let mut delete = Delete { key, range_end, prev_kv: self.rng.one_in(3) };
        // Deletes of everything are kept rare, or the store would be empty most of the time.
        if !delete.range_end.0.is_empty() && !self.rng.one_in(4) {
            delete.range_end = Blob::default();
        }
        delete
    }

    /// With options that have a name only: Quorate refuses others, etcd takes them for a comparison that holds.
    fn compare(&mut self) -> Compare {
        let key = if self.rng.one_in(80) { Blob::default() } else { self.key() };
        let mut compare =
            Compare { key, result: self.rng.between(0, 3) as i32, target: self.rng.between(0, 4) as i32, ..Default::default() };
        if self.rng.one_in(4) {
            (compare.key, compare.range_end) = self.span();
        }
        let mut kind = compare.target;
        if self.rng.one_in(20) {
            kind = self.rng.between(0, 5) as i32;
        }
        compare.operand = match kind {
            0 => Operand::Version(self.rng.between(-1, 4)),
            1 => Operand::Create(if self.rng.one_in(2) { Rev::At(0) } else { self.revision(4) }),
            2 => Operand::Mod(if self.rng.one_in(2) { Rev::At(0) } else { self.revision(4) }),
            3 => Operand::Value(self.value()),
            4 => Operand::Lease(if self.rng.one_in(2) { 0 } else { self.lease() }),
            _ => Operand::None,
        };
        compare
    }

    fn txn_op(&mut self, depth: u32) -> TxnOp {
        match self.rng.weighted(&[45, 25, 18, if depth < 2 { 12 } else { 0 }, 0]) {
            0 => TxnOp::Put(self.put()),
            1 => TxnOp::Range(self.range()),
            2 => TxnOp::Delete(self.delete()),
            _ if depth < 2 => TxnOp::Txn(self.txn(depth + 1)),
            _ => TxnOp::Nothing,
        }
    }

    fn txn(&mut self, depth: u32) -> Txn {
        let most = if depth == 0 && self.rng.one_in(60) { MAX_TXN_OPS as i64 + 1 } else { 3 };
        let compares = if self.rng.one_in(60) { most } else { self.rng.between(0, 2) };
        let mut txn = Txn {
            compare: (0..compares).map(|_| self.compare()).collect(),
            success: self.branch(most, depth),
            failure: Vec::new(),
        };
        txn.failure = self.branch(most, depth);
        if depth == 0 && self.rng.one_in(8) {
            for branch in [&mut txn.success, &mut txn.failure] {
                branch.retain(|op| matches!(op, TxnOp::Range(_)));
            }
        }
        if self.rng.one_in(300) {
            txn.success.push(TxnOp::Nothing);
        }
        if depth == 0 && puts(&txn) {
            delete_single_keys(&mut txn);
            part_siblings(&mut txn);
        }
        txn
    }

    /// Mostly on different keys, since a key put twice refuses the whole transaction.
    fn branch(&mut self, most: i64, depth: u32) -> Vec<TxnOp> {
        let n = self.rng.between(0, most);
        let mut ops: Vec<TxnOp> = Vec::new();
        for _ in 0..n {
            let op = self.txn_op(depth);
            let taken = |key: &Blob| ops.iter().any(|o| matches!(o, TxnOp::Put(p) if p.key == *key));
            match &op {
                TxnOp::Put(p) if taken(&p.key) && !self.rng.one_in(10) => {}
                TxnOp::Delete(d) if taken(&d.key) && !self.rng.one_in(10) => {}
                _ => ops.push(op),
            }
        }
        ops
    }

    fn compact(&mut self) -> Op {
        let revision = match self.rng.below(10) {
            0 => Rev::Now(1),
            1 => Rev::Now(0),
            2 => Rev::Floor(0),
            3 => Rev::Floor(1),
            4 => Rev::At(*self.rng.pick(&[0, -1, 1, i64::MAX])),
            _ => Rev::Now(-self.rng.between(0, 60)),
        };
        Op::Compact { revision, physical: self.rng.one_in(2) }
    }

    fn grant(&mut self) -> Op {
        let ttl = match self.rng.below(15) {
            0 => *self.rng.pick(&[9_000_000_001, 9_000_000_000, i64::MAX]),
            _ => self.rng.between(10_000, 100_000),
        };
        let id = match self.lease() {
            0 => 1,
            id => id,
        };
        Op::Grant { id, ttl }
    }

    fn watch(&mut self) -> Watch {
        let (key, range_end) = self.span();
        let mut watch = Watch { stream: self.stream(), key, range_end, prev_kv: self.rng.one_in(3), ..Default::default() };
        watch.fragment = self.rng.one_in(4);
        watch.progress_notify = self.rng.one_in(6);
        watch.start = match self.rng.below(14) {
            0..=5 => Rev::At(0),
            6 => Rev::Now(self.rng.between(1, 30)),
            7 => Rev::At(*self.rng.pick(&[-1, 1, i64::MIN])),
            8 => Rev::Floor(self.rng.between(-1, 1)),
            9 => Rev::Now(0),
            _ => Rev::Now(-self.rng.between(0, 200)),
        };
        if self.rng.one_in(5) {
            watch.filters = (0..self.rng.between(1, 2)).map(|_| self.rng.between(0, 1) as i32).collect();
            if self.rng.one_in(10) {
                watch.filters.push(7);
            }
        }
        if self.rng.one_in(4) {
            // Refused creates and told progress use -1, so no watch has it.
            watch.id = if self.rng.one_in(10) { -2 } else { self.watch_id() };
        }
        watch
    }

    fn alarm(&mut self) -> Op {
        match self.rng.below(8) {
            0..=2 => Op::Alarm { action: 0, kind: self.rng.between(0, 2) as i32, local: false, member: 0 },
            // An action that has no name ends an etcd 3.7.3 with a nil dereference, and Quorate refuses kinds that have none.
            3 => Op::Alarm { action: self.rng.between(0, 2) as i32, kind: 1, local: false, member: 77 },
            4 => Op::Alarm { action: 2, kind: self.rng.between(0, 2) as i32, local: self.rng.one_in(2), member: 77 },
            _ => {
                self.alarmed = self.rng.between(1, 2) as i32;
                Op::Alarm { action: 1, kind: self.alarmed, local: true, member: 0 }
            }
        }
    }
}

fn puts(txn: &Txn) -> bool {
    txn.success.iter().chain(&txn.failure).any(|op| match op {
        TxnOp::Put(_) => true,
        TxnOp::Txn(inner) => puts(inner),
        _ => false,
    })
}

/// A delete up to the end of the key space is not seen by etcd's test for overlaps, so that a put of a key that it deletes is let
/// through; one that keeps its value or lease then ends etcd 3.7.3 with a panic. Quorate refuses such a transaction.
fn delete_single_keys(txn: &mut Txn) {
    for op in txn.success.iter_mut().chain(&mut txn.failure) {
        match op {
            TxnOp::Delete(d) if d.range_end.0 == b"\0" => d.range_end = Blob::default(),
            TxnOp::Txn(inner) => delete_single_keys(inner),
            _ => {}
        }
    }
}

/// etcd lets one nested transaction delete what an earlier one beside it puts; Quorate refuses it, as it does within one level. So
/// of several beside each other only the first may delete.
fn part_siblings(txn: &mut Txn) {
    for branch in [Txn::success_mut, Txn::failure_mut] {
        let mut first = true;
        for op in branch(txn) {
            if let TxnOp::Txn(inner) = op {
                if !first {
                    without_deletes(inner);
                }
                part_siblings(inner);
                first = false;
            }
        }
    }
}

fn without_deletes(txn: &mut Txn) {
    for branch in [Txn::success_mut, Txn::failure_mut] {
        branch(txn).retain(|op| !matches!(op, TxnOp::Delete(_)));
        for op in branch(txn) {
            if let TxnOp::Txn(inner) = op {
                without_deletes(inner);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Same seed, same script; the longer one begins with the shorter; other seeds give others.
    #[test]
    fn scripts_are_a_function_of_the_seed() {
        let long = script(7, 3000);
        assert_eq!(long[..1000], script(7, 1000)[..]);
        assert_ne!(long, script(8, 3000));
    }

    /// Every kind of operation appears within one long script.
    #[test]
    fn every_operation_is_drawn() {
        let mut kinds: Vec<_> = script(1, 60_000).iter().map(std::mem::discriminant).collect();
        kinds.sort_by_key(|d| format!("{d:?}"));
        kinds.dedup();
        assert_eq!(kinds.len(), 23);
    }
}
