//! A small API server for tests: objects by their path, a new version with each write, preconditions as the real one has them.

use super::build::merge;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::body::Bytes;
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use kube::{Client, Config};
use serde_json::{Value, json};

/// What it holds.
#[derive(Clone, Default)]
pub(crate) struct Fake(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Value>,
    version: u64,
    writes: Vec<String>,
}

impl Fake {
    /// Opens its door.
    pub(crate) async fn client(&self) -> Client {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let fake = self.clone();
        let router = Router::new().fallback(move |method: Method, uri: Uri, body: Bytes| {
            let answer = fake.answer(&method, uri.path(), &body);
            async move { answer }
        });
        tokio::spawn(async move { axum::serve(listener, router).await });
        Client::try_from(Config::new(url.parse().unwrap())).unwrap()
    }

    /// Puts an object there.
    pub(crate) fn put(&self, path: &str, mut object: Value) {
        let mut state = self.0.lock().unwrap();
        state.version += 1;
        object["metadata"]["resourceVersion"] = json!(state.version.to_string());
        state.objects.insert(path.into(), object);
    }

    /// The object as it is.
    pub(crate) fn get(&self, path: &str) -> Option<Value> {
        self.0.lock().unwrap().objects.get(path).cloned()
    }

    /// Methods and paths of the writes so far.
    pub(crate) fn writes(&self) -> Vec<String> {
        self.0.lock().unwrap().writes.clone()
    }

    fn answer(&self, method: &Method, path: &str, body: &[u8]) -> Response {
        let body: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
        if method == Method::GET {
            return self.get(path).map_or_else(|| refuse(StatusCode::NOT_FOUND, "NotFound"), |object| Json(object).into_response());
        }
        self.0.lock().unwrap().writes.push(format!("{method} {path}"));
        let path = match (method, body["metadata"]["name"].as_str()) {
            (&Method::POST, Some(name)) => format!("{path}/{name}"),
            _ => path.to_string(),
        };
        let known = self.get(&path);
        let asked = &body["metadata"]["resourceVersion"];
        let stale = known.as_ref().is_some_and(|known| !asked.is_null() && *asked != known["metadata"]["resourceVersion"]);
        match (method, known) {
            (&Method::POST, Some(_)) => refuse(StatusCode::CONFLICT, "AlreadyExists"),
            (&Method::DELETE, None) => refuse(StatusCode::NOT_FOUND, "NotFound"),
            _ if stale => refuse(StatusCode::CONFLICT, "Conflict"),
            (&Method::DELETE, Some(known)) => {
                self.0.lock().unwrap().objects.remove(&path);
                Json(known).into_response()
            }
            (_, known) => {
                let mut next = known.unwrap_or_else(|| json!({}));
                merge(&mut next, &body);
                self.put(&path, next.clone());
                Json(next).into_response()
            }
        }
    }
}

fn refuse(code: StatusCode, reason: &str) -> Response {
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "message": reason, "code": code.as_u16()});
    (code, Json(status)).into_response()
}
