//! Walks: ranges that are read page by page at one revision, as a streamed range is, while everything else goes on.
//!
//! In: a range that a client asked for, at a member that may answer it. Out: one answer made of all pages, which the check takes for
//! the answer to a plain range at the revision of the first page. Between two pages the member writes, checkpoints, compacts, sweeps,
//! takes up snapshots, or dies, which ends the walk.

use crate::ops::Told;
use crate::world::{Event, MS, World};
use quorate::mvcc::{RangeResult, ReadError};
use quorate::types::KeyRange;
use quorate_proto::entry::Range;
use quorate_proto::entry::command::Op;

/// A walk under way.
#[derive(Default)]
pub struct Walk {
    member: usize,
    life: u32,
    /// The revision at which every page is read, and what is still to be read; nothing before the first page.
    at: i64,
    rest: Option<KeyRange>,
    result: RangeResult,
}

impl World {
    /// Makes a walk of an operation that is about to be asked.
    pub fn walks(&mut self, operation: usize) {
        self.walks.insert(operation, Walk::default());
    }

    /// Whether an operation is a walk; then its first page is read here and now.
    pub fn begin_walk(&mut self, at: usize, operation: usize) -> bool {
        let Some(walk) = self.walks.get_mut(&operation) else { return false };
        let Op::Range(range) = &mut self.operations[operation].op else { return false };
        let Some(running) = &self.members[at].running else { return false };
        let revision = running.node.handle().store().revision();
        if range.revision > revision {
            self.answer(operation, Told::Read(Err(ReadError::FutureRevision)));
            return true;
        }
        // From here on it is a read at that revision, and a compaction may end it.
        range.revision = if range.revision > 0 { range.revision } else { revision };
        walk.member = at;
        walk.life = self.members[at].life;
        walk.at = range.revision;
        walk.rest = Some(KeyRange::from_request(&range.key, &range.range_end));
        walk.result.revision = revision;
        self.shows_again(at, operation, revision);
        self.page(operation);
        true
    }

    /// The next page.
    pub fn page(&mut self, operation: usize) {
        let Some(mut walk) = self.walks.remove(&operation) else { return };
        let member = &self.members[walk.member];
        let Some(running) = member.running.as_ref().filter(|_| member.life == walk.life) else { return };
        if running.node.handle().is_fenced() {
            return self.answer(operation, Told::Refused("corrupt cluster".into()));
        }
        let Some(rest) = walk.rest.take() else { return };
        let keys = self.chance.between(1, 3) as usize;
        match running.node.handle().store().page(&rest, walk.at, keys, 1 << 20, false) {
            Ok(page) => {
                walk.result.count += page.kvs.len() as i64;
                walk.result.kvs.extend(page.kvs);
                let Some(next) = page.next else { return self.answer(operation, Told::Read(Ok(walk.result))) };
                let Op::Range(Range { range_end, .. }) = &self.operations[operation].op else { return };
                walk.rest = Some(KeyRange::from_request(&next, range_end));
                self.walks.insert(operation, walk);
                let most = if self.chance.chance(30) { 400 * MS } else { 20 * MS };
                let pause = self.chance.between(100, most);
                self.after(pause, Event::Page { operation });
            }
            Err(e) => self.answer(operation, Told::Read(Err(e))),
        }
    }
}
