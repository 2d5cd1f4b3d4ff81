//! Who may ask over HTTP: host names (against DNS rebinding), origins, and the paths' old and unclean spellings.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use tower::ServiceExt;

use super::pages::PLAIN;
use crate::door::ConnInfo;

/// All, or only those named.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AllowList {
    #[default]
    All,
    Only(BTreeSet<String>),
}

/// --cors and --host-whitelist.
#[derive(Clone, Debug, Default)]
pub struct Access {
    pub origins: AllowList,
    pub hosts: AllowList,
}

impl AllowList {
    fn allows(&self, word: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only(words) => words.contains(word) || words.contains("*"),
        }
    }
}

impl Access {
    /// Puts these rules in front of `inner`.
    pub(super) fn guard(self, inner: Router) -> Router {
        let access = Arc::new(self);
        Router::new().fallback(move |request: Request| {
            let (access, inner) = (access.clone(), inner.clone());
            async move { access.pass(request, inner).await }
        })
    }

    async fn pass(&self, mut request: Request, inner: Router) -> Response {
        let tls = request.extensions().get::<Arc<ConnInfo>>().is_some_and(|info| info.tls);
        let host = host(&request);
        if !tls && !self.hosts.allows(&host) {
            tracing::warn!(host, "rejecting HTTP request to prevent DNS rebinding attacks");
            let text = format!("the Host header {host:?} is not known here: use TLS, or name it in --host-whitelist\n");
            return (StatusCode::MISDIRECTED_REQUEST, PLAIN, text).into_response();
        }
        let origin = match &self.origins {
            list if list.allows("*") => Some(HeaderValue::from_static("*")),
            list => request.headers().get(header::ORIGIN).filter(|o| o.to_str().is_ok_and(|o| list.allows(o))).cloned(),
        };
        let mut response = if request.method() == Method::OPTIONS {
            StatusCode::OK.into_response()
        } else {
            if let Some(uri) = modern(request.uri()) {
                *request.uri_mut() = uri;
            }
            match clean(request.uri().path()) {
                Some(path) => redirect(&request, path),
                None => inner.oneshot(request).await.unwrap_or_else(|never| match never {}),
            }
        };
        if let Some(origin) = origin {
            allow(response.headers_mut(), origin);
        }
        response
    }
}

fn allow(headers: &mut HeaderMap, origin: HeaderValue) {
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("POST, GET, OPTIONS, PUT, DELETE"));
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("accept, content-type, authorization"));
}

/// The asked-for host without its port.
fn host(request: &Request) -> String {
    let named = request.headers().get(header::HOST).and_then(|h| h.to_str().ok());
    let whole = named.or(request.uri().authority().map(|a| a.as_str())).unwrap_or_default();
    let end = whole.rfind(':').filter(|at| !whole[*at..].contains(']')).unwrap_or(whole.len());
    whole[..end].trim_matches(['[', ']']).to_owned()
}

/// A path without empty words, `.` and `..`, when it has any; a slash at its end stays.
fn clean(path: &str) -> Option<String> {
    let mut words: Vec<&str> = Vec::new();
    for word in path.split('/') {
        match word {
            "" | "." => {}
            ".." => drop(words.pop()),
            word => words.push(word),
        }
    }
    let end = if path.ends_with('/') && !words.is_empty() { "/" } else { "" };
    let clean = format!("/{}{end}", words.join("/"));
    (clean != path).then_some(clean)
}

/// To the path as it should have been asked for, as Go's server sends its clients; method and body stay the same.
fn redirect(request: &Request, path: String) -> Response {
    let place = match request.uri().query() {
        Some(query) => format!("{path}?{query}"),
        None => path,
    };
    let text = match *request.method() {
        Method::GET => format!("<a href=\"{}\">Temporary Redirect</a>.\n\n", escape(&place)),
        _ => String::new(),
    };
    let Ok(location) = HeaderValue::from_str(&place) else { return StatusCode::BAD_REQUEST.into_response() };
    let mut response = (StatusCode::TEMPORARY_REDIRECT, text).into_response();
    response.headers_mut().insert(header::LOCATION, location);
    match *request.method() {
        Method::GET | Method::HEAD => {
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"))
        }
        _ => response.headers_mut().remove(header::CONTENT_TYPE),
    };
    response
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&#34;").replace('\'', "&#39;")
}

/// `/v3beta/x` as `/v3/x`.
fn modern(uri: &Uri) -> Option<Uri> {
    let rest = uri.path_and_query()?.as_str().strip_prefix("/v3beta/")?;
    format!("/v3/{rest}").parse().ok()
}
