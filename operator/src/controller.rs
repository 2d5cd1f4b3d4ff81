//! What triggers rounds: changes of clusters, of what they own, of their pods and volumes; and time.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::{Stream, StreamExt};
use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, PersistentVolumeClaim, Pod, Secret, Service};
use kube::core::DeserializeGuard;
use kube::runtime::controller::{Action, Config};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::{Controller, Predicate, WatchStreamExt, predicates, reflector, watcher};
use kube::{Api, Client, Resource, ResourceExt};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::backup::{schedule, take};
use crate::cluster::{self, Context};
use crate::crd::{QuorateBackup, QuorateBackupSchedule, QuorateCluster, QuorateRestore, QuorateTask};
use crate::{restore, task};

/// Clusters that are worked on at the same time.
const PARALLEL: u16 = 16;
/// Changes within this time make one round.
const DEBOUNCE: Duration = Duration::from_millis(500);
/// The first and the last pause after rounds that failed.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// As long as a round may take: more than all its questions and steps together. The client waits for an answer without end, so a
/// connection that is silently dead would otherwise keep its object from any further round. What is cut short is taken up by the next.
const ROUND: Duration = Duration::from_secs(300);

/// An object that may not be readable: one that a newer definition let in, or a value that the API server takes and this program does
/// not. It alone is left out, instead of nobody being looked at.
type Guarded<K> = DeserializeGuard<K>;

/// Failures in a row, by cluster.
type Failures = Mutex<HashMap<String, u32>>;

struct Shared {
    context: Context,
    failures: Failures,
}

/// Runs until `stop` says so. `namespace` None means all.
pub async fn run(client: Client, context: Context, namespaces: &[String], stop: watch::Receiver<bool>) {
    let shared = Arc::new(Shared { context, failures: Failures::default() });
    let scopes: Vec<Option<&str>> = match namespaces {
        [] => vec![None],
        some => some.iter().map(|namespace| Some(namespace.as_str())).collect(),
    };
    let all = scopes.into_iter().map(|scope| {
        let (client, shared, stop) = (&client, &shared, &stop);
        async move {
            futures::join!(
                run_in(client, scope, shared.clone(), stop.clone()),
                backups_in(client, scope, shared.clone(), stop.clone()),
                schedules_in(client, scope, shared.clone(), stop.clone()),
                tasks_in(client, scope, shared.clone(), stop.clone()),
                restores_in(client, scope, shared.clone(), stop.clone()),
            )
        }
    });
    futures::future::join_all(all).await;
}

async fn run_in(client: &Client, namespace: Option<&str>, shared: Arc<Shared>, stop: watch::Receiver<bool>) {
    let clusters: Api<Guarded<QuorateCluster>> = scoped(client, namespace);
    let (reader, writer) = reflector::store();
    let metrics = shared.context.metrics.clone();
    // Our own writes of the status are no reason for another round.
    let changes = watcher(clusters, watcher::Config::default())
        .default_backoff()
        .inspect(move |event| {
            if let Ok(watcher::Event::Delete(gone)) = event {
                metrics.without_cluster(&gone.namespace().unwrap_or_default(), &gone.name_any());
            }
        })
        .reflect(writer)
        .applied_objects()
        .predicate_filter(predicates::generation.combine(predicates::annotations), Default::default());
    let ours = || watcher::Config::default().labels("app.kubernetes.io/managed-by=quorate-operator");
    let controller = Controller::for_stream(changes, reader)
        .with_config(Config::default().debounce(DEBOUNCE).concurrency(PARALLEL))
        .owns(scoped::<StatefulSet>(client, namespace), ours())
        .owns(scoped::<Service>(client, namespace), ours())
        .owns(scoped::<Secret>(client, namespace), ours())
        .owns(scoped::<ConfigMap>(client, namespace), ours())
        .owns(scoped::<Job>(client, namespace), ours())
        .watches(scoped::<Pod>(client, namespace), ours(), of_cluster::<Pod>)
        .watches(scoped::<PersistentVolumeClaim>(client, namespace), ours(), of_cluster::<PersistentVolumeClaim>)
        .watches(scoped::<Guarded<QuorateTask>>(client, namespace), watcher::Config::default(), |task: Guarded<QuorateTask>| {
            let task = task.0.ok()?;
            Some(ObjectRef::new(&task.spec.cluster_ref.name).within(&task.namespace()?))
        })
        .watches(
            scoped::<Guarded<QuorateRestore>>(client, namespace),
            watcher::Config::default(),
            |restore: Guarded<QuorateRestore>| {
                let restore = restore.0.ok()?;
                Some(ObjectRef::new(&restore.spec.cluster_ref.name).within(&restore.namespace()?))
            },
        )
        .graceful_shutdown_on(stopped(stop));
    drain(controller.run(round, again::<Guarded<QuorateCluster>>, shared)).await;
}

