//! Torn, flipped, missing and short files, and disks that are full or broken.

use super::*;
use crate::env::files_sim::Fault;
use crate::wal::record::{self, Kind, Place, Slot};
use crate::wal::segment::{HEADER_SIZE, Header};

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
