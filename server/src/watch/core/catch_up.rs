//! Lagging watchers read history in chunks, together: a chunk serves every watcher of the shard that resumes inside it, and a
//! watcher that has reached `published` is live from that moment.

use std::collections::HashMap;

use super::{Batch, Core};
use crate::watch::index::{GroupId, WatcherId};
use crate::watch::message::WatchMessage;

impl Core {
    /// The lowest revision at or above `after` from which some watcher could go on.
    pub fn wanted(&self, after: i64) -> Option<i64> {
        self.resumable.range((after, 0)..).next().map(|(from, _)| *from)
    }

    /// Takes in the history of revisions `from..=to`, complete.
    pub fn catch_up(&mut self, chunk: &Batch, from: i64, to: i64) {
        // History may be ahead of the batches published here. Those revisions will come that way.
        let to = to.min(self.published);
        if to < from {
            return;
        }
        let cohort: Vec<_> = self.resumable.range((from, 0)..(to + 1, 0)).copied().collect();
        if cohort.is_empty() {
            return;
        }
        let known = chunk.revisions.partition_point(|(revision, _)| *revision <= to);
        self.matches.collect(&self.index, &chunk.revisions[..known]);
        let mut shared = HashMap::new();
        for (from, id) in cohort {
            self.resumable.remove(&(from, id));
            self.advance(id, from, to, &mut shared);
        }
        for group in self.matches.touched.drain(..) {
            self.matches.events[group as usize] = Vec::new();
        }
        self.settle();
    }

    /// History cannot be read at `from`: the watches that need it end with the reason.
    pub fn fail(&mut self, from: i64, reason: &str) {
        let lost: Vec<_> = self.resumable.range((from, 0)..(from + 1, 0)).map(|(_, id)| *id).collect();
        for id in lost {
            let revision = self.published;
            self.end_watch(id, |id| WatchMessage::canceled(id, revision, reason));
        }
    }

    /// Gives one watcher its part of the chunk. Watchers of a group that resume at the same event share blocks.
    fn advance(&mut self, id: WatcherId, from: i64, to: i64, shared: &mut HashMap<(GroupId, usize), super::Blocks>) {
        let group = self.watchers[id as usize].as_ref().expect("resumable holds watchers that exist").group;
        let events = &self.matches.events[group as usize];
        let start = events.partition_point(|event| event.event().revision.main < from);
        let prev_kv = self.index.group(group).options.prev_kv;
        let blocks = shared.entry((group, start)).or_insert_with(|| super::blocks(&events[start..], prev_kv));
        let stopped = self.offer(id, blocks, to);
        let watcher = self.watchers[id as usize].as_mut().expect("resumable holds watchers that exist");
        let stream = &mut self.streams[watcher.stream as usize];
        watcher.from = stopped.unwrap_or(to + 1);
        if stopped.is_some() {
            stream.parked = true;
        } else if to < self.published {
            self.resumable.insert((watcher.from, id));
            self.effects.catch_up = true;
        } else {
            self.stop_lagging(id);
        }
    }
}
