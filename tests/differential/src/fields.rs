//! Answers as flat lists of named fields, which is the form they are compared and shown in.
//!
//! In: answers of either server. Out: `path = text` pairs in a fixed order, and the pairs that differ between two lists.
//! What may differ between two right servers (raft term and index, sizes on disk) is left out here; the order among pairs that
//! a sort treats as equal is made the same, because etcd's sort is not stable.

use crate::script::escape;
use quorate_proto::etcdserverpb as pb;
use quorate_proto::mvccpb::KeyValue;
use quorate_proto::{RawKv, mvccpb};
use tonic::Status;

/// One answer, flat.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Fields(pub Vec<(String, String)>);

impl Fields {
    pub fn set(&mut self, path: impl Into<String>, value: impl ToString) {
        self.0.push((path.into(), value.to_string()));
    }

    /// Code and text of a refusal.
    pub fn refusal(status: &Status) -> Self {
        Self(vec![("error.code".into(), format!("{:?}", status.code())), ("error.message".into(), status.message().into())])
    }

    pub fn header(&mut self, path: &str, header: &Option<pb::ResponseHeader>) {
        match header {
            None => self.set(path, "none"),
            Some(h) => {
                self.set(format!("{path}.cluster_id"), format!("{:x}", h.cluster_id));
                self.set(format!("{path}.member_id"), format!("{:x}", h.member_id));
                self.set(format!("{path}.revision"), h.revision);
            }
        }
    }

    fn pair(&mut self, path: &str, kv: Option<&RawKv>) {
        self.set(path, kv.map_or_else(|| "none".to_string(), pair_text));
    }

    pub fn range(&mut self, path: &str, asked: Option<&pb::RangeRequest>, got: &pb::RangeResponse) {
        self.header(&format!("{path}header"), &got.header);
        self.set(format!("{path}count"), got.count);
        self.set(format!("{path}more"), got.more);
        self.set(format!("{path}kvs.len"), got.kvs.len());
        for (i, text) in settled(asked, got).into_iter().enumerate() {
            self.set(format!("{path}kvs[{i}]"), text);
        }
    }

    pub fn put(&mut self, path: &str, got: &pb::PutResponse) {
        self.header(&format!("{path}header"), &got.header);
        self.pair(&format!("{path}prev_kv"), got.prev_kv.as_ref());
    }

    pub fn delete(&mut self, path: &str, got: &pb::DeleteRangeResponse) {
        self.header(&format!("{path}header"), &got.header);
        self.set(format!("{path}deleted"), got.deleted);
        for (i, kv) in got.prev_kvs.iter().enumerate() {
            self.pair(&format!("{path}prev_kvs[{i}]"), Some(kv));
        }
    }

    pub fn txn(&mut self, path: &str, asked: &pb::TxnRequest, got: &pb::TxnResponse) {
        use pb::{request_op::Request, response_op::Response};
        self.header(&format!("{path}header"), &got.header);
        self.set(format!("{path}succeeded"), got.succeeded);
        self.set(format!("{path}responses.len"), got.responses.len());
        let branch = if got.succeeded { &asked.success } else { &asked.failure };
        for (i, response) in got.responses.iter().enumerate() {
            let asked = branch.get(i).and_then(|o| o.request.as_ref());
            let path = format!("{path}responses[{i}].");
            match (&response.response, asked) {
                (None, _) => self.set(path, "none"),
                (Some(Response::ResponseRange(r)), Some(Request::RequestRange(a))) => {
                    self.range(&format!("{path}range."), Some(a), r)
                }
                (Some(Response::ResponseRange(r)), _) => self.range(&format!("{path}range."), None, r),
                (Some(Response::ResponsePut(r)), _) => self.put(&format!("{path}put."), r),
                (Some(Response::ResponseDeleteRange(r)), _) => self.delete(&format!("{path}delete."), r),
                (Some(Response::ResponseTxn(r)), Some(Request::RequestTxn(a))) => self.txn(&format!("{path}txn."), a, r),
                (Some(Response::ResponseTxn(r)), _) => self.txn(&format!("{path}txn."), &pb::TxnRequest::default(), r),
            }
        }
    }

