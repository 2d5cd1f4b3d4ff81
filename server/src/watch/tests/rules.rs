//! The room's rules, one by one.

use std::future::Future;

use super::*;

/// A store with `n` revisions, each a write of k1 or k2 in turn: revision 2 writes k2.
fn log_of(n: i64) -> Arc<Log> {
    let log = Arc::new(Log::default());
    for revision in 2..=n + 1 {
        log.append(&[if revision % 2 == 0 { "k2" } else { "k1" }]);
    }
    log
}

/// Writes and publishes one revision.
fn write(hub: &Hub, log: &Log, keys: &[&str]) {
    hub.publish(vec![log.append(keys)]);
}

/// Proves that a watch from now gets what happens after its create and nothing before, even when older batches still wait.
#[test]
fn start_zero_is_from_the_next_revision() {
    let log = log_of(0);
    let hub = hub(&log);
    write(&hub, &log, &["k1"]);
    let (handle, mut receiver) = open(&hub);
    handle.create(&wish("k", 0));
    write(&hub, &log, &["k1"]);
    hub.drive();
    assert_eq!(drain(&mut receiver), ["created 0 at 2", "events 0 through 3: k1@3.0"]);
}

/// Proves that a watch from the past reads history, then goes on live with no gap and nothing twice.
#[test]
fn past_start_catches_up_then_is_live() {
    let log = log_of(3);
    let hub = hub(&log);
    let (handle, mut receiver) = open(&hub);
    handle.create(&wish("k", 2));
    assert_eq!(hub.counters().lagging(), 1);
    // History shows revision 5 before its batch is handed out.
    let late = log.append(&["k9"]);
    hub.drive();
    hub.publish(vec![late]);
    hub.drive();
    assert_eq!(hub.counters().lagging(), 0);
    let want = ["created 0 at 4", "events 0 through 4: k2@2.0 k1@3.0 k2@4.0", "events 0 through 5: k9@5.0"];
    assert_eq!(drain(&mut receiver), want);
}

/// Proves that a watch on the future is silent until its revision, for events and for progress.
#[test]
fn future_start_is_silent_until_reached() {
    let log = log_of(1);
    let hub = hub(&log);
    let (handle, mut receiver) = open(&hub);
    handle.create(&CreateWatch { progress_notify: true, ..wish("k", 4) });
    handle.progress();
    write(&hub, &log, &["k1"]);
    hub.drive();
    hub.tick(1 << 40);
    assert_eq!(drain(&mut receiver), ["created 0 at 2"]);
    write(&hub, &log, &["k1"]);
    hub.drive();
    assert_eq!(drain(&mut receiver), ["events 0 through 4: k1@4.0", "progress -1 at 4"]);
}

/// Proves etcd's answers to creates that cannot be: created, then canceled with the mark; or refused with etcd's text. A watch
/// may start at the mark itself.
#[test]
fn creates_that_cannot_be() {
    let log = log_of(4);
    let hub = hub(&log);
    log.compact(4);
    hub.compacted(4);
    let (handle, mut receiver) = open(&hub);
    handle.create(&wish("k", 3));
    handle.create(&wish("k", -1));
    handle.create(&CreateWatch { id: Some(7), ..wish("k", 0) });
    handle.create(&CreateWatch { id: Some(7), ..wish("k", 0) });
    let empty = KeyRange::from_request(&Bytes::from_static(b"b"), &Bytes::from_static(b"a"));
    handle.create(&CreateWatch { range: empty, ..wish("k", 0) });
    handle.create(&wish("k", 4));
    hub.drive();
    let want = [
        "created 0 at 5",
        "canceled 0 compact 4",
        "refused at 5: etcdserver: mvcc: required revision has been compacted",
        "created 7 at 5",
        "refused at 5: mvcc: duplicate watch ID provided on the WatchStream",
        "refused at 5: mvcc: watcher range is empty",
        "created 1 at 5",
        "events 1 through 5: k2@4.0 k1@5.0",
    ];
    assert_eq!(drain(&mut receiver), want);
}

/// Proves that automatic ids count from zero for each stream and step over chosen ones; zero asks for an automatic one.
#[test]
fn ids() {
    let log = log_of(0);
    let hub = hub(&log);
    let (handle, mut receiver) = open(&hub);
    for id in [None, Some(1), Some(0), Some(-5)] {
        handle.create(&CreateWatch { id, ..wish("k", 0) });
    }
    assert_eq!(drain(&mut receiver), ["created 0 at 1", "created 1 at 1", "created 2 at 1", "created -5 at 1"]);
    let (handle, mut receiver) = open(&hub);
    handle.create(&wish("k", 0));
    assert_eq!(drain(&mut receiver), ["created 0 at 1"]);
}

