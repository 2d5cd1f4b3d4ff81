//! Which watchers an event concerns.
//!
//! Watchers of one range with the same options form a [`Group`]; an event is matched against ranges, not watchers, and what a
//! group gets is built once. Three tables, as ranges come in three shapes: single keys (hash), prefixes (hash, probed once for
//! each distinct prefix length), the rest ([`OddRanges`]).
//!
//! Invariants: a group is in the tables exactly while it has watchers; `find` visits groups in an order that depends only on
//! the calls made, never on a hash.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;

use super::message::Filters;
use super::odd::OddRanges;
use crate::mvcc::Event;
use crate::types::{KeyRange, RangeEnd};

pub(super) type GroupId = u32;
pub(super) type WatcherId = u32;

/// What decides the content of a watcher's blocks besides its range.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Options {
    pub filters: Filters,
    pub prev_kv: bool,
}

pub(super) struct Group {
    pub range: KeyRange,
    pub options: Options,
    pub watchers: Vec<WatcherId>,
}

#[derive(Default)]
pub(super) struct Index {
    groups: Vec<Option<Group>>,
    free: Vec<GroupId>,
    keys: HashMap<Bytes, Vec<GroupId>>,
    prefixes: HashMap<Bytes, Vec<GroupId>>,
    /// Distinct prefix lengths with the number of prefixes that have each.
    lengths: BTreeMap<usize, usize>,
    odd: OddRanges,
    /// Odd groups by range, to find one to join.
    odd_groups: HashMap<KeyRange, Vec<GroupId>>,
}

enum Shape {
    Key,
    Prefix(Bytes),
    Odd(Option<Bytes>),
}

impl Index {
    /// Adds a watcher, and says which group it is in and where there.
    pub fn add(&mut self, range: &KeyRange, options: Options, watcher: WatcherId) -> (GroupId, u32) {
        let id = match self.peers(range).iter().copied().find(|id| self.group(*id).options == options) {
            Some(id) => id,
            None => self.add_group(range, options),
        };
        let group = self.groups[id as usize].as_mut().expect("the group was just found");
        group.watchers.push(watcher);
        (id, group.watchers.len() as u32 - 1)
    }

    /// Takes the watcher at `place` out of its group. Another watcher may move to that place: its id is returned.
    pub fn remove(&mut self, id: GroupId, place: u32) -> Option<WatcherId> {
        let group = self.groups[id as usize].as_mut().expect("a watcher's group exists");
        group.watchers.swap_remove(place as usize);
        if group.watchers.is_empty() {
            self.remove_group(id);
            return None;
        }
        group.watchers.get(place as usize).copied()
    }

    pub fn group(&self, id: GroupId) -> &Group {
        self.groups[id as usize].as_ref().expect("the group exists while something names it")
    }

    /// One more than the highest group id in use, for tables kept beside the index.
    pub fn capacity(&self) -> usize {
        self.groups.len()
    }

    /// Calls `found` for each group whose range holds the event's key and whose filters let it through.
    pub fn find(&self, event: &Event, mut found: impl FnMut(GroupId)) {
        let mut visit = |id: GroupId| {
            if !self.group(id).options.filters.drops(event) {
                found(id);
            }
        };
        let key = event.key.as_ref();
        if !self.keys.is_empty() {
            self.keys.get(key).into_iter().flatten().copied().for_each(&mut visit);
        }
        for length in self.lengths.keys().take_while(|length| **length <= key.len()) {
            self.prefixes.get(&key[..*length]).into_iter().flatten().copied().for_each(&mut visit);
        }
        self.odd.find(key, visit);
    }

    fn peers(&self, range: &KeyRange) -> &[GroupId] {
        let list = match shape(range) {
            Shape::Key => self.keys.get(&range.start),
            Shape::Prefix(prefix) => self.prefixes.get(&prefix),
            Shape::Odd(_) => self.odd_groups.get(range),
        };
        list.map_or(&[], Vec::as_slice)
    }

    fn add_group(&mut self, range: &KeyRange, options: Options) -> GroupId {
        let group = Group { range: range.clone(), options, watchers: Vec::new() };
        let id = self.free.pop().unwrap_or_else(|| {
            self.groups.push(None);
            GroupId::try_from(self.groups.len() - 1).expect("there are fewer groups than watchers, fewer than 2^32")
        });
        self.groups[id as usize] = Some(group);
        match shape(range) {
            Shape::Key => self.keys.entry(range.start.clone()).or_default().push(id),
            Shape::Prefix(prefix) => {
                let length = prefix.len();
                let list = self.prefixes.entry(prefix).or_default();
                if list.is_empty() {
                    *self.lengths.entry(length).or_default() += 1;
                }
                list.push(id);
            }
            Shape::Odd(end) => {
                self.odd_groups.entry(range.clone()).or_default().push(id);
                self.odd.insert(range.start.clone(), end, id);
            }
        }
        id
    }

