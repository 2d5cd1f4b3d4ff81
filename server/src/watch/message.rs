//! What clients ask of a stream and what they are told: [`CreateWatch`] comes in, [`WatchMessage`]s go out.
//!
//! Events are shared, not copied: an applied event becomes one [`SharedEvent`]; all watchers of one range with the same options
//! get the same [`EventBlock`]. The door may keep its encoding of a block in the block ([`EventBlock::encoded`]), so that ten
//! thousand watchers cost one encoding.
//!
//! Invariant: a block holds whole revisions; only a watch that asked for `fragment` has them cut, by [`EventBlock::fragments`].

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use quorate_proto::RawKv;

use super::History;
use crate::mvcc::Event;
use crate::types::{KeyRange, Revision};

/// Bytes of bookkeeping counted for each event and each message besides its payload.
pub(super) const OVERHEAD: usize = 64;

/// A client's wish for a watch, limits already checked by the door.
#[derive(Clone, Debug)]
pub struct CreateWatch {
    /// The id the client chose; none (or zero, as on the wire) lets the stream choose.
    pub id: Option<i64>,
    pub range: KeyRange,
    /// First revision wanted; zero means from the next one on.
    pub start_revision: i64,
    /// Tells the watch where it stands every so often while nothing happens.
    pub progress_notify: bool,
    pub filters: Filters,
    /// Sends the pair as it was before each event.
    pub prev_kv: bool,
    /// Lets one revision be spread over several messages when it is large.
    pub fragment: bool,
}

/// Kinds of event a watch does not want.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Filters {
    pub no_put: bool,
    pub no_delete: bool,
}

/// One message of a watch stream, in the order the client must see them.
#[derive(Clone, Debug)]
pub enum WatchMessage {
    /// The watch exists. `revision` is the store's revision at that time.
    Created { id: i64, revision: i64 },
    /// The watch was refused: on the wire `created` and `canceled` with watch id -1 and this reason.
    Refused { revision: i64, reason: &'static str },
    /// The watch is over and nothing follows. `compact_revision` is zero unless compaction ended it; then the header's
    /// revision is zero as well. `reason` is empty when the client asked for it.
    Canceled { id: i64, revision: i64, compact_revision: i64, reason: String },
    /// Events of whole revisions (unless `fragment`: more of the same revision follow at once). Every event of this watch at
    /// or below `revision` is in this message or before it.
    Events { id: i64, events: Arc<EventBlock>, revision: i64, fragment: bool },
    /// Every event of this watch (of all watches of the stream when `id` is -1) at or below `revision` went before.
    Progress { id: i64, revision: i64 },
}

/// An applied event, shared by all who watch it.
#[derive(Debug)]
pub struct SharedEvent {
    event: Event,
    /// The pair before; filled by the first receiver that needs it, unless apply knew it.
    prev: OnceLock<Option<RawKv>>,
}

/// Consecutive events of one range, as one message holds them.
#[derive(Debug)]
pub struct EventBlock {
    events: Box<[Arc<SharedEvent>]>,
    prev_kv: bool,
    size: usize,
    encoded: OnceLock<Bytes>,
}

/// An event as the door reads it.
#[derive(Copy, Clone, Debug)]
pub struct EventView<'a> {
    pub key: &'a Bytes,
    /// For a delete only key and mod revision are set.
    pub kv: &'a RawKv,
    pub delete: bool,
    pub create: bool,
    pub revision: Revision,
    /// Present only when the watch asked for it and there was one that is not compacted.
    pub prev: Option<&'a RawKv>,
}

impl Filters {
    pub(super) fn drops(self, event: &Event) -> bool {
        if event.delete { self.no_delete } else { self.no_put }
    }
}

impl WatchMessage {
    pub(super) fn compacted(id: i64, mark: i64) -> Self {
        Self::Canceled { id, revision: 0, compact_revision: mark, reason: String::new() }
    }

    pub(super) fn canceled(id: i64, revision: i64, reason: &str) -> Self {
        Self::Canceled { id, revision, compact_revision: 0, reason: reason.to_owned() }
    }

    /// Bytes this message is charged for while it waits.
    pub(super) fn size(&self) -> usize {
        match self {
            Self::Events { events, .. } => OVERHEAD + events.size,
            Self::Canceled { reason, .. } => OVERHEAD + reason.len(),
            Self::Created { .. } | Self::Refused { .. } | Self::Progress { .. } => OVERHEAD,
        }
    }
}

impl SharedEvent {
    pub(super) fn new(event: Event) -> Arc<Self> {
        let prev = OnceLock::new();
        // A create has no pair before it, and what apply already knew need not be read again.
        if event.create || !event.has_prev || event.prev.is_some() {
            let known = event.prev.clone().filter(|_| !event.create);
            prev.get_or_init(|| known);
        }
        Arc::new(Self { event, prev })
    }