/// Proves that a cancel is answered once, that nothing of the watch follows, and that unknown ids are met with silence.
#[test]
fn cancel() {
    let log = log_of(0);
    let hub = hub(&log);
    let (handle, mut receiver) = open(&hub);
    handle.create(&wish("k", 0));
    write(&hub, &log, &["k1"]);
    hub.drive();
    handle.cancel(0);
    handle.cancel(0);
    handle.cancel(9);
    write(&hub, &log, &["k1"]);
    hub.drive();
    assert_eq!(drain(&mut receiver), ["created 0 at 1", "events 0 through 2: k1@2.0", "canceled 0 compact 0"]);
    assert_eq!(hub.counters().watchers(), 0);
}

/// Proves that the events of a revision come in one message, and that batches that waited together come together.
#[test]
fn revisions_are_whole() {
    let log = log_of(0);
    let hub = hub(&log);
    let (handle, mut receiver) = open(&hub);
    handle.create(&wish("k", 0));
    write(&hub, &log, &["k1", "x", "k2"]);
    write(&hub, &log, &["x", "k3"]);
    hub.drive();
    assert_eq!(drain(&mut receiver), ["created 0 at 1", "events 0 through 3: k1@2.0 k2@2.2 k3@3.1"]);
}

/// Proves that fragments are cut only for who allows them, lie next to each other, and that all but the last say so.
#[test]
fn fragments() {
    let log = log_of(0);
    let hub = hub(&log);
    let (handle, mut receiver) = hub.open(Limits { fragment_bytes: 150, ..Limits::default() });
    handle.create(&CreateWatch { fragment: true, ..wish("k", 0) });
    handle.create(&wish("k", 0));
    write(&hub, &log, &["k1", "k2", "k3", "k4", "k5"]);
    hub.drive();
    let want = [
        "created 0 at 1",
        "created 1 at 1",
        "events 0 through 2 (more): k1@2.0 k2@2.1",
        "events 0 through 2 (more): k3@2.2 k4@2.3",
        "events 0 through 2: k5@2.4",
        "events 1 through 2: k1@2.0 k2@2.1 k3@2.2 k4@2.3 k5@2.4",
    ];
    assert_eq!(drain(&mut receiver), want);
}

/// Proves that a client that does not read holds its budget at most, that others are not touched by it, and that it gets all in
/// the end.
#[test]
fn a_slow_client_lags_alone() {
    let log = log_of(0);
    let hub = hub(&log);
    let (slow, mut slow_receiver) = hub.open(limits(500));
    let (fast, mut fast_receiver) = hub.open(limits(500));
    slow.create(&wish("k", 0));
    fast.create(&wish("k", 0));
    let (mut want, mut got) = (Vec::new(), Vec::new());
    for n in 0..100 {
        write(&hub, &log, &["k1"]);
        hub.drive();
        want.push(n + 2);
        let seen = drain(&mut fast_receiver);
        assert!(seen.last().is_some_and(|line| line.ends_with(&format!("k1@{}.0", n + 2))), "{seen:?}");
    }
    assert_eq!(hub.counters().lagging(), 1);
    let events = hub.counters().events() - 100;
    assert!((1..=8).contains(&events), "{events} events wait for the slow client");
    while got.len() < want.len() {
        let before = got.len();
        while let Some(message) = slow_receiver.try_recv() {
            if let WatchMessage::Events { events, .. } = message {
                got.extend(events.iter().map(|e| e.revision.main));
            }
        }
        hub.drive();
        assert!(got.len() > before || got.is_empty());
    }
    assert_eq!(got, want);
    assert_eq!(hub.counters().lagging(), 0);
}

/// Proves that one message larger than the whole budget passes when nothing else waits.
#[test]
fn an_oversized_message_passes_alone() {
    let log = log_of(0);
    let hub = hub(&log);
    let (handle, mut receiver) = hub.open(limits(100));
    handle.create(&wish("k", 0));
    write(&hub, &log, &["k1", "k2", "k3"]);
    write(&hub, &log, &["k4"]);
    hub.drive();
    assert_eq!(drain(&mut receiver), ["created 0 at 1"]);
    hub.drive();
    assert_eq!(drain(&mut receiver), ["events 0 through 3: k1@2.0 k2@2.1 k3@2.2 k4@3.0"]);
}

