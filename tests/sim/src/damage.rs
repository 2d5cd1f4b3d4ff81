//! Damage that no checksum sees: a bit that flips in a row, or in the digest of what was applied.
//!
//! Rows of quiet keys are hit, which clients write and do not read, so that nothing that a client sees depends on how soon the damage
//! is found: found it must be, and the member set aside, rebuilt and taken back before the world ends. One member at a time: of two
//! damaged ones in three there would be no telling.

use crate::world::World;
use bytes::Bytes;
use prost::Message;
use quorate::base::Family;
use quorate_proto::mvccpb::KeyValue;

/// What quiet keys begin with; every range that clients ask for begins after it.
pub const QUIET: char = '0';

impl World {
    /// Whether the rows that were damaged last are still there.
    pub fn is_damaged(&self, at: usize) -> bool {
        let member = &self.members[at];
        let rows = member.disk.folders.current();
        member.damaged.as_ref().is_some_and(|(key, value)| rows.row(Family::Log, key).as_ref() == Some(value))
    }

    /// All members run, stand at the same entry with the same digest, have no other hash of the last compaction than each other, and
    /// none is damaged or set aside. A hash may tell of a damaged row that is gone: who has it is not sound before it is rebuilt.
    fn all_sound(&self) -> bool {
        let stand = |at: usize| {
            let running = self.members[at].running.as_ref()?;
            let node = &running.node;
            let sound = !node.handle().is_fenced() && !self.is_damaged(at);
            let sound = sound && node.digest() != 0;
            sound.then(|| (node.handle().status().applied_index, node.digest()))
        };
        let hash = |at: usize| {
            let kept = self.members[at].running.as_ref()?.node.handle().store().newest_kept_hash()?;
            Some((kept.hash_revision, kept.compact_revision, kept.hash))
        };
        let hashes: std::collections::BTreeSet<_> = (0..self.members.len()).filter_map(hash).collect();
        let first = stand(0);
        hashes.len() <= 1 && first.is_some() && (1..self.members.len()).all(|at| stand(at) == first)
    }

    /// Flips a bit in the newest version of a quiet key; false when no row is there to be damaged.
    pub fn damage_row(&mut self, at: usize) -> bool {
        if !self.all_sound() {
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
        true
    }

    /// Flips a bit of the digest of what was applied.
    pub fn damage_digest(&mut self, at: usize) -> bool {
        if !self.all_sound() {
            return false;
        }
        let bit = self.chance.below(128) as u32;
        let Some(running) = &mut self.members[at].running else { return false };
        running.node.flip_digest(bit);
        true
    }
}
