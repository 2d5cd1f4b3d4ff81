//! Random scripts against a plain model: a list of all events, and for each watch what it should have seen.

use std::collections::BTreeMap;

use super::*;

struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }
}

#[derive(Default)]
struct Watch {
    wish: Option<CreateWatch>,
    from: i64,
    told: i64,
    seen: Vec<Seen>,
    /// The client stopped it, compaction did, or the stream was closed.
    over: bool,
}

struct Client {
    handle: StreamHandle,
    receiver: Option<StreamReceiver>,
    watches: BTreeMap<i64, Watch>,
    /// Wishes sent whose answers were not read yet, with the store's revision at that time.
    open: std::collections::VecDeque<(CreateWatch, i64)>,
    progress: i64,
}

impl Client {
    fn read(&mut self, most: usize) {
        for _ in 0..most {
            let Some(message) = self.receiver.as_mut().and_then(StreamReceiver::try_recv) else { return };
            self.check(&message);
        }
    }

    fn check(&mut self, message: &WatchMessage) {
        match message {
            WatchMessage::Created { id, revision } => {
                let (wish, head) = self.open.pop_front().expect("a create was sent");
                assert_eq!(*revision, head);
                let from = if wish.start_revision == 0 { head + 1 } else { wish.start_revision };
                let old = self.watches.insert(*id, Watch { wish: Some(wish), from, ..Watch::default() });
                assert!(old.is_none(), "automatic ids are not used twice");
            }
            WatchMessage::Refused { .. } => panic!("nothing here is refused"),
            WatchMessage::Canceled { id, compact_revision, .. } => {
                let watch = self.watches.get_mut(id).expect("created first");
                let next = watch.told.max(watch.from - 1) + 1;
                assert!(*compact_revision == 0 || next < *compact_revision, "compaction ends only watches that need what is gone");
                watch.over = true;
            }
            WatchMessage::Events { id, events, revision, fragment } => {
                assert!(!fragment && !events.is_empty());
                let watch = self.watches.get_mut(id).expect("created first");
                assert!(!watch.over, "nothing follows the end");
                for e in events.iter() {
                    let seen = (e.revision.main, e.revision.sub, e.key.clone());
                    assert!(e.revision.main > watch.told, "every event follows what was told");
                    assert!(e.revision.main <= *revision && watch.seen.last().is_none_or(|last| *last < seen));
                    watch.seen.push(seen);
                }
                watch.told = *revision;
            }
            WatchMessage::Progress { id, revision } => {
                let told = *revision;
                if *id == -1 {
                    assert!(told >= self.progress);
                    self.progress = told;
                    assert!(self.watches.values().all(|w| w.over || w.wish.as_ref().expect("set").start_revision <= told));
                }
                for (_, watch) in self.watches.iter_mut().filter(|(other, w)| !w.over && (*id == -1 || *id == **other)) {
                    assert!(told >= watch.told);
                    watch.told = told;
                }
            }
        }
    }
}

/// What a watch must have seen of revisions `from..=to`.
fn expected(log: &Log, wish: &CreateWatch, from: i64, to: i64) -> Vec<Seen> {
    let state = log.state.lock();
    let wanted = state.revisions.iter().filter(|r| (from..=to).contains(&r.revision)).flat_map(|r| &r.events);
    wanted
        .filter(|e| wish.range.contains(&e.key) && !wish.filters.drops(e))
        .map(|e| (e.revision.main, e.revision.sub, e.key.clone()))
        .collect()
}

fn random_wish(random: &mut Random, head: i64) -> CreateWatch {
    let mut wish = match random.below(5) {
        0 => key_wish(["a1", "b2", "c3"][random.below(3) as usize], 0),
        1 => wish("", 0),
        2 => CreateWatch { range: KeyRange::from_request(&Bytes::from_static(b"a2"), &Bytes::from_static(b"b3")), ..wish("a", 0) },
        _ => wish(["a", "b", "c"][random.below(3) as usize], 0),
    };
    wish.start_revision = match random.below(4) {
        0 => 0,
        1 => head + random.below(6) as i64,
        _ => 1 + random.below(head as u64) as i64,
    };
    wish.progress_notify = random.below(2) == 0;
    wish.filters = Filters { no_put: random.below(8) == 0, no_delete: random.below(8) == 0 };
    wish.prev_kv = random.below(3) == 0;
    wish
}