/// Proves that a large batch comes in several messages cut between revisions, and that a stream with room for the first only
/// gets the rest from history.
#[test]
fn large_batches_are_cut_between_revisions() {
    let log = log_of(0);
    let hub = hub(&log);
    let (wide, mut wide_receiver) = hub.open(limits(2 << 20));
    let (narrow, mut narrow_receiver) = hub.open(limits(700 << 10));
    wide.create(&wish("k", 0));
    narrow.create(&wish("k", 0));
    let large = |_| log.append_with(&["k1"], |e| e.kv = RawKv(Bytes::from(vec![b'v'; 300 << 10])));
    hub.publish((0..3).map(large).collect());
    hub.drive();
    let revisions = |receiver: &mut StreamReceiver| -> Vec<(i64, Vec<i64>)> {
        let messages = std::iter::from_fn(|| receiver.try_recv());
        let events = messages.filter_map(|m| match m {
            WatchMessage::Events { events, revision, .. } => Some((revision, events.iter().map(|e| e.revision.main).collect())),
            _ => None,
        });
        events.collect()
    };
    assert_eq!(revisions(&mut wide_receiver), [(3, vec![2, 3]), (4, vec![4])]);
    assert_eq!(revisions(&mut narrow_receiver), [(3, vec![2, 3])]);
    hub.drive();
    assert_eq!(revisions(&mut narrow_receiver), [(4, vec![4])]);
}

/// Proves that watches that resume inside a chunk share its read, and that one far behind and one near take turns.
#[test]
fn catching_up_is_shared_and_fair() {
    let log = log_of(40);
    log.state.lock().most = 5;
    let hub = hub(&log);
    let mut streams: Vec<_> = (0..6).map(|_| open(&hub)).collect();
    for (at, (handle, _)) in streams.iter().enumerate() {
        handle.create(&wish("k", if at < 4 { 2 } else { 30 }));
    }
    hub.drive();
    let reads = log.state.lock().reads.clone();
    assert_eq!(reads[..4], [2, 30, 7, 35]);
    assert!(reads.len() <= 12, "{reads:?}");
    for (at, (_, receiver)) in streams.iter_mut().enumerate() {
        let count: usize = drain(receiver).iter().map(|line| line.matches('@').count()).sum();
        assert_eq!(count, if at < 4 { 40 } else { 12 });
    }
}

/// Proves that a lagging watch whose next revision is compacted away ends with the mark, after what was queued before.
#[test]
fn compacted_while_lagging() {
    let log = log_of(0);
    let hub = hub(&log);
    let (handle, mut receiver) = hub.open(limits(300));
    handle.create(&wish("k", 0));
    for _ in 0..9 {
        write(&hub, &log, &["k1"]);
        hub.drive();
    }
    log.compact(9);
    hub.compacted(9);
    hub.drive();
    let lines = drain(&mut receiver);
    assert_eq!(lines.last().map(String::as_str), Some("canceled 0 compact 9"));
    assert_eq!(lines[1], "events 0 through 2: k1@2.0");
    assert_eq!((hub.counters().watchers(), hub.counters().lagging()), (0, 0));
}

/// Proves that a live watch is not touched by compaction.
#[test]
fn compaction_leaves_live_watches() {
    let log = log_of(5);
    let hub = hub(&log);
    let (handle, mut receiver) = open(&hub);
    handle.create(&wish("k", 0));
    log.compact(6);
    hub.compacted(6);
    write(&hub, &log, &["k1"]);
    hub.drive();
    assert_eq!(drain(&mut receiver), ["created 0 at 6", "events 0 through 7: k1@7.0"]);
}

