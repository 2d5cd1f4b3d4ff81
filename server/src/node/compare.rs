//! Compare: which member's state differs from the majority's. Pure.
//!
//! In: what the members say of their state, and who votes. Out: a judgement for each place that several of them told of. A value that
//! a majority of the voters has is right, and whoever told another one is wrong, voter or not. As long as a member that was not heard
//! could still make a majority, nobody is judged; when none can be, there is no telling who is wrong.

use super::standing::{HistoryHash, LEVELS, Standing, level};
use crate::state::{Fence, Fences, fences};
use crate::types::MemberId;
use std::collections::{BTreeMap, BTreeSet};

/// Places of each kind that are kept, the newest.
const PLACES: usize = 64;

/// What a comparison came to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Judgement {
    /// Those whose state differs from the majority's, each with what showed it.
    pub wrong: BTreeMap<MemberId, Evidence>,
    /// Members differ and no majority can come to be.
    pub unclear: Option<Evidence>,
    /// Members differ, and who is wrong waits for a member that was not heard.
    pub open: Option<Evidence>,
}

/// Where members differ.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Evidence {
    /// The digest after this entry.
    Digest(u64),
    /// The hash of the history at this revision, and above this compaction.
    History(i64, i64),
}

impl std::fmt::Display for Evidence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Evidence::Digest(index) => write!(f, "digest after entry {index}"),
            Evidence::History(revision, compacted) => write!(f, "hash of revisions {compacted} to {revision}"),
        }
    }
}

type Told<V> = BTreeMap<MemberId, V>;

/// What the members told, by place.
#[derive(Default)]
pub(super) struct Comparison {
    /// By level, coarser ones last, and entry.
    marks: [BTreeMap<u64, Told<u128>>; LEVELS.len()],
    newest: Told<(u64, u128)>,
    /// By revision and compaction, and the entry that asked.
    hashes: BTreeMap<(i64, i64, u64), Told<u32>>,
    rebuilt: Told<u64>,
    /// Members without a digest that compares, and the entry they stood at.
    without: Told<u64>,
}

fn keep_newest<K: Ord, V>(places: &mut BTreeMap<K, V>) {
    while places.len() > PLACES {
        places.pop_first();
    }
}

impl Comparison {
    /// Forgets everything: this member leads no more.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// Forgets what a member said: its state was replaced, or is to be.
    pub fn forget(&mut self, member: MemberId) {
        self.marks.iter_mut().flat_map(BTreeMap::values_mut).for_each(|told| {
            told.remove(&member);
        });
        self.hashes.values_mut().for_each(|told| {
            told.remove(&member);
        });
        self.newest.remove(&member);
        self.without.remove(&member);
    }

    /// Whether a member that has applied the entry at `begun` has no digest that compares.
    pub fn lacks_digest(&self, begun: u64) -> bool {
        self.without.values().any(|index| *index >= begun)
    }

    /// Forgets those who are no members any more.
    pub fn retain(&mut self, members: &[MemberId]) {
        let gone: Vec<MemberId> = self.rebuilt.keys().filter(|m| !members.contains(m)).copied().collect();
        for member in gone {
            self.forget(member);
            self.rebuilt.remove(&member);
        }
    }

    /// Takes in what a member says. What a rebuilt member, or one whose fence was lifted, says of before counts no more.
    pub fn take(&mut self, member: MemberId, standing: &Standing, fence: Option<Fence>) {
        let old = fence.map_or(0, |f| f.index);
        if standing.newest.0 <= old {
            return;
        }
        if self.rebuilt.insert(member, standing.rebuilt).is_some_and(|before| before != standing.rebuilt) {
            self.forget(member);
        }
        if standing.newest.1 == 0 {
            self.newest.remove(&member);
            self.without.insert(member, standing.newest.0);
        } else {
            self.newest.insert(member, standing.newest);
            self.without.remove(&member);
        }
        for (index, digest) in standing.marks.iter().filter(|m| m.0 > old) {
            if let Some(level) = level(*index) {
                self.marks[level].entry(*index).or_default().insert(member, *digest);
            }
        }
        for HistoryHash { index, revision, compacted, hash } in standing.hashes.iter().filter(|h| h.index > old || h.index == 0) {
            self.hashes.entry((*revision, *compacted, *index)).or_default().insert(member, *hash);
        }
        self.marks.iter_mut().for_each(keep_newest);
        keep_newest(&mut self.hashes);
    }

