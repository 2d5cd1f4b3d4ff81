//! Version, metrics, debug variables and the page of live state.

use std::io::Write;
use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, Method, StatusCode, Uri, header};

use crate::telemetry::{Metrics, process};

/// Headers of a plain text answer, as Go's http.Error sets them.
pub(super) const PLAIN: [(&str, &str); 2] = [("content-type", "text/plain; charset=utf-8"), ("x-content-type-options", "nosniff")];

/// What /version shows; versions are `major.minor.patch`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versions {
    /// The etcd version this server stands for.
    pub server: String,
    /// None until the members have agreed on it.
    pub cluster: Option<String>,
    pub storage: Option<String>,
}

pub(super) fn method_not_allowed() -> Response {
    let [content, sniff] = PLAIN;
    (StatusCode::METHOD_NOT_ALLOWED, [("allow", "GET"), content, sniff], "Method Not Allowed\n").into_response()
}

pub(super) async fn version(State(versions): State<Arc<dyn Fn() -> Versions + Send + Sync>>, method: Method) -> Response {
    if method != Method::GET {
        return method_not_allowed();
    }
    let Versions { server, cluster, storage } = versions();
    // Written by hand for the order of the fields.
    let text = |v: Option<String>, absent: &str| serde_json::Value::from(v.unwrap_or_else(|| absent.into()));
    let body = format!(
        "{{\"etcdserver\":{},\"etcdcluster\":{},\"storage\":{}}}",
        text(Some(server), ""),
        text(cluster, "not_decided"),
        text(storage, "unknown")
    );
    ([("content-type", "application/json")], body).into_response()
}

pub(super) async fn metrics(State(metrics): State<Arc<Metrics>>, headers: HeaderMap) -> Response {
    const TEXT: (&str, &str) = ("content-type", "text/plain; version=0.0.4; charset=utf-8");
    let page = metrics.render();
    if takes_gzip(&headers)
        && let Ok(small) = gzip(page.as_bytes())
    {
        return ([TEXT, ("content-encoding", "gzip")], small).into_response();
    }
    ([TEXT], page).into_response()
}

/// Whether the client said that it reads gzip; `q=0` says that it does not.
fn takes_gzip(headers: &HeaderMap) -> bool {
    let words = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok()).flat_map(|v| v.split(','));
    words.into_iter().any(|word| {
        let (name, more) = word.split_once(';').unwrap_or((word, ""));
        let refused = more.trim().strip_prefix("q=").is_some_and(|q| q.parse::<f32>().is_ok_and(|q| q == 0.0));
        name.trim().eq_ignore_ascii_case("gzip") && !refused
    })
}

fn gzip(page: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut writer = flate2::write::GzEncoder::new(Vec::with_capacity(page.len() / 8), flate2::Compression::fast());
    writer.write_all(page)?;
    writer.finish()
}

/// Go's expvar page as far as it has a meaning here: of Go's memory what the kernel knows of ours, of raft what the live page shows.
pub(super) async fn vars(State(page): State<Arc<dyn Fn() -> serde_json::Value + Send + Sync>>, method: Method) -> Response {
    if method != Method::GET {
        return method_not_allowed();
    }
    let process = process::Process::now();
    let words: Vec<String> = std::env::args().collect();
    let memory =
        serde_json::json!({ "Alloc": process.resident_bytes, "HeapAlloc": process.resident_bytes, "Sys": process.virtual_bytes });
    let vars = [
        ("cmdline", serde_json::Value::from(words)),
        ("file_descriptor_limit", process.max_fds.into()),
        ("memstats", memory),
        ("raft.status", raft_status(&page())),
    ];
    let lines: Vec<String> = vars.into_iter().map(|(name, value)| format!("\"{name}\": {value}")).collect();
    let body = format!("{{\n{}\n}}\n", lines.join(",\n"));
    ([("content-type", "application/json; charset=utf-8")], body).into_response()
}

/// Of the live page what etcd shows of raft, under its names; ids are hexadecimal without leading zeros.
fn raft_status(live: &serde_json::Value) -> serde_json::Value {
    let id = |name: &str| live[name].as_str().map(|id| id.trim_start_matches('0')).map(|id| if id.is_empty() { "0" } else { id });
    let (own, lead) = (id("member_id"), id("leader"));
    serde_json::json!({
        "id": own,
        "term": live["term"],
        "commit": live["committed_index"],
        "applied": live["applied_index"],
        "lead": lead,
        "raftState": if own.is_some() && own == lead { "StateLeader" } else { "StateFollower" },
    })
}

pub(super) async fn live(State(page): State<Arc<dyn Fn() -> serde_json::Value + Send + Sync>>) -> Response {
    ([("content-type", "application/json")], page().to_string()).into_response()
}

/// The query's pairs, percent-decoded; a word without `=` has an empty value.
pub(super) fn query(uri: &Uri) -> Vec<(String, String)> {
    let pairs = uri.query().unwrap_or_default().split('&').filter(|p| !p.is_empty());
    pairs.map(|p| p.split_once('=').unwrap_or((p, ""))).map(|(k, v)| (unescape(k), unescape(v))).collect()
}

fn unescape(text: &str) -> String {
    let (bytes, mut out, mut at) = (text.as_bytes(), Vec::with_capacity(text.len()), 0);
    while at < bytes.len() {
        let hex = (bytes[at] == b'%').then(|| text.get(at + 1..at + 3)).flatten().and_then(|h| u8::from_str_radix(h, 16).ok());
        out.push(hex.unwrap_or(if bytes[at] == b'+' { b' ' } else { bytes[at] }));
        at += if hex.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&out).into_owned()
}
