//! A script: the list of operations that both servers are given, readable and writable as JSON, one operation a line.
//!
//! In: lines of a file, or what the generator made. Out: the same, and the protobuf requests once revisions are known.
//! Revisions are written relative to what the reference server last said, so that a script keeps its sense when operations are
//! taken out of it.
//!
//! Invariant: an operation says everything that is sent; running a script twice on fresh servers sends the same bytes.

use bytes::Bytes;
use quorate_proto::etcdserverpb as pb;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

/// Bytes, written as text with escapes; a long run of one byte is written `fill:LENGTH:BYTE`.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Blob(pub Vec<u8>);

impl Blob {
    pub fn bytes(&self) -> Bytes {
        Bytes::copy_from_slice(&self.0)
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<&[u8]> for Blob {
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }
}

/// Bytes as one line of ASCII.
pub fn escape(bytes: &[u8]) -> String {
    if bytes.len() > 64 && bytes.iter().all(|b| *b == bytes[0]) {
        return format!("fill:{}:{}", bytes.len(), bytes[..1].escape_ascii());
    }
    let text = bytes.escape_ascii().to_string();
    if text.starts_with("fill:") { format!("\\x66{}", &text[1..]) } else { text }
}

fn unescape(text: &str) -> Option<Vec<u8>> {
    if let Some(rest) = text.strip_prefix("fill:") {
        let (length, byte) = rest.split_once(':')?;
        return Some(vec![*unescape(byte)?.first()?; length.parse().ok()?]);
    }
    let mut out = Vec::with_capacity(text.len());
    let mut from = text.bytes();
    while let Some(b) = from.next() {
        if b != b'\\' {
            out.push(b);
            continue;
        }
        out.push(match from.next()? {
            b't' => b'\t',
            b'n' => b'\n',
            b'r' => b'\r',
            b'x' => {
                let digits = [from.next()?, from.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            other => other,
        });
    }
    Some(out)
}

impl Serialize for Blob {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&escape(&self.0))
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        unescape(&text).map(Blob).ok_or_else(|| D::Error::custom(format!("{text:?} is not escaped text")))
    }
}

/// A revision, absolute or relative to the store.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Rev {
    At(i64),
    /// From the newest revision the reference server has told.
    Now(i64),
    /// From the newest revision that was compacted with success, 0 before the first.
    Floor(i64),
}

impl Default for Rev {
    fn default() -> Self {
        Self::At(0)
    }
}

impl Rev {
    fn is_zero(&self) -> bool {
        *self == Self::At(0)
    }

    pub fn resolve(self, at: Known) -> i64 {
        match self {
            Self::At(n) => n,
            // Early in a script a revision before the first would be asked for too often.
            Self::Now(d) => (at.now + d).max(1),
            Self::Floor(d) => at.floor + d,
        }
    }
}

impl Serialize for Rev {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&match self {
            Self::At(n) => n.to_string(),
            Self::Now(d) => format!("now{d:+}"),
            Self::Floor(d) => format!("floor{d:+}"),
        })
    }
}

impl<'de> Deserialize<'de> for Rev {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        let parsed = if let Some(d) = text.strip_prefix("now") {
            d.parse().map(Self::Now)
        } else if let Some(d) = text.strip_prefix("floor") {
            d.parse().map(Self::Floor)
        } else {
            text.parse().map(Self::At)
        };
        parsed.map_err(|_| D::Error::custom(format!("{text:?} is not a revision")))
    }
}

/// What revisions are relative to.
#[derive(Copy, Clone, Debug)]
pub struct Known {
    pub now: i64,
    pub floor: i64,
}

fn off(b: &bool) -> bool {
    !b
}
fn zero<T: Default + PartialEq>(n: &T) -> bool {
    *n == T::default()
}

#[derive(Clone, Default, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Put {
    pub key: Blob,
    #[serde(skip_serializing_if = "Blob::is_empty")]
    pub value: Blob,
    #[serde(skip_serializing_if = "zero")]
    pub lease: i64,
    #[serde(skip_serializing_if = "off")]
    pub prev_kv: bool,
    #[serde(skip_serializing_if = "off")]
    pub ignore_value: bool,
    #[serde(skip_serializing_if = "off")]
    pub ignore_lease: bool,
}