    /// Judges every place. `compactions` says whether hashes that compactions left behind count.
    pub fn judge(&self, voters: &[MemberId], fences: &Fences, compactions: bool) -> Judgement {
        let mut out = Judgement::default();
        let mut at_newest: BTreeMap<u64, Told<u128>> = BTreeMap::new();
        for (member, (index, digest)) in &self.newest {
            at_newest.entry(*index).or_default().insert(*member, *digest);
        }
        let judge = |told, evidence, out: &mut Judgement| weigh(told, voters, fences, evidence, out);
        for (index, told) in self.marks.iter().flatten().chain(&at_newest) {
            judge(told, Evidence::Digest(*index), &mut out);
        }
        for ((revision, compacted, index), told) in &self.hashes {
            if *index > 0 || compactions {
                weigh(told, voters, fences, Evidence::History(*revision, *compacted), &mut out);
            }
        }
        out
    }

    /// How a fenced member stands with those that are not.
    pub fn recovery(&self, member: MemberId, since: u64, voters: &[MemberId], fences: &Fences) -> Recovery {
        if self.rebuilt.get(&member).is_none_or(|rebuilt| *rebuilt < since) {
            return Recovery::Damaged;
        }
        let alike = |told: &Told<u128>| told.contains_key(&member) && agrees(told, member, voters, fences) == Some(true);
        let newest = self.newest.get(&member).is_some_and(|(index, digest)| {
            let told: Told<u128> = self.newest.iter().filter(|(_, n)| n.0 == *index).map(|(m, n)| (*m, n.1)).collect();
            told.get(&member) == Some(digest) && alike(&told)
        });
        let hashed = |wanted: bool| {
            let mut asked = self.hashes.iter().filter(|((.., index), _)| *index > since);
            asked.any(|(_, told)| told.contains_key(&member) && agrees(told, member, voters, fences) == Some(wanted))
        };
        if hashed(false) {
            return Recovery::Differs;
        }
        let same = newest || self.marks.iter().flat_map(BTreeMap::values).any(alike);
        match (same, hashed(true)) {
            (true, true) => Recovery::Sound,
            (true, false) => Recovery::Unhashed,
            (false, _) => Recovery::Unheard,
        }
    }
}

/// A fenced member on its way back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Recovery {
    /// Its rows are still those that differed.
    Damaged,
    /// It has other rows, and has not been compared.
    Unheard,
    /// Its digest is the majority's, its rows have not been hashed.
    Unhashed,
    /// Its new rows differ too.
    Differs,
    /// It is as the majority is.
    Sound,
}

fn quorum(voters: &[MemberId]) -> usize {
    voters.len() / 2 + 1
}

/// Whether a member's word counts: it is not set aside.
fn is_sound(fences: &Fences, member: &MemberId) -> bool {
    fences::up(fences, *member).is_none()
}

/// Votes for each value, of those whose word counts.
fn votes<V: Ord + Copy>(told: &Told<V>, voters: &[MemberId], fences: &Fences) -> BTreeMap<V, usize> {
    let mut votes = BTreeMap::new();
    for (member, value) in told {
        if voters.contains(member) && is_sound(fences, member) {
            *votes.entry(*value).or_default() += 1;
        }
    }
    votes
}

