//! Who works: of several operators, the one that holds the Lease.
//!
//! The Lease is changed by compare-and-swap. Whether another's hold ran out is judged by our own clock, from the moment at which we
//! saw its last change, so clocks of different machines do not matter. The hold is advisory: what really keeps two operators
//! from acting on one cluster is the compare-and-swap on the cluster's journal.

use std::time::{Duration, Instant};

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, PostParams};
use kube::{Api, Client, ResourceExt};
use tokio::time::{sleep, timeout};

/// For how long a hold is good without being renewed.
const HOLD: Duration = Duration::from_secs(15);
/// Who could not renew for this long stops working, before anyone else may begin.
const RENEW_WITHIN: Duration = Duration::from_secs(10);
/// Between tries.
const PACE: Duration = Duration::from_secs(2);

/// A candidate for the Lease.
pub struct Election {
    api: Api<Lease>,
    name: String,
    identity: String,
}

/// What is known of the Lease: its version and since when.
struct Sight {
    version: String,
    at: Instant,
}

impl Election {
    /// A candidate of this name, for the Lease of that name.
    pub fn new(client: Client, namespace: &str, name: &str, identity: &str) -> Self {
        Self { api: Api::namespaced(client, namespace), name: name.into(), identity: identity.into() }
    }

    /// Waits until this candidate holds the Lease.
    pub async fn win(&self) {
        let mut sight: Option<Sight> = None;
        loop {
            match self.try_to_win(&mut sight).await {
                Ok(true) => return,
                Ok(false) => (),
                Err(error) => tracing::warn!(%error, "cannot read or write the lease"),
            }
            sleep(PACE).await;
        }
    }

    async fn try_to_win(&self, sight: &mut Option<Sight>) -> kube::Result<bool> {
        let Some(lease) = self.api.get_opt(&self.name).await? else {
            let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
            let lease = Lease { metadata, spec: Some(self.spec(None)) };
            return self.swapped(self.api.create(&PostParams::default(), &lease).await);
        };
        let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.clone()).unwrap_or_default();
        let version = lease.resource_version().unwrap_or_default();
        let seen = sight.as_ref().filter(|sight| sight.version == version).map(|sight| sight.at);
        let stale = seen.is_some_and(|at| at.elapsed() >= HOLD);
        if seen.is_none() {
            *sight = Some(Sight { version, at: Instant::now() });
        }
        if !holder.is_empty() && holder != self.identity && !stale {
            return Ok(false);
        }
        let mut next = lease.clone();
        next.spec = Some(self.spec(lease.spec.as_ref()));
        self.swapped(self.api.replace(&self.name, &PostParams::default(), &next).await)
    }

    /// Holds the Lease; returns when it is lost.
    pub async fn hold(&self) {
        let mut renewed = Instant::now();
        while renewed.elapsed() < RENEW_WITHIN {
            sleep(PACE).await;
            match timeout(RENEW_WITHIN.saturating_sub(renewed.elapsed()), self.renew()).await {
                Ok(Ok(true)) => renewed = Instant::now(),
                Ok(Ok(false)) => return,
                Ok(Err(error)) => tracing::warn!(%error, "cannot renew the lease"),
                Err(_) => return,
            }
        }
    }

    async fn renew(&self) -> kube::Result<bool> {
        let mut lease = self.api.get(&self.name).await?;
        if lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()) != Some(self.identity.as_str()) {
            return Ok(false);
        }
        lease.spec = Some(self.spec(lease.spec.as_ref()));
        match self.api.replace(&self.name, &PostParams::default(), &lease).await {
            // Somebody wrote in between; the next look tells who.
            Err(kube::Error::Api(status)) if status.is_conflict() => Ok(true),
            other => other.map(|_| true),
        }
    }

    /// Gives the Lease back, so that the next one need not wait.
    pub async fn release(&self) {
        let Ok(mut lease) = self.api.get(&self.name).await else { return };
        if lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()) == Some(self.identity.as_str()) {
            if let Some(spec) = &mut lease.spec {
                spec.holder_identity = Some(String::new());
            }
            if let Err(error) = self.api.replace(&self.name, &PostParams::default(), &lease).await {
                tracing::debug!(%error, "cannot give the lease back");
            }
        }
    }

    fn spec(&self, before: Option<&LeaseSpec>) -> LeaseSpec {
        let now = MicroTime(Timestamp::now());
        let mine = before.filter(|spec| spec.holder_identity.as_deref() == Some(self.identity.as_str()));
        let changes = before.and_then(|spec| spec.lease_transitions).unwrap_or(0);
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(HOLD.as_secs()).ok(),
            acquire_time: mine.and_then(|spec| spec.acquire_time.clone()).or(Some(now.clone())),
            renew_time: Some(now),
            lease_transitions: Some(if mine.is_some() { changes } else { changes.saturating_add(1) }),
            ..LeaseSpec::default()
        }
    }

    fn swapped(&self, result: kube::Result<Lease>) -> kube::Result<bool> {
        match result {
            Ok(_) => Ok(true),
            Err(kube::Error::Api(status)) if status.is_conflict() || status.is_already_exists() => Ok(false),
            Err(error) => Err(error),
        }
    }
}
