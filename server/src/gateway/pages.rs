//! Version, metrics, debug variables and the page of live state.

use std::sync::Arc;

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{Method, StatusCode, Uri};

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

pub(super) async fn metrics(State(metrics): State<Arc<Metrics>>) -> Response {
    ([("content-type", "text/plain; version=0.0.4; charset=utf-8")], metrics.render()).into_response()
}

/// Go's expvar page as far as it has a meaning here.
pub(super) async fn vars(method: Method) -> Response {
    if method != Method::GET {
        return method_not_allowed();
    }
    let process = process::Process::now();
    let words: Vec<String> = std::env::args().collect();
    let body =
        format!("{{\n\"cmdline\": {},\n\"file_descriptor_limit\": {}\n}}\n", serde_json::Value::from(words), process.max_fds);
    ([("content-type", "application/json; charset=utf-8")], body).into_response()
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
