//! `-w json`: one object per answer.
//!
//! Most answers are shown as the messages they are. Leases, watches, transactions and endpoints have forms of their own, which
//! etcdctl inherited from its client library's types.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use prost::Message;
use quorate_proto::etcdserverpb::{self as pb, response_op::Response};

use super::schema::{Schema, text};
use super::{From, Health, Printer, line};
use crate::failure::Done;

/// The printer.
pub struct Json {
    schema: Schema,
    /// The same with ids in hexadecimal, used for answers about members.
    ids: Option<Schema>,
}

impl Json {
    pub fn new(hex: bool) -> Self {
        let ids = hex.then(|| Schema::new(true));
        Self { schema: Schema::new(false), ids }
    }

    fn members(&self, name: &str, encoded: &[u8]) -> Done {
        let mut out = String::new();
        self.ids.as_ref().unwrap_or(&self.schema).object(name, encoded, &mut out)?;
        line(out)
    }

    /// The header's fields, followed by a comma if there are any.
    fn inlined(&self, header: Option<&pb::ResponseHeader>) -> Done<String> {
        let mut out = String::new();
        self.schema.members("etcdserverpb.ResponseHeader", &header.map(Message::encode_to_vec).unwrap_or_default(), &mut out)?;
        if !out.is_empty() {
            out.push(',');
        }
        Ok(out)
    }

    fn nested(&self, name: &str, message: &impl Message) -> Done<String> {
        let mut out = String::new();
        self.schema.object(name, &message.encode_to_vec(), &mut out)?;
        Ok(out)
    }

    fn txn_object(&self, answer: &pb::TxnResponse) -> Done<String> {
        let mut parts = Vec::new();
        if let Some(header) = &answer.header {
            parts.push(format!("\"header\":{}", self.nested("etcdserverpb.ResponseHeader", header)?));
        }
        if answer.succeeded {
            parts.push("\"succeeded\":true".to_string());
        }
        if !answer.responses.is_empty() {
            let responses: Done<Vec<String>> = answer.responses.iter().map(|response| self.txn_part(response)).collect();
            parts.push(format!("\"responses\":[{}]", responses?.join(",")));
        }
        Ok(format!("{{{}}}", parts.join(",")))
    }

    fn txn_part(&self, response: &pb::ResponseOp) -> Done<String> {
        let (name, body) = match &response.response {
            Some(Response::ResponseRange(range)) => ("response_range", self.nested("etcdserverpb.RangeResponse", range)?),
            Some(Response::ResponsePut(put)) => ("response_put", self.nested("etcdserverpb.PutResponse", put)?),
            Some(Response::ResponseDeleteRange(delete)) => {
                ("response_delete_range", self.nested("etcdserverpb.DeleteRangeResponse", delete)?)
            }
            Some(Response::ResponseTxn(txn)) => ("response_txn", self.txn_object(txn)?),
            None => return Ok("{\"Response\":{}}".to_string()),
        };
        Ok(format!("{{\"Response\":{{\"{name}\":{body}}}}}"))
    }

    fn endpoints<T: Message>(&self, answers: &[From<T>], label: &str, name: &str) -> Done {
        let mut rows = Vec::with_capacity(answers.len());
        for (endpoint, answer) in answers {
            rows.push(format!("{{\"Endpoint\":{},\"{label}\":{}}}", quoted(endpoint), self.nested(name, answer)?));
        }
        list(&rows)
    }
}

/// A list with rows, or `null`: what Go makes of a list that nothing was ever added to.
fn list(rows: &[String]) -> Done {
    if rows.is_empty() { line("null") } else { line(format!("[{}]", rows.join(","))) }
}

fn quoted(value: &str) -> String {
    let mut out = String::new();
    text(value, &mut out);
    out
}

