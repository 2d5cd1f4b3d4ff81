//! Replay: files of deltas put behind a restored snapshot, up to a revision or a time.
//!
//! In: rows of a snapshot without members, the files in order. Out: the same rows as the cluster had them then, so that HashKV agrees;
//! leases, alarms and auth as they were told last at or before that point. Files that begin before the snapshot's revision are fine:
//! what is known already is passed over. A file that is missing, damaged, foreign or out of order is named, and nothing is made of
//! what came before it: the caller throws the folder away.
//!
//! Between two words about leases a lease may have come or gone: of a key that is alive the lease is taken from the word before or
//! after, and if neither has it, it is a short one, for it lived shorter than the time between the two.

use super::SnapshotError;
use crate::base::kind::sys;
use crate::base::{Base, BaseError};
use crate::mvcc::{DeltaPolicy, HistoryRow, ReadError, Store};
use crate::types::{LeaseId, Revision};
use bytes::Bytes;
use prost::Message;
use quorate_proto::backup::{Delta, Segment};
use quorate_proto::mvccpb::KeyValue;
use quorate_proto::segment;
use quorate_proto::state::{Applied, LeaseRow};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Rows in memory before they are written.
const FREEZE: usize = 16 << 20;
/// Seconds a lease gets that came and went between two words.
const SHORT_LEASE: i64 = 5;

/// Where to stop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Until {
    /// With the last delta.
    #[default]
    Newest,
    /// With this revision.
    Revision(i64),
    /// With the last delta at or before this time, milliseconds since 1970.
    Time(i64),
}

/// Files of deltas, in order, and where to stop.
#[derive(Clone, Debug, Default)]
pub struct Deltas {
    pub files: Vec<PathBuf>,
    pub until: Until,
}

/// How far a restored state is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reached {
    pub revision: i64,
    /// The entry clock at it.
    pub time_ms: i64,
    /// Files of deltas that were used.
    pub deltas: usize,
}

fn damaged(text: impl Into<String>) -> SnapshotError {
    SnapshotError::Damaged(text.into())
}

fn failed(path: &Path, e: ReadError) -> SnapshotError {
    match e {
        ReadError::Corrupt(text) => damaged(format!("{}: {text}", path.display())),
        e => BaseError::Io(e.to_string()).into(),
    }
}

/// Puts the deltas behind the rows of a snapshot of `cluster` at `applied`, and moves `applied` along.
///
/// # Errors
/// When the target lies before the snapshot, or a revision after the last delta (of a time after it the newest state is taken); `Damaged` with the file's name as said above.
pub(super) fn replay(base: &Arc<dyn Base>, cluster: u64, applied: &mut Applied, deltas: &Deltas) -> Result<Reached, SnapshotError> {
    let full = Reached { revision: applied.revision, time_ms: applied.time_ms, deltas: 0 };
    match deltas.until {
        Until::Revision(wanted) if wanted < full.revision => {
            return Err(SnapshotError::Refused(format!("the snapshot is at revision {} already, after {wanted}", full.revision)));
        }
        Until::Time(wanted) if wanted < full.time_ms => {
            return Err(SnapshotError::Refused(format!("the snapshot is of {} ms already, after {wanted} ms", full.time_ms)));
        }
        _ => {}
    }
    if deltas.files.is_empty() {
        return at_target(full, deltas.until);
    }
    // The store takes its revision from this row.
    let mut batch = crate::base::Batch::default();
    batch.put(crate::base::Family::Sys, sys::single(sys::APPLIED), applied.encode_to_vec());
    base.write(batch)?;
    let store = Store::open(base.clone(), DeltaPolicy { freeze_bytes: FREEZE, inline: false })?;
    let mut pen = Pen::new(&store, cluster, full, deltas.until);
    for path in &deltas.files {
        if pen.segment(path)? {
            break;
        }
    }
    pen.mend_leases()?;
    let reached = at_target(pen.reached, deltas.until)?;
    if let Some(mark) = pen.compacted {
        store.put_sys(sys::single(sys::COMPACT), Some(Bytes::copy_from_slice(&mark.to_be_bytes())));
    }
    (applied.revision, applied.time_ms) = (reached.revision, reached.time_ms);
    store.put_sys(sys::single(sys::APPLIED), Some(applied.encode_to_vec().into()));
    store.freeze();
    store.checkpoint(false)?;
    Ok(reached)
}

