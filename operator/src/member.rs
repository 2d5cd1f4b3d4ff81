//! Talking to members: who they are, how they are, and changes of membership.
//!
//! Pods are reached by address, so that nothing depends on name lookups; certificates are checked against the pod's host name.
//!
//! Invariant: what is asked for twice is done once: adding what is there, removing what is not, and promoting who votes succeed.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use futures::future::join_all;
use quorate_client::proto::etcdserverpb as pb;
use quorate_client::{Client, Config, Error, Pem, TlsConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::cluster::world::Slot;

/// How long a member may take to answer. A slow one must not hold the others up for long.
const PATIENCE: Duration = Duration::from_secs(3);
/// Changes wait for a quorum's disks.
const CHANGE_PATIENCE: Duration = Duration::from_secs(10);
/// A real etcd that stands in the place of a member rewrites its whole file, and answers afterwards.
const DEFRAGMENT_PATIENCE: Duration = Duration::from_secs(60);
/// As much of the page of figures as is read, bytes.
const FIGURES_BYTES: u64 = 4 << 20;
/// As much of a readiness answer as is read, bytes.
const PAGE_BYTES: u64 = 4096;

/// Where a slot's pod is.
#[derive(Clone, Debug)]
pub struct Target {
    /// The slot.
    pub slot: Slot,
    /// The pod's address.
    pub ip: IpAddr,
    /// The pod's host name.
    pub host: String,
}

/// What the operator shows to members, PEM. None for a cluster without TLS.
#[derive(Clone)]
pub struct Identity {
    /// Authorities.
    pub authorities: Vec<u8>,
    /// Own certificate.
    pub certificate: Vec<u8>,
    /// Its key.
    pub key: Vec<u8>,
}

/// What one round of questions brought.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    /// Answers of members, by slot.
    pub answers: BTreeMap<Slot, pb::StatusResponse>,
    /// The store's cluster id, if any member told it.
    pub cluster_id: Option<u64>,
    /// How many different stores answered.
    pub stores: usize,
    /// The members, read through a quorum.
    pub members: Option<Vec<pb::Member>>,
    /// Slots whose server says that it has not joined.
    pub at_gate: Vec<Slot>,
    /// Alarms, by name.
    pub alarms: Vec<String>,
    /// An alarm of damage that names no member: the whole store has stopped.
    pub stopped: bool,
    /// Terms and indexes at which the logs of members end. Asked for only when no quorum answers.
    pub positions: BTreeMap<Slot, (u64, u64)>,
    /// Everything before this revision is forgotten. Asked for only when somebody wants to know, or an alarm is on.
    pub compacted: Option<i64>,
    /// What counts against the quota, bytes, by slot. Asked for with the former; members of older builds do not tell.
    pub counted: BTreeMap<Slot, i64>,
    /// Why the last member did not answer, by slot.
    pub failures: BTreeMap<Slot, String>,
}

impl Survey {
    /// Settles which store is spoken of.
    fn choose(&mut self, known: Option<u64>) {
        let id = |answer: &pb::StatusResponse| answer.header.as_ref().map(|header| header.cluster_id).filter(|id| *id != 0);
        let mut ids: Vec<u64> = self.answers.values().filter_map(id).collect();
        self.cluster_id = known.filter(|known| ids.contains(known)).or(ids.first().copied());
        ids.sort_unstable();
        ids.dedup();
        self.stores = ids.len();
        let Some(meant) = self.cluster_id.filter(|meant| Some(*meant) == known) else { return };
        let strangers = self.answers.extract_if(.., |_, answer| id(answer).is_some_and(|id| id != meant));
        self.failures.extend(strangers.map(|(slot, _)| (slot, "it serves another store".to_string())));
    }
}

/// The members of one cluster as they can be reached at this moment.
pub struct Members {
    clients: Vec<(Target, Client)>,
}

/// What came of asking for a promotion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promotion {
    /// It votes.
    Done,
    /// It is still behind.
    NotYet,
}