impl Printer for Json {
    fn name(&self) -> &'static str {
        "json"
    }

    fn message(&self, name: &str, encoded: &[u8]) -> Done {
        let mut out = String::new();
        self.schema.object(name, encoded, &mut out)?;
        line(out)
    }

    fn txn(&self, answer: &pb::TxnResponse) -> Done {
        line(self.txn_object(answer)?)
    }

    fn watch(&self, answer: &pb::WatchResponse) -> Done {
        let header = self.nested("etcdserverpb.ResponseHeader", &answer.header.unwrap_or_default())?;
        let events: Done<Vec<String>> = answer.events.iter().map(|event| self.nested("mvccpb.Event", event)).collect();
        let events = match events?.join(",") {
            events if events.is_empty() => "null".to_string(),
            events => format!("[{events}]"),
        };
        line(format!(
            "{{\"Header\":{header},\"Events\":{events},\"CompactRevision\":{},\"Canceled\":{},\"Created\":{},\"CancelReason\":{}}}",
            answer.compact_revision,
            answer.canceled,
            answer.created,
            quoted(&answer.cancel_reason)
        ))
    }

    fn grant(&self, answer: &pb::LeaseGrantResponse) -> Done {
        let header = self.inlined(answer.header.as_ref())?;
        line(format!("{{{header}\"ID\":{},\"TTL\":{},\"Error\":{}}}", answer.id, answer.ttl, quoted(&answer.error)))
    }

    fn keep_alive(&self, answer: &pb::LeaseKeepAliveResponse) -> Done {
        let header = self.inlined(answer.header.as_ref())?;
        line(format!("{{{header}\"ID\":{},\"TTL\":{}}}", answer.id, answer.ttl))
    }

    fn time_to_live(&self, answer: &pb::LeaseTimeToLiveResponse, _keys: bool) -> Done {
        let header = self.inlined(answer.header.as_ref())?;
        let keys: Vec<String> = answer.keys.iter().map(|key| format!("\"{}\"", STANDARD.encode(key))).collect();
        let keys = if keys.is_empty() { "null".to_string() } else { format!("[{}]", keys.join(",")) };
        line(format!(
            "{{{header}\"id\":{},\"ttl\":{},\"granted-ttl\":{},\"keys\":{keys}}}",
            answer.id, answer.ttl, answer.granted_ttl
        ))
    }

    fn leases(&self, answer: &pb::LeaseLeasesResponse) -> Done {
        let header = self.inlined(answer.header.as_ref())?;
        let leases: Vec<String> = answer.leases.iter().map(|lease| format!("{{\"id\":{}}}", lease.id)).collect();
        line(format!("{{{header}\"leases\":[{}]}}", leases.join(",")))
    }

    fn member_add(&self, answer: &pb::MemberAddResponse) -> Done {
        self.members("etcdserverpb.MemberAddResponse", &answer.encode_to_vec())
    }

    fn member_remove(&self, answer: &pb::MemberRemoveResponse, _id: u64) -> Done {
        self.members("etcdserverpb.MemberRemoveResponse", &answer.encode_to_vec())
    }

    fn member_update(&self, answer: &pb::MemberUpdateResponse, _id: u64) -> Done {
        self.members("etcdserverpb.MemberUpdateResponse", &answer.encode_to_vec())
    }

    fn member_promote(&self, answer: &pb::MemberPromoteResponse, _id: u64) -> Done {
        self.members("etcdserverpb.MemberPromoteResponse", &answer.encode_to_vec())
    }

    fn member_list(&self, answer: &pb::MemberListResponse) -> Done {
        self.members("etcdserverpb.MemberListResponse", &answer.encode_to_vec())
    }

    fn endpoint_health(&self, answers: &[Health]) -> Done {
        let rows: Vec<String> = answers
            .iter()
            .map(|health| {
                let error = if health.error.is_empty() { String::new() } else { format!(",\"error\":{}", quoted(&health.error)) };
                let (endpoint, took) = (quoted(&health.endpoint), quoted(&health.took));
                format!("{{\"endpoint\":{endpoint},\"health\":{},\"took\":{took}{error}}}", health.healthy)
            })
            .collect();
        list(&rows)
    }

    fn endpoint_status(&self, answers: &[From<pb::StatusResponse>]) -> Done {
        self.endpoints(answers, "Status", "etcdserverpb.StatusResponse")
    }

    fn endpoint_hash_kv(&self, answers: &[From<pb::HashKvResponse>]) -> Done {
        self.endpoints(answers, "HashKV", "etcdserverpb.HashKVResponse")
    }
}
