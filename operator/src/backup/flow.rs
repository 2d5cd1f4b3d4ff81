//! The Deployment of a schedule that keeps deltas: one pod, which follows the cluster for as long as the schedule is there. Building it
//! and judging its report is pure.
//!
//! The agent has no rights in Kubernetes: the operator reads its page.

use std::time::Duration;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, Preconditions};
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::job::{Worker, pod, pod_labels};
use super::schedule::SCHEDULE_LABEL;
use super::{folder, inputs, labels};
use crate::agent::Report;
use crate::cluster::validate::{Valid, every_address_here, validate};
use crate::cluster::{Context, Error};
use crate::crd::backup::{Deltas, DeltasStatus, QuorateBackupStoreSpec, ScheduleStatus};
use crate::crd::{QuorateBackupSchedule, QuorateBackupStore, QuorateCluster};
use crate::now;
use crate::phase::set_condition;

/// The reason of a schedule whose deltas another one keeps.
const TAKEN: &str = "KeptByAnother";
/// The reason of a schedule under which nothing is to be covered.
const SUSPENDED: &str = "Suspended";
/// Who writes, as Kubernetes keeps account of fields.
const MANAGER: &str = "quorate-operator";
/// The annotation of the agent's pod that tells what Secrets held when it was made.
const INPUTS: &str = "quorate.io/inputs";
/// Where the agent shows its page.
const PORT: u16 = 8081;
/// The longest an answer may take.
const PATIENCE: Duration = Duration::from_secs(3);
/// Bytes of the longest page.
const PAGE: u64 = 64 << 10;
/// The status tells how far deltas reach in steps of so many seconds.
const STEP: i64 = 30;
/// A node that is gone is given up after so many seconds; Kubernetes' own habit is five minutes.
const LEAVES_AFTER: u32 = 30;
/// Deltas may lag behind by so many intervals, and at least so many seconds, before that is called trouble.
const LAG: (u64, u64) = (3, 60);

/// The Deployment's name.
fn name(schedule: &str) -> String {
    format!("{schedule}-deltas")
}

/// Keeps the Deployment as the schedule wants it and reads how far the agent is. Returns the report, if there is one.
pub async fn advance(
    context: &Context,
    schedule: &QuorateBackupSchedule,
    status: &mut ScheduleStatus,
) -> Result<Option<Report>, Error> {
    let (namespace, own) = (schedule.namespace().unwrap_or_default(), schedule.name_any());
    let deployments: Api<Deployment> = Api::namespaced(context.client.clone(), &namespace);
    let Some(deltas) = &schedule.spec.deltas else {
        if status.deltas.take().is_some() || status.conditions.iter().any(|condition| condition.type_ == "Flowing") {
            status.conditions.retain(|condition| condition.type_ != "Flowing");
            context.metrics.covered(&namespace, &own, None);
            stop(&deployments, schedule).await?;
        }
        return Ok(None);
    };
    let (flowing, reason, message, report) = match prepare(context, schedule, &namespace).await? {
        Err((reason, why)) => {
            if reason == TAKEN {
                // The other one's agent would write beside this one's.
                stop(&deployments, schedule).await?;
                context.metrics.covered(&namespace, &own, None);
                status.deltas = None;
            }
            (false, reason, why, None)
        }
        Ok((cluster, store, inputs)) => {
            let object = deployment(schedule, deltas, &cluster, &store, &inputs, context.default_image.as_deref());
            let runs = object["spec"]["replicas"] == json!(1);
            deployments.patch(&name(&own), &PatchParams::apply(MANAGER).force(), &Patch::Apply(&object)).await?;
            match runs {
                false => {
                    // Nothing is to be covered, so nobody should be alarmed.
                    context.metrics.covered(&namespace, &own, None);
                    (false, SUSPENDED, "the schedule is suspended, or the cluster sleeps".to_string(), None)
                }
                true => match read(context, &namespace, &own).await? {
                    Err(why) => (false, "Unreachable", why, None),
                    Ok(report) => {
                        let (flowing, reason, message) = judge(&report, deltas, Timestamp::now());
                        (flowing, reason, message, Some(report))
                    }
                },
            }
        }
    };
    if let Some(report) = report.as_ref().filter(|report| report.covered_ms > 0) {
        tell(&mut status.deltas, report);
        context.metrics.covered(&namespace, &own, Some(report.covered_ms as f64 / 1000.0));
    } else if ![TAKEN, SUSPENDED].contains(&reason) {
        // Who is to be alarmed by a store that lags must be by one that nothing reaches.
        context.metrics.covered(&namespace, &own, reached(schedule, status.deltas.as_ref()));
    }
    set_condition(&mut status.conditions, "Flowing", flowing, reason, &message, schedule.metadata.generation, now());
    Ok(report)
}