async fn backups_in(client: &Client, namespace: Option<&str>, shared: Arc<Shared>, stop: watch::Receiver<bool>) {
    let ours = watcher::Config::default().labels("app.kubernetes.io/managed-by=quorate-operator");
    let controller = Controller::new(scoped::<Guarded<QuorateBackup>>(client, namespace), watcher::Config::default())
        .with_config(Config::default().debounce(DEBOUNCE).concurrency(PARALLEL))
        .owns(scoped::<Job>(client, namespace), ours)
        .graceful_shutdown_on(stopped(stop));
    let work = |backup: Arc<Guarded<QuorateBackup>>, shared: Arc<Shared>| async move {
        let (name, namespace) = (backup.name_any(), backup.namespace().unwrap_or_default());
        timed(&shared, &*backup, take::reconcile(&shared.context, &name, &namespace)).await
    };
    drain(controller.run(work, again::<Guarded<QuorateBackup>>, shared)).await;
}

async fn schedules_in(client: &Client, namespace: Option<&str>, shared: Arc<Shared>, stop: watch::Receiver<bool>) {
    let (reader, writer) = reflector::store();
    let metrics = shared.context.metrics.clone();
    // What changes by itself is looked at in time; our own writes of it are no reason for another round.
    let changes = watcher(scoped::<Guarded<QuorateBackupSchedule>>(client, namespace), watcher::Config::default())
        .default_backoff()
        .inspect(move |event| {
            if let Ok(watcher::Event::Delete(gone)) = event {
                metrics.without_schedule(&gone.namespace().unwrap_or_default(), &gone.name_any());
            }
        })
        .reflect(writer)
        .applied_objects()
        .predicate_filter(predicates::generation.combine(predicates::annotations), Default::default());
    let controller = Controller::for_stream(changes, reader)
        .with_config(Config::default().debounce(DEBOUNCE).concurrency(PARALLEL))
        .watches(
            scoped::<Guarded<QuorateBackup>>(client, namespace),
            watcher::Config::default(),
            |backup: Guarded<QuorateBackup>| {
                let name = backup.labels().get(schedule::SCHEDULE_LABEL)?.clone();
                Some(ObjectRef::new(&name).within(&backup.namespace()?))
            },
        )
        .graceful_shutdown_on(stopped(stop));
    let work = |schedule: Arc<Guarded<QuorateBackupSchedule>>, shared: Arc<Shared>| async move {
        let (name, namespace) = (schedule.name_any(), schedule.namespace().unwrap_or_default());
        timed(&shared, &*schedule, schedule::reconcile(&shared.context, &name, &namespace)).await
    };
    drain(controller.run(work, again::<Guarded<QuorateBackupSchedule>>, shared)).await;
}

async fn tasks_in(client: &Client, namespace: Option<&str>, shared: Arc<Shared>, stop: watch::Receiver<bool>) {
    let controller = Controller::new(scoped::<Guarded<QuorateTask>>(client, namespace), watcher::Config::default())
        .with_config(Config::default().debounce(DEBOUNCE).concurrency(PARALLEL))
        .graceful_shutdown_on(stopped(stop));
    let work = |object: Arc<Guarded<QuorateTask>>, shared: Arc<Shared>| async move {
        let (name, namespace) = (object.name_any(), object.namespace().unwrap_or_default());
        timed(&shared, &*object, task::reconcile(&shared.context, &name, &namespace)).await
    };
    drain(controller.run(work, again::<Guarded<QuorateTask>>, shared)).await;
}

