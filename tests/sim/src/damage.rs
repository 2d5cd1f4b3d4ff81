//! Damage that no checksum sees: a bit that flips in a row, or in the digest of what was applied.
//!
//! Rows of quiet keys are hit, which clients write and do not read, so that nothing that a client sees depends on how soon the damage
//! is found: found it must be, and the member set aside, rebuilt and taken back before the world ends. One member at a time: of two
//! damaged ones in three there would be no telling.

use crate::Time;
use crate::world::{SECOND, World};
use bytes::Bytes;
use prost::Message;
use quorate::base::Family;
use quorate_proto::mvccpb::KeyValue;

/// What quiet keys begin with; every range that clients ask for begins after it.
pub const QUIET: char = '0';

/// Time in which a damaged row is compared and told of. Before it is over the damage may be known by nothing but a hash under way,
/// even when the row itself was compacted.
pub const FOUND: Time = 20 * SECOND;

impl World {
    /// Whether the rows that were damaged last are still there, or the digest that was.
    pub fn is_damaged(&self, at: usize) -> bool {
        self.members[at].digest_flipped || self.has_damaged_row(at)
    }

    /// Whether a row is damaged and the time is not over in which that is found: one that only older revisions show may be in no hash
    /// but the next compaction's.
    pub fn may_be_unfound(&self, at: usize) -> bool {
        self.has_damaged_row(at) && self.damaged_at.is_some_and(|damaged| self.now < damaged + FOUND)
    }

    fn has_damaged_row(&self, at: usize) -> bool {
        let member = &self.members[at];
        let rows = member.disk.folders.current();
        member.damaged.as_ref().is_some_and(|(key, value)| rows.row(Family::Log, key).as_ref() == Some(value))
    }

    /// A damaged member that leads would send its damage to one that needs a snapshot: another is to lead, as if by an operator's hand,
    /// so that the damage is found before it is the majority's.
    pub fn lead_elsewhere(&mut self, from: usize, needs: usize) {
        let other = self.current().into_iter().find(|at| *at != from && *at != needs && self.members[*at].running.is_some());
        if let (Some(other), Some(running)) = (other, &self.members[from].running) {
            let _ = running.node.transfer(self.members[other].id);
        }
    }

    /// All members run, stand at the same entry with the same digest, have no other hash of the last compaction than each other, and
    /// none is damaged or set aside. A hash may tell of a damaged row that is gone: who has it is not sound before it is rebuilt.
    pub fn all_sound(&mut self) -> bool {
        let sound = self.stand_alike();
        if sound {
            // A digest that differed was forgotten in a crash, or came with other rows.
            self.members.iter_mut().for_each(|m| m.digest_flipped = false);
        }
        sound
    }

    fn stand_alike(&self) -> bool {
        if self.damaged_at.is_some_and(|at| self.now < at + FOUND) {
            return false;
        }
        let stand = |at: usize| {
            let running = self.members[at].running.as_ref()?;
            let node = &running.node;
            let sound = !node.handle().is_fenced() && !self.has_damaged_row(at);
            let sound = sound && node.digest() != 0;
            sound.then(|| (node.handle().status().applied_index, node.digest()))
        };
        let hash = |at: usize| {
            let kept = self.members[at].running.as_ref()?.node.handle().store().newest_kept_hash()?;
            Some((kept.hash_revision, kept.compact_revision, kept.hash))
        };
        let all = self.current();
        let hashes: std::collections::BTreeSet<_> = all.iter().copied().filter_map(hash).collect();
        let first = all.first().and_then(|at| stand(*at));
        // What a member says that was damaged once must be what another says too: the others may come to that compaction later.
        let confirmed = |at: usize| {
            let own = hash(at).filter(|_| self.members[at].damaged.is_some());
            own.is_none() || all.iter().any(|other| *other != at && hash(*other) == own)
        };
        hashes.len() <= 1 && first.is_some() && all.iter().all(|at| stand(*at) == first && confirmed(*at))
    }

    /// A majority of voters has to tell: of fewer than three there is none, and members that come and go would change it.
    fn may_damage(&mut self) -> bool {
        self.listed().iter().filter(|m| !m.learner).count() >= 3 && self.operator.rests() && self.all_sound()
    }

    /// Flips a bit in the newest version of a quiet key; false when no row is there to be damaged.
    pub fn damage_row(&mut self, at: usize) -> bool {
        if !self.may_damage() {
            return false;
        }
        let (which, bit) = (self.chance.draw() as usize, self.chance.draw() as usize);
        let rows = self.members[at].disk.folders.current();
        let mut newest: std::collections::BTreeMap<Bytes, (Bytes, KeyValue)> = Default::default();
        for (key, value) in rows.durable_rows(Family::Log) {
            let Ok(kv) = KeyValue::decode(value) else { continue };
            if kv.key.first() == Some(&(QUIET as u8)) && !kv.value.is_empty() {
                newest.insert(kv.key.clone(), (key, kv));
            }
        }
        let nth = which % newest.len().max(1);
        let Some((key, mut kv)) = newest.into_values().nth(nth) else { return false };
        let mut value = kv.value.to_vec();
        let at_byte = bit / 8 % value.len();
        value[at_byte] ^= 1 << (bit % 8);
        kv.value = value.into();
        let damaged = Bytes::from(kv.encode_to_vec());
        rows.damage(Family::Log, key.clone(), damaged.clone());
        self.members[at].damaged = Some((key, damaged));
        self.damaged_at = Some(self.now);
        true
    }

    /// Flips a bit of the digest of what was applied.
    pub fn damage_digest(&mut self, at: usize) -> bool {
        if !self.may_damage() {
            return false;
        }
        let bit = self.chance.below(128) as u32;
        let Some(running) = &mut self.members[at].running else { return false };
        running.node.flip_digest(bit);
        self.members[at].digest_flipped = true;
        self.damaged_at = Some(self.now);
        true
    }
}
