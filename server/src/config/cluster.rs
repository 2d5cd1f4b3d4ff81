//! The first members: `--initial-cluster` read and checked against the member's own name and URLs. In: a [`Config`]. Out:
//! [`FirstStart`]. Called only when the data directory holds no member yet: later starts ignore these flags, as in etcd,
//! so an outdated list in a manifest must not stop a restart.

use std::collections::{BTreeMap, BTreeSet};

use super::error::ConfigError;
use super::identity::{cluster_id, member_id};
use super::model::{ClusterState, Config};
use super::url::Url;

const FLAG: &str = "initial-cluster";

/// Names and their peer URLs, each list sorted.
pub type InitialCluster = BTreeMap<String, Vec<Url>>;

/// What a member without data is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FirstStart {
    /// Form a cluster with these members.
    Form(Bootstrap),
    /// Join a cluster that has this member on its list already; ids come from that cluster.
    Join(InitialCluster),
}

/// A cluster about to be formed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bootstrap {
    pub cluster_id: u64,
    /// The id of this member; it is in `members`.
    pub local_id: u64,
    /// By id, ascending.
    pub members: Vec<BootstrapMember>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootstrapMember {
    pub id: u64,
    pub name: String,
    pub peer_urls: Vec<Url>,
}

/// Reads `name=url,name2=url`; a name that comes again adds a URL.
///
/// # Errors
/// When an entry is not name=url, a URL is bad, or a URL appears twice.
pub fn parse_initial_cluster(text: &str) -> Result<InitialCluster, ConfigError> {
    let mut members = InitialCluster::new();
    let mut seen = BTreeSet::new();
    for entry in text.split(',').filter(|entry| !entry.trim().is_empty()) {
        let (name, url) =
            entry.split_once('=').ok_or_else(|| ConfigError::refused(FLAG, format!("{entry:?} is not of the form name=url")))?;
        let name = name.trim();
        if name.is_empty() {
            return Err(ConfigError::refused(FLAG, format!("{entry:?} has no member name")));
        }
        let url = Url::parse(url).map_err(|reason| ConfigError::refused(FLAG, format!("member {name:?}: {reason}")))?;
        url.check_advertised().map_err(|reason| ConfigError::refused(FLAG, format!("member {name:?}: {reason}")))?;
        if !seen.insert(url.to_string()) {
            return Err(ConfigError::refused(FLAG, format!("initial cluster has duplicate url {url}")));
        }
        members.entry(name.to_owned()).or_default().push(url);
    }
    for urls in members.values_mut() {
        urls.sort_by_cached_key(ToString::to_string);
    }
    Ok(members)
}

impl Config {
    /// What to do on a first start, with etcd's ids when a cluster is to be formed.
    ///
    /// # Errors
    /// When the list is bad, lacks this member, or gives it other URLs than `--initial-advertise-peer-urls`.
    pub fn first_start(&self) -> Result<FirstStart, ConfigError> {
        let members = parse_initial_cluster(&self.initial_cluster)?;
        if members.is_empty() {
            return Err(ConfigError::refused(FLAG, "the initial cluster is empty; list the members as name=url"));
        }
        let Some(own) = members.get(&self.name) else {
            let reason =
                format!("couldn't find local name {:?} in the initial cluster configuration ({})", self.name, names(&members));
            return Err(ConfigError::refused(FLAG, reason));
        };
        if self.initial_cluster_state == ClusterState::Existing {
            return Ok(FirstStart::Join(members));
        }
        self.check_own_urls(own)?;
        form(&self.name, members, &self.initial_cluster_token).map(FirstStart::Form)
    }

    /// Both flags must hold the same URLs. No name is resolved, so a DNS name and its address count as different.
    fn check_own_urls(&self, listed: &[Url]) -> Result<(), ConfigError> {
        if let Some(url) = listed.iter().find(|url| !self.advertise_peer_urls.contains(url)) {
            let reason = format!(
                "--initial-cluster has {}={url} but missing from --initial-advertise-peer-urls={}",
                self.name,
                join(&self.advertise_peer_urls)
            );
            return Err(ConfigError::refused(FLAG, reason));
        }
        if let Some(url) = self.advertise_peer_urls.iter().find(|url| !listed.contains(url)) {
            let reason =
                format!("--initial-advertise-peer-urls has {url} but missing from --initial-cluster={}", self.initial_cluster);
            return Err(ConfigError::refused("initial-advertise-peer-urls", reason));
        }
        Ok(())
    }
}

/// The founding of a cluster of these members, as every one of them computes it; `local` is this member's name.
///
/// # Errors
/// When two ids collide.
pub fn form(local: &str, members: InitialCluster, token: &str) -> Result<Bootstrap, ConfigError> {
    let mut local_id = 0;
    let mut rows: Vec<BootstrapMember> = members
        .into_iter()
        .map(|(name, peer_urls)| {
            let texts: Vec<String> = peer_urls.iter().map(ToString::to_string).collect();
            let id = member_id(&texts, token);
            if name == local {
                local_id = id;
            }
            BootstrapMember { id, name, peer_urls }
        })
        .collect();
    rows.sort_by_key(|member| member.id);
    // Raft keeps id 0 for "nobody". Both cases are one in 2^64 or so, and a new token mends them.
    if rows.iter().any(|member| member.id == 0) || rows.windows(2).any(|two| two[0].id == two[1].id) {
        return Err(ConfigError::refused("initial-cluster-token", "two member ids collide or one is zero; choose another token"));
    }
    let ids: Vec<u64> = rows.iter().map(|member| member.id).collect();
    Ok(Bootstrap { cluster_id: cluster_id(&ids), local_id, members: rows })
}

fn names(members: &InitialCluster) -> String {
    members.keys().map(String::as_str).collect::<Vec<_>>().join(", ")
}

pub(super) fn join(urls: &[Url]) -> String {
    urls.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}