/// Proves that manual progress waits for what the store had when asked, comes after it, and covers all watches of the stream;
/// requests that wait are answered together, and a stream without watches is not answered.
#[test]
fn manual_progress() {
    let log = log_of(2);
    let hub = hub(&log);
    let (handle, mut receiver) = open(&hub);
    handle.progress();
    handle.create(&wish("k", 0));
    handle.progress();
    assert_eq!(drain(&mut receiver), ["created 0 at 3", "progress -1 at 3"]);
    write(&hub, &log, &["k1"]);
    handle.progress();
    handle.progress();
    assert_eq!(drain(&mut receiver), [""; 0]);
    hub.drive();
    assert_eq!(drain(&mut receiver), ["events 0 through 4: k1@4.0", "progress -1 at 4"]);
    handle.create(&wish("k", 2));
    handle.progress();
    assert_eq!(drain(&mut receiver), ["created 1 at 4"]);
    hub.drive();
    let want = ["events 1 through 4: k2@2.0 k1@3.0 k1@4.0", "progress -1 at 4"];
    assert_eq!(drain(&mut receiver), want);
}

/// Proves that a stream that is always a little behind, and is asked for progress meanwhile, is told how far it is each time: a request
/// is not put off by those after it.
#[test]
fn progress_under_steady_writes() {
    let log = log_of(0);
    let hub = hub(&log);
    let (handle, mut receiver) = open(&hub);
    handle.create(&wish("x", 0));
    let mut behind = log.append(&["k1"]);
    handle.progress();
    assert_eq!(drain(&mut receiver), ["created 0 at 1"]);
    for revision in 2..10 {
        let next = log.append(&["k1"]);
        handle.progress();
        hub.publish(vec![std::mem::replace(&mut behind, next)]);
        hub.drive();
        assert_eq!(drain(&mut receiver), [format!("progress -1 at {revision}")]);
    }
    hub.publish(vec![behind]);
    hub.drive();
    assert_eq!(drain(&mut receiver), ["progress -1 at 10"]);
}

/// Proves that a progress request that waits for one watch is answered when that watch is canceled.
#[test]
fn cancel_lets_progress_go() {
    let log = log_of(2);
    let hub = hub(&log);
    let (handle, mut receiver) = open(&hub);
    handle.create(&wish("k", 0));
    handle.create(&wish("k", 2));
    handle.progress();
    handle.cancel(1);
    let want = ["created 0 at 3", "created 1 at 3", "canceled 1 compact 0", "progress -1 at 3"];
    assert_eq!(drain(&mut receiver), want);
}

/// Proves that periodic progress comes once an interval with up to a tenth added, only for watches that want it, and not when
/// there were events since.
#[test]
fn periodic_progress() {
    let log = log_of(2);
    let hub = hub(&log);
    let (handle, mut receiver) = open(&hub);
    handle.create(&CreateWatch { progress_notify: true, ..wish("k", 0) });
    handle.create(&wish("k", 0));
    drain(&mut receiver);
    drain(&mut receiver);
    hub.tick(9_999);
    assert_eq!(drain(&mut receiver), [""; 0]);
    hub.tick(11_100);
    assert_eq!(drain(&mut receiver), ["progress 0 at 3"]);
    assert_eq!(drain(&mut receiver), [""; 0]);
    write(&hub, &log, &["k1"]);
    hub.drive();
    assert_eq!(drain(&mut receiver).len(), 2);
    assert_eq!(drain(&mut receiver), [""; 0]);
    hub.tick(22_300);
    assert_eq!(drain(&mut receiver), [""; 0]);
    hub.tick(33_500);
    assert_eq!(drain(&mut receiver), ["progress 0 at 4"]);
}

/// Proves that filters keep out what they name.
#[test]
fn filters() {
    let log = log_of(0);
    let hub = hub(&log);
    let (handle, mut receiver) = open(&hub);
    handle.create(&CreateWatch { filters: Filters { no_put: true, no_delete: false }, ..wish("k", 0) });
    handle.create(&CreateWatch { filters: Filters { no_put: false, no_delete: true }, ..wish("k", 0) });
    hub.publish(vec![log.append(&["k1"]), log.append_with(&["k1"], |e| e.delete = true)]);
    hub.drive();
    drain(&mut receiver)
        .iter()
        .skip(2)
        .zip(["events 1 through 3: k1@2.0", "events 0 through 3: k1@3.0"])
        .for_each(|(a, b)| assert_eq!(a, b));
}