impl Members {
    /// Prepares connections; none is opened yet.
    pub fn new(targets: Vec<Target>, identity: Option<&Identity>) -> Result<Self, Error> {
        let mut clients = Vec::with_capacity(targets.len());
        for target in targets {
            let address = match target.ip {
                IpAddr::V4(ip) => ip.to_string(),
                IpAddr::V6(ip) => format!("[{ip}]"),
            };
            let scheme = if identity.is_some() { "https" } else { "http" };
            let mut config = Config::new([format!("{scheme}://{address}:2379")]);
            config.timeout = Some(PATIENCE);
            config.tls = identity.map(|identity| TlsConfig {
                authorities: Some(Pem::Text(identity.authorities.clone())),
                identity: Some((Pem::Text(identity.certificate.clone()), Pem::Text(identity.key.clone()))),
                server_name: Some(target.host.clone()),
                insecure_skip_verify: false,
            });
            let client = Client::new(config)?;
            clients.push((target, client));
        }
        Ok(Self { clients })
    }

    /// Asks everyone. `known`: the store that is meant; who serves another one counts as one that does not answer, if any serves it.
    /// `compaction`: also up to where history is forgotten. The list of members is read before the gates are looked at: whoever is in the list as started and then still
    /// waits at the gate has lost what it knew.
    pub async fn survey(&self, known: Option<u64>, compaction: bool) -> Survey {
        let mut survey = Survey::default();
        let asked =
            self.clients.iter().map(|(target, client)| async move { (target.slot, client.status(pb::StatusRequest {}).await) });
        for (slot, answer) in join_all(asked).await {
            match answer {
                Ok(answer) => drop(survey.answers.insert(slot, answer)),
                Err(error) => drop(survey.failures.insert(slot, error.to_string())),
            }
        }
        survey.choose(known);
        let clients = self.answering(&survey);
        // Without a leader nobody can answer for a quorum, and asking would only take time.
        let led = survey.answers.values().any(|answer| answer.leader != 0);
        for client in clients.iter().filter(|_| led) {
            if let Ok(list) = client.member_list(pb::MemberListRequest { linearizable: true }).await {
                survey.members = Some(list.members);
                break;
            }
        }
        if let Some(client) = clients.first() {
            let request = pb::AlarmRequest { action: pb::alarm_request::AlarmAction::Get.into(), ..Default::default() };
            if let Ok(answer) = client.alarm(request).await {
                survey.stopped = answer.alarms.iter().any(|known| known.alarm() == pb::AlarmType::Corrupt && known.member_id == 0);
                survey.alarms = answer.alarms.iter().map(|alarm| alarm.alarm().as_str_name().to_string()).collect();
                survey.alarms.sort_unstable();
                survey.alarms.dedup();
            }
        }
        let known = self.clients.iter().filter(|(target, _)| survey.answers.contains_key(&target.slot)).map(|(target, _)| target);
        if survey.members.is_none() {
            let ends = join_all(known.clone().map(|target| async move { (target.slot, log_end(target.ip).await) })).await;
            // A server that does not tell where its log ends still tells what of it is committed.
            let committed = |slot: Slot| Some((0, survey.answers.get(&slot)?.raft_index));
            survey.positions = ends.into_iter().filter_map(|(slot, end)| Some((slot, end.or_else(|| committed(slot))?))).collect();
        }
        if (compaction || !survey.alarms.is_empty()) && survey.members.is_some() {
            let told = join_all(known.map(|target| async move { (target.slot, space(target.ip).await) })).await;
            survey.compacted = told.iter().filter_map(|(_, (compacted, _))| *compacted).max();
            survey.counted = told.into_iter().filter_map(|(slot, (_, counted))| Some((slot, counted?))).collect();
        }
        let silent = self.clients.iter().filter(|(target, _)| !survey.answers.contains_key(&target.slot));
        let gates = join_all(silent.map(|(target, _)| async move { (target.slot, waits_at_gate(target.ip).await) })).await;
        survey.at_gate = gates.into_iter().filter_map(|(slot, waits)| waits.then_some(slot)).collect();
        survey
    }

