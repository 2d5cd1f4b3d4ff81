//! Fills a bounded key space, keys in order, a hundred puts a transaction.

use super::{Plan, Probe, Tally, Tickets, bounded_key};
use crate::{Failure, keys, summary::Report};
use quorate_proto::etcdserverpb::{self as pb, kv_client::KvClient, request_op::Request as Op};
use std::sync::Arc;

/// Below the 128 operations a server allows by default.
const PUTS: u64 = 100;

pub fn run(plan: &Plan, probe: &mut dyn Probe) -> Result<Report, Failure> {
    let transactions = Plan { ops: plan.key_space.div_ceil(PUTS), ..plan.clone() };
    super::closed_loop(&transactions, probe, prepare, client)
}

type Client = (Arc<Plan>, KvClient<tonic::transport::Channel>);

async fn prepare(plan: Arc<Plan>, channel: tonic::transport::Channel, _: u64) -> Result<Client, Failure> {
    Ok((plan, KvClient::new(channel)))
}

async fn client((plan, mut kv): Client, tickets: Arc<Tickets>) -> Tally {
    let mut tally = Tally::default();
    let began = tickets.began();
    while let Some(ticket) = tickets.take(began).await {
        let numbers = ticket.number * PUTS..((ticket.number + 1) * PUTS).min(plan.key_space);
        let put = |n| pb::PutRequest { key: bounded_key(&plan, n), value: keys::value(n, plan.value_size), ..Default::default() };
        let success = numbers.map(|n| pb::RequestOp { request: Some(Op::RequestPut(put(n))) }).collect();
        match kv.txn(pb::TxnRequest { success, ..Default::default() }).await {
            Ok(_) => tally.done(&ticket),
            Err(e) => tally.failed(e),
        }
    }
    tally
}
