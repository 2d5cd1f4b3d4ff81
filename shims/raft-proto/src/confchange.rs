//! Changes of the configuration: the older and the newer form under one trait, and a short text form.
//!
//! In: a change, or text such as `v1 l2 r3`. Out: the newer form, which is what raft applies. Invariant: every older
//! change has exactly one newer form; there is no way back.

use std::borrow::Cow;

use crate::eraftpb::{ConfChange, ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2};

/// A change in either form.
pub trait ConfChangeI {
    /// The change in the newer form.
    fn into_v2(self) -> ConfChangeV2;

    /// The change in the newer form, borrowed if it already has it.
    fn as_v2(&self) -> Cow<'_, ConfChangeV2>;

    /// The change if it was made in the older form.
    fn as_v1(&self) -> Option<&ConfChange>;
}

impl ConfChangeI for ConfChange {
    fn into_v2(self) -> ConfChangeV2 {
        ConfChangeV2 {
            transition: ConfChangeTransition::Auto.into(),
            // The number is carried as it came, so one that this version does not know is not turned into an add.
            changes: vec![ConfChangeSingle { change_type: self.change_type, node_id: self.node_id }],
            context: self.context,
        }
    }

    fn as_v2(&self) -> Cow<'_, ConfChangeV2> {
        Cow::Owned(self.clone().into_v2())
    }

    fn as_v1(&self) -> Option<&ConfChange> {
        Some(self)
    }
}

impl ConfChangeI for ConfChangeV2 {
    fn into_v2(self) -> ConfChangeV2 {
        self
    }

    fn as_v2(&self) -> Cow<'_, ConfChangeV2> {
        Cow::Borrowed(self)
    }

    fn as_v1(&self) -> Option<&ConfChange> {
        None
    }
}

impl ConfChangeV2 {
    /// Whether applying this change enters a joint configuration: `None` if it does not, else whether raft leaves that
    /// configuration by itself.
    pub fn enter_joint(&self) -> Option<bool> {
        match self.get_transition() {
            ConfChangeTransition::Auto if self.changes.len() <= 1 => None,
            ConfChangeTransition::Auto | ConfChangeTransition::Implicit => Some(true),
            ConfChangeTransition::Explicit => Some(false),
        }
    }

    /// True if this change leaves a joint configuration: it names no member and no transition.
    pub fn leave_joint(&self) -> bool {
        self.changes.is_empty() && self.get_transition() == ConfChangeTransition::Auto
    }
}

/// One change of one member.
pub fn new_conf_change_single(node_id: u64, ty: ConfChangeType) -> ConfChangeSingle {
    ConfChangeSingle { change_type: ty.into(), node_id }
}

/// Reads changes from text: words apart by spaces, each a letter (`v` voter, `l` learner, `r` remove) and a member id
/// in decimal. Empty text is no change.
///
/// # Errors
/// Names the first word that does not have this form.
pub fn parse_conf_change(text: &str) -> Result<Vec<ConfChangeSingle>, String> {
    text.split_ascii_whitespace()
        .map(|word| {
            let (ty, id) = if let Some(id) = word.strip_prefix('v') {
                (ConfChangeType::AddNode, id)
            } else if let Some(id) = word.strip_prefix('l') {
                (ConfChangeType::AddLearnerNode, id)
            } else if let Some(id) = word.strip_prefix('r') {
                (ConfChangeType::RemoveNode, id)
            } else {
                return Err(format!("change {word:?} does not begin with v, l or r"));
            };
            let id = id.parse().map_err(|e| format!("change {word:?} has no member id: {e}"))?;
            Ok(new_conf_change_single(id, ty))
        })
        .collect()
}

/// Writes changes in the form that [`parse_conf_change`] reads.
pub fn stringify_conf_change(changes: &[ConfChangeSingle]) -> String {
    let words: Vec<String> = changes
        .iter()
        .map(|change| {
            let letter = match change.get_change_type() {
                ConfChangeType::AddNode => 'v',
                ConfChangeType::AddLearnerNode => 'l',
                ConfChangeType::RemoveNode => 'r',
            };
            format!("{letter}{}", change.node_id)
        })
        .collect();
    words.join(" ")
}