    /// Those who answered, the leader first.
    fn answering(&self, survey: &Survey) -> Vec<&Client> {
        let leads = |slot: &Slot| {
            let answer = survey.answers.get(slot);
            answer.is_some_and(|answer| answer.header.as_ref().is_some_and(|header| header.member_id == answer.leader))
        };
        let mut clients: Vec<_> = self.clients.iter().filter(|(target, _)| survey.answers.contains_key(&target.slot)).collect();
        clients.sort_by_key(|(target, _)| !leads(&target.slot));
        clients.into_iter().map(|(_, client)| client).collect()
    }

    /// Adds a learner, unless there is a member of this peer URL.
    pub async fn add_learner(&self, survey: &Survey, peer_url: &str) -> Result<(), Error> {
        let request = pb::MemberAddRequest { peer_urls: vec![peer_url.to_string()], is_learner: true };
        let answer = self.change(survey, |client| {
            let request = request.clone();
            async move { client.member_add(request).await.map(drop) }
        });
        match answer.await {
            Err(error) if error.is_etcd("Peer URLs already exists") || error.is_etcd("member ID already exist") => Ok(()),
            other => other,
        }
    }

    /// Lets a learner vote.
    pub async fn promote(&self, survey: &Survey, id: u64) -> Result<Promotion, Error> {
        let answer =
            self.change(survey, |client| async move { client.member_promote(pb::MemberPromoteRequest { id }).await.map(drop) });
        match answer.await {
            Ok(()) => Ok(Promotion::Done),
            Err(error) if error.is_etcd("can only promote a learner member") => Ok(Promotion::Done),
            Err(error) if error.is_etcd("can only promote a learner member which is in sync with leader") => Ok(Promotion::NotYet),
            Err(error) => Err(error),
        }
    }

    /// Takes a member out, unless it is out.
    pub async fn remove(&self, survey: &Survey, id: u64) -> Result<(), Error> {
        let answer =
            self.change(survey, |client| async move { client.member_remove(pb::MemberRemoveRequest { id }).await.map(drop) });
        match answer.await {
            Err(error) if error.is_etcd("member not found") => Ok(()),
            other => other,
        }
    }

    /// Hands leadership over; done when somebody else leads already.
    pub async fn move_leader(&self, survey: &Survey, to: u64) -> Result<(), Error> {
        let Some(leader) = self.answering(survey).into_iter().next() else {
            return Err(Error::Connect("no member answers".into()));
        };
        let leader = leader.timeout(Some(CHANGE_PATIENCE));
        match leader.move_leader(pb::MoveLeaderRequest { target_id: to }).await {
            Err(error) if error.is_etcd("not leader") => Ok(()),
            other => other.map(drop),
        }
    }

    /// Forgets what was superseded before a revision; done when that is forgotten already.
    pub async fn compact(&self, survey: &Survey, revision: i64) -> Result<(), Error> {
        let request = pb::CompactionRequest { revision, physical: false };
        match self.change(survey, |client| async move { client.compact(request).await.map(drop) }).await {
            Err(error) if error.is_etcd("mvcc: required revision has been compacted") => Ok(()),
            other => other,
        }
    }

    /// Asks one member to give free space back.
    pub async fn defragment(&self, slot: Slot) -> Result<(), Error> {
        let Some((_, client)) = self.clients.iter().find(|(target, _)| target.slot == slot) else {
            return Err(Error::Connect(format!("member {slot} has no running pod")));
        };
        client.timeout(Some(DEFRAGMENT_PATIENCE)).defragment(pb::DefragmentRequest {}).await.map(drop)
    }

    /// Lets writes in again: clears every alarm of that kind.
    pub async fn disarm(&self, survey: &Survey) -> Result<(), Error> {
        use pb::alarm_request::AlarmAction;
        let nospace = || pb::AlarmRequest { alarm: pb::AlarmType::Nospace.into(), ..Default::default() };
        let Some(client) = self.answering(survey).into_iter().next().map(|client| client.timeout(Some(CHANGE_PATIENCE))) else {
            return Err(Error::Connect("no member answers".into()));
        };
        let raised = client.alarm(pb::AlarmRequest { action: AlarmAction::Get.into(), ..nospace() }).await?;
        for alarm in raised.alarms.iter().filter(|alarm| alarm.alarm() == pb::AlarmType::Nospace) {
            let request = pb::AlarmRequest { action: AlarmAction::Deactivate.into(), member_id: alarm.member_id, ..nospace() };
            client.alarm(request).await?;
        }
        Ok(())
    }

