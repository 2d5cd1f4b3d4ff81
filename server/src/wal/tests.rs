//! The log against a plain model, over a disk that crashes, fills up and rots.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;

use super::log::Options;
use super::record::{self, HEAD_SIZE, Kind, Place, Slot};
use super::segment::{BadHeader, FileName, HEADER_SIZE, Header};
use super::*;
use crate::env::files::{Files, RealFiles};
use crate::env::files_sim::{Fault, SimFiles};

const IDENTITY: Identity = Identity { cluster: 0xc1, member: 0xa1 };
const DIR: &str = "/data/wal";

fn dir() -> &'static Path {
    Path::new(DIR)
}

fn options(size: u64, salt: u64) -> Options {
    Options { segment_first: size, segment_most: size * 4, salt }
}

fn create(files: &SimFiles, size: u64) -> Wal {
    Wal::create_with(dir(), IDENTITY, files.shared(), options(size, 7)).expect("a new log")
}

fn reopen(files: &SimFiles, size: u64) -> Result<(Wal, Replay), WalError> {
    Wal::open_with(dir(), IDENTITY, files.shared(), options(size, 8))
}

/// Opens a log that must be refused, and checks that the refusal changed nothing.
fn refused(files: &SimFiles) -> WalError {
    let before = files.contents();
    let Err(error) = reopen(files, 16384) else { panic!("the log was accepted") };
    assert_eq!(before, files.contents(), "a refused log was changed");
    error
}

fn entry(index: u64, term: u64, size: usize) -> LogEntry {
    let data = Bytes::from(vec![(index % 251) as u8; size]);
    LogEntry { index, term, kind: (index % 3) as u8, context: Bytes::from_static(b"c"), data }
}

fn group(number: u64, first: u64, count: u64, term: u64, size: usize) -> Group {
    Group {
        number,
        hard_state: Some(HardState { term, vote: 3, commit: first.saturating_sub(1) }),
        entries: (first..first + count).map(|index| entry(index, term, size)).collect(),
        snapshot: None,
        must_sync: true,
    }
}

fn mark(index: u64, term: u64) -> SnapshotMark {
    SnapshotMark { index, term, conf: Bytes::from(format!("conf {index}")) }
}

fn marking(index: u64, term: u64) -> Group {
    Group { number: 0, snapshot: Some(mark(index, term)), must_sync: true, ..Group::default() }
}

fn segment_path(sequence: u64) -> PathBuf {
    dir().join(FileName::Segment(sequence).to_string())
}

fn segment_count(files: &SimFiles) -> usize {
    let names = files.shared().list(dir()).expect("the directory");
    names.iter().filter(|name| matches!(FileName::parse(name), Some(FileName::Segment(_)))).count()
}

/// The log as a plain vector.
#[derive(Clone, Default, Debug, PartialEq)]
struct Model {
    hard_state: HardState,
    snapshot: Option<SnapshotMark>,
    entries: Vec<LogEntry>,
}

impl Model {
    fn apply(&mut self, group: &Group) {
        if let Some(mark) = &group.snapshot
            && self.snapshot.as_ref().is_none_or(|standing| standing.index <= mark.index)
        {
            let here = self.entries.iter().any(|entry| entry.index == mark.index && entry.term == mark.term)
                || self.snapshot.as_ref().is_some_and(|at| (at.index, at.term) == (mark.index, mark.term));
            self.entries.retain(|entry| here && entry.index > mark.index);
            self.snapshot = Some(mark.clone());
        }
        if let Some(first) = group.entries.first() {
            self.entries.retain(|entry| entry.index < first.index);
            self.entries.extend(group.entries.iter().cloned());
        }
        self.hard_state = group.hard_state.unwrap_or(self.hard_state);
    }

    fn compacted(&self) -> u64 {
        self.snapshot.as_ref().map_or(0, |mark| mark.index)
    }

    fn last(&self) -> u64 {
        self.entries.last().map_or(self.compacted(), |entry| entry.index)
    }