/// Whether a fenced member has the value that all others have who told one, a majority of those that may: `None` when too few did.
fn agrees<V: Ord + Copy>(told: &Told<V>, member: MemberId, voters: &[MemberId], fences: &Fences) -> Option<bool> {
    let votes = votes(told, voters, fences);
    let (value, count) = votes.iter().max_by_key(|(_, count)| **count)?;
    let sound = voters.iter().filter(|v| is_sound(fences, v)).count();
    // The fenced one's own vote is what is to be found out: the others of a majority must be there.
    (*count * 2 > sound || *count >= quorum(voters)).then(|| told.get(&member) == Some(value))
}

fn weigh<V: Ord + Copy>(told: &Told<V>, voters: &[MemberId], fences: &Fences, at: Evidence, out: &mut Judgement) {
    let mut values = told.values();
    let first = values.next();
    if values.all(|v| Some(v) == first) {
        return;
    }
    let votes = votes(told, voters, fences);
    let most = votes.values().max().copied().unwrap_or(0);
    if most >= quorum(voters) {
        let right = votes.iter().find(|(_, count)| **count == most).map(|(value, _)| *value);
        for (member, value) in told {
            if Some(*value) != right && is_sound(fences, member) {
                out.wrong.entry(*member).or_insert(at);
            }
        }
        return;
    }
    if votes.len() < 2 {
        return;
    }
    let heard: BTreeSet<&MemberId> = told.keys().collect();
    let silent = voters.iter().filter(|v| !heard.contains(v) && is_sound(fences, v)).count();
    let slot = if most + silent >= quorum(voters) { &mut out.open } else { &mut out.unclear };
    slot.get_or_insert(at);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(index: u64, digest: u128) -> Standing {
        Standing { newest: (index, digest), ..Default::default() }
    }

    fn told(list: &[(MemberId, Standing)]) -> Comparison {
        let mut comparison = Comparison::default();
        list.iter().for_each(|(member, standing)| comparison.take(*member, standing, None));
        comparison
    }

    fn judge(comparison: &Comparison, voters: &[MemberId]) -> Judgement {
        comparison.judge(voters, &Fences::new(), true)
    }

    /// A majority says who is wrong, learners included; members at different entries are not compared; one of two that differ is
    /// not named while a third may speak, and never when none can.
    #[test]
    fn a_majority_decides() {
        let both = told(&[(1, at(9, 5)), (2, at(9, 5)), (3, at(9, 6))]);
        assert_eq!(judge(&both, &[1, 2, 3]).wrong, BTreeMap::from([(3, Evidence::Digest(9))]));
        let apart = told(&[(1, at(9, 5)), (2, at(10, 7)), (3, at(11, 6))]);
        assert_eq!(judge(&apart, &[1, 2, 3]), Judgement::default());
        let learner = told(&[(1, at(9, 5)), (2, at(9, 5)), (8, at(9, 6))]);
        assert_eq!(judge(&learner, &[1, 2]).wrong, BTreeMap::from([(8, Evidence::Digest(9))]));
        let two = told(&[(1, at(9, 5)), (2, at(9, 6))]);
        assert_eq!(judge(&two, &[1, 2, 3]), Judgement { open: Some(Evidence::Digest(9)), ..Default::default() });
        assert_eq!(judge(&two, &[1, 2]), Judgement { unclear: Some(Evidence::Digest(9)), ..Default::default() });
        let three = told(&[(1, at(9, 5)), (2, at(9, 6)), (3, at(9, 7))]);
        assert!(judge(&three, &[1, 2, 3]).unclear.is_some());
    }

    /// Members that are never at the same entry at the same time still have marks in common.
    #[test]
    fn marks_compare_members_that_are_apart() {
        let with = |index, marks: &[(u64, u128)]| Standing { newest: (index, 0), marks: marks.to_vec(), ..Default::default() };
        let seen = told(&[
            (1, with(900, &[(256, 1), (512, 2)])),
            (2, with(700, &[(256, 1), (512, 2)])),
            (3, with(600, &[(256, 1), (512, 9)])),
        ]);
        assert_eq!(judge(&seen, &[1, 2, 3]).wrong, BTreeMap::from([(3, Evidence::Digest(512))]));
    }

    /// A hash counts against one over the same revisions alone, and one that a compaction left behind only when that is asked for.
    #[test]
    fn hashes_compare_like_with_like() {
        let with = |index, compacted, hash| Standing {
            newest: (50, 1),
            hashes: vec![HistoryHash { index, revision: 20, compacted, hash }],
            ..Default::default()
        };
        let seen = told(&[(1, with(40, 3, 7)), (2, with(40, 3, 7)), (3, with(40, 3, 8))]);
        assert_eq!(judge(&seen, &[1, 2, 3]).wrong, BTreeMap::from([(3, Evidence::History(20, 3))]));
        let apart = told(&[(1, with(40, 3, 7)), (2, with(40, 3, 7)), (3, with(40, 4, 8))]);
        assert_eq!(judge(&apart, &[1, 2, 3]), Judgement::default());
        let left = told(&[(1, with(0, 3, 7)), (2, with(0, 3, 7)), (3, with(0, 3, 8))]);
        assert!(left.judge(&[1, 2, 3], &Fences::new(), false).wrong.is_empty());
        assert_eq!(judge(&left, &[1, 2, 3]).wrong.len(), 1);
    }

    /// A fenced member is accused no more, has no vote, and is sound only after it was rebuilt and compared again, by digest and hash.
    #[test]
    fn a_fenced_member_comes_back() {
        let fences = Fences::from([(3, Fence { index: 20, lifted: false })]);
        let mut seen = told(&[(1, at(30, 5)), (2, at(30, 5)), (3, at(30, 6))]);
        assert_eq!(seen.judge(&[1, 2, 3], &fences, true), Judgement::default());
        let recovery = |seen: &Comparison| seen.recovery(3, 20, &[1, 2, 3], &fences);
        assert_eq!(recovery(&seen), Recovery::Damaged);
        let hash = |hash| vec![HistoryHash { index: 31, revision: 9, compacted: 1, hash }];
        seen.take(3, &Standing { rebuilt: 25, ..at(31, 5) }, fences.get(&3).copied());
        assert_eq!(recovery(&seen), Recovery::Unheard, "nobody else stands there");
        seen.take(1, &at(31, 5), None);
        seen.take(2, &at(31, 5), None);
        assert_eq!(recovery(&seen), Recovery::Unhashed);
        for member in [1, 2] {
            seen.take(member, &Standing { hashes: hash(7), ..at(32, 5) }, None);
        }
        seen.take(3, &Standing { rebuilt: 25, hashes: hash(8), ..at(32, 5) }, fences.get(&3).copied());
        assert_eq!(recovery(&seen), Recovery::Differs);
        seen.take(3, &Standing { rebuilt: 25, hashes: hash(7), ..at(32, 5) }, fences.get(&3).copied());
        assert_eq!(recovery(&seen), Recovery::Sound);
    }

    /// A member without a digest, as after an upgrade, is not compared by it, and is known to need one.
    #[test]
    fn no_digest_is_no_difference() {
        let mut seen = told(&[(1, at(9, 5)), (2, at(9, 5)), (3, at(9, 0))]);
        assert_eq!(judge(&seen, &[1, 2, 3]), Judgement::default());
        assert!(seen.lacks_digest(9) && !seen.lacks_digest(10), "it has not come to where one began");
        seen.take(3, &at(10, 7), None);
        assert!(!seen.lacks_digest(0));
    }

    /// What a member said before its fence was lifted may come late, and is not held against it.
    #[test]
    fn old_words_do_not_count() {
        let mut seen = told(&[(1, at(9, 5)), (2, at(9, 5))]);
        seen.take(3, &at(9, 6), Some(Fence { index: 12, lifted: true }));
        assert_eq!(judge(&seen, &[1, 2, 3]), Judgement::default());
    }
}