/// Up to when the store is known to hold everything, seconds since 1970, while the agent itself tells nothing.
fn reached(schedule: &QuorateBackupSchedule, told: Option<&DeltasStatus>) -> Option<f64> {
    let told = told.and_then(|told| told.covered_until.clone());
    told.or_else(|| schedule.creation_timestamp()).map(|at| at.0.as_second() as f64)
}

/// The cluster and the store, or what is waited for.
async fn prepare(
    context: &Context,
    schedule: &QuorateBackupSchedule,
    namespace: &str,
) -> Result<Result<(Valid, QuorateBackupStoreSpec, String), (&'static str, String)>, Error> {
    let all: Api<QuorateBackupSchedule> = Api::namespaced(context.client.clone(), namespace);
    if let Some(rival) = rival(schedule, &all.list(&ListParams::default()).await?.items) {
        return Ok(Err((TAKEN, format!("QuorateBackupSchedule {rival} keeps this cluster's deltas in this store already"))));
    }
    let deployments: Api<Deployment> = Api::namespaced(context.client.clone(), namespace);
    let name = name(&schedule.name_any());
    if deployments.get_opt(&name).await?.is_some_and(|known| !belongs(&known, schedule)) {
        return Ok(Err(("Waiting", format!("deployment {name} belongs to something else: delete it, or use another name"))));
    }
    let clusters: Api<QuorateCluster> = Api::namespaced(context.client.clone(), namespace);
    let stores: Api<QuorateBackupStore> = Api::namespaced(context.client.clone(), namespace);
    let (cluster, store) = (&schedule.spec.cluster_ref.name, &schedule.spec.store_ref.name);
    let Some(object) = clusters.get_opt(cluster).await? else {
        return Ok(Err(("Waiting", format!("there is no QuorateCluster {cluster}"))));
    };
    let Some(store_object) = stores.get_opt(store).await? else {
        return Ok(Err(("Waiting", format!("there is no QuorateBackupStore {store}"))));
    };
    let cluster = match validate(&object, context.default_image.as_deref()) {
        Ok(cluster) => cluster,
        Err(why) => return Ok(Err(("Waiting", format!("QuorateCluster {cluster}: {why}")))),
    };
    let (_, _, operator_secret) = cluster.secrets();
    let tls = cluster.tls().then_some(operator_secret.as_str());
    let inputs = inputs::read(&context.client, namespace, &store_object.spec, tls).await?;
    // An agent that runs goes on with what it was given; only a new one would wait in vain.
    if let Some(missing) = inputs.missing {
        return Ok(Err(("Waiting", missing)));
    }
    Ok(Ok((cluster, store_object.spec, inputs.hash)))
}

/// Puts the report into the status, in steps: each change of it is written, and read by everybody who watches.
fn tell(known: &mut Option<DeltasStatus>, report: &Report) {
    let covered_until = Timestamp::from_second(report.covered_ms / 1000).ok().map(Time);
    let new = DeltasStatus { since_revision: Some(report.since), revision: Some(report.revision), covered_until };
    let second = |status: &DeltasStatus| status.covered_until.as_ref().map_or(0, |until| until.0.as_second());
    let near = known.as_ref().is_some_and(|known| {
        known.since_revision == new.since_revision && (second(known)..second(known) + STEP).contains(&second(&new))
    });
    if !near {
        *known = Some(new);
    }
}