    fn of(replay: &Replay) -> Self {
        Model { hard_state: replay.hard_state, snapshot: replay.snapshot.clone(), entries: replay.entries.clone() }
    }
}

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
fn an_unsynced_group_may_be_torn_and_is_cut() {
    for seed in 0..200 {
        let files = SimFiles::new(seed);
        let mut wal = create(&files, 65536);
        wal.append(&[group(1, 1, 2, 1, 900)]).expect("a synced append");
        wal.write(&[group(2, 3, 4, 1, 900), group(3, 7, 4, 1, 900)]).expect("an unsynced write");
        wal.write(&[group(4, 11, 4, 1, 900)]).expect("an unsynced write");
        files.crash(seed);
        let (mut wal, replay) = reopen(&files, 65536).expect("a torn tail is no corruption");
        assert!([2, 6, 10, 14].contains(&replay.entries.len()), "groups come whole, not {}", replay.entries.len());
        let next = replay.entries.len() as u64 + 1;
        wal.append(&[group(5, next, 1, 2, 900)]).expect("an append after the cut");
        files.crash(seed);
        let (_, again) = reopen(&files, 65536).expect("a sound log");
        assert_eq!(again.torn, None, "the cut tail must not come back");
        assert_eq!(again.entries.len() as u64, next);
    }
}

/// A closed log of two segments; the offsets are those of the last segment's records.
fn two_segments() -> SimFiles {
    let files = SimFiles::new(1);
    let mut wal = create(&files, 16384);
    for number in 1..20 {
        wal.append(&[group(number, number, 1, 1, 700)]).expect("an append");
    }
    wal.close().expect("a close");
    assert_eq!(segment_count(&files), 2);
    files
}

#[test]
fn a_flipped_bit_anywhere_in_the_durable_log_is_refused_by_name_and_offset() {
    let files = two_segments();
    let sealed_end = durable_end(&files, 1);
    let sealed_size = files.contents()[&segment_path(1)].len();
    for (sequence, size) in [(1, sealed_size), (2, durable_end(&files, 2))] {
        for offset in (0..size).step_by(37) {
            files.flip_bit(&segment_path(sequence), offset as u64, (offset % 8) as u8);
            let silent_area = sequence == 1 && offset >= sealed_end;
            if silent_area {
                drop(reopen(&files, 16384).expect("bytes behind a sealed end do not matter"));
            } else {
                match refused(&files) {
                    WalError::Corrupt { file, offset: at, .. } => {
                        assert_eq!(file, segment_path(sequence));
                        assert!(at as usize <= offset, "blamed {at} for a flip at {offset}");
                        assert!(offset - at as usize <= HEADER_SIZE, "blamed {at} for a flip at {offset}");
                    }
                    other => panic!("flip at {offset}: {other}"),
                }
            }
            files.flip_bit(&segment_path(sequence), offset as u64, (offset % 8) as u8);
        }
    }
    reopen(&files, 16384).expect("every flip was undone");
}

/// Where the closing mark, or the sealed end, of a segment of `two_segments` starts.
fn durable_end(files: &SimFiles, sequence: u64) -> usize {
    let image = &files.contents()[&segment_path(sequence)];
    let header = Header::decode(image).expect("a sound header");
    let mut offset = HEADER_SIZE;
    loop {
        let place = Place { salt: header.salt, sequence, offset: offset as u64 };
        match record::read_slot(&image[offset..], place) {
            Slot::Record(head, _) if head.kind != Kind::Mark => offset += head.record_size(),
            _ => return offset,
        }
    }
}

#[test]
fn missing_files_and_short_files_are_corruption() {
    let files = two_segments();
    files.truncate(&segment_path(2), 10_000);
    assert!(matches!(refused(&files), WalError::Corrupt { offset: 10_000, .. }));
    files.truncate(&segment_path(2), 100);
    assert!(matches!(refused(&files), WalError::Corrupt { offset: 0, .. }));

    let files = SimFiles::new(1);
    let mut wal = create(&files, 16384);
    for number in 1..200 {
        wal.append(&[group(number, number, 1, 1, 700)]).expect("an append");
    }
    drop(wal);
    files.shared().remove(&segment_path(2)).expect("a removal");
    let error = refused(&files);
    assert!(matches!(error, WalError::Corrupt { .. }));
    assert!(error.to_string().contains("add it again under a new member id"), "{error}");
}

