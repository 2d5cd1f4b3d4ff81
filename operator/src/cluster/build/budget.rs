//! The PodDisruptionBudget: drains may take members away only as long as a quorum stays.

use serde_json::{Value, json};

use super::super::validate::Valid;
use super::{metadata, selector};

/// None where there is nothing to guard: no voters, or a single one, which a drain must be able to move.
///
/// Learners are never ready, so they do not count as available. Pods that are not ready may always be evicted: that is how a bad
/// one gets away from a bad node.
pub(super) fn disruption_budget(cluster: &Valid, voters: usize) -> Option<Value> {
    let target = usize::try_from(cluster.replicas()).unwrap_or(0);
    if target == 0 || voters.max(target) < 2 {
        return None;
    }
    Some(json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": metadata(cluster, &cluster.name),
        "spec": {
            "minAvailable": voters.max(target) / 2 + 1,
            "selector": {"matchLabels": selector(cluster)},
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    }))
}
