//! What one look at a cluster shows, as plain values: the wish, the pods and volumes by slot, the members as the store lists them.
//!
//! A slot is a pod's number. The store's members belong to slots by their peer URL, so a slot can lose its member and get another
//! one. `observe` fills this in, `plan` and `report` read it; nothing here knows Kubernetes or the network.

use std::collections::BTreeMap;

use super::errand::{Errand, Outside, Request};
use super::upkeep::Upkeep;

/// Seconds since 1970.
pub type Seconds = i64;

/// A pod's number.
pub type Slot = u32;

/// One look at a cluster.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct World {
    /// When it was taken.
    pub now: Seconds,
    /// What is wanted.
    pub wish: Wish,
    /// The store has told its cluster id once.
    pub formed: bool,
    /// Before the store is formed: how many members found it, fixed by the first boot ticket. Afterwards: how many slots the members
    /// need that were last seen.
    pub founders: u32,
    /// The StatefulSet. None before it is made.
    pub set: Option<Set>,
    /// Pods and volumes.
    pub slots: BTreeMap<Slot, Place>,
    /// The members, read through a quorum. None when no quorum answers.
    pub members: Option<Vec<Member>>,
    /// Who wrote on which volume.
    pub volumes: Vec<Written>,
    /// The operation that runs.
    pub operation: Option<Operation>,
    /// The store's cluster id, as the status has it.
    pub cluster_id: Option<String>,
    /// A revision that the store has reached.
    pub revision: i64,
    /// How far the logs of members reach that answer without a quorum: term and index of the last entry.
    pub positions: BTreeMap<Slot, (u64, u64)>,
    /// The last entry that each slot's member was seen to have applied.
    pub applied: BTreeMap<Slot, u64>,
    /// What somebody asked for and is under way.
    pub errand: Option<Errand>,
    /// The errand's resource is gone or going.
    pub withdrawn: bool,
    /// How far the errand's outside part is.
    pub outside: Option<Outside>,
    /// What is asked for next.
    pub request: Option<Request>,
    /// Space and maintenance.
    pub upkeep: Upkeep,
    /// How many different stores answered.
    pub stores: usize,
}

/// What is wanted.
#[derive(Clone, Debug, PartialEq)]
pub struct Wish {
    /// Members; 0 hibernates.
    pub replicas: u32,
    /// Nothing is to be changed.
    pub paused: bool,
    /// Healthy members may be restarted for a change.
    pub automatic_update: bool,
    /// A restarted member that is not ready by then halts the rollout, seconds.
    pub update_deadline: Seconds,
    /// Members without data may be replaced.
    pub automatic_repair: bool,
    /// How long to wait for a pod whose node is gone or off, seconds.
    pub repair_after: Seconds,
    /// Volumes of members that scale-in removed are deleted.
    pub delete_scaled_volumes: bool,
}

impl Default for Wish {
    fn default() -> Self {
        Self {
            replicas: 3,
            paused: false,
            automatic_update: true,
            update_deadline: 600,
            automatic_repair: true,
            repair_after: 300,
            delete_scaled_volumes: true,
        }
    }
}

/// The StatefulSet.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Set {
    /// Pods that it keeps.
    pub replicas: u32,
    /// Its controller has seen its newest form, so that a pod deleted now comes back in that form.
    pub observed: bool,
}

/// A slot's pod and volume.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Place {
    /// The pod, if there is one.
    pub pod: Option<Pod>,
    /// The volume, if there is one.
    pub volume: Option<Volume>,
}

/// A pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pod {
    /// Which pod of this name it is.
    pub uid: String,
    /// It passes its readiness probe.
    pub ready: bool,
    /// When readiness last changed, or when the pod was made.
    pub since: Seconds,
    /// It is being deleted.
    pub terminating: bool,
    /// It was made from the template that is wanted.
    pub current: bool,
    /// Its container runs.
    pub running: bool,
    /// The server says that it has not joined: its disk is empty and it waits at the gate.
    pub at_gate: bool,
    /// Since when its container runs; without meaning while it does not.
    pub up_since: Seconds,
    /// How the container's last life ended.
    pub exit_code: Option<i32>,
    /// How often the container was started again.
    pub restarts: u32,
    /// It cannot be placed, and the node that its volume is bound to does not exist.
    pub node_lost: bool,
    /// It is not ready or being deleted, and since then its node has not answered and, if it is being deleted, should have ended it.
    pub node_off: Option<Seconds>,
    /// What its image calls its version: the tag, or the beginning of the digest. Empty when it has neither.
    pub version: String,
    /// Others have another image, and none that works has this one: what it refuses may be sound.
    pub strange_image: bool,
}

/// A volume, or rather the claim to it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Volume {
    /// Which claim of this name it is.
    pub uid: String,
    /// It is being deleted.
    pub terminating: bool,
    /// What it was bound to is gone.
    pub lost: bool,
    /// It was made for this very cluster, not for a namesake.
    pub ours: bool,
    /// The PersistentVolume; empty when there is none.
    pub name: String,
    /// What the claim asks for, as Kubernetes writes amounts; empty when it does not say.
    pub size: String,
}

/// A member of the store.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Member {
    /// Its id.
    pub id: u64,
    /// The slot whose peer URL it has. None for a member that is none of ours.
    pub slot: Option<Slot>,
    /// It has been started once.
    pub started: bool,
    /// It does not vote yet.
    pub learner: bool,
    /// It leads.
    pub leader: bool,
    /// It does not answer at all.
    pub silent: bool,
    /// It answers, knows a leader, and has applied nearly all that is committed.
    pub healthy: bool,
}

/// A volume that a member wrote on.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Written {
    /// The slot.
    pub slot: Slot,
    /// The claim's UID.
    pub volume: String,
    /// The member's id.
    pub member: u64,
}

