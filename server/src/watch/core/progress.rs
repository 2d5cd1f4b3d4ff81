//! Telling clients how far they are: once for a whole stream when asked, and every so often for each watch that wants it.
//!
//! Both are written only when every event at or below the revision told is in the outbox already. A request that comes too
//! early is kept and answered as soon as that holds: the oldest and the newest of a stream, which answer for those between them. So
//! a stream that is a little behind all the time, and asked all the time, is answered all the time.

use std::cmp::Reverse;

use super::{Core, StreamKey, push};
use crate::env::plant::{self, Plant};
use crate::watch::index::WatcherId;
use crate::watch::message::WatchMessage;

/// The watch id that stands for all watches of a stream.
const ALL: i64 = -1;

impl Core {
    /// Answers once `head`, the store's revision when the client asked, is published and all watches of the stream are live.
    /// A stream without watches gets no answer.
    pub fn progress(&mut self, key: StreamKey, head: i64) {
        let Some(stream) = self.stream(key).filter(|stream| !stream.watches.is_empty()) else { return };
        let waits = stream.asked.is_some();
        stream.asked.get_or_insert(head);
        stream.asked_last = stream.asked_last.max(head);
        if !self.try_progress(key) && !waits {
            self.asking.push(key);
        }
    }

    /// Gives each watch whose turn has come its progress message, unless it got events since its last turn, is not live, or
    /// its client has not read what it was sent. `now` is in milliseconds.
    pub fn tick(&mut self, now: u64) {
        while self.turns.peek().is_some_and(|Reverse((due, ..))| *due <= now) {
            let Some(Reverse((_, id, serial))) = self.turns.pop() else { return };
            let Some(watcher) = self.watchers[id as usize].as_mut().filter(|w| w.serial == serial) else { continue };
            let active = std::mem::take(&mut watcher.active);
            let stream = &mut self.streams[watcher.stream as usize];
            let idle = stream.outbox.as_ref().is_some_and(super::Outbox::is_idle);
            if !active && idle && !watcher.lagging && self.published >= watcher.quiet_until {
                let ahead = i64::from(plant::is(Plant::ProgressAhead));
                let message = WatchMessage::Progress { id: watcher.id, revision: self.published + ahead };
                push(stream, watcher.stream, message, &mut self.effects);
            }
            self.schedule_turn(id, now);
        }
    }

    /// An interval and up to a tenth of it from now.
    pub(super) fn schedule_turn(&mut self, id: WatcherId, now: u64) {
        let Some(watcher) = &self.watchers[id as usize] else { return };
        // Xorshift: spreads watches that were created together.
        self.jitter ^= self.jitter << 13;
        self.jitter ^= self.jitter >> 7;
        self.jitter ^= self.jitter << 17;
        let due = now + self.progress_interval + self.jitter % (self.progress_interval / 10 + 1);
        self.turns.push(Reverse((due, id, watcher.serial)));
        // Watches that come and go leave their turns behind; they may not pile up for a whole interval.
        if self.turns.len() > 1024 + 2 * self.watchers.len() {
            let watchers = &self.watchers;
            self.turns.retain(|Reverse((_, id, serial))| watchers[*id as usize].as_ref().is_some_and(|w| w.serial == *serial));
        }
    }

    pub(super) fn answer_progress(&mut self) {
        if self.asking.is_empty() {
            return;
        }
        let mut asking = std::mem::take(&mut self.asking);
        asking.retain(|key| !self.try_progress(*key));
        self.asking = asking;
    }

    /// Looks at an open request anew after a watch ended: it may have been the one that was waited for.
    pub(super) fn reconsider_progress(&mut self, key: StreamKey) {
        let Some(stream) = self.stream(key).filter(|stream| stream.asked.is_some()) else { return };
        if stream.watches.is_empty() {
            stream.asked = None;
            self.asking.retain(|other| *other != key);
        } else if self.try_progress(key) {
            self.asking.retain(|other| *other != key);
        }
    }

    /// Whether no request is open any more.
    fn try_progress(&mut self, key: StreamKey) -> bool {
        let published = self.published;
        let Some(stream) = self.streams.get_mut(key.slot as usize).filter(|s| s.generation == key.generation) else { return true };
        let Some(asked) = stream.asked else { return true };
        let behind = if plant::is(Plant::ProgressOfSome) { stream.lagging == stream.watches.len() } else { stream.lagging > 0 };
        if behind || published < asked {
            return false;
        }
        let waits = |id: &WatcherId| self.watchers[*id as usize].as_ref().is_some_and(|w| published < w.quiet_until);
        if stream.watches.values().any(waits) {
            return false;
        }
        stream.asked = Some(stream.asked_last).filter(|last| *last > published);
        let over = stream.asked.is_none();
        push(stream, key.slot, WatchMessage::Progress { id: ALL, revision: published }, &mut self.effects);
        over
    }
}