impl Put {
    pub fn request(&self) -> pb::PutRequest {
        pb::PutRequest {
            key: self.key.bytes(),
            value: self.value.bytes(),
            lease: self.lease,
            prev_kv: self.prev_kv,
            ignore_value: self.ignore_value,
            ignore_lease: self.ignore_lease,
        }
    }
}

#[derive(Clone, Default, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Range {
    pub key: Blob,
    #[serde(skip_serializing_if = "Blob::is_empty")]
    pub range_end: Blob,
    #[serde(skip_serializing_if = "zero")]
    pub limit: i64,
    #[serde(skip_serializing_if = "Rev::is_zero")]
    pub revision: Rev,
    #[serde(skip_serializing_if = "zero")]
    pub sort_order: i32,
    #[serde(skip_serializing_if = "zero")]
    pub sort_target: i32,
    #[serde(skip_serializing_if = "off")]
    pub serializable: bool,
    #[serde(skip_serializing_if = "off")]
    pub keys_only: bool,
    #[serde(skip_serializing_if = "off")]
    pub count_only: bool,
    #[serde(skip_serializing_if = "Rev::is_zero")]
    pub min_mod: Rev,
    #[serde(skip_serializing_if = "Rev::is_zero")]
    pub max_mod: Rev,
    #[serde(skip_serializing_if = "Rev::is_zero")]
    pub min_create: Rev,
    #[serde(skip_serializing_if = "Rev::is_zero")]
    pub max_create: Rev,
}

impl Range {
    pub fn request(&self, at: Known) -> pb::RangeRequest {
        pb::RangeRequest {
            key: self.key.bytes(),
            range_end: self.range_end.bytes(),
            limit: self.limit,
            revision: self.revision.resolve(at),
            sort_order: self.sort_order,
            sort_target: self.sort_target,
            serializable: self.serializable,
            keys_only: self.keys_only,
            count_only: self.count_only,
            min_mod_revision: self.min_mod.resolve(at),
            max_mod_revision: self.max_mod.resolve(at),
            min_create_revision: self.min_create.resolve(at),
            max_create_revision: self.max_create.resolve(at),
        }
    }
}

#[derive(Clone, Default, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Delete {
    pub key: Blob,
    #[serde(skip_serializing_if = "Blob::is_empty")]
    pub range_end: Blob,
    #[serde(skip_serializing_if = "off")]
    pub prev_kv: bool,
}

impl Delete {
    pub fn request(&self) -> pb::DeleteRangeRequest {
        pb::DeleteRangeRequest { key: self.key.bytes(), range_end: self.range_end.bytes(), prev_kv: self.prev_kv }
    }
}

/// What a compare is given to compare with; it need not fit the target.
#[derive(Clone, Default, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operand {
    #[default]
    None,
    Version(i64),
    Create(Rev),
    Mod(Rev),
    Value(Blob),
    Lease(i64),
}

#[derive(Clone, Default, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Compare {
    pub key: Blob,
    #[serde(skip_serializing_if = "Blob::is_empty")]
    pub range_end: Blob,
    pub result: i32,
    pub target: i32,
    pub operand: Operand,
}

impl Compare {
    fn request(&self, at: Known) -> pb::Compare {
        use pb::compare::TargetUnion as T;
        let target_union = match &self.operand {
            Operand::None => None,
            Operand::Version(n) => Some(T::Version(*n)),
            Operand::Create(r) => Some(T::CreateRevision(r.resolve(at))),
            Operand::Mod(r) => Some(T::ModRevision(r.resolve(at))),
            Operand::Value(v) => Some(T::Value(v.bytes())),
            Operand::Lease(n) => Some(T::Lease(*n)),
        };
        pb::Compare {
            result: self.result,
            target: self.target,
            key: self.key.bytes(),
            range_end: self.range_end.bytes(),
            target_union,
        }
    }
}

#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TxnOp {
    Put(Put),
    Range(Range),
    Delete(Delete),
    Txn(Txn),
    /// An operation with nothing in it, which no client means to send.
    Nothing,
}

impl TxnOp {
    fn request(&self, at: Known) -> pb::RequestOp {
        use pb::request_op::Request as R;
        let request = match self {
            Self::Put(p) => Some(R::RequestPut(p.request())),
            Self::Range(r) => Some(R::RequestRange(r.request(at))),
            Self::Delete(d) => Some(R::RequestDeleteRange(d.request())),
            Self::Txn(t) => Some(R::RequestTxn(t.request(at))),
            Self::Nothing => None,
        };
        pb::RequestOp { request }
    }
}