#[test]
fn a_full_disk_is_told_as_such_and_survived() {
    let files = SimFiles::new(1);
    let mut wal = create(&files, 16384);
    let mut model = Model::default();
    let mut refusals = 0;
    for number in 1..200_u64 {
        let group = group(number, number, 1, 1, 700);
        if number % 3 == 0 {
            files.fail_after(number % 5, Fault::NoSpace);
        }
        match wal.append(std::slice::from_ref(&group)) {
            Ok(_) => {}
            Err(error) => {
                assert!(error.is_no_space() && !error.is_fatal(), "{error}");
                refusals += 1;
                files.heal();
                wal.append(std::slice::from_ref(&group)).expect("an append with space again");
            }
        }
        files.heal();
        model.apply(&group);
    }
    assert!(refusals > 10);
    files.crash(3);
    assert_eq!(Model::of(&reopen(&files, 16384).expect("a sound log").1), model);
}

/// A purge that finds no room for the successor of an oversized segment leaves that one be and gives up the others: it is the purge
/// that makes room.
#[test]
fn a_purge_on_a_full_disk_passes_over_what_needs_space() {
    let files = SimFiles::new(1);
    let mut wal = create(&files, 16384);
    for number in 1..40 {
        wal.append(&[group(number, number, 1, 1, 1000)]).expect("an append");
    }
    wal.append(&[group(40, 40, 1, 1, 1 << 20), marking(40, 1)]).expect("a large append and its mark");
    let before = segment_count(&files);
    files.fail_after(0, Fault::NoSpace);
    assert!(wal.purge(40).expect("a purge") > 0);
    assert!(segment_count(&files) < before);
    files.heal();
    assert_eq!(wal.purge(40).expect("a purge with space"), 1, "the large one goes");
    wal.append(&[group(41, 41, 1, 1, 10)]).expect("an append");
    drop(wal);
    assert_eq!(reopen(&files, 16384).expect("a sound log").1.entries.last().map(|e| e.index), Some(41));
}

#[test]
fn a_broken_disk_poisons_the_log() {
    let files = SimFiles::new(1);
    let mut wal = create(&files, 16384);
    files.fail_after(1, Fault::Broken);
    let error = wal.append(&[group(1, 1, 1, 1, 10)]).expect_err("the sync fails");
    assert!(matches!(error, WalError::Failed { action: "sync", .. }));
    files.heal();
    assert!(matches!(wal.append(&[group(1, 1, 1, 1, 10)]), Err(WalError::Poisoned)));
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

/// One step of a random history; numbers are reduced to what the log allows at that point.
#[derive(Clone, Debug)]
enum Step {
    Append { back: u64, count: u64, size: usize, sync: bool },
    Local { back: u64, sync: bool },
    Install { ahead: u64 },
    State { sync: bool },
    Purge,
    Prepare,
    Crash(u64),
    Reopen,
    Close,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        10 => (0..6_u64, 1..6_u64, 0..1500_usize, any::<bool>())
            .prop_map(|(back, count, size, sync)| Step::Append { back, count, size, sync }),
        2 => (0..5_u64, any::<bool>()).prop_map(|(back, sync)| Step::Local { back, sync }),
        1 => (1..20_u64).prop_map(|ahead| Step::Install { ahead }),
        3 => any::<bool>().prop_map(|sync| Step::State { sync }),
        2 => Just(Step::Purge),
        1 => Just(Step::Prepare),
        2 => any::<u64>().prop_map(Step::Crash),
        1 => Just(Step::Reopen),
        1 => Just(Step::Close),
    ]
}

/// The history of a log beside its model: every state since the last acknowledged sync is a lawful survivor.
struct History {
    files: SimFiles,
    wal: Option<Wal>,
    lawful: VecDeque<Model>,
    term: u64,
    number: u64,
}

impl History {
    const SIZE: u64 = 16384;

    fn new(seed: u64) -> Self {
        let files = SimFiles::new(seed);
        let wal = Some(create(&files, Self::SIZE));
        History { files, wal, lawful: VecDeque::from([Model::default()]), term: 1, number: 0 }
    }

    fn model(&self) -> &Model {
        &self.lawful[self.lawful.len() - 1]
    }

    fn wal(&mut self) -> &mut Wal {
        self.wal.as_mut().expect("an open log")
    }

    fn append(&mut self, mut groups: Vec<Group>) {
        for group in &mut groups {
            self.number += 1;
            group.number = self.number;
            let mut model = self.model().clone();
            model.apply(group);
            self.lawful.push_back(model);
        }
        let appended = self.wal().append(&groups).expect("an append");
        assert_eq!(appended.number, self.number);
        if appended.synced {
            self.settle();
        }
    }

