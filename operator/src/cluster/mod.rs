//! One round for one cluster: observe, validate, plan, build, apply, report. What lies in between takes no client.
//!
//! The order of effects: Secrets and surroundings first, so that pods find them; then the look at everything; then the status, with
//! the journal's entry, by compare-and-swap on the very object that was read; then the one step. A step is therefore taken only by
//! who has just won the right to write the status, and a crash anywhere leaves either nothing or a step that the next round finds
//! done.

mod apply;
mod aside;
pub mod asked;
pub(crate) mod build;
pub mod errand;
#[cfg(test)]
mod fake;
mod observe;
pub mod plan;
mod report;
pub mod restore;
pub mod secrets;
pub mod upkeep;
pub mod validate;
pub mod world;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::api::PostParams;
use kube::runtime::events::{Event, EventType, Recorder};
use kube::{Api, Client, Resource, ResourceExt};

use crate::crd::status::RecoveryStatus;
use crate::crd::{ClusterStatus, QuorateCluster};
use crate::member::{Members, Promotion, Survey};
use crate::metrics::Metrics;
use errand::{Outside, Stage};
use plan::{Plan, Step, plan};
use validate::{Invalid, Valid, step, validate};
use world::Seconds;

/// Until the next look while something is under way.
const BUSY: Duration = Duration::from_secs(2);
/// Until the next look at a quiet cluster, or at one where nothing has moved for long.
const QUIET: Duration = Duration::from_secs(15);

/// How long pods on volumes that were taken up may be silent before the others' word is enough, seconds.
const HEARD_WITHIN: Seconds = 60;

/// How long calls may fail before the status says so, seconds: a control plane that elects a leader is no trouble of a cluster's.
const TOLD_AFTER: Seconds = 30;

/// As long as Kubernetes lets an event's action be, characters.
const ACTION_LENGTH: usize = 120;
/// As long as Kubernetes lets an event's note be, with room for characters of more than one byte: longer ones are refused whole.
const NOTE_LENGTH: usize = 900;

/// What all rounds share.
pub struct Context {
    /// Kubernetes.
    pub client: Client,
    /// The image of clusters that name none.
    pub default_image: Option<String>,
    /// What members listen at.
    pub listen: &'static str,
    /// Events.
    pub recorder: Recorder,
    /// Figures.
    pub metrics: Arc<Metrics>,
    /// What was applied lately.
    pub applied: apply::Applied,
    /// Which Secrets were made sure of lately.
    pub secrets: secrets::Known,
    /// Why the last step failed, by the cluster's UID, for the status.
    pub failures: Mutex<HashMap<String, String>>,
    /// Since when calls have failed.
    pub failing: Failing,
}

/// Since when rounds have failed for want of an answer, by the cluster's UID. One call that fails says nothing of a cluster.
#[derive(Default)]
pub struct Failing(Mutex<HashMap<String, Seconds>>);

impl Failing {
    /// A round failed; true once that has gone on for so long that people should know.
    fn lasts(&self, uid: &str, now: Seconds) -> bool {
        let mut since = self.0.lock().expect("no one panics in there");
        now - *since.entry(uid.to_string()).or_insert(now) >= TOLD_AFTER
    }

    /// A round went well, or there is nothing to fail for any more.
    fn over(&self, uid: &str) {
        self.0.lock().expect("no one panics in there").remove(uid);
    }
}

impl Context {
    /// A context with nothing applied yet.
    pub fn new(client: Client, default_image: Option<String>, recorder: Recorder, metrics: Arc<Metrics>) -> Self {
        Self {
            client,
            default_image,
            listen: validate::every_address_here(),
            recorder,
            metrics,
            applied: apply::Applied::default(),
            secrets: secrets::Known::default(),
            failures: Mutex::default(),
            failing: Failing::default(),
        }
    }
}

