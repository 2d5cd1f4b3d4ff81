//! The log against a plain model: random histories, and a crash at each step.

use super::*;
use crate::env::files_sim::Fault;
use proptest::prelude::*;
use std::collections::VecDeque;

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
