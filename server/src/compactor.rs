//! Automatic compaction: which revision to compact to, by age or by count. Only the leader acts.

use crate::config::AutoCompaction;
use crate::node::{NodeHandle, ProposeError};
use quorate_proto::entry::{Command, Compact, command::Op};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How often the newest revision is looked at when compaction goes by count.
const COUNT_EVERY: Duration = Duration::from_secs(5 * 60);
/// Samples of the revision taken over one retention period.
const SAMPLES: u32 = 10;

/// Remembers which revision was newest when.
#[derive(Default)]
pub struct Ages {
    samples: VecDeque<(Instant, i64)>,
}

impl Ages {
    /// Takes a sample; returns the newest revision that is at least `keep` old.
    pub fn sample(&mut self, now: Instant, revision: i64, keep: Duration) -> Option<i64> {
        self.samples.push_back((now, revision));
        let mut old = None;
        while self.samples.front().is_some_and(|(at, _)| now.duration_since(*at) >= keep) {
            old = self.samples.pop_front().map(|(_, rev)| rev);
        }
        old
    }
}

/// Runs until the node stops.
pub async fn run(node: NodeHandle, policy: AutoCompaction) {
    let (every, keep) = match policy {
        AutoCompaction::Off => return,
        AutoCompaction::Periodic(keep) => ((keep / SAMPLES).clamp(Duration::from_millis(100), Duration::from_secs(3600)), keep),
        AutoCompaction::Revision(_) => (COUNT_EVERY, Duration::ZERO),
    };
    let mut ages = Ages::default();
    loop {
        tokio::time::sleep(every).await;
        let revision = node.store().revision();
        let target = match policy {
            AutoCompaction::Revision(keep) => Some(revision.saturating_sub(i64::try_from(keep).unwrap_or(i64::MAX))),
            _ => ages.sample(Instant::now(), revision, keep),
        };
        let Some(target) = target.filter(|t| *t > node.store().compact_revision() && *t > 0 && node.status().is_leader) else {
            continue;
        };
        tracing::info!(revision = target, "starting auto compaction");
        match node.propose(Command { op: Some(Op::Compact(Compact { revision: target })) }).await {
            Ok(_) => tracing::info!(revision = target, "completed auto compaction"),
            Err(ProposeError::Stopped) => return,
            Err(e) => tracing::warn!(revision = target, error = %e, "failed auto compaction"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A revision becomes due once it is as old as the retention, and only the newest such one counts.
    #[test]
    fn ages() {
        let (start, s) = (Instant::now(), Duration::from_secs);
        let mut ages = Ages::default();
        assert_eq!(ages.sample(start, 5, s(10)), None);
        assert_eq!(ages.sample(start + s(4), 9, s(10)), None);
        assert_eq!(ages.sample(start + s(15), 30, s(10)), Some(9));
        assert_eq!(ages.sample(start + s(16), 31, s(10)), None);
    }
}
