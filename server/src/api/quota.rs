//! The space quota at the door: a write that would grow the store past the quota is refused before it costs a log entry, and the alarm that
//! makes every member refuse is raised once.
//!
//! In: the request as the client sent it, because etcd weighs it before it checks anything else about it. Out: pass, or `NoSpace`.
//! Costs are etcd's: 256 bytes and key and value for a put, 64 for a lease, the dearer branch for a transaction.

use quorate_proto::{entry, etcdserverpb as pb};

use super::{Door, status::Refusal};

const PUT_OVERHEAD: u64 = 256;
const LEASE_COST: u64 = 64;

/// What a put adds at most.
pub fn put_cost(request: &pb::PutRequest) -> u64 {
    PUT_OVERHEAD + (request.key.len() + request.value.len()) as u64
}

/// What a transaction adds at most: the dearer of its branches.
pub fn txn_cost(request: &pb::TxnRequest) -> u64 {
    use pb::request_op::Request;
    let branch = |ops: &[pb::RequestOp]| {
        ops.iter()
            .map(|op| match &op.request {
                Some(Request::RequestPut(put)) => put_cost(put),
                Some(Request::RequestTxn(txn)) => txn_cost(txn),
                _ => 0,
            })
            .sum::<u64>()
    };
    branch(&request.success).max(branch(&request.failure))
}

/// What a lease adds.
pub fn lease_cost() -> u64 {
    LEASE_COST
}

impl Door {
    /// Refuses what would not fit, and raises this member's alarm for it. A cost of nothing always fits.
    pub async fn check_quota(&self, cost: u64) -> Result<(), Refusal> {
        let Ok(quota) = u64::try_from(self.limits.quota_bytes) else { return Ok(()) };
        if cost == 0 || self.context.store.quota_usage().saturating_add(cost) < quota {
            return Ok(());
        }
        let member = self.context.node.status().member_id;
        let raised =
            self.context.shared.alarms().iter().any(|alarm| alarm.member == member && alarm.kind == entry::AlarmKind::Nospace);
        if !raised {
            let alarm = entry::Alarm { action: entry::AlarmAction::Raise.into(), member, kind: entry::AlarmKind::Nospace.into() };
            if let Err(error) = self.propose(entry::command::Op::Alarm(alarm)).await {
                tracing::warn!(%error, "space quota is exceeded and the alarm could not be raised");
            }
        }
        Err(Refusal::NoSpace)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(value: usize) -> pb::RequestOp {
        let put = pb::PutRequest { key: "k".into(), value: vec![0; value].into(), ..Default::default() };
        pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(put)) }
    }

    /// A transaction costs its dearer branch, nested ones included, and reads cost nothing.
    #[test]
    fn txn_costs_its_dearer_branch() {
        let nested = pb::TxnRequest { success: vec![put(10)], failure: vec![put(20), put(20)], ..Default::default() };
        assert_eq!(txn_cost(&nested), 2 * (256 + 1 + 20));
        let outer = pb::TxnRequest {
            success: vec![put(0), pb::RequestOp { request: Some(pb::request_op::Request::RequestTxn(nested.clone())) }],
            failure: vec![put(5)],
            ..Default::default()
        };
        assert_eq!(txn_cost(&outer), 257 + txn_cost(&nested));
        assert_eq!(txn_cost(&pb::TxnRequest::default()), 0);
    }
}