#[derive(Clone, Default, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Txn {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub compare: Vec<Compare>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub success: Vec<TxnOp>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub failure: Vec<TxnOp>,
}

impl Txn {
    pub fn success_mut(&mut self) -> &mut Vec<TxnOp> {
        &mut self.success
    }

    pub fn failure_mut(&mut self) -> &mut Vec<TxnOp> {
        &mut self.failure
    }

    pub fn request(&self, at: Known) -> pb::TxnRequest {
        pb::TxnRequest {
            compare: self.compare.iter().map(|c| c.request(at)).collect(),
            success: self.success.iter().map(|o| o.request(at)).collect(),
            failure: self.failure.iter().map(|o| o.request(at)).collect(),
        }
    }
}

#[derive(Clone, Default, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Watch {
    pub stream: usize,
    #[serde(skip_serializing_if = "zero")]
    pub id: i64,
    pub key: Blob,
    #[serde(skip_serializing_if = "Blob::is_empty")]
    pub range_end: Blob,
    #[serde(skip_serializing_if = "Rev::is_zero")]
    pub start: Rev,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<i32>,
    #[serde(skip_serializing_if = "off")]
    pub prev_kv: bool,
    #[serde(skip_serializing_if = "off")]
    pub fragment: bool,
    #[serde(skip_serializing_if = "off")]
    pub progress_notify: bool,
}

impl Watch {
    pub fn request(&self, at: Known) -> pb::WatchCreateRequest {
        pb::WatchCreateRequest {
            key: self.key.bytes(),
            range_end: self.range_end.bytes(),
            start_revision: self.start.resolve(at),
            progress_notify: self.progress_notify,
            filters: self.filters.clone(),
            prev_kv: self.prev_kv,
            watch_id: self.id,
            fragment: self.fragment,
        }
    }
}

/// One step of a script.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    Put(Put),
    Range(Range),
    /// The chunks of RangeStream, put together again.
    RangeStream(Range),
    Delete(Delete),
    Txn(Txn),
    Compact {
        revision: Rev,
        physical: bool,
    },
    Grant {
        id: i64,
        ttl: i64,
    },
    Revoke {
        id: i64,
    },
    TimeToLive {
        id: i64,
        keys: bool,
    },
    Leases,
    KeepAlive {
        id: i64,
    },
    /// Grants a short lease, hangs keys on it and waits until both servers have ended it.
    Expire {
        id: i64,
        ttl: i64,
        keys: Vec<Blob>,
    },
    Watch(Watch),
    Cancel {
        stream: usize,
        id: i64,
    },
    Progress {
        stream: usize,
    },
    HashKv {
        revision: Rev,
    },
    Status,
    /// `action` and `kind` are etcd's numbers; `local` names the member that is asked, else `member` is sent.
    Alarm {
        action: i32,
        kind: i32,
        local: bool,
        member: u64,
    },
    Members {
        linearizable: bool,
    },
    AuthStatus,
    Defragment,
    /// Waits until every watch has what it must have, and compares.
    Check,
    /// Ends both servers, by SIGKILL or SIGTERM, and starts them on the same data.
    Restart {
        kill: bool,
    },
}

impl Op {
    pub fn line(&self) -> String {
        serde_json::to_string(self).unwrap_or_else(|e| format!("{{\"unwritable\": {:?}}}", e.to_string()))
    }
}

/// Reads a script; empty lines and lines that start with `#` say nothing.
pub fn parse(text: &str) -> Result<Vec<Op>, String> {
    let lines = text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty() && !l.starts_with('#'));
    lines.map(|(n, l)| serde_json::from_str(l).map_err(|e| format!("line {}: {e}", n + 1))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is written is read back as it was, odd bytes included.
    #[test]
    fn scripts_survive_writing() {
        let odd: Vec<u8> = (0..=255).collect();
        for bytes in [&odd[..], b"", b"fill:3:a", &[0; 100], b"\\x41\"'\n"] {
            let op = Op::Put(Put { key: Blob::from(bytes), value: Blob::from(bytes), ..Default::default() });
            assert_eq!(parse(&op.line()).unwrap(), vec![op]);
        }
        for revision in [Rev::At(-1), Rev::Now(0), Rev::Now(-3), Rev::Floor(2)] {
            let op = Op::Compact { revision, physical: true };
            assert_eq!(parse(&op.line()).unwrap(), vec![op]);
        }
    }
}
