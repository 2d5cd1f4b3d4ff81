//! The boot ticket: what a member with an empty disk reads to learn whether it may found the store or has to wait to be added.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::super::validate::Valid;
use super::super::world::Slot;
use super::metadata;

/// A boot ticket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ticket {
    /// What disks are stamped with, usually the QuorateCluster's UID; a disk that was used under another one is refused.
    pub cluster: String,
    /// The members below may found the store. True only until the store told its cluster id.
    pub form: bool,
    /// Peer URLs by member name.
    pub members: BTreeMap<String, String>,
    /// A lost quorum is being recovered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recover: Option<Recovery>,
}

/// Who becomes the whole cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovery {
    /// The member's name. It does it once for each id; members that do not know of it refuse to start on their old data.
    pub slot: String,
    /// The id.
    pub id: String,
}

/// The ticket for these slots.
pub fn ticket(cluster: &Valid, form: bool, slots: impl IntoIterator<Item = Slot>) -> Ticket {
    let members = slots.into_iter().map(|slot| (cluster.pod(slot), cluster.peer_url(slot))).collect();
    Ticket { cluster: cluster.stamp.clone(), form, members, recover: None }
}

pub(super) fn config_map(cluster: &Valid, ticket: &Ticket) -> Value {
    let text = serde_json::to_string(ticket).expect("a ticket is plain data");
    json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata(cluster, &cluster.named("boot")),
        "data": {"ticket.json": text},
    })
}