fn run(seed: u64, steps: usize) {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let log = Arc::new(Log::default());
    log.state.lock().most = random.below(4) as usize;
    let hub = hub(&log);
    let mut clients: Vec<Client> = Vec::new();
    let (mut unpublished, mut now) = (Vec::new(), 0);
    for _ in 0..steps {
        let head = log.revision();
        let pick = |random: &mut Random, clients: &[Client]| random.below(clients.len().max(1) as u64) as usize;
        match random.below(20) {
            0..=6 => {
                let keys = ["a1", "a2", "b1", "b2", "c3"];
                let many: Vec<_> = (0..=random.below(3)).map(|n| keys[((random.below(5) + n) % 5) as usize]).collect();
                let deleted = random.below(3) == 0;
                unpublished.push(log.append_with(&many, |e| (e.delete, e.has_prev) = (deleted, true)));
            }
            7..=9 => hub.publish(std::mem::take(&mut unpublished)),
            10 => {
                let (handle, receiver) = hub.open(limits([1, 400, 1 << 20][random.below(3) as usize]));
                let (watches, open) = (BTreeMap::new(), std::collections::VecDeque::new());
                clients.push(Client { handle, receiver: Some(receiver), watches, open, progress: 0 });
            }
            11 | 12 if !clients.is_empty() => {
                let at = pick(&mut random, &clients);
                let client = &mut clients[at];
                let wish = random_wish(&mut random, head);
                client.handle.create(&wish);
                client.open.push_back((wish, head));
            }
            13 if !clients.is_empty() => {
                let at = pick(&mut random, &clients);
                let client = &mut clients[at];
                client.handle.cancel(random.below(4) as i64);
            }
            14 if !clients.is_empty() => clients[random.below(clients.len() as u64) as usize].handle.progress(),
            15 if !clients.is_empty() => {
                let at = pick(&mut random, &clients);
                clients[at].read(1);
            }
            16 => clients.iter_mut().for_each(|client| client.read(usize::MAX)),
            17 => {
                now += random.below(9000);
                hub.tick(now);
            }
            18 if random.below(4) == 0 => {
                let mark = 1 + random.below(head as u64) as i64;
                if mark > log.compact_revision() {
                    log.compact(mark);
                    hub.compacted(mark);
                }
            }
            18 if random.below(10) == 0 => {
                unpublished.clear();
                hub.reset(head);
            }
            18 if random.below(6) == 0 && !clients.is_empty() => {
                let gone = pick(&mut random, &clients);
                let mut client = clients.swap_remove(gone);
                client.receiver = None;
            }
            _ => hub.drive(),
        }
        // Work not driven yet stays queued, so that steps meet each other's halves.
        if random.below(3) == 0 {
            hub.drive();
        }
    }
    hub.publish(unpublished);
    hub.drive();
    for client in &mut clients {
        client.handle.progress();
        // Reading makes room and driving fills it, until nothing moves.
        let mut before = usize::MAX;
        while before != client.watches.values().map(|w| w.seen.len()).sum::<usize>() || before == usize::MAX {
            before = client.watches.values().map(|w| w.seen.len()).sum();
            for _ in 0..3 {
                client.read(usize::MAX);
                hub.drive();
            }
        }
        let head = log.revision();
        let future = client.watches.values().any(|w| !w.over && w.wish.as_ref().expect("set").start_revision > head);
        let live = client.watches.values().any(|w| !w.over);
        assert!(!live || future || client.progress == head, "seed {seed}: progress {} is not at {head}", client.progress);
        for (id, watch) in &client.watches {
            let to = if watch.over { watch.seen.last().map_or(0, |(main, ..)| *main) } else { head };
            let want = expected(&log, watch.wish.as_ref().expect("set"), watch.from, to);
            assert_eq!(watch.seen, want, "seed {seed} watch {id}");
        }
    }
    drop(clients);
    let counters = hub.counters();
    assert_eq!((counters.streams(), counters.watchers(), counters.lagging()), (0, 0, 0), "seed {seed}: all is freed");
}

/// Proves over random scripts that each watch is ordered, unique, reliable, atomic by revision, resumable and bookmarkable, and
/// that closed streams leave nothing.
#[test]
fn random_scripts_agree_with_the_model() {
    for seed in 1..=300 {
        run(seed, 250);
    }
}
