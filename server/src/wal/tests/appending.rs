//! What is appended, installed, purged and recycled, and the bytes it becomes.

use super::*;
use crate::env::files::{Files, RealFiles};
use crate::wal::record::{self, HEAD_SIZE, Kind, Place, Slot};
use crate::wal::segment::{BadHeader, Header};
use std::sync::Arc;
use std::time::Duration;

#[test]
fn a_reopened_log_gives_back_what_was_appended() {
    let files = SimFiles::new(1);
    let mut wal = create(&files, 16384);
    let mut model = Model::default();
    for number in 1..40 {
        let group = group(number, number * 3 - 2, 3, number / 10 + 1, 300);
        model.apply(&group);
        let appended = wal.append(std::slice::from_ref(&group)).expect("an append");
        assert_eq!((appended.number, appended.synced), (number, true));
    }
    wal.close().expect("a close");
    assert!(segment_count(&files) > 1, "the test must cross segments");
    let (wal, replay) = reopen(&files, 16384).expect("a sound log");
    assert_eq!(Model::of(&replay), model);
    assert_eq!(replay.torn, None);
    let read = wal.reader().read(1, 118, u64::MAX).expect("all entries");
    assert_eq!(read, model.entries);
}

#[test]
fn a_group_larger_than_a_segment_gets_its_own() {
    let files = SimFiles::new(1);
    let mut wal = create(&files, 16384);
    let large = group(1, 1, 2, 1, 100_000);
    wal.append(std::slice::from_ref(&large)).expect("a large append");
    wal.append(&[group(2, 3, 1, 1, 10)]).expect("a small append");
    drop(wal);
    let (_, replay) = reopen(&files, 16384).expect("a sound log");
    assert_eq!(replay.entries[..2], large.entries);
    assert_eq!(replay.entries.len(), 3);
}

#[test]
fn groups_that_do_not_continue_the_log_are_refused_before_writing() {
    let files = SimFiles::new(1);
    let mut wal = create(&files, 16384);
    wal.append(&[marking(10, 1)]).expect("a mark");
    let before = files.contents();
    for bad in [group(1, 12, 1, 1, 1), group(1, 10, 1, 1, 1)] {
        assert!(matches!(wal.append(&[bad]), Err(WalError::Misuse { .. })));
    }
    let mut holed = group(1, 11, 2, 1, 1);
    holed.entries[1].index = 13;
    assert!(matches!(wal.append(&[holed]), Err(WalError::Misuse { .. })));
    assert_eq!(before, files.contents());
    wal.append(&[group(1, 11, 1, 1, 1)]).expect("the next entry");
}

#[test]
fn an_installed_snapshot_empties_the_log_and_a_local_one_does_not() {
    let files = SimFiles::new(1);
    let mut wal = create(&files, 16384);
    wal.append(&[group(1, 1, 10, 1, 10), marking(5, 1)]).expect("a local mark");
    drop(wal);
    let (mut wal, replay) = reopen(&files, 16384).expect("a sound log");
    assert_eq!(replay.entries.first().map(|entry| entry.index), Some(6));
    wal.append(&[marking(8, 2)]).expect("a mark whose term the log does not hold");
    drop(wal);
    let (mut wal, replay) = reopen(&files, 16384).expect("a sound log");
    assert_eq!(replay.entries, []);
    wal.append(&[group(2, 9, 1, 2, 10), marking(4, 1)]).expect("an older mark is ignored");
    drop(wal);
    let (_, replay) = reopen(&files, 16384).expect("a sound log");
    assert_eq!((replay.snapshot, replay.entries.len()), (Some(mark(8, 2)), 1));
}

#[test]
fn a_second_opener_is_refused_until_the_first_lets_go() {
    let files = SimFiles::new(1);
    let wal = create(&files, 16384);
    assert!(matches!(refused(&files), WalError::Locked { .. }));
    drop(wal);
    reopen(&files, 16384).expect("the lock was let go");
    let Err(error) = Wal::create(dir(), IDENTITY, files.shared()) else { panic!("a log was made over another") };
    assert!(matches!(error, WalError::Exists { .. }));
}

#[test]
fn another_member_or_cluster_is_refused() {
    let files = SimFiles::new(1);
    drop(create(&files, 16384));
    for wanted in [Identity { member: 2, ..IDENTITY }, Identity { cluster: 2, ..IDENTITY }] {
        let Err(error) = Wal::open(dir(), wanted, files.shared()) else { panic!("a foreign log was accepted") };
        assert!(matches!(error, WalError::Foreign { found: IDENTITY, .. }), "{error}");
    }
    let empty = Wal::open(Path::new("/data/none"), IDENTITY, files.shared());
    assert!(matches!(empty, Err(WalError::Missing { .. })));
}

