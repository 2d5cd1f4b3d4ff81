//! Configurations: built from lists of ids, compared as sets.
//!
//! In: ids. Out: a `ConfState` or an answer. Invariant: order and repetition of ids mean nothing to raft, so they mean
//! nothing to [`conf_state_eq`]; `==` on the message compares the lists as written.

use std::collections::BTreeSet;

use crate::eraftpb::ConfState;

impl<V, L> From<(V, L)> for ConfState
where
    V: IntoIterator<Item = u64>,
    L: IntoIterator<Item = u64>,
{
    /// A configuration that is not joint, from `(voters, learners)`.
    fn from((voters, learners): (V, L)) -> Self {
        ConfState { voters: voters.into_iter().collect(), learners: learners.into_iter().collect(), ..ConfState::default() }
    }
}

/// True if both describe the same configuration.
#[must_use]
pub fn conf_state_eq(a: &ConfState, b: &ConfState) -> bool {
    a.auto_leave == b.auto_leave
        && same_ids(&a.voters, &b.voters)
        && same_ids(&a.learners, &b.learners)
        && same_ids(&a.voters_outgoing, &b.voters_outgoing)
        && same_ids(&a.learners_next, &b.learners_next)
}

fn same_ids(a: &[u64], b: &[u64]) -> bool {
    // Lists mostly come in the same order, which needs no set.
    a == b || a.iter().collect::<BTreeSet<_>>() == b.iter().collect::<BTreeSet<_>>()
}
