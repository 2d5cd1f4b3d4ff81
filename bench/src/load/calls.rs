//! The unary workloads: put, get, page, and kube-apiserver's two transactions.

use super::{Plan, Tally, Ticket, Tickets, Workload, bounded_key, fresh_key};
use crate::{Failure, keys};
use bytes::Bytes;
use quorate_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use quorate_proto::etcdserverpb::kv_client::KvClient;
use quorate_proto::etcdserverpb::request_op::Request as Op;
use quorate_proto::etcdserverpb::{self as pb, response_op::Response as Answer};
use std::sync::Arc;
use tonic::transport::Channel;

/// Keys a client of the update workload owns, so that its expectations hold.
const OWNED: u64 = 16;
/// Different values in use; a value is not part of what is measured, making one would be.
const VALUES: u64 = 8;

pub struct Client {
    plan: Arc<Plan>,
    kv: KvClient<Channel>,
    number: u64,
    random: keys::Random,
    values: Vec<Bytes>,
    /// Update: the revision at which each owned key was last changed.
    revisions: Vec<i64>,
}

pub async fn prepare(plan: Arc<Plan>, channel: Channel, number: u64) -> Result<Client, Failure> {
    let mut client = Client {
        kv: KvClient::new(channel).max_decoding_message_size(usize::MAX),
        number,
        random: keys::Random::new(plan.seed << 20 | number),
        values: (0..VALUES).map(|i| keys::value(plan.seed << 8 | i, plan.value_size)).collect(),
        revisions: Vec::new(),
        plan,
    };
    if client.plan.workload == Workload::TxnUpdate {
        for i in 0..OWNED {
            let put = pb::PutRequest { key: client.owned(i), value: client.values[0].clone(), ..Default::default() };
            client.revisions.push(client.kv.put(put).await?.into_inner().header.map_or(0, |h| h.revision));
        }
    }
    Ok(client)
}

/// Asks until tickets are out.
pub async fn client(mut client: Client, tickets: Arc<Tickets>) -> Tally {
    let mut tally = Tally::default();
    let began = tickets.began();
    while let Some(ticket) = tickets.take(began).await {
        match client.ask(&ticket).await {
            Ok(()) => tally.done(&ticket),
            Err(e) => tally.failed(e),
        }
    }
    tally
}

impl Client {
    fn owned(&self, i: u64) -> Bytes {
        keys::key(&format!("{}owned/{:06}/", self.plan.prefix, self.number), i, self.plan.key_size)
    }

    fn value(&self, n: u64) -> Bytes {
        self.values[(n % VALUES) as usize].clone()
    }

    async fn ask(&mut self, ticket: &Ticket) -> Result<(), Failure> {
        let n = ticket.number;
        match self.plan.workload {
            Workload::Put => {
                let key = if self.plan.fresh {
                    fresh_key(&self.plan, n)
                } else {
                    bounded_key(&self.plan, self.random.below(self.plan.key_space))
                };
                self.kv.put(pb::PutRequest { key, value: self.value(n), ..Default::default() }).await?;
            }
            Workload::Get => {
                let key = bounded_key(&self.plan, self.random.below(self.plan.key_space));
                let serializable = self.plan.serializable;
                let answer = self.kv.range(pb::RangeRequest { key, serializable, ..Default::default() }).await?.into_inner();
                expect(answer.kvs.len() == 1, "the key is not there: fill the key space first")?;
            }
            Workload::Page => {
                let range_end = keys::prefix_end(self.plan.prefix.as_bytes());
                let (key, limit) = (Bytes::from(self.plan.prefix.clone()), self.plan.limit);
                let serializable = self.plan.serializable;
                let request = pb::RangeRequest { key, range_end, limit, serializable, ..Default::default() };
                let answer = self.kv.range(request).await?.into_inner();
                expect(answer.kvs.len() as i64 == limit, "a page is not full: fill the key space first")?;
            }
            Workload::TxnCreate => {
                let answer = self.guarded_put(fresh_key(&self.plan, n), 0, n).await?;
                expect(answer.succeeded, "a fresh key was there already: use another seed")?;
            }
            Workload::TxnUpdate => {
                let i = self.random.below(OWNED);
                let answer = self.guarded_put(self.owned(i), self.revisions[i as usize], n).await?;
                self.revisions[i as usize] = match answer.responses.into_iter().next().and_then(|r| r.response) {
                    Some(Answer::ResponsePut(put)) => put.header.map_or(0, |h| h.revision),
                    Some(Answer::ResponseRange(range)) => {
                        range.kvs.first().map_or(Ok(0), |kv| kv.decode().map(|kv| kv.mod_revision))?
                    }
                    _ => return Err("the transaction answered with neither put nor range".into()),
                };
                expect(answer.succeeded, "somebody else changed an owned key")?;
            }
            Workload::Watch | Workload::Lease | Workload::Fill => unreachable!("these have rooms of their own"),
        }
        Ok(())
    }

    /// Puts `key` if it was last changed at `revision` (0: is absent), else reads it.
    async fn guarded_put(&mut self, key: Bytes, revision: i64, n: u64) -> Result<pb::TxnResponse, Failure> {
        let compare = pb::Compare {
            result: CompareResult::Equal.into(),
            target: CompareTarget::Mod.into(),
            key: key.clone(),
            target_union: Some(TargetUnion::ModRevision(revision)),
            ..Default::default()
        };
        let put = pb::PutRequest { key: key.clone(), value: self.value(n), ..Default::default() };
        let range = pb::RangeRequest { key, ..Default::default() };
        let txn = pb::TxnRequest {
            compare: vec![compare],
            success: vec![pb::RequestOp { request: Some(Op::RequestPut(put)) }],
            failure: vec![pb::RequestOp { request: Some(Op::RequestRange(range)) }],
        };
        Ok(self.kv.txn(txn).await?.into_inner())
    }
}

fn expect(holds: bool, otherwise: &str) -> Result<(), Failure> {
    if holds { Ok(()) } else { Err(otherwise.into()) }
}
