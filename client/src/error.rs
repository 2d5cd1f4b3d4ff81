//! What can go wrong, as a caller needs to tell it apart.
//!
//! Invariant: an error that a server gave keeps its gRPC code and its text unchanged; etcd's clients look errors up by text.

use std::fmt;

use tonic::{Code, Status};

/// The result of every call.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failed call, or settings that cannot work.
#[derive(Debug, Clone)]
pub enum Error {
    /// The settings are wrong; nothing was sent.
    Config(String),
    /// No connection to any endpoint within the time limit, or at all; nothing was sent.
    Connect(String),
    /// The time limit passed. A write may or may not have happened.
    Timeout,
    /// The server, or gRPC on the way to it, refused.
    Server {
        /// gRPC's code.
        code: Code,
        /// The text, with etcd's `etcdserver: ` prefix where it has one.
        message: String,
    },
    /// The other end closed a stream that should have gone on.
    Closed,
    /// The lease of a session ran out or was revoked.
    LeaseLost,
}

impl Error {
    /// gRPC's code, where there is one.
    pub fn code(&self) -> Option<Code> {
        match self {
            Self::Server { code, .. } => Some(*code),
            Self::Connect(_) => Some(Code::Unavailable),
            Self::Timeout => Some(Code::DeadlineExceeded),
            _ => None,
        }
    }

    /// The server's text, where there is one.
    pub fn message(&self) -> Option<&str> {
        match self {
            Self::Server { message, .. } => Some(message),
            _ => None,
        }
    }

    /// True when the text is exactly this one of etcd's, given without its `etcdserver: ` prefix.
    pub fn is_etcd(&self, text: &str) -> bool {
        self.message().and_then(|message| message.strip_prefix("etcdserver: ")) == Some(text)
    }
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        if let Some(text) = not_connected(&status) {
            return Self::Connect(text);
        }
        // The server keeps the same deadline as we do, and may be the first to notice that it has passed.
        let ours = status.code() == Code::Cancelled && status.message() == "Timeout expired";
        let servers = status.code() == Code::DeadlineExceeded && status.message() == "context deadline exceeded";
        if ours || servers {
            return Self::Timeout;
        }
        Self::Server { code: status.code(), message: status.message().to_string() }
    }
}

/// What the system said, without Rust's number behind it, in lower case like the errors of other clients.
pub(crate) fn system_text(error: &std::io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    text.chars().take(1).flat_map(char::to_lowercase).chain(text.chars().skip(1)).collect()
}

/// The reason, when the status says that no connection came about, so that nothing was sent.
pub(crate) fn not_connected(status: &Status) -> Option<String> {
    let mut next = std::error::Error::source(status);
    while let Some(error) = next {
        if let Some(failure) = error.downcast_ref::<ConnectFailure>() {
            return Some(failure.to_string());
        }
        // What hyper cancels never left its queue.
        if error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_canceled) {
            return Some(format!("{UNHEARD}{error}"));
        }
        // Errors of a connection lose their type on the way through HTTP/2, but not their words.
        let text = error.to_string();
        if let Some(at) = text.find(UNHEARD) {
            return Some(text[at..].to_string());
        }
        next = error.source();
    }
    None
}

/// How failures begin that happen before the server has said anything.
pub(crate) const UNHEARD: &str = "connection closed before the server answered: ";

/// Marks errors of the connector, which happen before anything is sent.
#[derive(Debug, Clone, thiserror::Error)]
#[error("connection error: {0}")]
pub(crate) struct ConnectFailure(pub String);

impl std::error::Error for Error {}

impl fmt::Display for Error {
    /// Prints as etcd's own client does, which scripts read: known texts bare, other server errors with code and description.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(text) | Self::Connect(text) => f.write_str(text),
            Self::Timeout => f.write_str("context deadline exceeded"),
            Self::Server { message, .. } if message.starts_with("etcdserver: ") => f.write_str(message),
            Self::Server { code, message } => write!(f, "rpc error: code = {code:?} desc = {message}"),
            Self::Closed => f.write_str("stream closed by the server"),
            Self::LeaseLost => f.write_str("etcdserver: requested lease not found"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Errors print in the two forms that scripts around etcdctl look for.
    #[test]
    fn printing() {
        let known = Error::from(Status::failed_precondition("etcdserver: not leader"));
        assert_eq!(known.to_string(), "etcdserver: not leader");
        assert!(known.is_etcd("not leader") && !known.is_etcd("no leader"));
        let late = Error::from(Status::deadline_exceeded("context deadline exceeded"));
        assert_eq!(late.to_string(), "context deadline exceeded");
        let other = Error::from(Status::resource_exhausted("too big"));
        assert_eq!(other.to_string(), "rpc error: code = ResourceExhausted desc = too big");
        assert_eq!(other.code(), Some(Code::ResourceExhausted));
    }
}