#[test]
fn purging_keeps_hard_state_and_mark_and_recycled_files_stay_silent() {
    let files = SimFiles::new(1);
    let mut wal = create(&files, 16384);
    let mut model = Model::default();
    for number in 1..400_u64 {
        let mut batch = vec![group(number, number, 1, 1, 700)];
        if number % 16 == 0 {
            batch.push(marking(number - 4, 1));
        }
        batch.iter().for_each(|group| model.apply(group));
        wal.append(&batch).expect("an append");
        if number % 16 == 0 {
            wal.purge(u64::MAX).expect("a purge");
        }
        if number % 50 == 0 {
            drop(wal);
            let (again, replay) = reopen(&files, 16384).expect("a sound log");
            assert_eq!(Model::of(&replay), model, "after {number}");
            assert_eq!(replay.torn, None);
            wal = again;
        }
    }
    assert!(segment_count(&files) <= 3, "purged segments must go");
    let (first, next) = wal.reader().bounds();
    assert!(first > 300 && next == 400);
    assert!(matches!(wal.reader().read(1, 2, 1), Err(ReadError::Purged { .. })));
    assert!(matches!(wal.reader().read(399, 401, 1 << 20), Err(ReadError::Unavailable { index: 400 })));
}

#[test]
fn purging_stops_at_the_snapshot_mark() {
    let files = SimFiles::new(1);
    let mut wal = create(&files, 16384);
    for number in 1..100 {
        wal.append(&[group(number, number, 1, 1, 700)]).expect("an append");
    }
    assert_eq!(wal.purge(u64::MAX).expect("a purge"), 0);
    drop(wal);
    assert_eq!(reopen(&files, 16384).expect("a sound log").1.entries.len(), 99);
}

#[test]
fn spares_are_prepared_and_used_and_an_idle_log_stays_small() {
    let files = SimFiles::new(1);
    let mut wal = create(&files, 16384);
    let mut number = 0;
    for step in 0..600_u64 {
        number += 1;
        wal.clock(Duration::from_millis(step));
        wal.append(&[group(number, number, 1, 1, 700)]).expect("an append");
        while wal.wants_spare() {
            wal.prepare().expect("a step");
        }
    }
    assert!(wal.disk_size() >= 65536 * 2, "segments grow under load");
    for minute in 1..20 {
        number += 1;
        wal.clock(Duration::from_secs(minute * 60));
        wal.append(&[group(number, number, 1, 1, 10), marking(number, 1)]).expect("an append");
        wal.purge(u64::MAX).expect("a purge");
    }
    assert!(wal.disk_size() <= 16384 * 4, "{} bytes for an idle log", wal.disk_size());
    let on_disk: usize = files.contents().values().map(Vec::len).sum();
    assert!(on_disk <= 16384 * 4, "{on_disk} bytes on disk for an idle log");
}

#[test]
fn the_format_of_a_record_and_a_header_is_fixed() {
    let place = Place { salt: 1, sequence: 2, offset: 4096 };
    let state = HardState { term: 5, vote: 6, commit: 7 };
    let marked = SnapshotMark { index: 8, term: 4, conf: Bytes::from_static(b"cf") };
    let entries = [LogEntry { index: 9, term: 5, kind: 1, context: Bytes::from_static(b"x"), data: Bytes::from_static(b"yz") }];
    let mut bytes = Vec::new();
    record::encode(&mut bytes, Kind::Group, place, 4096, Some(state), Some((&marked, true)), &entries);
    assert_eq!(bytes, GOLDEN_RECORD);
    let Slot::Record(head, body) = record::read_slot(&bytes, place) else { panic!("not a record") };
    let body = record::decode_body(head.kind, record::own(body)).expect("a body");
    assert_eq!((body.hard_state, body.snapshot), (Some(state), Some((marked, true))));
    assert_eq!(body.entries, entries);
    for other in [Place { salt: 9, ..place }, Place { sequence: 9, ..place }, Place { offset: 4104, ..place }] {
        assert!(matches!(record::read_slot(&bytes, other), Slot::Bad(_)), "a record passed in a foreign place");
    }

    let header =
        Header { identity: IDENTITY, sequence: 2, first_index: 3, salt: 4, size: 5, previous_end: 6, previous_checksum: 7 };
    let mut block = header.encode();
    assert_eq!(Header::decode(&block), Ok(header));
    assert_eq!(crc32c::crc32c(&block), GOLDEN_HEADER);
    block[4000] ^= 1;
    assert!(matches!(Header::decode(&block), Err(BadHeader::Corrupt(_))));
}