    /// Sends a change to one member after the other until one takes it. A change that timed out is not sent again: the next survey
    /// shows whether it happened.
    async fn change<F, R>(&self, survey: &Survey, send: F) -> Result<(), Error>
    where
        F: Fn(Client) -> R,
        R: Future<Output = Result<(), Error>>,
    {
        let mut last = Error::Connect("no member answers".into());
        for client in self.answering(survey) {
            match send(client.timeout(Some(CHANGE_PATIENCE))).await {
                Err(error @ Error::Connect(_)) => last = error,
                other => return other,
            }
        }
        Err(last)
    }
}

/// Whether the server at this address says that it has not joined a cluster. Readiness is plain HTTP, and the answer is short.
async fn waits_at_gate(ip: IpAddr) -> bool {
    page(ip, "/readyz", PAGE_BYTES).await.is_some_and(|page| page.contains("not joined"))
}

/// Term and index of the newest entry in a member's log, committed or not: what elections go by.
async fn log_end(ip: IpAddr) -> Option<(u64, u64)> {
    let page = page(ip, "/metrics", FIGURES_BYTES).await?;
    let whole = |name| read_figure(&page, name).map(|value| value as u64);
    Some((whole("quorate_log_last_term")?, whole("quorate_log_last_index")?))
}

/// Up to which revision history is forgotten, and what counts against the quota.
async fn space(ip: IpAddr) -> (Option<i64>, Option<i64>) {
    let Some(page) = page(ip, "/metrics", FIGURES_BYTES).await else { return (None, None) };
    let whole = |name| read_figure(&page, name).map(|value| value as i64);
    (whole("etcd_debugging_mvcc_compact_revision"), whole("quorate_quota_usage_bytes"))
}

fn read_figure(page: &str, name: &str) -> Option<f64> {
    page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

/// A page of a member's port for probes, which is plain HTTP.
async fn page(ip: IpAddr, path: &str, most: u64) -> Option<String> {
    let page = async {
        let mut stream = TcpStream::connect((ip, 2381)).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: member\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut page = Vec::new();
        stream.take(most).read_to_end(&mut page).await?;
        Ok::<_, std::io::Error>(page)
    };
    match timeout(PATIENCE, page).await {
        Ok(Ok(page)) => Some(String::from_utf8_lossy(&page).into_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{Survey, pb, read_figure};

    /// Of two stores that answer the one that is known counts, and the other's members do not; of a cluster that has none yet both are
    /// told of.
    #[test]
    fn two_stores() {
        let seen = |known| {
            let answer = |cluster_id| pb::StatusResponse {
                header: Some(pb::ResponseHeader { cluster_id, member_id: 7, ..Default::default() }),
                ..Default::default()
            };
            let answers = [(0, answer(1)), (1, answer(2)), (2, answer(2))].into();
            let mut survey = Survey { answers, ..Survey::default() };
            survey.choose(known);
            (survey.cluster_id, survey.stores, survey.answers.into_keys().collect::<Vec<_>>())
        };
        assert_eq!(seen(Some(2)), (Some(2), 2, vec![1, 2]));
        assert_eq!(seen(Some(3)), (Some(1), 2, vec![0, 1, 2]));
        assert_eq!(seen(None), (Some(1), 2, vec![0, 1, 2]));
    }

    /// A figure is found by its whole name, and comments are none.
    #[test]
    fn figures() {
        let page = "# TYPE a gauge\na_b 7\na 12\nbad x\n";
        assert_eq!((read_figure(page, "a"), read_figure(page, "a_b")), (Some(12.0), Some(7.0)));
        assert_eq!((read_figure(page, "bad"), read_figure(page, "c")), (None, None));
    }
}