/// Proves that the pair before is read once for all watches that want it, not at all for creates, and is shown to nobody else.
#[test]
fn previous_pairs() {
    let log = log_of(0);
    let hub = hub(&log);
    let mut streams: Vec<_> = (0..3).map(|_| open(&hub)).collect();
    for (handle, _) in &streams {
        handle.create(&CreateWatch { prev_kv: true, ..wish("k", 0) });
        handle.create(&CreateWatch { prev_kv: true, ..key_wish("k1", 0) });
        handle.create(&wish("k", 0));
    }
    hub.publish(vec![log.append_with(&["k1"], |e| (e.create, e.has_prev) = (true, false))]);
    hub.publish(vec![log.append_with(&["k1"], |e| e.has_prev = true)]);
    hub.drive();
    for (_, receiver) in &mut streams {
        let lines = drain(receiver);
        let count = |text: &str| lines.iter().filter(|line| line.ends_with(text)).count();
        assert_eq!((count("k1@2.0 k1@3.0<k1@2.0"), count("k1@2.0 k1@3.0")), (2, 1), "{lines:?}");
    }
    assert_eq!(log.state.lock().previous_reads, 1);
}

/// A store in which four large keys were written and then deleted: at once, or one after the other.
fn large_keys_deleted(at_once: bool) -> Arc<Log> {
    let log = log_of(0);
    let keys = ["k1", "k2", "k3", "k4"];
    log.append_with(&keys, |e| e.kv = RawKv(Bytes::from(vec![b'v'; 700 * 1024])));
    let parts = if at_once { vec![&keys[..]] } else { keys.chunks(1).collect() };
    for part in parts {
        log.append_with(part, |e| (e.delete, e.has_prev) = (true, true));
    }
    log
}

fn sizes(receiver: &mut StreamReceiver) -> Vec<(usize, i64, bool)> {
    let of = |message| match message {
        WatchMessage::Events { events, revision, fragment, .. } => Some((events.len(), revision, fragment)),
        _ => None,
    };
    std::iter::from_fn(|| receiver.try_recv()).filter_map(of).collect()
}

/// Proves that what deletions show of the pairs before them counts for the size of messages: they are cut between revisions, and
/// within one for whoever takes fragments.
#[test]
fn previous_pairs_count() {
    let log = large_keys_deleted(false);
    let (hub, prev_kv) = (hub(&log), true);
    let (handle, mut receiver) = open(&hub);
    handle.create(&CreateWatch { prev_kv, ..wish("k", 3) });
    hub.drive();
    assert_eq!(sizes(&mut receiver), [(2, 4, false), (2, 6, false)]);

    let log = large_keys_deleted(true);
    let hub = super::hub(&log);
    let (handle, mut receiver) = hub.open(Limits { fragment_bytes: 1500 * 1024, ..Limits::default() });
    handle.create(&CreateWatch { prev_kv, fragment: true, ..wish("k", 3) });
    handle.create(&CreateWatch { prev_kv, ..wish("k", 3) });
    hub.drive();
    assert_eq!(sizes(&mut receiver), [(2, 3, true), (2, 3, false), (4, 3, false)]);
}

/// Proves that pairs before that are only kept, and shown to nobody, count against the budget of a client that does not read.
#[test]
fn hidden_previous_pairs_count() {
    let log = log_of(0);
    let hub = hub(&log);
    let (handle, mut receiver) = hub.open(limits(10_000));
    handle.create(&wish("k", 0));
    for _ in 0..20 {
        let prev = RawKv(Bytes::from(vec![b'v'; 3000]));
        hub.publish(vec![log.append_with(&["k1"], |e| (e.delete, e.has_prev, e.prev) = (true, true, Some(prev.clone())))]);
        hub.drive();
    }
    assert_eq!(hub.counters().lagging(), 1, "three such events fill the budget");
    let mut all = 0;
    loop {
        let events: usize = sizes(&mut receiver).iter().map(|(events, ..)| events).sum();
        if events == 0 {
            break;
        }
        all += events;
        hub.drive();
    }
    assert_eq!((all, hub.counters().lagging()), (20, 0));
}

/// Proves that after a snapshot install each watch goes on from its own next revision.
#[test]
fn reset_resumes_each_watch() {
    let log = log_of(0);
    let hub = hub(&log);
    let (handle, mut receiver) = open(&hub);
    handle.create(&wish("k", 0));
    handle.create(&wish("k", 6));
    write(&hub, &log, &["k1"]);
    hub.drive();
    for _ in 0..5 {
        log.append(&["k2"]);
    }
    hub.reset(log.revision());
    hub.drive();
    write(&hub, &log, &["k3"]);
    hub.drive();
    let want = [
        "created 0 at 1",
        "created 1 at 1",
        "events 0 through 2: k1@2.0",
        "events 0 through 7: k2@3.0 k2@4.0 k2@5.0 k2@6.0 k2@7.0",
        "events 1 through 7: k2@6.0 k2@7.0",
    ];
    let lines = drain(&mut receiver);
    assert_eq!(lines[..5], want);
    assert!(lines[5..].iter().all(|line| line.ends_with("through 8: k3@8.0")) && lines.len() == 7);
}