/// The schedule that keeps the same deltas already: of those that want to, the oldest does.
fn rival(schedule: &QuorateBackupSchedule, all: &[QuorateBackupSchedule]) -> Option<String> {
    let place = |of: &QuorateBackupSchedule| (of.spec.cluster_ref.name.clone(), of.spec.store_ref.name.clone());
    let age = |of: &QuorateBackupSchedule| (of.metadata.creation_timestamp.clone(), of.name_any());
    let same = all.iter().filter(|other| {
        let lives = other.metadata.deletion_timestamp.is_none() && other.spec.deltas.is_some();
        lives && other.uid() != schedule.uid() && place(other) == place(schedule) && age(other) < age(schedule)
    });
    same.min_by_key(|other| age(other)).map(|other| other.name_any())
}

/// The Deployment is this schedule's.
fn belongs(deployment: &Deployment, schedule: &QuorateBackupSchedule) -> bool {
    deployment.owner_references().iter().any(|owner| Some(&owner.uid) == schedule.metadata.uid.as_ref())
}

/// Takes the schedule's own Deployment away, if there is one.
async fn stop(deployments: &Api<Deployment>, schedule: &QuorateBackupSchedule) -> kube::Result<()> {
    let name = name(&schedule.name_any());
    let Some(known) = deployments.get_opt(&name).await?.filter(|known| belongs(known, schedule)) else { return Ok(()) };
    if known.metadata.deletion_timestamp.is_some() {
        return Ok(());
    }
    let preconditions = Some(Preconditions { uid: known.uid(), resource_version: None });
    match deployments.delete(&name, &DeleteParams { preconditions, ..DeleteParams::background() }).await {
        Err(kube::Error::Api(status)) if status.is_not_found() || status.is_conflict() => Ok(()),
        other => other.map(drop),
    }
}

/// What the report means: whether all is well, why not, in words.
fn judge(report: &Report, deltas: &Deltas, now: Timestamp) -> (bool, &'static str, String) {
    if let Some(error) = &report.error {
        return (false, "AgentFails", error.clone());
    }
    if report.covered_ms == 0 {
        return (false, "Starting", "nothing is in the store yet".into());
    }
    let lag = u64::try_from(now.as_millisecond() - report.covered_ms).unwrap_or(0) / 1000;
    if lag > (LAG.0 * deltas.seconds()).max(LAG.1) {
        let covered = Timestamp::from_second(report.covered_ms / 1000).unwrap_or(Timestamp::UNIX_EPOCH);
        return (false, "Behind", format!("the store may lack what was written since {covered}"));
    }
    (true, "UpToDate", "changes reach the store as they come".into())
}

/// The name under which members hold history back: another one for each place, though the folder in it be the same.
fn holder(store: &QuorateBackupStoreSpec, cluster: &Valid) -> String {
    let part = |text: &Option<String>| text.clone().unwrap_or_default();
    let place = match (&store.s3, &store.gcs, &store.azure, &store.volume) {
        (Some(s3), ..) => ["s3".into(), part(&s3.endpoint), part(&s3.region), s3.bucket.clone()],
        (_, Some(gcs), ..) => ["gcs".into(), part(&gcs.endpoint), String::new(), gcs.bucket.clone()],
        (_, _, Some(azure), _) => ["azure".into(), part(&azure.endpoint), azure.account.clone(), azure.container.clone()],
        (.., volume) => {
            ["volume".into(), String::new(), String::new(), volume.as_ref().map_or(String::new(), |v| v.claim_name.clone())]
        }
    };
    format!("agent-{}", crate::short_hash(json!([place, folder(store, cluster)]).to_string().as_bytes()))
}

