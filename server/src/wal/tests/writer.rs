//! The writer: order, batches, its thread beside the caller, and what it does when the disk fails it.

use super::*;
use crate::env::files_sim::Fault;
use std::time::Duration;

/// A mark shares a batch with the group before it and has no number: the answer must still tell of that group.
#[test]
fn a_mark_does_not_hide_the_group_it_was_written_with() {
    let files = SimFiles::new(1);
    let wal = create(&files, 65536);
    let (answers, answered) = crossbeam_channel::unbounded();
    let (go_on, held) = crossbeam_channel::bounded::<()>(0);
    let hooks = Hooks {
        on_durable: Box::new(move |durable: Durable<()>| {
            answers.send(durable.number).expect("a listener");
            // The first answer holds the writer up, so that what follows is queued as one batch.
            let _ = held.recv();
        }),
        on_fault: Box::new(|error| panic!("{error}")),
        on_written: Box::new(|_, _, _| {}),
    };
    let writer = WalWriter::spawn(wal, hooks).expect("a thread");
    let submit = |group| assert!(writer.submit(WalTask { group, tag: () }).is_ok());
    submit(group(1, 1, 1, 1, 10));
    assert_eq!(answered.recv(), Ok(1));
    submit(group(2, 2, 1, 1, 10));
    submit(Group { snapshot: Some(mark(1, 1)), ..Group::default() });
    drop(go_on);
    assert_eq!(answered.recv(), Ok(2));
    writer.close().expect("a close");
}

#[test]
fn the_writer_answers_in_order_and_batches() {
    let files = SimFiles::new(1);
    let wal = create(&files, 65536);
    let reader = wal.reader();
    let (answers, answered) = crossbeam_channel::unbounded();
    let hooks = Hooks {
        on_durable: Box::new(move |durable: Durable<u64>| answers.send(durable).expect("a listener")),
        on_fault: Box::new(|error| panic!("{error}")),
        on_written: Box::new(|_, _, _| {}),
    };
    let writer = WalWriter::spawn(wal, hooks).expect("a thread");
    for number in 1..=3000 {
        let task = WalTask { group: group(number, number, 1, 1, 100), tag: number };
        assert!(writer.submit(task).is_ok());
        if number % 1000 == 0 {
            writer.purge(number);
        }
    }
    writer.close().expect("a close");
    let batches: Vec<_> = answered.iter().collect();
    let tags: Vec<u64> = batches.iter().flat_map(|batch| batch.tags.clone()).collect();
    assert_eq!(tags, (1..=3000).collect::<Vec<_>>());
    assert!(batches.iter().all(|batch| batch.tags.last() == Some(&batch.number)));
    assert_eq!(reader.read(1, 3001, u64::MAX).expect("all").len(), 3000);
    assert_eq!(reopen(&files, 65536).expect("a sound log").1.entries.len(), 3000);
}

/// Writes of the caller's own take turns with the thread's: never while it has something in hand, never out of order, and never on
/// a full disk, which only the thread waits for.
#[test]
fn a_caller_writes_by_itself_only_while_the_thread_has_nothing() {
    let files = SimFiles::new(1);
    let wal = create(&files, 65536);
    let (answers, answered) = crossbeam_channel::unbounded();
    let (go_on, held) = crossbeam_channel::bounded::<()>(0);
    let healer = files.clone();
    let hooks = Hooks {
        on_durable: Box::new(move |durable: Durable<()>| {
            answers.send(durable.number).expect("a listener");
            let _ = held.recv();
        }),
        on_fault: Box::new(move |error| {
            assert!(error.is_no_space(), "{error}");
            healer.heal();
            Verdict::Retry(Duration::ZERO)
        }),
        on_written: Box::new(|_, _, _| {}),
    };
    let writer = WalWriter::spawn(wal, hooks).expect("a thread");
    let task = |number| WalTask { group: group(number, number, 1, 1, 100), tag: () };
    assert_eq!(writer.write_now(task(1)).ok().map(|d| d.number), Some(1));
    // The thread is held up while it answers for 2: what comes is given back, and goes its way.
    assert!(writer.submit(task(2)).is_ok());
    assert_eq!(answered.recv(), Ok(2));
    let back = writer.write_now(task(3)).err().expect("the thread is busy");
    assert_eq!(back.group.number, 3);
    assert!(writer.submit(back).is_ok());
    drop(go_on);
    assert_eq!(answered.recv(), Ok(3));
    let mut next = task(4);
    while let Err(back) = writer.write_now(next) {
        next = back;
        std::thread::yield_now();
    }
    files.fail_after(0, Fault::NoSpace);
    let back = writer.write_now(task(5)).err().expect("the disk is full");
    assert!(writer.submit(back).is_ok());
    assert_eq!(answered.recv(), Ok(5));
    writer.close().expect("a close");
    assert!(answered.is_empty(), "what a caller wrote is not answered a second time");
    let entries = reopen(&files, 65536).expect("a sound log").1.entries;
    assert_eq!(entries.iter().map(|e| e.index).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
}

#[test]
fn the_writer_waits_for_space_and_stops_at_a_broken_disk() {
    let files = SimFiles::new(1);
    let wal = create(&files, 65536);
    let healer = files.clone();
    let hooks = Hooks {
        on_durable: Box::new(|_: Durable<()>| {}),
        on_fault: Box::new(move |error| {
            if error.is_no_space() {
                healer.heal();
            }
            Verdict::Retry(Duration::ZERO)
        }),
        on_written: Box::new(|_, _, _| {}),
    };
    files.fail_after(0, Fault::NoSpace);
    let writer = WalWriter::spawn(wal, hooks).expect("a thread");
    assert!(writer.submit(WalTask { group: group(1, 1, 1, 1, 100), tag: () }).is_ok());
    writer.close().expect("space came back");

    let (wal, replay) = reopen(&files, 65536).expect("a sound log");
    assert_eq!(replay.entries.len(), 1);
    let hooks = Hooks {
        on_durable: Box::new(|_: Durable<()>| panic!("nothing is durable on a broken disk")),
        on_fault: Box::new(|_| Verdict::Stop),
        on_written: Box::new(|_, _, _| {}),
    };
    files.fail_after(0, Fault::Broken);
    let writer = WalWriter::spawn(wal, hooks).expect("a thread");
    assert!(writer.submit(WalTask { group: group(2, 2, 1, 1, 100), tag: () }).is_ok());
    assert!(writer.close().is_err_and(|error| error.is_fatal()));
}

/// A log that is closed while its disk is full ends: what the disk does not take was never answered.
#[test]
fn a_full_disk_does_not_keep_the_writer_from_closing() {
    let files = SimFiles::new(1);
    let wal = create(&files, 65536);
    let (met, meets) = crossbeam_channel::unbounded();
    let hooks = Hooks {
        on_durable: Box::new(|_: Durable<()>| panic!("nothing is durable on a full disk")),
        on_fault: Box::new(move |error| {
            assert!(error.is_no_space(), "{error}");
            let _ = met.send(());
            Verdict::Retry(Duration::from_millis(1))
        }),
        on_written: Box::new(|_, _, _| {}),
    };
    files.fail_after(0, Fault::NoSpace);
    let writer = WalWriter::spawn(wal, hooks).expect("a thread");
    for number in 1..=100 {
        assert!(writer.submit(WalTask { group: group(number, number, 1, 1, 100), tag: () }).is_ok());
    }
    meets.recv().expect("it meets the full disk");
    assert!(writer.close().is_err_and(|error| error.is_no_space()));
    files.heal();
    drop(reopen(&files, 65536).expect("a sound log"));
}