    pub fn event(&self) -> &Event {
        &self.event
    }

    /// About the bytes it keeps in memory while it waits. A pair before that apply knew is kept whether or not it is shown.
    pub(super) fn size(&self, prev_kv: bool) -> usize {
        let kv = self.event.kv.0.len();
        let prev = match self.prev.get() {
            Some(prev) => prev.as_ref().map_or(0, |prev| prev.0.len()),
            // Not read yet: the pair before is taken to be as large as the one after.
            None if prev_kv => kv,
            None => 0,
        };
        OVERHEAD + kv + prev
    }

    /// About the bytes a client is sent, as far as the pair before was read.
    fn told(&self, prev_kv: bool) -> usize {
        let prev = self.prev.get().filter(|_| prev_kv).and_then(Option::as_ref);
        OVERHEAD + self.event.kv.0.len() + prev.map_or(0, |prev| prev.0.len())
    }

    fn view(&self, prev_kv: bool) -> EventView<'_> {
        let event = &self.event;
        let prev = self.prev.get().filter(|_| prev_kv).and_then(Option::as_ref);
        EventView { key: &event.key, kv: &event.kv, delete: event.delete, create: event.create, revision: event.revision, prev }
    }
}

impl EventBlock {
    pub(super) fn new(events: Vec<Arc<SharedEvent>>, prev_kv: bool) -> Arc<Self> {
        let size = events.iter().map(|event| event.size(prev_kv)).sum();
        Arc::new(Self { events: events.into(), prev_kv, size, encoded: OnceLock::new() })
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = EventView<'_>> {
        self.events.iter().map(|event| event.view(self.prev_kv))
    }

    pub fn len(&self) -> usize {
        self.events.len()
    }

    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// About the bytes the events keep in memory; what the stream's budget is charged.
    pub fn size(&self) -> usize {
        self.size
    }

    /// The block's encoding, made by `encode` at its first use and shared by everyone who sends this block.
    pub fn encoded(&self, encode: impl FnOnce(&Self) -> Bytes) -> Bytes {
        self.encoded.get_or_init(|| encode(self)).clone()
    }

    /// Main revision of the first event.
    pub(super) fn first_revision(&self) -> i64 {
        self.events.first().map_or(0, |event| event.event.revision.main)
    }

    /// Main revision of the last event.
    pub(super) fn last_revision(&self) -> i64 {
        self.events.last().map_or(0, |event| event.event.revision.main)
    }

    /// Reads the pairs before, for a block that shows them, until the events make about `max_bytes` and a revision ends: how many
    /// events that are, when others follow. A pair that cannot be read is left out, as a compacted one is.
    ///
    /// How large a pair is that is gone is known only here: a thousand deletions are little by themselves.
    pub(super) fn fill_previous(&self, history: &dyn History, max_bytes: usize) -> Option<usize> {
        if !self.prev_kv {
            return None;
        }
        let (mut told, mut main) = (0, self.first_revision());
        for (at, shared) in self.events.iter().enumerate() {
            if std::mem::replace(&mut main, shared.event.revision.main) != shared.event.revision.main && told >= max_bytes {
                return Some(at);
            }
            shared.prev.get_or_init(|| {
                let event = &shared.event;
                history.previous(&event.key, event.revision.main).unwrap_or_else(|error| {
                    tracing::warn!(?error, revision = event.revision.main, "previous pair of a watched key not read");
                    None
                })
            });
            told += shared.told(true);
        }
        None
    }

    /// The first `count` events, and the others.
    pub(super) fn split(&self, count: usize) -> (Arc<EventBlock>, Arc<EventBlock>) {
        let (first, rest) = self.events.split_at(count);
        (Self::new(first.to_vec(), self.prev_kv), Self::new(rest.to_vec(), self.prev_kv))
    }

    /// Cuts the block, whose pairs before were read, into pieces of about `max_bytes`, at least one event each; none when it fits as
    /// it is.
    pub(super) fn fragments(&self, max_bytes: usize) -> Option<Vec<Arc<EventBlock>>> {
        let told: usize = self.events.iter().map(|event| event.told(self.prev_kv)).sum();
        if told <= max_bytes || self.events.len() < 2 {
            return None;
        }
        let mut pieces = Vec::new();
        let (mut piece, mut size) = (Vec::new(), 0);
        for event in &self.events {
            let more = event.told(self.prev_kv);
            if !piece.is_empty() && size + more > max_bytes {
                pieces.push(Self::new(std::mem::take(&mut piece), self.prev_kv));
                size = 0;
            }
            piece.push(event.clone());
            size += more;
        }
        pieces.push(Self::new(piece, self.prev_kv));
        Some(pieces)
    }
}
