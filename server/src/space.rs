//! Space that came back: the leader clears the no-space alarm by itself once the store is well below its quota again.

use crate::node::{NodeHandle, ProposeError};
use quorate_proto::entry::{Alarm, AlarmAction, AlarmKind, Command, command::Op};
use std::time::Duration;

/// How often the usage is looked at while the alarm is on.
const EVERY: Duration = Duration::from_secs(10);
/// Part of the quota, in percent, at or below which the alarm is cleared: far enough below it not to come back with the next write.
const LOW_WATER: u64 = 90;

/// Whether a store that holds `usage` bytes of `quota` may grow again.
fn is_low(usage: u64, quota: u64) -> bool {
    usage <= quota / 100 * LOW_WATER
}

/// Runs until the node stops.
pub async fn run(node: NodeHandle, quota: Option<u64>) {
    let Some(quota) = quota else { return };
    loop {
        tokio::time::sleep(EVERY).await;
        let usage = node.store().quota_usage();
        if !node.status().is_leader || !node.shared().has_alarm(AlarmKind::Nospace) || !is_low(usage, quota) {
            continue;
        }
        let mut alarm = Alarm { member: 0, ..Default::default() };
        alarm.set_action(AlarmAction::Clear);
        alarm.set_kind(AlarmKind::Nospace);
        match node.propose(Command { op: Some(Op::Alarm(alarm)) }).await {
            Ok(_) => tracing::info!(usage, quota, "there is space again; the no-space alarm is cleared"),
            Err(ProposeError::Stopped) => return,
            Err(e) => tracing::warn!(error = %e, "the no-space alarm could not be cleared"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The alarm is not cleared at its edge.
    #[test]
    fn low_water() {
        assert!(is_low(0, 1000) && is_low(900, 1000));
        assert!(!is_low(901, 1000) && !is_low(1000, 1000));
    }
}