fn deployment(
    schedule: &QuorateBackupSchedule,
    deltas: &Deltas,
    cluster: &Valid,
    store: &QuorateBackupStoreSpec,
    inputs: &str,
    default_image: Option<&str>,
) -> Value {
    let own = schedule.name_any();
    let (name, namespace) = (name(&own), cluster.namespace.as_str());
    let mut labels = labels();
    labels.insert(SCHEDULE_LABEL.into(), own.clone().into());
    labels.insert("app.kubernetes.io/component".into(), "deltas".into());
    let mut arguments = vec![
        "deltas".to_string(),
        format!("--in={}", folder(store, cluster)),
        format!("--holder={}", holder(store, cluster)),
        format!("--interval={}", deltas.seconds()),
        format!("--listen={}:{PORT}", every_address_here()),
    ];
    let members = (0..cluster.replicas()).map(|slot| cluster.host(&cluster.pod(slot)));
    arguments.extend(members.map(|host| format!("--endpoint={}://{host}:2379", cluster.scheme())));
    if cluster.tls() {
        arguments.push("--tls=/etc/quorate/tls".into());
    }
    let (_, _, operator_secret) = cluster.secrets();
    let owner = json!({
        "apiVersion": "quorate.io/v1alpha1", "kind": "QuorateBackupSchedule", "name": own,
        "uid": schedule.uid().unwrap_or_default(), "controller": true, "blockOwnerDeletion": true,
    });
    let worker = Worker {
        name: &name,
        namespace,
        labels: labels.clone(),
        owner: owner.clone(),
        image: default_image.unwrap_or(&cluster.image),
        pull_secrets: json!(cluster.spec.image.pull_secrets),
        account: cluster.spec.pod.service_account_name.as_deref().unwrap_or(&cluster.name),
        store,
        object: None,
        arguments,
        tls: cluster.tls().then_some(operator_secret.as_str()),
        data: None,
        scratch: false,
    };
    let mut spec = pod(&worker, "Always");
    let container = &mut spec["containers"][0];
    container["ports"] = json!([{"name": "status", "containerPort": PORT, "protocol": "TCP"}]);
    container["readinessProbe"] = json!({"httpGet": {"path": "/healthz", "port": "status"}, "periodSeconds": 10});
    // With its node nothing is covered until it runs elsewhere; two for a while are two branches, both good.
    let leave = |key: &str| json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": LEAVES_AFTER});
    spec["tolerations"] = json!([leave("node.kubernetes.io/not-ready"), leave("node.kubernetes.io/unreachable")]);
    let wanted = i32::from(!schedule.spec.suspend && cluster.replicas() > 0);
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": name, "namespace": namespace, "labels": labels, "ownerReferences": [owner]},
        "spec": {
            "replicas": wanted,
            // Two at once would write everything twice, each its own branch.
            "strategy": {"type": "Recreate"},
            "selector": {"matchLabels": {SCHEDULE_LABEL: own, "app.kubernetes.io/component": "deltas"}},
            // It reads credentials and keys when it starts.
            "template": {"metadata": {"labels": pod_labels(&worker), "annotations": {INPUTS: inputs}}, "spec": spec},
        },
    })
}

/// The agent's page, or why it cannot be read.
async fn read(context: &Context, namespace: &str, schedule: &str) -> Result<Result<Report, String>, Error> {
    let pods: Api<Pod> = Api::namespaced(context.client.clone(), namespace);
    let ours = format!("{SCHEDULE_LABEL}={schedule},app.kubernetes.io/component=deltas");
    let pods = pods.list(&ListParams::default().labels(&ours)).await?;
    let alive = pods.items.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none());
    let address = alive.filter_map(|pod| pod.status.as_ref()?.pod_ip.clone()).next();
    let Some(address) = address else { return Ok(Err("the agent's pod does not run yet".into())) };
    Ok(match tokio::time::timeout(PATIENCE, page(&address)).await {
        Err(_) => Err("the agent does not answer".into()),
        Ok(Err(error)) => Err(format!("the agent cannot be reached: {error}")),
        Ok(Ok(page)) => parse(&page),
    })
}

/// One question by HTTP/1.0, whose answer ends with the connection.
async fn page(address: &str) -> std::io::Result<String> {
    let address: std::net::IpAddr = address.parse().map_err(|error| std::io::Error::other(format!("{address}: {error}")))?;
    let mut stream = tokio::net::TcpStream::connect((address, PORT)).await?;
    stream.write_all(b"GET /status HTTP/1.0\r\nHost: agent\r\n\r\n").await?;
    let mut answer = String::new();
    stream.take(PAGE).read_to_string(&mut answer).await?;
    Ok(answer)
}