fn at_target(reached: Reached, until: Until) -> Result<Reached, SnapshotError> {
    match until {
        Until::Revision(wanted) if wanted > reached.revision => {
            Err(SnapshotError::Refused(format!("the deltas end at revision {}, before {wanted}", reached.revision)))
        }
        _ => Ok(reached),
    }
}

struct Pen<'a> {
    store: &'a Store,
    cluster: u64,
    full: i64,
    until: Until,
    reached: Reached,
    /// The end of the file before, and its hash.
    last: Option<(i64, [u8; 32])>,
    /// Rows of a revision that is not complete yet.
    waiting: VecDeque<HistoryRow>,
    compacted: Option<i64>,
    /// The last word about the rows beside the key space from before the snapshot. Such a word is never older than its revision, but it
    /// may be younger, and so than the snapshot too. If it is older after all, the word after it corrects it.
    early: Option<Delta>,
    /// Leases that rows name.
    named: BTreeSet<LeaseId>,
    /// Leases that went, as they were; and those of the word after the target.
    gone: BTreeMap<Bytes, Bytes>,
    later: BTreeMap<Bytes, Bytes>,
}

impl<'a> Pen<'a> {
    fn new(store: &'a Store, cluster: u64, full: Reached, until: Until) -> Self {
        Self {
            store,
            cluster,
            full: full.revision,
            until,
            reached: full,
            last: None,
            waiting: VecDeque::new(),
            compacted: None,
            early: None,
            named: BTreeSet::new(),
            gone: BTreeMap::new(),
            later: BTreeMap::new(),
        }
    }

    /// Takes one file; true when the target is reached.
    fn segment(&mut self, path: &Path) -> Result<bool, SnapshotError> {
        let bytes = std::fs::read(path).map_err(|error| SnapshotError::Io { path: path.to_path_buf(), error })?;
        let (segment, hash) = segment::decode(&bytes).map_err(|e| damaged(format!("{} {e}", path.display())))?;
        self.follows(path, &segment)?;
        self.last = Some((segment.revision, hash));
        self.reached.deltas += 1;
        // Rows of a file that begins within what is known may be known in part.
        self.waiting.clear();
        let mut deltas = segment.deltas.into_iter();
        while let Some(delta) = deltas.next() {
            let beyond = match self.until {
                Until::Newest => false,
                Until::Time(wanted) => delta.time_ms > wanted,
                Until::Revision(wanted) => delta.revision > wanted,
            };
            if beyond {
                if let Until::Revision(wanted) = self.until {
                    self.rows(path, &delta, wanted)?;
                }
                let rest = std::iter::once(delta).chain(deltas);
                let word = rest.map(|d| d.side).find(|side| !side.is_empty()).unwrap_or_default();
                self.later = word.into_iter().filter(|row| !row.gone).map(|row| (row.key, row.value)).collect();
                return Ok(true);
            }
            self.rows(path, &delta, delta.revision)?;
            let has_side = delta.side_whole || !delta.side.is_empty();
            if delta.revision < self.full {
                if has_side {
                    self.early = Some(delta);
                }
            } else {
                if let Some(early) = self.early.take() {
                    self.side(path, &early)?;
                }
                self.side(path, &delta)?;
                self.reached.time_ms = self.reached.time_ms.max(delta.time_ms);
                if delta.compacted > self.store.compact_revision() && delta.compacted <= self.reached.revision {
                    self.compacted = self.compacted.max(Some(delta.compacted));
                }
            }
            if self.store.wants_freeze() {
                self.store.freeze();
                self.store.checkpoint(false)?;
            }
        }
        Ok(false)
    }