async fn restores_in(client: &Client, namespace: Option<&str>, shared: Arc<Shared>, stop: watch::Receiver<bool>) {
    let controller = Controller::new(scoped::<Guarded<QuorateRestore>>(client, namespace), watcher::Config::default())
        .with_config(Config::default().debounce(DEBOUNCE).concurrency(PARALLEL))
        .graceful_shutdown_on(stopped(stop));
    let work = |object: Arc<Guarded<QuorateRestore>>, shared: Arc<Shared>| async move {
        let (name, namespace) = (object.name_any(), object.namespace().unwrap_or_default());
        timed(&shared, &*object, restore::reconcile(&shared.context, &name, &namespace)).await
    };
    drain(controller.run(work, again::<Guarded<QuorateRestore>>, shared)).await;
}

async fn stopped(mut stop: watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn drain<K>(outcomes: impl Stream<Item = Result<(ObjectRef<K>, Action), impl std::error::Error>>)
where
    K: Resource<DynamicType = ()>,
{
    let mut outcomes = pin!(outcomes);
    while let Some(outcome) = outcomes.next().await {
        if let Err(error) = outcome {
            tracing::debug!(%error, "round");
        }
    }
}

fn scoped<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: Resource<Scope = k8s_openapi::NamespaceResourceScope>,
    K::DynamicType: Default,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

/// The cluster that an object's labels name.
fn of_cluster<K: Resource>(object: K) -> Option<ObjectRef<Guarded<QuorateCluster>>> {
    let name = object.labels().get("app.kubernetes.io/instance")?;
    Some(ObjectRef::new(name).within(&object.namespace()?))
}

async fn round(object: Arc<Guarded<QuorateCluster>>, shared: Arc<Shared>) -> Result<Action, cluster::Error> {
    let (name, namespace) = (object.name_any(), object.namespace().unwrap_or_default());
    timed(&shared, &*object, cluster::reconcile(&shared.context, &name, &namespace)).await
}

/// What the log and the failures know an object by.
fn key<K: Resource<DynamicType = ()>>(object: &K) -> String {
    format!("{} {}/{}", K::kind(&()), object.namespace().unwrap_or_default(), object.name_any())
}

/// Runs a round and keeps account of it.
async fn timed<K, F>(shared: &Shared, object: &K, round: F) -> Result<Action, cluster::Error>
where
    K: Resource<DynamicType = ()>,
    F: Future<Output = Result<Duration, cluster::Error>>,
{
    let began = Instant::now();
    let result = timeout(ROUND, round).await.unwrap_or(Err(cluster::Error::Slow(ROUND)));
    let outcome = match &result {
        Ok(_) => "success",
        Err(error) if error.is_conflict() => "conflict",
        Err(_) => "error",
    };
    shared.context.metrics.round(outcome, began.elapsed());
    let next = result?;
    shared.failures.lock().expect("no one panics in there").remove(&key(object));
    // Many objects that were found at once should not be looked at at once for ever.
    Ok(Action::requeue(next.mul_f64(rand::random_range(0.9..1.1))))
}

fn again<K: Resource<DynamicType = ()>>(object: Arc<K>, error: &cluster::Error, shared: Arc<Shared>) -> Action {
    let key = key(&*object);
    if error.is_conflict() {
        tracing::debug!(object = key, "somebody else wrote first");
        return Action::requeue(Duration::from_secs(1));
    }
    let mut failures = shared.failures.lock().expect("no one panics in there");
    let count = failures.entry(key.clone()).or_default();
    *count = count.saturating_add(1);
    let pause = (BACKOFF.0 * 2u32.saturating_pow((*count - 1).min(6))).min(BACKOFF.1);
    tracing::warn!(object = key, %error, pause_seconds = pause.as_secs(), "round failed");
    Action::requeue(pause)
}
