//! The look at a restore's source while the members still serve: a Job reads everything that the restore will read, and checks it.
//! What is not there, cannot be reached, decrypted or is damaged is told in a sentence, and nothing was done to the cluster.

use k8s_openapi::api::batch::v1::Job;
use kube::api::PostParams;
use kube::{Api, ResourceExt};
use serde_json::json;

use crate::agent::Restored;
use crate::backup::job::{Progress, Worker, forget, job_of, progress, trying};
use crate::backup::{inputs, labels};
use crate::cluster::restore::Located;
use crate::cluster::validate::validate;
use crate::cluster::{Context, Error};
use crate::crd::{QuorateCluster, QuorateRestore};

/// Tries before a source counts as bad; each asks a store that fails again and again for minutes.
const TRIES: u32 = 1;

/// How a source is.
pub enum Look {
    /// It is looked at, or cannot be yet; why.
    Waits(String),
    /// All of it was read and is well.
    Good(Restored),
    /// It cannot be restored; why.
    Bad(String),
}

/// Does what is next.
///
/// # Errors
/// When the API server fails.
pub async fn look(context: &Context, restore: &QuorateRestore, cluster: &QuorateCluster, source: &Located) -> Result<Look, Error> {
    let client = &context.client;
    let (name, namespace) = (restore.name_any(), restore.namespace().unwrap_or_default());
    let jobs: Api<Job> = Api::namespaced(client.clone(), &namespace);
    let job_name = format!("{name}-look");
    let reads = format!("job {job_name} reads the backup, to see that it can be restored");
    if let Some(found) = jobs.get_opt(&job_name).await? {
        if !found.owner_references().iter().any(|owner| Some(&owner.uid) == restore.metadata.uid.as_ref()) {
            return Ok(Look::Waits(format!(
                "job {job_name} belongs to something else: delete it, or use another name for this restore"
            )));
        }
        return Ok(match progress(client, &found).await? {
            Progress::Running(failed) => Look::Waits(trying(&reads, failed.as_deref())),
            Progress::Unheard => {
                forget(client, &found).await?;
                Look::Waits(reads)
            }
            Progress::Failed(why) | Progress::Refuted(why) => Look::Bad(why),
            Progress::Done(words) => match serde_json::from_str(&words) {
                Ok(restored) => Look::Good(restored),
                Err(_) => Look::Bad(format!("the agent's last words were not understood: {words:?}")),
            },
        });
    }
    if let Some(missing) = inputs::read(client, &namespace, &source.store, None).await?.missing {
        return Ok(Look::Waits(missing));
    }
    let cluster = match validate(cluster, context.default_image.as_deref()) {
        Ok(cluster) => cluster,
        Err(why) => return Ok(Look::Waits(format!("QuorateCluster {}: {why}", cluster.name_any()))),
    };
    let worker = Worker {
        name: &job_name,
        namespace: &namespace,
        labels: labels(),
        owner: json!({
            "apiVersion": "quorate.io/v1alpha1", "kind": "QuorateRestore", "name": name, "uid": restore.uid().unwrap_or_default(),
            "controller": true, "blockOwnerDeletion": true,
        }),
        image: context.default_image.as_deref().unwrap_or(&cluster.image),
        pull_secrets: json!(cluster.spec.image.pull_secrets),
        account: cluster.spec.pod.service_account_name.as_deref().unwrap_or(&cluster.name),
        store: &source.store,
        object: Some(&source.location),
        arguments: std::iter::once("look".to_string()).chain(restore.spec.source.arguments()).collect(),
        tls: None,
        data: None,
        scratch: false,
    };
    let made: Job = serde_json::from_value(job_of(&worker, TRIES)).expect("the job is well formed");
    match jobs.create(&PostParams::default(), &made).await {
        Err(kube::Error::Api(status)) if status.is_already_exists() => (),
        other => drop(other?),
    }
    Ok(Look::Waits(reads))
}
