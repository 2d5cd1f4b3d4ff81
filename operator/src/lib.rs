//! The operator of Quorate: it makes, repairs and changes clusters that QuorateCluster resources describe.
//!
//! ```text
//!   controller ─ triggers ─► cluster (observe → validate → plan → build → apply → report)
//!                              │ Kubernetes: the API server, always read afresh
//!                              └ member: the store's own list of members, by mutual TLS
//! ```
//!
//! Backups are taken and restored by the `agent`, in the pods of Jobs that `backup` and `cluster::restore` make.
//!
//! `task` and `restore` admit what QuorateTasks and QuorateRestores ask for; the rounds of their clusters do it. `phase` stamps how far
//! such things are.
//!
//! Only `cluster`, `backup`, `restore` and `phase` write to Kubernetes, and only `member` talks to members; planning and building are
//! pure.

pub mod agent;
pub mod args;
pub mod backup;
pub mod certificates;
pub mod cluster;
pub mod controller;
pub mod crd;
pub mod election;
pub mod http;
pub mod member;
pub mod metrics;
pub mod phase;
pub mod restore;
pub mod task;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use sha2::{Digest, Sha256};

/// A short name for bytes: equal bytes have equal names.
pub fn short_hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

/// This second, as Kubernetes writes times.
pub fn now() -> Time {
    Time(Timestamp::from_second(Timestamp::now().as_second()).unwrap_or(Timestamp::UNIX_EPOCH))
}

/// A Kubernetes quantity in thousandths. None when it is none, or too large.
pub fn quantity(text: &str) -> Option<u128> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    // A power of ten, such as 1e9. An E that nothing follows is exa.
    if let Some(power) = suffix.strip_prefix(['e', 'E']).filter(|power| !power.is_empty() && *power != "i") {
        let power = power.strip_prefix('+').unwrap_or(power).parse::<u32>().ok()?;
        return quantity(number)?.checked_mul(10u128.checked_pow(power)?);
    }
    let scale: u128 = match suffix {
        "m" => 1,
        "" => 1000,
        "k" => 1_000_000,
        "M" => 1_000_000_000,
        "G" => 1_000_000_000_000,
        "T" => 1_000_000_000_000_000,
        "P" => 1_000_000_000_000_000_000,
        "E" => 1_000_000_000_000_000_000_000,
        "Ki" => 1000 << 10,
        "Mi" => 1000 << 20,
        "Gi" => 1000 << 30,
        "Ti" => 1000 << 40,
        "Pi" => 1000 << 50,
        "Ei" => 1000 << 60,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.len() > 9 {
        return None;
    }
    let whole: u128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
    let tenths = 10u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let part: u128 = if fraction.is_empty() { 0 } else { fraction.parse().ok()? };
    whole.checked_mul(scale)?.checked_add(part.checked_mul(scale)? / tenths)
}

#[cfg(test)]
mod tests {
    use super::quantity;

    /// Quantities compare across their spellings.
    #[test]
    fn quantities() {
        assert_eq!(quantity("1Gi"), quantity("1024Mi"));
        assert_eq!(quantity("1.5G"), quantity("1500M"));
        assert_eq!(quantity("1000m"), quantity("1"));
        assert!(quantity("8Gi") > quantity("8G"));
        assert_eq!((quantity("10e9"), quantity("1E3"), quantity("1.5e1")), (quantity("10G"), quantity("1k"), quantity("15")));
        assert_eq!(quantity("1E"), quantity("1000P"));
        for bad in ["", "Gi", "1.2.3", "1X", "-1", ".", "1e", "1e-x", "e3"] {
            assert_eq!(quantity(bad), None, "{bad}");
        }
    }
}