/// Why a round ended early.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server refused or was not there.
    #[error("kubernetes: {0}")]
    Kube(#[from] kube::Error),
    /// Something could not be written, or must not be.
    #[error("{0}")]
    Apply(#[from] apply::Error),
    /// No certificates.
    #[error("certificates: {0}")]
    Secrets(#[from] secrets::Error),
    /// A member refused.
    #[error("member: {0}")]
    Member(#[from] quorate_client::Error),
    /// The spec cannot be built.
    #[error("{0}")]
    Invalid(#[from] Invalid),
    /// The round was cut short.
    #[error("the round took longer than {0:?}")]
    Slow(Duration),
}

impl Error {
    /// Somebody else wrote first; looking again is all that is needed.
    pub fn is_conflict(&self) -> bool {
        match self {
            Self::Kube(kube::Error::Api(status)) => status.is_conflict(),
            Self::Apply(error) | Self::Secrets(secrets::Error::Apply(error)) => error.is_conflict(),
            Self::Secrets(secrets::Error::Kube(kube::Error::Api(status))) => status.is_conflict(),
            _ => false,
        }
    }

    /// What the API server said, if it is that.
    fn refusal(&self) -> Option<&kube::Error> {
        match self {
            Self::Kube(error) | Self::Apply(apply::Error::Kube(error)) => Some(error),
            _ => None,
        }
    }
}

/// One round. Returns when to look again.
pub async fn reconcile(context: &Context, name: &str, namespace: &str) -> Result<Duration, Error> {
    let api: Api<QuorateCluster> = Api::namespaced(context.client.clone(), namespace);
    let Some(object) = api.get_opt(name).await? else { return Ok(QUIET) };
    let uid = object.uid().unwrap_or_default();
    // Whatever belongs to it is deleted by its owner references; there is nothing to do here, and nothing that could hang.
    if object.metadata.deletion_timestamp.is_some() {
        context.failures.lock().expect("no one panics in there").remove(&uid);
        context.failing.over(&uid);
        return Ok(QUIET);
    }
    let now = now();
    match round(context, &api, &object, now).await {
        Ok(next) => {
            context.failing.over(&uid);
            Ok(next)
        }
        Err(error) if error.is_conflict() => Err(error),
        Err(error) => {
            let old = object.status.clone().unwrap_or_default();
            let (reason, permanent) = reason_of(&error);
            if matches!(reason, "KubernetesFailed" | "MemberFailed") && !context.failing.lasts(&uid, now) {
                return Err(error);
            }
            let status = report::failed(&old, object.metadata.generation, reason, &error.to_string(), permanent, now);
            write_status(context, &api, &object, &old, status).await?;
            // What goes by itself is gone in a moment.
            if reason == "FormerCluster" { Ok(BUSY) } else { Err(error) }
        }
    }
}

/// The condition's reason, and whether only a person can help.
fn reason_of(error: &Error) -> (&'static str, bool) {
    match (error.refusal(), error) {
        (Some(kube::Error::Api(status)), _) if status.is_invalid() => return ("Refused", true),
        (Some(kube::Error::Api(status)), _) if status.is_forbidden() => return ("Forbidden", true),
        _ => (),
    }
    match error {
        Error::Invalid(_) => ("InvalidSpec", true),
        Error::Apply(apply::Error::Foreign { .. }) | Error::Secrets(secrets::Error::Apply(apply::Error::Foreign { .. })) => {
            ("ForeignObject", true)
        }
        Error::Apply(apply::Error::Former { .. }) | Error::Secrets(secrets::Error::Apply(apply::Error::Former { .. })) => {
            ("FormerCluster", false)
        }
        Error::Kube(_) | Error::Apply(_) => ("KubernetesFailed", false),
        Error::Secrets(secrets::Error::Kube(_) | secrets::Error::Apply(_)) => ("KubernetesFailed", false),
        Error::Secrets(secrets::Error::Pending(_)) => ("CertificatesPending", false),
        Error::Secrets(_) => ("CertificatesFailed", true),
        Error::Member(_) => ("MemberFailed", false),
        Error::Slow(_) => ("KubernetesFailed", false),
    }
}

async fn round(context: &Context, api: &Api<QuorateCluster>, object: &QuorateCluster, now: Seconds) -> Result<Duration, Error> {
    let client = &context.client;
    let mut cluster = validate(object, context.default_image.as_deref())?;
    cluster.listen = context.listen;
    let old = object.status.clone().unwrap_or_default();
    let paused = cluster.spec.paused;
    let (identity, standing) = secrets::ensure(client, (&context.applied, &context.secrets), object, &cluster, now).await?;

    let mut objects = observe::Objects::read(client, &cluster, &old.volumes).await?;
    if let Some(running) = objects.image() {
        cluster.image = cluster.kept_image(&running);
    }
    let cluster = cluster;
    step(objects.versions(&old).iter().map(String::as_str), &cluster.image)?;
    let size = claim_size(&objects, &cluster);
    let (_, template) = build::stateful_set(&cluster, 0, &size);
    let members = Members::new(objects.targets(&cluster), identity.as_ref())?;
    // Who asks costs a page of figures: only where somebody wants to know.
    let maintained = &cluster.spec.maintenance;
    let asked = asked::read(client, &cluster, &old).await?;
    let compaction = maintained.compaction.is_some() || !old.alarms.is_empty() || asked.request.is_some();
    let known = old.cluster_id.as_ref().filter(|_| old.errand.is_none()).and_then(|id| u64::from_str_radix(id, 16).ok());
    let mut survey = members.survey(known, compaction).await;
    let mut old_now = old.clone();
    if old.cluster_id.is_none() && cluster.stamp != cluster.uid {
        // Volumes of one that was being recovered when it was deleted may hold two stores: all are heard, or waited for, before one counts.
        let waited = old.operation.as_ref().is_some_and(|known| now - observe::seconds(&known.step_at) >= HEARD_WITHIN);
        if survey.stores > 1 || (survey.answers.len() < objects.claims.len() && !waited) {
            survey.cluster_id = None;
        }
    }
    if old_now.cluster_id.is_none() {
        old_now.cluster_id = survey.cluster_id.map(|id| format!("{id:016x}"));
    }
    let mut stage = restore::Stage::Filled;
    let from_volumes = cluster.spec.bootstrap.as_ref().is_some_and(|bootstrap| bootstrap.from_volumes);
    if from_volumes && !paused && old.origin.is_none() {
        match objects.origin(&cluster) {
            Ok(origin) => {
                // A status that came back with the object speaks of the cluster that was deleted.
                if objects.claims_are_anothers(&cluster) {
                    old_now = ClusterStatus { recovery: old.recovery.clone(), ..ClusterStatus::default() };
                }
                old_now.origin = Some(origin);
                stage = restore::Stage::Busy("take up the volumes of the deleted cluster".into());
            }
            Err(why) if old_now.cluster_id.is_none() => stage = restore::Stage::Failed(why),
            // What was formed otherwise has its own.
            Err(_) => (),
        }
    }
    let look = |objects: &observe::Objects, outside: Option<Outside>| {
        let (cluster, survey, status, asked, template) = (&cluster, &survey, &old_now, &asked, template.as_str());
        observe::world(&observe::Look { cluster, objects, survey, status, asked, outside, template, now })
    };
    let world = look(&objects, None);

    let mut trouble = None;
    let mut outside = None;
    // Nothing is made for volumes before it is on record whose they are.
    if !paused && matches!(stage, restore::Stage::Filled) {
        surround(context, &cluster, &objects, &world, old.recovery.as_ref()).await?;
        // Before the first pod starts, and only then, its volume may have to be filled.
        let source = cluster.spec.bootstrap.as_ref().and_then(|bootstrap| bootstrap.restore.as_ref());
        if source.is_some() && !world.formed && cluster.stamp != cluster.uid {
            let why = "spec.bootstrap.restore: this cluster went on with the volumes of a deleted one already; use another name";
            stage = restore::Stage::Failed(why.into());
        } else if let Some(source) = source.filter(|_| !world.formed && objects.set.is_none()) {
            let filling = restore::Filling { source, job: cluster.named("restore"), token: &cluster.uid, bump: None };
            stage = restore::advance(context, &cluster, &filling).await?;
        }
        outside = errand_outside(context, &cluster, &world, &asked).await?;
        if matches!(stage, restore::Stage::Filled) {
            keep_set(context, &cluster, &objects, &world, &size).await?;
        }
        trouble = tend_pods_and_volumes(context, &cluster, &objects, &world).await;
        if objects.set.is_none() {
            objects = observe::Objects::read(client, &cluster, &old.volumes).await?;
        }
    }
    let world = look(&objects, outside);
    let plan = match stage {
        restore::Stage::Filled => plan(&world),
        restore::Stage::Busy(text) => plan::restoring(&world, text, None),
        restore::Stage::Failed(text) => {
            plan::restoring(&world, text, Some(if from_volumes { "NothingToTakeUp" } else { "RestoreFailed" }))
        }
    };
    let seen = report::Seen {
        cluster: &cluster,
        world: &world,
        survey: &survey,
        plan: &plan,
        standing: standing.as_ref(),
        trouble,
        failure: context.failures.lock().expect("no one panics in there").get(&cluster.uid).cloned(),
    };
    let status = report::report(&old_now, object.metadata.generation, &seen);
    let pace = report::pace(&status, now);
    // The journal and the cluster id are on record before anything is done because of them.
    write_status(context, api, object, &old, status).await?;
    // A step that failed is decided anew; meanwhile the status tells why it did not happen.
    let failures = || context.failures.lock().expect("no one panics in there");
    match act(context, &cluster, &objects, &members, &survey, &plan).await {
        Ok(()) => drop(failures().remove(&cluster.uid)),
        Err(error) => {
            tracing::warn!(cluster = %cluster.name, namespace = %cluster.namespace, step = ?plan.step, %error, "step failed");
            failures().insert(cluster.uid.clone(), error.to_string());
        }
    }
    Ok(pace)
}

/// What an errand does besides steps: the first volume is filled, or put back. Both only while no pod could touch it.
async fn errand_outside(
    context: &Context,
    cluster: &Valid,
    world: &world::World,
    asked: &asked::Asked,
) -> Result<Option<Outside>, Error> {
    let job = world.errand.as_ref().map(|errand| cluster.named(&format!("restore-{}", &errand.uid[..errand.uid.len().min(8)])));
    // The first volume of a new cluster may still be at it.
    if world.formed && (job.is_some() || context.applied.is_stale(&format!("swept/{}", cluster.uid))) {
        aside::sweep_jobs(&context.client, cluster, job.as_deref()).await?;
    }
    let (Some(errand), Some(job)) = (&world.errand, job) else { return Ok(None) };
    if errand.stage == Stage::Retiring && !errand.keep {
        let aside = errand.old.iter().find(|old| old.slot == errand.slot && !old.volume.is_empty());
        let Some(old) = aside else { return Ok(None) };
        return Ok(aside::is_released(&context.client, cluster, old).await?.then_some(Outside::Done));
    }
    let resting = world.set.as_ref().is_some_and(|set| set.replicas == 0) && world.slots.values().all(|place| place.pod.is_none());
    if !resting {
        return Ok(None);
    }
    match errand.stage {
        Stage::GoingBack => Ok(Some(aside::go_back(&context.client, cluster, errand, &job).await?)),
        Stage::Filling if !world.withdrawn => {
            let old = world.volume(errand.slot).is_some_and(|volume| errand.is_old(&volume.uid));
            let Some(restore) = asked.restore.as_ref().filter(|_| !old) else { return Ok(None) };
            let source = &restore.spec.source;
            let bump = Some(restore::bump(context, &cluster.namespace, source, errand.revision).await?);
            let filling = restore::Filling { source, job, token: &errand.uid, bump };
            Ok(Some(match restore::advance(context, cluster, &filling).await? {
                restore::Stage::Filled => Outside::Done,
                restore::Stage::Busy(what) => Outside::Busy(what),
                restore::Stage::Failed(why) => Outside::Failed(why),
            }))
        }
        _ => Ok(None),
    }
}

/// The size that the StatefulSet was made with, or will be.
fn claim_size(objects: &observe::Objects, cluster: &Valid) -> String {
    let claims = objects.set.as_ref().and_then(|set| set.spec.as_ref()?.volume_claim_templates.as_ref());
    let size =
        claims.and_then(|claims| claims.first()?.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?.get("storage").cloned());
    size.map_or_else(|| cluster.spec.storage.size.clone(), |size| size.0)
}

/// Applies everything that has no life of its own.
async fn surround(
    context: &Context,
    cluster: &Valid,
    objects: &observe::Objects,
    world: &world::World,
    known: Option<&RecoveryStatus>,
) -> Result<(), Error> {
    let (client, applied) = (&context.client, &context.applied);
    let ticket = match (&objects.ticket, world.formed) {
        // The first ticket stands until it is used: two different ones could found two stores. What disks are stamped with is no
        // choice: no pod of an earlier ticket got further than to a volume that was not its own.
        (Some(ticket), false) if ticket.cluster == cluster.stamp => ticket.clone(),
        (Some(_), false) => build::ticket(cluster, false, 0..world.founders),
        (None, false) => {
            let founds = cluster.spec.bootstrap.is_none() && cluster.stamp == cluster.uid;
            build::ticket(cluster, founds, 0..world.founders)
        }
        (_, true) => build::ticket(cluster, false, 0..world.replicas().max(cluster.replicas()).max(world.founders)),
    };
    let recover = world.errand.as_ref().filter(|errand| errand.in_ticket());
    let recover = recover.map(|errand| build::Recovery { slot: cluster.pod(errand.slot), id: errand.uid.clone() });
    let recover = recover.or_else(|| Some(build::Recovery { slot: known?.member.clone(), id: known?.id.clone() }));
    let ticket = build::Ticket { recover, ..ticket };
    let voters = world.members.iter().flatten().filter(|member| !member.learner).count();
    let voters = if world.members.is_some() { voters } else { usize::try_from(world.founders).unwrap_or(0) };
    for object in build::surroundings(cluster, &ticket, voters) {
        apply::apply(client, cluster, applied, &object).await?;
    }
    for (version, kind, name) in build::unwanted(cluster, voters) {
        apply::remove(client, cluster, applied, version, kind, &name).await?;
    }
    Ok(())
}

/// Applies the StatefulSet with the number of pods that it has, or begins with.
async fn keep_set(
    context: &Context,
    cluster: &Valid,
    objects: &observe::Objects,
    world: &world::World,
    size: &str,
) -> Result<(), Error> {
    // Pods must not even start on volumes that hold somebody else's data.
    let foreign = world.slots.values().any(|place| place.volume.as_ref().is_some_and(|volume| !volume.ours));
    let replicas = match &objects.set {
        Some(_) => world.replicas(),
        None if cluster.replicas() == 0 || foreign || world.errand.is_some() => 0,
        None => world.founders,
    };
    let (set, _) = build::stateful_set(cluster, replicas, size);
    apply::apply(&context.client, cluster, &context.applied, &set).await?;
    Ok(())
}

/// Labels pods with their roles and brings volumes to size and policy. A failure here hinders nothing else; it is told.
async fn tend_pods_and_volumes(
    context: &Context,
    cluster: &Valid,
    objects: &observe::Objects,
    world: &world::World,
) -> Option<(&'static str, String)> {
    let mut trouble = None;
    for member in world.members.iter().flatten() {
        if let Some(pod) = member.slot.and_then(|slot| objects.pods.get(&slot))
            && let Err(error) = apply::label_role(&context.client, pod, report::role(member)).await
        {
            tracing::debug!(%error, pod = pod.name_any(), "cannot label the pod");
        }
    }
    let with_cluster = cluster.spec.storage.when_deleted == crate::crd::cluster::VolumePolicy::Delete;
    for (slot, claim) in &objects.claims {
        if world.volume(*slot).is_none_or(|volume| !volume.ours) {
            continue;
        }
        match apply::tend_claim(&context.client, cluster, claim, with_cluster).await {
            Err(kube::Error::Api(status)) if status.is_forbidden() || status.is_invalid() => {
                trouble = Some((
                    "VolumeRefused",
                    format!(
                        "volume claim {} cannot be changed: {}; where it is for its StorageClass, see whether that may allow expansion",
                        claim.name_any(),
                        status.message
                    ),
                ));
            }
            Err(error) => tracing::debug!(%error, claim = claim.name_any(), "cannot tend the volume claim"),
            Ok(()) => (),
        }
    }
    trouble
}

/// Takes the plan's step.
async fn act(
    context: &Context,
    cluster: &Valid,
    objects: &observe::Objects,
    members: &Members,
    survey: &Survey,
    plan: &Plan,
) -> Result<(), Error> {
    let (client, namespace) = (&context.client, cluster.namespace.as_str());
    if plan.step != Step::Nothing {
        tracing::info!(cluster = %cluster.name, namespace, step = ?plan.step, "step");
        context.metrics.step(&plan.step);
    }
    match &plan.step {
        Step::Nothing => (),
        Step::SetReplicas(replicas) => {
            if let Some(set) = &objects.set {
                apply::set_replicas(client, set, *replicas).await?;
            }
        }
        Step::AddLearner { slot } => members.add_learner(survey, &cluster.peer_url(*slot)).await?,
        Step::Promote { member } => {
            if members.promote(survey, *member).await? == Promotion::NotYet {
                tracing::debug!(cluster = %cluster.name, member, "the learner is still behind");
            }
        }
        Step::Remove { member } => members.remove(survey, *member).await?,
        Step::MoveLeader { to, .. } => members.move_leader(survey, *to).await?,
        Step::DeletePod { slot, uid } => apply::delete::<Pod>(client, namespace, &cluster.pod(*slot), uid).await?,
        Step::ForcePod { slot, uid } => apply::forget_pod(client, namespace, &cluster.pod(*slot), uid).await?,
        Step::DeleteVolume { slot, uid } => {
            apply::delete::<PersistentVolumeClaim>(client, namespace, &cluster.claim(*slot), uid).await?;
        }
        Step::RetireVolume { slot, uid, keep } => {
            let name = cluster.claim(*slot);
            let known = plan.errand.iter().flat_map(|errand| &errand.old).find(|old| old.claim == *uid);
            if let Some(old) = known.filter(|old| *keep && !old.volume.is_empty()) {
                aside::keep(client, cluster, &old.volume, &name).await?;
            }
            apply::delete::<PersistentVolumeClaim>(client, namespace, &name, uid).await?;
        }
        Step::ReleaseVolume { volume } => aside::release(client, cluster, volume).await?,
        Step::Compact { revision } => members.compact(survey, *revision).await?,
        Step::Defragment { slot } => members.defragment(*slot).await?,
        Step::Disarm => members.disarm(survey).await?,
    }
    Ok(())
}

/// Writes a status in place of the one that was read, if it says something new, and tells the news.
async fn write_status(
    context: &Context,
    api: &Api<QuorateCluster>,
    object: &QuorateCluster,
    old: &ClusterStatus,
    new: ClusterStatus,
) -> Result<(), Error> {
    context.metrics.cluster(&object.namespace().unwrap_or_default(), &object.name_any(), &new.conditions);
    if *old == new {
        return Ok(());
    }
    let news = report::news(old, &new);
    let mut next = object.clone();
    next.metadata.managed_fields = None;
    next.status = Some(new);
    api.replace_status(&object.name_any(), &PostParams::default(), &next).await?;
    let reference = object.object_ref(&());
    for (warning, reason, note) in news {
        let type_ = if warning { EventType::Warning } else { EventType::Normal };
        // Events of one action are counted as one, with the words of the first; each step is an action of its own.
        let action = note.chars().take(ACTION_LENGTH).collect();
        let note = Some(note.chars().take(NOTE_LENGTH).collect());
        let event = Event { type_, reason, note, action, secondary: None };
        if let Err(error) = context.recorder.publish(&event, &reference).await {
            tracing::debug!(%error, "cannot record an event");
        }
    }
    Ok(())
}

fn now() -> Seconds {
    k8s_openapi::jiff::Timestamp::now().as_second()
}

#[cfg(test)]
mod tests {
    use super::Failing;

    /// A failure is told once it has lasted, and begins anew after a round that went well.
    #[test]
    fn failures_are_told_when_they_last() {
        let failing = Failing::default();
        assert_eq!([0, 29, 30].map(|second| failing.lasts("a", second)), [false, false, true]);
        assert!(!failing.lasts("b", 30));
        failing.over("a");
        assert!(!failing.lasts("a", 31));
    }
}