    fn follows(&self, path: &Path, segment: &Segment) -> Result<(), SnapshotError> {
        let at = path.display();
        if segment.cluster != self.cluster {
            return Err(damaged(format!(
                "{at} belongs to cluster {:016x}, the snapshot to {:016x}",
                segment.cluster, self.cluster
            )));
        }
        let known = self.last.map_or(self.full, |(revision, _)| revision);
        if segment.after > known {
            return Err(damaged(format!("the deltas from revision {} to {} are missing before {at}", known + 1, segment.after)));
        }
        match self.last {
            Some((revision, hash)) if revision == segment.after && !segment.previous.is_empty() && segment.previous != hash[..] => {
                Err(damaged(format!("{at} does not follow the file before it: that one was replaced")))
            }
            _ => Ok(()),
        }
    }

    /// Takes the delta's rows, and replays those up to a revision.
    fn rows(&mut self, path: &Path, delta: &Delta, upto: i64) -> Result<(), SnapshotError> {
        let row = |row: &quorate_proto::backup::Row| HistoryRow {
            revision: Revision::new(row.main, row.sub),
            tombstone: row.deletion,
            kv: row.kv.clone(),
        };
        self.waiting.extend(delta.rows.iter().map(row));
        while let Some(row) = self.waiting.pop_front_if(|row| row.revision.main <= upto) {
            if row.revision.main <= self.reached.revision {
                continue;
            }
            // Rows of one revision are replayed in one go: it becomes the reached one only below.
            let kv = KeyValue::decode(row.kv.clone()).map_err(|e| damaged(format!("{}: {e}", path.display())))?;
            if kv.lease != 0 {
                self.named.insert(kv.lease);
            }
            let main = row.revision.main;
            self.store.replay(&row).map_err(|e| failed(path, e))?;
            if self.waiting.front().is_none_or(|next| next.revision.main > main) {
                self.reached.revision = main;
                self.store.replayed(main);
            }
        }
        self.reached.revision = self.reached.revision.max(upto.min(delta.revision));
        self.store.replayed(self.reached.revision);
        Ok(())
    }

    /// Brings the rows beside the key space up to a delta.
    fn side(&mut self, path: &Path, delta: &Delta) -> Result<(), SnapshotError> {
        let mut changes: BTreeMap<&Bytes, Option<&Bytes>> = BTreeMap::new();
        let before = if delta.side.is_empty() && !delta.side_whole { BTreeMap::new() } else { self.side_rows(path)? };
        if delta.side_whole {
            changes.extend(before.keys().map(|key| (key, None)));
        }
        for row in &delta.side {
            if !row.key.first().is_some_and(|tag| sys::SIDE.contains(tag)) {
                return Err(damaged(format!("{}: a row of a kind that deltas do not have", path.display())));
            }
            changes.insert(&row.key, Some(&row.value).filter(|_| !row.gone));
        }
        for (key, value) in changes {
            if value.is_none() && key.first() == Some(&sys::LEASE) {
                self.gone.extend(before.get(key).map(|value| (key.clone(), value.clone())));
            }
            self.store.put_sys(key.clone(), value.cloned());
        }
        Ok(())
    }

    fn side_rows(&self, path: &Path) -> Result<BTreeMap<Bytes, Bytes>, SnapshotError> {
        self.store.side_rows().map_err(|e| failed(path, e))
    }

    /// Gives each lease that keys hang on a row.
    fn mend_leases(&self) -> Result<(), SnapshotError> {
        let went = self.gone.keys().filter_map(|key| sys::id_of(key)).map(|id| id as LeaseId);
        let ids: BTreeSet<LeaseId> = self.named.iter().copied().chain(went).collect();
        for id in ids {
            let key = sys::lease(id);
            let (lower, upper) = sys::lease_key_range(id);
            if self.store.sys_get(&key)?.is_some() || self.store.sys_scan(&lower, &upper, 1)?.is_empty() {
                continue;
            }
            let short = || LeaseRow { id, ttl: SHORT_LEASE, remaining_ttl: 0, granted_at_ms: self.reached.time_ms };
            let known = self.later.get(&key).or_else(|| self.gone.get(&key)).cloned();
            self.store.put_sys(key, Some(known.unwrap_or_else(|| short().encode_to_vec().into())));
        }
        Ok(())
    }
}
