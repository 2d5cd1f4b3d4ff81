//! Which versions of etcd's API clients say they speak: `etcd_server_client_requests_total`.
//!
//! In: the `client-api-version` of each call. Out: counts. The value comes from the client, so no more than [`MOST`] are kept apart;
//! almost all calls of a moment carry the same one, which is then found without a lock.

use std::{
    collections::BTreeSet,
    sync::{Arc, OnceLock},
};

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;

use super::status::Refusal;
use crate::telemetry::{Counter, Metrics};

/// Versions counted apart; calls with yet another are counted as `other`.
const MOST: usize = 32;

/// Longest version that is counted under its own name, in bytes.
const LONGEST: usize = 64;

/// Whether a call is one request and one answer, or a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// One of each.
    Unary,
    /// Any number.
    Stream,
}

type Last = ArcSwapOption<(Vec<u8>, Arc<Counter>)>;

/// The counts.
pub struct ClientVersions {
    metrics: Arc<Metrics>,
    /// By shape: calls that name no version.
    unknown: [OnceLock<Arc<Counter>>; 2],
    /// By shape: the version seen last.
    last: [Last; 2],
    known: Mutex<BTreeSet<String>>,
}

impl ClientVersions {
    /// Counts into `metrics`.
    pub fn new(metrics: Arc<Metrics>) -> ClientVersions {
        ClientVersions { metrics, unknown: Default::default(), last: Default::default(), known: Mutex::default() }
    }

    /// Counts one call.
    ///
    /// # Errors
    /// When the version is not UTF-8.
    pub fn count(&self, shape: Shape, version: Option<&[u8]>) -> Result<(), Refusal> {
        let Some(version) = version else {
            self.unknown[shape as usize].get_or_init(|| self.counter(shape, "unknown")).inc();
            return Ok(());
        };
        let last = &self.last[shape as usize];
        if let Some(found) = last.load().as_ref().filter(|found| found.0 == version) {
            found.1.inc();
            return Ok(());
        }
        let text = std::str::from_utf8(version).map_err(|_| Refusal::InvalidClientApiVersion)?;
        let counter = self.counter(shape, self.name(text));
        counter.inc();
        last.store(Some(Arc::new((version.to_vec(), counter))));
        Ok(())
    }

    fn name<'a>(&self, version: &'a str) -> &'a str {
        let mut known = self.known.lock();
        if known.contains(version) {
            return version;
        }
        if known.len() >= MOST || version.len() > LONGEST {
            return "other";
        }
        known.insert(version.to_owned());
        version
    }

    fn counter(&self, shape: Shape, version: &str) -> Arc<Counter> {
        let kind = match shape {
            Shape::Unary => "unary",
            Shape::Stream => "stream",
        };
        self.metrics.client_requests.with(&[kind, version])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Versions are counted apart by name and shape, bytes that are no text are refused, and a client that makes names up does not
    /// grow the page without end.
    #[test]
    fn counted_and_bounded() {
        let metrics = Metrics::new(false);
        let versions = ClientVersions::new(metrics.clone());
        for _ in 0..3 {
            versions.count(Shape::Unary, Some(b"3.7")).unwrap();
        }
        versions.count(Shape::Stream, Some(b"3.7")).unwrap();
        versions.count(Shape::Unary, None).unwrap();
        assert_eq!(versions.count(Shape::Unary, Some(&[0xff])), Err(Refusal::InvalidClientApiVersion));
        for n in 0..1000 {
            versions.count(Shape::Unary, Some(format!("made up {n}").as_bytes())).unwrap();
        }
        let of = |kind, version| metrics.client_requests.with(&[kind, version]).get();
        assert_eq!((of("unary", "3.7"), of("stream", "3.7"), of("unary", "unknown")), (3, 1, 1));
        assert_eq!(of("unary", "other"), 1000 - (MOST as u64 - 1));
        let rows = metrics.render().lines().filter(|l| l.starts_with("etcd_server_client_requests_total{")).count();
        assert_eq!(rows, MOST + 3);
    }
}
