//! Feature gates: `--feature-gates=Name=bool,...`. In: the flag's text. Out: [`FeatureGates`], a bool for each gate of etcd
//! 3.7, with etcd's defaults. `AllAlpha` and `AllBeta` set every gate of that stage that is not named itself.

use super::error::{ConfigError, Warning};
use super::value::parse_bool;

/// How far a gate has come, as etcd counts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    Alpha,
    Beta,
}

impl Stage {
    /// As etcd's metrics spell it.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Alpha => "ALPHA",
            Stage::Beta => "BETA",
        }
    }
}

/// One gate of the catalogue.
#[derive(Debug, Clone, Copy)]
pub struct Gate {
    pub name: &'static str,
    pub stage: Stage,
    pub default: bool,
    /// Why the gate changes nothing here; `None` when it does what it does in etcd.
    pub no_effect: Option<&'static str>,
}

const LEASES: &str = "lease deadlines are replicated and survive elections without checkpoints";

/// etcd 3.7's gates, in alphabetical order.
pub static GATES: [Gate; 9] = [
    gate("CompactHashCheck", Stage::Alpha, false, None),
    gate("FastLeaseKeepAlive", Stage::Beta, true, Some("the leader renews from its own deadlines in either case")),
    gate("InitialCorruptCheck", Stage::Alpha, false, None),
    gate("LeaseCheckpoint", Stage::Alpha, false, Some(LEASES)),
    gate("LeaseCheckpointPersist", Stage::Alpha, false, Some(LEASES)),
    gate("PriorityRequest", Stage::Alpha, false, Some("every queue is bounded, and none lets one kind of request pass another")),
    gate("SetMemberLocalAddr", Stage::Alpha, false, None),
    gate("StopGRPCServiceOnDefrag", Stage::Alpha, false, Some("defragmentation never blocks requests")),
    gate("TxnModeWriteWithSharedBuffer", Stage::Beta, true, Some("transactions read a consistent view without copying a buffer")),
];

const fn gate(name: &'static str, stage: Stage, default: bool, no_effect: Option<&'static str>) -> Gate {
    Gate { name, stage, default, no_effect }
}

/// The gates that do something here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FeatureGates {
    /// Whether each gate of [`GATES`] is on, in that order, those that change nothing included.
    pub on: [bool; GATES.len()],
    /// The two that set whole stages.
    pub all_alpha: bool,
    pub all_beta: bool,
    pub compact_hash_check: bool,
    pub initial_corrupt_check: bool,
    pub set_member_local_addr: bool,
}

/// Reads `Name=bool` pairs in order; empty pairs are skipped.
pub(super) fn parse(text: &str) -> Result<Vec<(String, bool)>, String> {
    let mut pairs = Vec::new();
    for pair in text.split(',').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').ok_or_else(|| format!("missing bool value for {}", pair.trim()))?;
        let name = name.trim();
        if name != "AllAlpha" && name != "AllBeta" && !GATES.iter().any(|gate| gate.name == name) {
            return Err(format!("unrecognized feature gate: {name}"));
        }
        let value = parse_bool(value.trim()).map_err(|reason| format!("invalid value of {name}={}: {reason}", value.trim()))?;
        pairs.push((name.to_owned(), value));
    }
    Ok(pairs)
}

/// Turns pairs into gates, and notes those that change nothing.
pub(super) fn settle(text: &str, warnings: &mut Vec<Warning>) -> Result<FeatureGates, ConfigError> {
    const FLAG: &str = "feature-gates";
    let pairs = parse(text).map_err(|reason| ConfigError::refused(FLAG, reason))?;
    let named = |name: &str| pairs.iter().rev().find(|(n, _)| n == name).map(|(_, on)| *on);
    let on = |name: &str| {
        let gate = GATES.iter().find(|gate| gate.name == name);
        let stage = gate.and_then(|gate| named(if gate.stage == Stage::Alpha { "AllAlpha" } else { "AllBeta" }));
        named(name).or(stage).unwrap_or(gate.is_some_and(|gate| gate.default))
    };
    if on("LeaseCheckpointPersist") && !on("LeaseCheckpoint") {
        return Err(ConfigError::refused(FLAG, "the gate LeaseCheckpointPersist requires the gate LeaseCheckpoint"));
    }
    for gate in &GATES {
        if let (Some(why), Some(value)) = (gate.no_effect, named(gate.name)) {
            let message = format!("{}={value} has no effect: {why}", gate.name);
            warnings.push(if value == gate.default { Warning::note(FLAG, message) } else { Warning::warn(FLAG, message) });
        }
    }
    Ok(FeatureGates {
        on: std::array::from_fn(|at| on(GATES[at].name)),
        all_alpha: named("AllAlpha").unwrap_or(false),
        all_beta: named("AllBeta").unwrap_or(false),
        compact_hash_check: on("CompactHashCheck"),
        initial_corrupt_check: on("InitialCorruptCheck"),
        set_member_local_addr: on("SetMemberLocalAddr"),
    })
}

impl FeatureGates {
    /// Every gate by name, with its stage and whether it is on, those of whole stages among them.
    pub fn all(&self) -> impl Iterator<Item = (&'static str, Stage, bool)> + use<> {
        let stages = [("AllAlpha", Stage::Alpha, self.all_alpha), ("AllBeta", Stage::Beta, self.all_beta)];
        GATES.iter().zip(self.on).map(|(gate, on)| (gate.name, gate.stage, on)).chain(stages)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The gates of whole stages are gates themselves, off unless named.
    #[test]
    fn stages_are_gates() {
        let shown = |text: &str| {
            let gates = settle(text, &mut Vec::new()).expect("gates");
            gates.all().filter(|(_, _, on)| *on).map(|(name, ..)| name).collect::<Vec<_>>()
        };
        assert_eq!(shown(""), ["FastLeaseKeepAlive", "TxnModeWriteWithSharedBuffer"]);
        assert_eq!(shown("AllBeta=true"), ["FastLeaseKeepAlive", "TxnModeWriteWithSharedBuffer", "AllBeta"]);
        assert!(shown("AllAlpha=true").contains(&"AllAlpha") && shown("AllAlpha=true").contains(&"CompactHashCheck"));
        assert_eq!(settle("", &mut Vec::new()).expect("gates").all().count(), GATES.len() + 2);
    }
}
