//! What an event costs. Ignored by default: run in release with `--ignored --nocapture`.

use std::time::Instant;

use super::*;

const WATCHERS: usize = 10_000;

fn measure(name: &str, streams: usize, keys: impl Fn(usize) -> CreateWatch, batches: Vec<Vec<RevisionEvents>>) {
    let log = Arc::new(Log::default());
    let hub = hub(&log);
    let mut ends: Vec<_> = (0..streams).map(|_| hub.open(limits(64 << 20))).collect();
    (0..WATCHERS).for_each(|at| ends[at % streams].0.create(&keys(at)));
    ends.iter_mut().for_each(|(_, receiver)| drop(drain(receiver)));
    let (mut publish, mut read, mut polls, mut got) = (0, 0, 0, 0);
    for batch in batches {
        let start = Instant::now();
        hub.publish(batch);
        hub.drive();
        publish += start.elapsed().as_nanos();
        let start = Instant::now();
        for (_, receiver) in &mut ends {
            polls += 1;
            while let Some(message) = receiver.try_recv() {
                polls += 1;
                if let WatchMessage::Events { events, .. } = message {
                    got += events.len() as u128;
                }
            }
        }
        read += start.elapsed().as_nanos();
    }
    assert_eq!(u128::from(hub.counters().events()), got);
    println!("{name}: {got} events, publish {} ns each, {} ns a poll of a receiver", publish / got, read / polls);
}

fn batches(count: i64, size: i64, key: impl Fn(i64) -> String) -> Vec<Vec<RevisionEvents>> {
    let revision = |at: i64| RevisionEvents { revision: at + 2, events: vec![event(at + 2, 0, key(at).as_bytes())] };
    (0..count).map(|batch| (0..size).map(|at| revision(batch * size + at)).collect()).collect()
}

/// Prints nanoseconds for each delivered event.
#[test]
#[ignore = "a measurement"]
fn ten_thousand_watchers() {
    let pod = |at: i64| format!("/registry/pods/default/pod-{at:06}");
    let prefix = |_| wish("/registry/pods/", 0);
    let own = |at: usize| key_wish(&pod(at as i64), 0);
    measure("one prefix, 10,000 streams, batches of 1", WATCHERS, prefix, batches(200, 1, pod));
    measure("one prefix, 10,000 streams, batches of 16", WATCHERS, prefix, batches(50, 16, pod));
    measure("one prefix, 10 streams, batches of 1", 10, prefix, batches(200, 1, pod));
    measure("own keys, 10,000 streams, batches of 1", WATCHERS, own, batches(20_000, 1, |at| pod(at % 10_000)));
    measure("own keys, 10,000 streams, batches of 64", WATCHERS, own, batches(1000, 64, |at| pod(at % 10_000)));
    measure("own keys, 10 streams, batches of 64", 10, own, batches(1000, 64, |at| pod(at % 10_000)));
}