    fn settle(&mut self) {
        let newest = self.model().clone();
        self.lawful = VecDeque::from([newest]);
    }

    fn replayed(&mut self) {
        let (wal, replay) = reopen(&self.files, Self::SIZE).expect("a sound log");
        let survivor = Model::of(&replay);
        let found = self.lawful.iter().any(|model| *model == survivor);
        assert!(found, "{survivor:?} is none of {:?}", self.lawful);
        self.lawful = VecDeque::from([survivor]);
        let first = replay.snapshot.as_ref().map_or(0, |mark| mark.index) + 1;
        if let Some(last) = replay.entries.last() {
            let read = wal.reader().read(first, last.index + 1, u64::MAX).expect("all entries");
            assert_eq!(read, replay.entries);
        }
        self.wal = Some(wal);
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Append { back, count, size, sync } => {
                let (compacted, last) = (self.model().compacted(), self.model().last());
                let first = (last + 1).saturating_sub(back).max(compacted + 1);
                self.term += u64::from(back > 0);
                let mut group = group(0, first, count, self.term, size);
                group.must_sync = sync;
                let mut second = group.clone();
                second.entries.truncate(1);
                self.append(if size % 3 == 0 { vec![group, second] } else { vec![group] });
            }
            Step::Local { back, sync } => {
                let entries = &self.model().entries;
                let position = entries.len().checked_sub(1 + back as usize);
                if let Some(at) = position.map(|position| entries[position].clone()) {
                    self.append(vec![Group { must_sync: sync, ..marking(at.index, at.term) }]);
                }
            }
            Step::Install { ahead } => {
                self.term += 1;
                let index = self.model().last() + ahead;
                self.append(vec![marking(index, self.term)]);
            }
            Step::State { sync } => {
                let commit = self.model().last();
                let hard_state = Some(HardState { term: self.term, vote: self.number, commit });
                self.append(vec![Group { hard_state, must_sync: sync, ..Group::default() }]);
            }
            Step::Purge => {
                if self.wal().purge(u64::MAX).expect("a purge") > 0 {
                    self.settle();
                }
            }
            Step::Prepare => self.wal().prepare().expect("a step"),
            Step::Crash(seed) => {
                self.files.crash(seed);
                self.wal = None;
                self.replayed();
            }
            Step::Reopen => {
                self.wal = None;
                self.settle();
                self.replayed();
            }
            Step::Close => {
                self.wal.take().expect("an open log").close().expect("a close");
                self.settle();
                self.files.crash(1);
                self.replayed();
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever the history and the crashes, the log holds a lawful prefix with all that was acknowledged.
    #[test]
    fn random_histories_survive_crashes(seed in any::<u64>(), steps in prop::collection::vec(step(), 1..80)) {
        let mut history = History::new(seed);
        for step in &steps {
            history.step(step);
        }
        history.step(&Step::Crash(seed));
    }

    /// A full disk or a crash in the middle of any call leaves a log that opens with all that was acknowledged.
    #[test]
    fn crashes_inside_calls_are_survived(seed in any::<u64>(), after in 0..120_u64, size in 200..3000_usize) {
        let files = SimFiles::new(seed);
        let mut acknowledged = 0;
        files.fail_after(after + 20, Fault::Broken);
        let mut wal = create(&files, 16384);
        for index in 1..200_u64 {
            let mut batch = vec![group(index, index, 1, 1, size)];
            if index % 8 == 0 {
                batch.push(marking(index - 3, 1));
            }
            if wal.append(&batch).is_err() {
                break;
            }
            acknowledged = index;
            if index % 8 == 0 && wal.purge(index).is_err() {
                break;
            }
            if wal.wants_spare() && wal.prepare().is_err() {
                break;
            }
        }
        files.crash(seed);
        let (_, replay) = reopen(&files, 16384).expect("a sound log");
        let last = replay.entries.last().map_or(0, |entry| entry.index);
        prop_assert!(last == acknowledged || last == acknowledged + 1, "{last} after {acknowledged}");
        let first = replay.snapshot.as_ref().map_or(0, |mark| mark.index) + 1;
        let indexes: Vec<u64> = replay.entries.iter().map(|entry| entry.index).collect();
        prop_assert_eq!(indexes, (first..=last).collect::<Vec<_>>());
    }

    /// Rot anywhere is refused or costs only what no sync had covered; nothing is ever invented.
    #[test]
    fn rot_never_invents_entries(place in any::<prop::sample::Index>(), bit in 0..8_u8, unsynced in 0..3_u64) {
        let files = SimFiles::new(5);
        let mut wal = create(&files, 16384);
        let mut model = Model::default();
        for number in 1..9 + unsynced {
            let mut group = group(number, number, 1, 1, 300);
            group.must_sync = number < 9;
            model.apply(&group);
            wal.append(&[group]).expect("an append");
        }
        drop(wal);
        let size = files.contents()[&segment_path(1)].len();
        files.flip_bit(&segment_path(1), place.index(size) as u64, bit);
        match reopen(&files, 16384) {
            Ok((_, replay)) => {
                prop_assert!(model.entries.starts_with(&replay.entries));
                let floor = if unsynced == 0 { 7 } else { 8 };
                prop_assert!(replay.entries.len() >= floor, "only {} entries", replay.entries.len());
            }
            Err(error) => prop_assert!(matches!(error, WalError::Corrupt { .. }), "{}", error),
        }
    }
}

#[test]
fn a_crash_at_any_step_of_recycling_leaves_a_sound_log() {
    for (step, seed) in (0..14).flat_map(|step| (0..24).map(move |seed| (step, seed))) {
        let files = SimFiles::new(seed);
        let fixed = Options { segment_first: 16384, segment_most: 16384, salt: 7 };
        let mut wal = Wal::create_with(dir(), IDENTITY, files.shared(), fixed).expect("a new log");
        for number in 1..=30 {
            wal.append(&[group(number, number, 1, 1, 1500)]).expect("an append");
        }
        wal.append(&[marking(30, 1)]).expect("a mark");
        files.fail_after(step, Fault::Broken);
        let mut acknowledged = 30;
        if wal.purge(30).is_ok() {
            for number in 31..60 {
                if wal.append(&[group(number, number, 1, 1, 5000)]).is_err() {
                    break;
                }
                acknowledged = number;
            }
        }
        files.crash(seed);
        let (_, replay) = reopen(&files, 16384).unwrap_or_else(|error| panic!("step {step} seed {seed}: {error}"));
        let last = replay.entries.last().map_or(30, |entry| entry.index);
        assert!(last == acknowledged || last == acknowledged + 1, "{last} after {acknowledged}");
    }
}

#[test]
fn a_crash_at_any_step_of_creating_leaves_a_log_or_none() {
    for (step, seed) in (0..10).flat_map(|step| (0..16).map(move |seed| (step, seed))) {
        let files = SimFiles::new(seed);
        files.fail_after(step, Fault::Broken);
        let made = Wal::create_with(dir(), IDENTITY, files.shared(), options(16384, 7)).is_ok();
        files.crash(seed);
        let found = Wal::exists(dir(), &files.shared()).expect("a directory");
        assert!(found || !made, "a log that was made is gone");
        let mut wal = if found { reopen(&files, 16384).expect("a sound log").0 } else { create(&files, 16384) };
        wal.append(&[group(1, 1, 1, 1, 10)]).expect("an append");
    }
}

#[test]
fn a_crash_at_any_step_of_cutting_a_torn_tail_is_survived() {
    for (step, seed) in (0..6).flat_map(|step| (0..40).map(move |seed| (step, seed))) {
        let files = SimFiles::new(seed);
        let mut wal = create(&files, 65536);
        wal.append(&[group(1, 1, 2, 1, 900)]).expect("a synced append");
        wal.write(&[group(2, 3, 4, 1, 900), group(3, 7, 4, 1, 900)]).expect("an unsynced write");
        files.crash(seed);
        files.fail_after(step, Fault::Broken);
        let floor = match reopen(&files, 65536) {
            Ok((_, replay)) => replay.entries.len(),
            Err(_) => 2,
        };
        files.crash(seed + 1);
        let (_, replay) = reopen(&files, 65536).expect("a sound log");
        assert!(replay.entries.len() >= floor && [2, 6, 10].contains(&replay.entries.len()));
    }
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