/// One record of format version 1, eight bytes a line as FORMAT.md draws it.
#[rustfmt::skip]
const GOLDEN_RECORD: [u8; 112] = [
    0x52, 0, 0, 0, 0x31, 0xae, 0xef, 0x18, // body size, checksum
    1, 0, 0, 0, 0xef, 0x89, 0x08, 0xb9,    // kind, reserved, head checksum
    0x00, 0x10, 0, 0, 0, 0, 0, 0,          // durable
    7, 0, 0, 0, 1, 0, 0, 0,                // flags, entry count
    5, 0, 0, 0, 0, 0, 0, 0,                // term
    6, 0, 0, 0, 0, 0, 0, 0,                // vote
    7, 0, 0, 0, 0, 0, 0, 0,                // commit
    8, 0, 0, 0, 0, 0, 0, 0,                // snapshot index
    4, 0, 0, 0, 0, 0, 0, 0,                // snapshot term
    2, 0, 0, 0, b'c', b'f',                // membership size, membership
    9, 0, 0, 0, 0, 0, 0, 0,                // first entry index
    5, 0, 0, 0, 0, 0, 0, 0,                // entry term
    1, 1, 0, 0, 0, 2, 0, 0, 0,             // entry kind, context size, data size
    b'x', b'y', b'z',                      // context, data
    0, 0, 0, 0, 0, 0,                      // padding
];

/// Checksum of the header above.
const GOLDEN_HEADER: u32 = 1_799_034_351;

#[test]
fn the_real_files_hold_a_log_too() {
    let temp = tempfile::tempdir().expect("a directory");
    let path = temp.path().join("member/wal");
    let files: Arc<dyn Files> = RealFiles::shared();
    let mut wal = Wal::create_with(&path, IDENTITY, Arc::clone(&files), options(65536, 7)).expect("a new log");
    assert!(matches!(Wal::open(&path, IDENTITY, Arc::clone(&files)), Err(WalError::Locked { .. })));
    for number in 1..200 {
        wal.append(&[group(number, number, 1, 1, 900)]).expect("an append");
        while wal.wants_spare() {
            wal.prepare().expect("a step");
        }
    }
    wal.append(&[marking(150, 1)]).expect("a mark");
    assert!(wal.purge(150).expect("a purge") > 0);
    let read = wal.reader().read(190, 200, 3000).expect("entries");
    assert_eq!(read.len(), 3, "the byte limit cuts the answer short");
    wal.close().expect("a close");
    let (_, replay) = Wal::open(&path, IDENTITY, files).expect("a sound log");
    assert_eq!(replay.entries.len(), 49);
    assert_eq!(replay.torn, None);
}

#[test]
fn readers_see_whole_entries_while_the_log_is_written_and_purged() {
    let files = SimFiles::new(1);
    let mut wal = create(&files, 16384);
    let reader = wal.reader();
    let (stop, stopped) = crossbeam_channel::bounded::<()>(0);
    let thread = std::thread::spawn(move || {
        let mut read = 0;
        while stopped.try_recv() == Err(crossbeam_channel::TryRecvError::Empty) {
            let (first, next) = reader.bounds();
            let lo = first + (next - first) / 3;
            match reader.read(lo, next, 20_000) {
                Ok(entries) => {
                    for (index, found) in (lo..).zip(&entries) {
                        assert_eq!(*found, entry(index, 1, 400));
                    }
                    read += entries.len();
                }
                // Purged between the two calls.
                Err(ReadError::Purged { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
        read
    });
    for number in 1..3000 {
        wal.append(&[group(number, number, 1, 1, 400)]).expect("an append");
        if number % 50 == 0 {
            wal.append(&[marking(number - 20, 1)]).expect("a mark");
            wal.purge(number).expect("a purge");
        }
    }
    drop(stop);
    thread.join().expect("the reader met nothing but whole entries");
}

#[test]
fn a_record_head_alone_tells_nothing_of_another_place() {
    let place = Place { salt: 1, sequence: 1, offset: 4096 };
    let mut bytes = Vec::new();
    record::encode(&mut bytes, Kind::Mark, place, 4096, None, None, &[]);
    assert_eq!(bytes.len(), HEAD_SIZE);
    assert!(record::read_head(&bytes, place).is_some());
    assert!(record::read_head(&bytes, Place { salt: 2, ..place }).is_none());
}