    fn remove_group(&mut self, id: GroupId) {
        let group = self.groups[id as usize].take().expect("a group is removed once");
        self.free.push(id);
        match shape(&group.range) {
            Shape::Key => drop_from(&mut self.keys, &group.range.start, id),
            Shape::Prefix(prefix) => {
                drop_from(&mut self.prefixes, &prefix, id);
                if !self.prefixes.contains_key(&prefix) {
                    self.drop_length(prefix.len());
                }
            }
            Shape::Odd(_) => {
                drop_from(&mut self.odd_groups, &group.range, id);
                self.odd.remove(&group.range.start, id);
            }
        }
    }

    fn drop_length(&mut self, length: usize) {
        let Some(count) = self.lengths.get_mut(&length) else { return };
        *count -= 1;
        if *count == 0 {
            self.lengths.remove(&length);
        }
    }
}

fn drop_from<K: std::hash::Hash + Eq>(table: &mut HashMap<K, Vec<GroupId>>, key: &K, id: GroupId) {
    if let Some(list) = table.get_mut(key) {
        list.retain(|other| *other != id);
        if list.is_empty() {
            table.remove(key);
        }
    }
}

fn shape(range: &KeyRange) -> Shape {
    match &range.end {
        RangeEnd::Single => Shape::Key,
        // No key is empty, so from "\0" on means every key.
        RangeEnd::Unbounded if range.start.is_empty() || range.start.as_ref() == b"\0" => Shape::Prefix(Bytes::new()),
        RangeEnd::Unbounded => Shape::Odd(None),
        RangeEnd::Before(end) if is_prefix_end(&range.start, end) => Shape::Prefix(range.start.clone()),
        RangeEnd::Before(end) => Shape::Odd(Some(end.clone())),
    }
}

/// Whether `end` is `start` with its last byte below 0xff raised by one and what follows that byte cut off: then the interval
/// holds exactly the keys that begin with `start`.
fn is_prefix_end(start: &[u8], end: &[u8]) -> bool {
    let Some(last) = start.iter().rposition(|byte| *byte != 0xff) else { return false };
    end.len() == last + 1 && end[..last] == start[..last] && end[last] == start[last] + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: &'static [u8], end: &'static [u8]) -> KeyRange {
        KeyRange::from_request(&Bytes::from_static(start), &Bytes::from_static(end))
    }

    fn found(index: &Index, key: &'static [u8], delete: bool) -> Vec<WatcherId> {
        let mut event = super::super::tests::event(1, 0, key);
        event.delete = delete;
        let mut watchers = Vec::new();
        index.find(&event, |id| watchers.extend(&index.group(id).watchers));
        watchers.sort_unstable();
        watchers
    }

    /// Proves that each shape of range finds its keys and no others, and that nothing is left when all are gone.
    #[test]
    fn every_shape_matches_its_keys() {
        let ranges = [
            range(b"a/1", b""),
            range(b"a/", b"a0"),
            range(b"a/1", b"a/3"),
            range(b"b", b"\0"),
            range(b"\0", b"\0"),
            range(b"a\xff", b"b"),
        ];
        let mut index = Index::default();
        let places: Vec<_> = ranges.iter().enumerate().map(|(n, r)| index.add(r, Options::default(), n as u32)).collect();
        let keys: [&'static [u8]; 8] = [b"a", b"a/", b"a/1", b"a/2", b"a/3", b"a\xff\x01", b"b", b"\xff"];
        for key in keys {
            let want: Vec<u32> = (0..6).filter(|n| ranges[*n as usize].contains(key)).collect();
            assert_eq!(found(&index, key, false), want, "{key:?}");
        }
        for (id, place) in places {
            assert_eq!(index.remove(id, place), None);
        }
        assert!(index.keys.is_empty() && index.prefixes.is_empty() && index.lengths.is_empty());
        assert!(index.odd.is_empty() && index.odd_groups.is_empty());
    }

    /// Proves that filters keep events out and that watchers of one range share a group only with equal options.
    #[test]
    fn filters_and_groups() {
        let mut index = Index::default();
        let no_put = Options { filters: Filters { no_put: true, no_delete: false }, prev_kv: false };
        let all = range(b"k", b"l");
        let (plain, _) = index.add(&all, Options::default(), 0);
        let (filtered, _) = index.add(&all, no_put, 1);
        assert_ne!(plain, filtered);
        assert_eq!(index.add(&all, Options::default(), 2), (plain, 1));
        assert_eq!(found(&index, b"k1", false), [0, 2]);
        assert_eq!(found(&index, b"k1", true), [0, 1, 2]);
        assert_eq!(index.remove(plain, 0), Some(2));
        assert_eq!(found(&index, b"k1", false), [2]);
    }
}