fn parse(answer: &str) -> Result<Report, String> {
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("the agent's answer was cut")?;
    if head.split(' ').nth(1) != Some("200") {
        return Err(format!("the agent answers {}", head.lines().next().unwrap_or_default()));
    }
    serde_json::from_str(body).map_err(|error| format!("the agent's page: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::build::tests::is_known;
    use crate::cluster::validate::tests::sample;
    use crate::crd::backup::VolumeStore;

    fn schedule(spec: Value) -> QuorateBackupSchedule {
        let mut schedule = QuorateBackupSchedule::new("nightly", serde_json::from_value(spec).unwrap());
        schedule.metadata.namespace = Some("ns".into());
        schedule.metadata.uid = Some("77".into());
        schedule
    }

    /// An agent that never told anything is as far behind as its schedule is old; one that did, as far as it last told.
    #[test]
    fn silence_is_behind() {
        let mut one =
            schedule(json!({"clusterRef": {"name": "kv"}, "storeRef": {"name": "s"}, "schedule": "0 3 * * *", "deltas": {}}));
        assert_eq!(reached(&one, None), None);
        one.metadata.creation_timestamp = Some(Time(Timestamp::from_second(1000).unwrap()));
        assert_eq!(reached(&one, None), Some(1000.0));
        let mut told = DeltasStatus { since_revision: None, revision: None, covered_until: None };
        assert_eq!(reached(&one, Some(&told)), Some(1000.0));
        told.covered_until = Some(Time(Timestamp::from_second(2000).unwrap()));
        assert_eq!(reached(&one, Some(&told)), Some(2000.0));
    }

    /// The Deployment is known to Kubernetes, asks every member, and stops with the schedule or the cluster.
    #[test]
    fn the_deployment() {
        let wished =
            json!({"clusterRef": {"name": "kv"}, "storeRef": {"name": "s"}, "schedule": "0 3 * * *", "deltas": {"interval": "1m"}});
        let (mut schedule, mut cluster) = (schedule(wished), validate(&sample(), Some("q:1")).unwrap());
        let store = QuorateBackupStoreSpec {
            volume: Some(VolumeStore { claim_name: "c".into(), prefix: Some("lab".into()) }),
            ..Default::default()
        };
        let build = |schedule: &QuorateBackupSchedule, cluster: &Valid| {
            deployment(schedule, schedule.spec.deltas.as_ref().unwrap(), cluster, &store, "h1", None)
        };
        let object = build(&schedule, &cluster);
        is_known::<Deployment>(&object);
        assert_eq!(object["spec"]["replicas"], 1);
        assert_eq!(object["spec"]["template"]["metadata"]["annotations"]["quorate.io/inputs"], "h1");
        let text = object.to_string();
        for word in [
            "--in=lab/ns/kv/6f0c/",
            "--interval=60",
            "https://kv-2.kv-peer.ns.svc:2379",
            "kv-operator-tls",
            "runAsNonRoot",
            "tolerationSeconds",
        ] {
            assert!(text.contains(word), "{word}: {text}");
        }
        schedule.spec.suspend = true;
        assert_eq!(build(&schedule, &cluster)["spec"]["replicas"], 0);
        schedule.spec.suspend = false;
        cluster.spec.replicas = 0;
        assert_eq!(build(&schedule, &cluster)["spec"]["replicas"], 0);
    }

    /// Two places hold history back under two names, though the folder be the same; credentials make no other place.
    #[test]
    fn holders() {
        let cluster = validate(&sample(), Some("q:1")).unwrap();
        let name = |store: Value| holder(&serde_json::from_value(store).unwrap(), &cluster);
        let places = [
            json!({"s3": {"bucket": "b"}}),
            json!({"s3": {"bucket": "c"}}),
            json!({"s3": {"bucket": "b", "endpoint": "http://x"}}),
            json!({"s3": {"bucket": "b", "prefix": "p"}}),
            json!({"gcs": {"bucket": "b"}}),
            json!({"azure": {"account": "a", "container": "b"}}),
            json!({"azure": {"account": "b", "container": "b"}}),
            json!({"volume": {"claimName": "b"}}),
            json!({"volume": {"claimName": "c"}}),
        ];
        let names: std::collections::BTreeSet<String> = places.iter().map(|place| name(place.clone())).collect();
        assert_eq!(names.len(), places.len());
        assert_eq!(name(json!({"s3": {"bucket": "b", "credentialsSecretRef": {"name": "k"}}})), name(places[0].clone()));
    }

    /// Of schedules that want the same deltas the oldest keeps them; another store, a schedule without deltas and one that goes are none.
    #[test]
    fn one_keeper() {
        let one = |name: &str, store: &str, made: i64, deltas: bool| {
            let mut spec = json!({"clusterRef": {"name": "kv"}, "storeRef": {"name": store}, "schedule": "0 3 * * *"});
            if deltas {
                spec["deltas"] = json!({});
            }
            let mut schedule = QuorateBackupSchedule::new(name, serde_json::from_value(spec).unwrap());
            schedule.metadata.uid = Some(name.into());
            schedule.metadata.creation_timestamp = Some(Time(Timestamp::from_second(made).unwrap()));
            schedule
        };
        let mut all = vec![one("b", "s", 5, true), one("a", "s", 5, true), one("c", "s", 1, false), one("d", "t", 1, true)];
        let rivals = |all: &[QuorateBackupSchedule]| all.iter().map(|schedule| rival(schedule, all)).collect::<Vec<_>>();
        assert_eq!(rivals(&all), [Some("a".to_string()), None, None, None]);
        all[1].metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
        assert_eq!(rival(&all[0], &all), None);
    }

    /// The page is read, and what it says is called by its name.
    #[test]
    fn reports() {
        let now = Timestamp::from_second(1000).unwrap();
        let report = Report { covered_ms: 990_000, since: 4, revision: 9, ..Report::default() };
        let answer = format!("HTTP/1.0 200 OK\r\ncontent-type: x\r\n\r\n{}", serde_json::to_string(&report).unwrap());
        assert_eq!(parse(&answer), Ok(report.clone()));
        assert!(parse("HTTP/1.0 404 Not Found\r\n\r\n").is_err() && parse("nonsense").is_err());
        let deltas = Deltas::default();
        assert!(judge(&report, &deltas, now).0);
        assert_eq!(judge(&Report { covered_ms: 900_000, ..report.clone() }, &deltas, now).1, "Behind");
        assert_eq!(judge(&Report { covered_ms: 0, ..report.clone() }, &deltas, now).1, "Starting");
        assert_eq!(judge(&Report { error: Some("x".into()), ..report }, &deltas, now).1, "AgentFails");
        assert_eq!(Deltas { interval: "2m".into() }.seconds(), 120);
    }

    /// Reports that differ by a few seconds leave the status as it is, and the words of one that does not move stay the same.
    #[test]
    fn steps() {
        let report = |since, revision, second: i64| Report { since, revision, covered_ms: second * 1000 + 7, ..Report::default() };
        let mut status = None;
        let mut told = |report: &Report| {
            tell(&mut status, report);
            let known = status.clone().unwrap();
            (known.revision.unwrap(), known.covered_until.unwrap().0.as_second())
        };
        assert_eq!(told(&report(1, 5, 100)), (5, 100));
        assert_eq!((told(&report(1, 6, 110)), told(&report(1, 7, 129))), ((5, 100), (5, 100)));
        assert_eq!((told(&report(1, 8, 130)), told(&report(9, 9, 131))), ((8, 130), (9, 131)));
        assert_eq!(told(&report(9, 9, 120)), (9, 120));
        let words = |now| judge(&report(1, 5, 100), &Deltas::default(), Timestamp::from_second(now).unwrap());
        assert_eq!((words(500), words(500).1), (words(900), "Behind"));
    }
}