    /// The paths on which two lists differ, with both texts.
    pub fn differences(&self, other: &Self) -> Vec<(String, String, String)> {
        let find = |list: &Self, path: &str| list.0.iter().find(|(p, _)| p == path).map(|(_, v)| v.clone());
        let mut out = Vec::new();
        for (path, ours) in &self.0 {
            let theirs = find(other, path);
            if theirs.as_ref() != Some(ours) {
                out.push((path.clone(), ours.clone(), theirs.unwrap_or_else(|| "(absent)".into())));
            }
        }
        for (path, theirs) in &other.0 {
            if find(self, path).is_none() {
                out.push((path.clone(), "(absent)".into(), theirs.clone()));
            }
        }
        out
    }
}

pub fn pair_text(kv: &RawKv) -> String {
    let Ok(p) = kv.decode() else { return format!("undecodable {}", escape(&kv.0)) };
    format!(
        "key={} create={} mod={} version={} value={} lease={} bytes={}",
        escape(&p.key),
        p.create_revision,
        p.mod_revision,
        p.version,
        escape(&p.value),
        p.lease,
        kv.0.len()
    )
}

pub fn event_text(event: &mvccpb::Event) -> String {
    let kv = event.kv.as_ref().map_or_else(|| "none".to_string(), pair_text);
    let prev = event.prev_kv.as_ref().map_or_else(|| "none".to_string(), pair_text);
    format!("event type={} kv=[{kv}] prev_kv=[{prev}]", event.r#type)
}

fn sort_key(target: i32, p: &KeyValue) -> Vec<u8> {
    match target {
        1 => p.version.to_be_bytes().to_vec(),
        2 => p.create_revision.to_be_bytes().to_vec(),
        3 => p.mod_revision.to_be_bytes().to_vec(),
        4 => p.value.to_vec(),
        _ => p.key.to_vec(),
    }
}

/// The pairs of an answer as text, in an order that does not depend on how a sort treats equals. Where a limit cut through
/// equals, which of them were kept is left open too.
fn settled(asked: Option<&pb::RangeRequest>, got: &pb::RangeResponse) -> Vec<String> {
    let texts: Vec<String> = got.kvs.iter().map(pair_text).collect();
    let Some(asked) = asked.filter(|a| (1..=4).contains(&a.sort_target)) else { return texts };
    let pairs: Vec<KeyValue> = got.kvs.iter().filter_map(|kv| kv.decode().ok()).collect();
    if pairs.len() != texts.len() {
        return texts;
    }
    // Without the values, pairs sorted by value look all alike from here.
    let keys: Vec<Vec<u8>> = pairs.iter().map(|p| sort_key(asked.sort_target, p)).collect();
    let mut out = Vec::with_capacity(texts.len());
    let mut from = 0;
    while from < texts.len() {
        let to = from + keys[from..].iter().take_while(|k| **k == keys[from]).count();
        let mut group = texts[from..to].to_vec();
        group.sort();
        if to == texts.len() && got.more {
            group.iter_mut().for_each(|t| *t = format!("one of those with sort key {}", escape(&keys[from])));
        }
        out.append(&mut group);
        from = to;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(key: &'static str, version: i64) -> RawKv {
        RawKv::from(KeyValue { key: key.into(), version, ..Default::default() })
    }

    /// Equals may come in any order, others may not; a pair cut off by a limit may be any of its equals.
    #[test]
    fn ties_are_compared_as_sets() {
        let asked = pb::RangeRequest { sort_target: 1, sort_order: 1, ..Default::default() };
        let view = |kvs: Vec<RawKv>, more| settled(Some(&asked), &pb::RangeResponse { kvs, more, ..Default::default() });
        assert_eq!(view(vec![pair("a", 1), pair("b", 1)], false), view(vec![pair("b", 1), pair("a", 1)], false));
        assert_ne!(view(vec![pair("a", 1), pair("b", 2)], false), view(vec![pair("b", 2), pair("a", 1)], false));
        assert_eq!(view(vec![pair("a", 1)], true), view(vec![pair("b", 1)], true));
        assert_ne!(view(vec![pair("a", 1)], true), view(vec![pair("b", 2)], true));
    }

    /// Every differing path is named once, also those that only one side has.
    #[test]
    fn differences_name_paths() {
        let a = Fields(vec![("x".into(), "1".into()), ("y".into(), "2".into())]);
        let b = Fields(vec![("x".into(), "1".into()), ("z".into(), "2".into())]);
        let paths: Vec<_> = a.differences(&b).into_iter().map(|d| d.0).collect();
        assert_eq!(paths, ["y", "z"]);
        assert!(a.differences(&a).is_empty());
    }
}