/// Proves that an unreadable history ends the watches that need it, with a reason, and no others.
#[test]
fn unreadable_history_cancels() {
    let log = log_of(3);
    let hub = hub(&log);
    let (handle, mut receiver) = open(&hub);
    handle.create(&wish("k", 0));
    handle.create(&wish("k", 2));
    log.state.lock().broken = true;
    hub.drive();
    write(&hub, &log, &["k1"]);
    hub.drive();
    let lines = drain(&mut receiver);
    assert_eq!(lines[2..], ["canceled 1 compact 0 etcdserver: watch history not readable", "events 0 through 5: k1@5.0"]);
}

/// Proves that closing frees what a stream had, wherever its watches stand, that its calls then do nothing, and that a stream
/// that takes its slot is another one.
#[test]
fn closing_frees_everything() {
    let log = log_of(5);
    let hub = hub(&log);
    let mut old = Vec::new();
    for _ in 0..4 {
        let (handle, receiver) = open(&hub);
        handle.create(&wish("k", 2));
        handle.create(&CreateWatch { progress_notify: true, ..key_wish("k1", 0) });
        handle.progress();
        drop(receiver);
        old.push(handle);
    }
    let counters = hub.counters();
    assert_eq!((counters.streams(), counters.watchers(), counters.lagging()), (0, 0, 0));
    let (_handle, mut receiver) = open(&hub);
    for handle in old {
        handle.create(&wish("k", 0));
        handle.cancel(0);
        handle.progress();
    }
    hub.drive();
    hub.tick(1 << 40);
    assert_eq!(drain(&mut receiver), [""; 0]);
    assert_eq!(counters.watchers(), 0);
}

/// Proves that a client that asks and does not listen is held back, and let on when it listens.
#[test]
fn requests_wait_for_answers_to_be_read() {
    let log = log_of(0);
    let hub = hub(&log);
    let (handle, mut receiver) = hub.open(Limits { answers: 2, ..Limits::default() });
    let ready = |handle: &StreamHandle| {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        std::pin::pin!(handle.ready()).poll(&mut context).is_ready()
    };
    handle.create(&wish("k", 0));
    assert!(ready(&handle));
    handle.create(&wish("k", 0));
    assert!(!ready(&handle));
    drain(&mut receiver);
    assert!(ready(&handle));
}

/// Proves with real threads that receivers are woken, that a watch from the past meets the live edge while writes go on, that
/// progress is answered under them, and that the hub's end is the stream's end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn threads_deliver_everything() {
    const WRITES: i64 = 3000;
    let log = log_of(10);
    let hub = Arc::new(Hub::start(log.clone(), HubOptions::default()).expect("threads"));
    let mut readers = Vec::new();
    for at in 0..20 {
        let (handle, mut receiver) = hub.open(limits(if at % 2 == 0 { 2000 } else { 1 << 20 }));
        handle.create(&wish("k", 2));
        readers.push(tokio::spawn(async move {
            let (mut next, mut progressed) = (2, 0);
            while next <= WRITES + 11 || progressed < WRITES + 11 {
                match receiver.recv().await.expect("the hub is there") {
                    WatchMessage::Events { events, .. } => {
                        for e in events.iter() {
                            assert_eq!(e.revision.main, next);
                            next += 1;
                        }
                        handle.progress();
                    }
                    WatchMessage::Progress { revision, .. } => {
                        assert!(revision < next && revision >= progressed);
                        progressed = revision;
                    }
                    _ => {}
                }
            }
            receiver
        }));
    }
    let writer = (hub.clone(), log.clone());
    let written = tokio::task::spawn_blocking(move || (0..WRITES).for_each(|_| write(&writer.0, &writer.1, &["k1"])));
    written.await.expect("written");
    let mut receivers = Vec::new();
    for reader in readers {
        receivers.push(reader.await.expect("read everything"));
    }
    assert_eq!(hub.counters().events(), 20 * (WRITES as u64 + 10));
    hub.close();
    for mut receiver in receivers {
        while receiver.recv().await.is_some() {}
    }
}
