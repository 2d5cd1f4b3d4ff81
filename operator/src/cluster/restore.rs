//! A first volume that gets the data of a backup: of a cluster that begins with one, or whose data a backup takes the place of. A Job
//! fills it before any pod starts, and the other members join the first as they would join any cluster of one.
//!
//! The boot ticket of such a cluster never lets an empty disk found anything: were the filled volume lost again, the cluster would
//! wait rather than begin without its data.

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use kube::api::PostParams;
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};

use super::build;
use super::validate::Valid;
use super::{Context, Error};
use crate::backup::inputs;
use crate::backup::job::{Progress, Worker, job, progress, trying};
use crate::crd::backup::QuorateBackupStoreSpec;
use crate::crd::cluster::RestoreSource;
use crate::crd::{QuorateBackup, QuorateBackupStore};

/// How far it is.
pub enum Stage {
    /// The volume holds the data; the member may start.
    Filled,
    /// What is done or waited for.
    Busy(String),
    /// Only a person can help; why.
    Failed(String),
}

/// What a volume is filled for.
pub struct Filling<'a> {
    /// Where the data comes from.
    pub source: &'a RestoreSource,
    /// The Job's name.
    pub job: String,
    /// Makes the store's cluster id another one than that of any other restore.
    pub token: &'a str,
    /// How far revisions are raised. None: as far as the agent does by itself.
    pub bump: Option<i64>,
}

/// Where a source is.
pub struct Located {
    /// The store's name.
    pub store_name: String,
    /// The store.
    pub store: QuorateBackupStoreSpec,
    /// The object's name, or its folder with a slash at the end.
    pub location: String,
}

/// Why a source is nowhere.
pub enum NotLocated {
    /// It will be there.
    Yet(String),
    /// Something is not there that somebody may still make.
    Missing(String),
    /// It will never be there.
    Never(String),
}

/// Looks up where a source is.
///
/// # Errors
/// When the API server fails.
pub async fn locate(client: &Client, namespace: &str, source: &RestoreSource) -> kube::Result<Result<Located, NotLocated>> {
    let (store, location) = match (&source.backup_ref, &source.store_ref, &source.location) {
        (Some(name), _, _) => {
            let api: Api<QuorateBackup> = Api::namespaced(client.clone(), namespace);
            let Some(backup) = api.get_opt(&name.name).await? else {
                return Ok(Err(NotLocated::Missing(format!("there is no QuorateBackup {}", name.name))));
            };
            let status = backup.status.unwrap_or_default();
            match (status.phase.as_deref(), status.location) {
                (Some("Succeeded"), Some(location)) => (backup.spec.store_ref.name, location),
                (Some("Failed"), _) => return Ok(Err(NotLocated::Never(format!("QuorateBackup {} failed", name.name)))),
                _ => return Ok(Err(NotLocated::Yet(format!("wait for QuorateBackup {} to be done", name.name)))),
            }
        }
        (None, Some(store), Some(location)) => (store.name.clone(), location.clone()),
        _ => return Ok(Err(NotLocated::Never("the source names no backup".into()))),
    };
    let stores: Api<QuorateBackupStore> = Api::namespaced(client.clone(), namespace);
    Ok(match stores.get_opt(&store).await? {
        Some(object) => Ok(Located { store_name: store, store: object.spec, location }),
        None => Err(NotLocated::Missing(format!("there is no QuorateBackupStore {store}"))),
    })
}