/// The operation that runs, as the journal remembers it.
#[derive(Clone, Debug, PartialEq)]
pub struct Operation {
    /// What for.
    pub kind: Kind,
    /// Which slot it is about.
    pub slot: Option<Slot>,
    /// When it began.
    pub started: Seconds,
    /// The step, for people; a change of it starts `step_started` and `attempt` anew.
    pub step: String,
    /// When the step began.
    pub step_started: Seconds,
    /// How often the step was tried.
    pub attempt: u32,
    /// For compactions: up to which revision.
    pub revision: Option<i64>,
}

/// What operations are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The first members find each other.
    Form,
    /// One member more.
    ScaleOut,
    /// One member less.
    ScaleIn,
    /// A member without its data joins anew.
    Replace,
    /// A member is restarted for a change.
    Rollout,
    /// All pods stop.
    Hibernate,
    /// They start again.
    Wake,
    /// The first member gets its data from a backup.
    Restore,
    /// One member becomes the whole cluster.
    RecoverQuorum,
    /// A full store gets room.
    HealSpace,
    /// Superseded revisions are forgotten.
    Compact,
    /// Members give free space back.
    Defragment,
    /// Another member leads.
    MoveLeader,
}

impl Kind {
    const ALL: [Self; 13] = [
        Self::Form,
        Self::ScaleOut,
        Self::ScaleIn,
        Self::Replace,
        Self::Rollout,
        Self::Hibernate,
        Self::Wake,
        Self::Restore,
        Self::RecoverQuorum,
        Self::HealSpace,
        Self::Compact,
        Self::Defragment,
        Self::MoveLeader,
    ];

    /// The name that the status shows.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Form => "Form",
            Self::ScaleOut => "ScaleOut",
            Self::ScaleIn => "ScaleIn",
            Self::Replace => "Replace",
            Self::Rollout => "Rollout",
            Self::Hibernate => "Hibernate",
            Self::Wake => "Wake",
            Self::Restore => "Restore",
            Self::RecoverQuorum => "RecoverQuorum",
            Self::HealSpace => "HealSpace",
            Self::Compact => "Compact",
            Self::Defragment => "Defragment",
            Self::MoveLeader => "MoveLeader",
        }
    }

    /// The kind of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }
}

impl Pod {
    /// It ended since it may not serve with what is on its volume.
    pub fn refuses(&self) -> bool {
        matches!(self.exit_code, Some(exit::DATA | exit::REMOVED))
    }
}

impl World {
    /// The slot's pod.
    pub fn pod(&self, slot: Slot) -> Option<&Pod> {
        self.slots.get(&slot)?.pod.as_ref()
    }

    /// The slot's volume.
    pub fn volume(&self, slot: Slot) -> Option<&Volume> {
        self.slots.get(&slot)?.volume.as_ref()
    }

    /// Pods that the set keeps.
    pub fn replicas(&self) -> u32 {
        self.set.as_ref().map_or(0, |set| set.replicas)
    }

    /// The member wrote on a volume that is no longer the slot's, so what it knew is gone.
    pub fn lost_data(&self, member: &Member) -> bool {
        let Some(slot) = member.slot.filter(|_| member.started && !member.healthy) else { return false };
        if self.pod(slot).is_some_and(|pod| pod.at_gate && pod.running && !pod.terminating) {
            return true;
        }
        let Some(written) = self.volumes.iter().find(|written| written.slot == slot && written.member == member.id) else {
            return false;
        };
        match self.volume(slot) {
            Some(volume) => volume.lost || (volume.uid != written.volume && !volume.terminating),
            // While the pod lives, its volume cannot vanish; without both, the set will make an empty one.
            None => self.pod(slot).is_none_or(|pod| !pod.running),
        }
    }

    /// The member's volume is there but of no use: damaged, or on a node that is gone.
    pub fn damaged(&self, member: &Member) -> bool {
        let Some(slot) = member.slot.filter(|_| !member.healthy) else { return false };
        let (Some(pod), Some(volume)) = (self.pod(slot), self.volume(slot)) else { return false };
        if pod.terminating || pod.ready || !volume.ours || volume.terminating {
            return false;
        }
        // How an earlier life ended says nothing of one that runs. And a build may refuse what a newer one wrote: that is the image's
        // fault, and taking the change back mends it.
        let refused = pod.refuses() && pod.restarts >= 1 && !pod.running && !pod.strange_image;
        let unreachable = pod.node_lost && self.now - pod.since >= self.wish.repair_after;
        refused || unreachable
    }

    /// The slot's pod is to end and cannot: its node has been off for so long that nobody waits for it any more.
    pub fn stranded(&self, slot: Slot) -> Option<&Pod> {
        let pod = self.pod(slot).filter(|pod| pod.terminating)?;
        pod.node_off.filter(|since| self.now - since >= self.wish.repair_after).map(|_| pod)
    }

    /// Nobody in the list of members owns what is on the slot's volume, and somebody did write on it.
    pub fn leftover(&self, slot: Slot, members: &[Member]) -> Option<&Volume> {
        let volume = self.volume(slot).filter(|volume| volume.ours)?;
        if members.iter().any(|member| member.slot == Some(slot)) {
            return None;
        }
        let written = self.volumes.iter().any(|written| {
            written.slot == slot && written.volume == volume.uid && !members.iter().any(|member| member.id == written.member)
        });
        let refused = self.pod(slot).is_some_and(Pod::refuses);
        (written || refused).then_some(volume)
    }
}

/// Exit codes of the server.
pub mod exit {
    /// The data is damaged, or belongs to another cluster or member.
    pub const DATA: i32 = 4;
    /// The member was removed from its cluster.
    pub const REMOVED: i32 = 6;
}