/// Does what is next.
pub async fn advance(context: &Context, cluster: &Valid, filling: &Filling<'_>) -> Result<Stage, Error> {
    let Filling { source, job: job_name, token, bump } = filling;
    let client = &context.client;
    let namespace = cluster.namespace.as_str();
    let jobs: Api<Job> = Api::namespaced(client.clone(), namespace);
    if let Some(found) = jobs.get_opt(job_name).await? {
        if found.labels().get(build::UID_LABEL) != Some(&cluster.uid) {
            return Ok(Stage::Busy(format!("wait for job {job_name} of another cluster to go")));
        }
        return Ok(match progress(client, &found).await? {
            Progress::Running(failed) => {
                Stage::Busy(trying("wait for the first member's volume to be filled from the backup", failed.as_deref()))
            }
            Progress::Done(_) | Progress::Unheard => Stage::Filled,
            Progress::Failed(why) | Progress::Refuted(why) => {
                Stage::Failed(format!("the backup could not be restored: {why}; mend that and delete job {job_name}, to try again"))
            }
        });
    }
    let Located { store, location, .. } = match locate(client, namespace, source).await? {
        Ok(located) => located,
        Err(NotLocated::Yet(why)) => return Ok(Stage::Busy(why)),
        Err(NotLocated::Missing(why) | NotLocated::Never(why)) => return Ok(Stage::Failed(why)),
    };
    if let Some(missing) = inputs::read(client, namespace, &store, None).await?.missing {
        return Ok(Stage::Failed(missing));
    }
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace);
    match claims.get_opt(&cluster.claim(0)).await? {
        Some(claim) if claim.labels().get(build::UID_LABEL) != Some(&cluster.uid) => {
            let message = format!(
                "volume claim {} was made for another cluster of this name: keep its data elsewhere and delete it",
                claim.name_any()
            );
            return Ok(Stage::Failed(message));
        }
        Some(_) => (),
        None => {
            let claim = serde_json::from_value(build::claim(cluster, &cluster.claim(0), &cluster.spec.storage.size))
                .expect("the claim is well formed");
            claims.create(&PostParams::default(), &claim).await?;
        }
    }
    let mut labels = build::labels(cluster);
    // The Services select members by these labels; this pod is none.
    labels.insert("app.kubernetes.io/name".into(), "quorate-agent".into());
    let worker = Worker {
        name: job_name,
        namespace,
        labels,
        owner: build::owner(cluster, true),
        image: context.default_image.as_deref().unwrap_or(&cluster.image),
        pull_secrets: json!(cluster.spec.image.pull_secrets),
        account: cluster.spec.pod.service_account_name.as_deref().unwrap_or(&cluster.name),
        store: &store,
        object: Some(&location),
        arguments: vec![
            "restore".into(),
            "--data-dir=/var/lib/quorate/data".into(),
            format!("--name={}", cluster.pod(0)),
            format!("--peer-url={}", cluster.peer_url(0)),
            format!("--token={token}"),
        ]
        .into_iter()
        .chain(bump.map(|bump| format!("--bump-revision={bump}")))
        .chain(source.arguments())
        .collect(),
        tls: None,
        data: Some(&cluster.claim(0)),
        scratch: false,
    };
    let job: Job = serde_json::from_value(placed(job(&worker), cluster)).expect("the job is well formed");
    match jobs.create(&PostParams::default(), &job).await {
        Err(kube::Error::Api(status)) if status.is_already_exists() => (),
        other => drop(other?),
    }
    Ok(Stage::Busy("fill the first member's volume from the backup".into()))
}

/// The job's pod runs where the member may: a volume that is made for it, in a zone or on a node, has to be one that the member reaches.
fn placed(mut job: Value, cluster: &Valid) -> Value {
    if let Some(pod) = job["spec"]["template"]["spec"].as_object_mut() {
        pod.extend(build::whereabouts(cluster));
    }
    job
}

/// How far revisions must be raised so that none that was given out before comes again: beyond the newest that the store had reached.
///
/// # Errors
/// When the API server fails.
pub async fn bump(context: &Context, namespace: &str, source: &RestoreSource, reached: i64) -> Result<i64, Error> {
    let mut begins = 0;
    if let Some(backup) = &source.backup_ref {
        let api: Api<QuorateBackup> = Api::namespaced(context.client.clone(), namespace);
        let status = api.get_opt(&backup.name).await?.and_then(|backup| backup.status);
        begins = status.and_then(|status| status.revision).unwrap_or(0);
    }
    Ok((reached - begins).max(0).saturating_add(crate::agent::REVISION_BUMP))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::validate::{tests::sample, validate};

    /// A volume that waits for its first pod is made on a node that the member may use.
    #[test]
    fn volumes_are_filled_where_members_run() {
        let mut object = sample();
        object.spec.scheduling = serde_json::from_value(
            json!({"nodeSelector": {"pool": "stores"}, "tolerations": [{"key": "stores", "operator": "Exists"}]}),
        )
        .unwrap();
        object.spec.pod.overrides = json!({"schedulerName": "own"}).as_object().cloned();
        let cluster = validate(&object, Some("q:1")).unwrap();
        let job = placed(json!({"spec": {"template": {"spec": {"containers": [{"name": "agent"}]}}}}), &cluster);
        let pod = &job["spec"]["template"]["spec"];
        assert_eq!((&pod["nodeSelector"]["pool"], &pod["schedulerName"]), (&json!("stores"), &json!("own")));
        assert_eq!((pod["tolerations"].as_array().map(Vec::len), &pod["containers"][0]["name"]), (Some(1), &json!("agent")));
        assert!(pod["affinity"]["podAntiAffinity"].is_object(), "beside the other members as the member itself");
    }
}
