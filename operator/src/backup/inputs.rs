//! What the agent's pods are given besides flags: Secrets with credentials, keys and certificates, and the volume of a store. A pod
//! that names one which is not there waits for it without a word, so they are looked at before it is made.
//!
//! In: a store, and the Secret that is shown to members. Out: what is missing, as a sentence for people; and a hash of what the Secrets
//! hold, by which a pod that lives long is started anew when they change. Invariant: nothing of their content is told.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Secret};
use kube::{Api, Client};

use super::job::{AZURE_KEYS, GCS_KEYS, S3_KEYS};
use crate::agent::seal;
use crate::crd::backup::QuorateBackupStoreSpec;
use crate::crd::cluster::NameReference;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inputs {
    /// What is not there, and what to do.
    pub missing: Option<String>,
    /// Another one whenever a Secret holds something else.
    pub hash: String,
}

/// A Secret's data; none when there is no such Secret.
type Content = Option<BTreeMap<String, Vec<u8>>>;

/// A Secret that a pod names.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Wanted {
    name: String,
    /// Entries that it must have.
    all: Vec<&'static str>,
    /// Entries of which it must have one.
    any: Vec<&'static str>,
    /// Where it is named.
    field: &'static str,
}

/// Reads them.
///
/// # Errors
/// When the API server does not answer.
pub async fn read(client: &Client, namespace: &str, store: &QuorateBackupStoreSpec, tls: Option<&str>) -> kube::Result<Inputs> {
    let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let mut found = Vec::new();
    for wanted in wanted(store, tls) {
        let secret = secrets.get_opt(&wanted.name).await?;
        let content = secret.map(|secret| secret.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0)).collect());
        found.push((wanted, content));
    }
    let mut inputs = judge(&found);
    if let (None, Some(volume)) = (&inputs.missing, &store.volume) {
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace);
        if claims.get_opt(&volume.claim_name).await?.is_none() {
            inputs.missing =
                Some(format!("volume claim {} is not there: create it, or change spec.volume of the store", volume.claim_name));
        }
    }
    Ok(inputs)
}

fn wanted(store: &QuorateBackupStoreSpec, tls: Option<&str>) -> Vec<Wanted> {
    let secret = |reference: &Option<NameReference>, all: &[&'static str], any: &[&'static str], field| {
        let name = reference.as_ref()?.name.clone();
        Some(Wanted { name, all: all.to_vec(), any: any.to_vec(), field })
    };
    let s3 = store.s3.as_ref().and_then(|s3| secret(&s3.credentials_secret_ref, &S3_KEYS, &[], "spec.s3.credentialsSecretRef"));
    let gcs =
        store.gcs.as_ref().and_then(|gcs| secret(&gcs.credentials_secret_ref, &GCS_KEYS, &[], "spec.gcs.credentialsSecretRef"));
    let azure = store.azure.as_ref();
    let azure = azure.and_then(|azure| secret(&azure.credentials_secret_ref, &[], &AZURE_KEYS, "spec.azure.credentialsSecretRef"));
    let keys = store.encryption.as_ref().map(|encryption| Some(encryption.secret_ref.clone()));
    let keys = keys.and_then(|keys| secret(&keys, &[seal::CURRENT], &[], "spec.encryption.secretRef"));
    let tls = tls.map(|name| Wanted { name: name.into(), all: vec!["tls.crt", "tls.key", "ca.crt"], any: Vec::new(), field: "" });
    [s3, gcs, azure, keys, tls].into_iter().flatten().collect()
}

fn judge(found: &[(Wanted, Content)]) -> Inputs {
    let mut missing = None;
    let mut bytes = Vec::new();
    for (wanted, content) in found {
        missing = missing.or_else(|| lacks(wanted, content));
        // Lengths keep what is beside one another apart.
        for part in content.iter().flatten().flat_map(|(key, value)| [key.as_bytes(), value]).chain([wanted.name.as_bytes()]) {
            bytes.extend_from_slice(&part.len().to_le_bytes());
            bytes.extend_from_slice(part);
        }
    }
    Inputs { missing, hash: crate::short_hash(&bytes) }
}

fn lacks(wanted: &Wanted, content: &Content) -> Option<String> {
    let Wanted { name, all, any, field } = wanted;
    let named =
        if field.is_empty() { "it holds what is shown to members".to_string() } else { format!("the store names it in {field}") };
    let Some(content) = content else { return Some(format!("secret {name} is not there: create it; {named}")) };
    if let Some(key) = all.iter().find(|key| !content.contains_key(**key)) {
        return Some(format!("secret {name} has no entry {key}: add it; {named}"));
    }
    if !any.is_empty() && !any.iter().any(|key| content.contains_key(*key)) {
        return Some(format!("secret {name} has none of the entries {}: add one; {named}", any.join(", ")));
    }
    let bad = |entry: &&String| *field == "spec.encryption.secretRef" && !seal::is_key(&content[*entry]);
    let bad = content.keys().find(bad)?;
    Some(format!("entry {bad} of secret {name} is no key: use 32 bytes, or 64 hexadecimal digits; {named}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn store(spec: serde_json::Value) -> QuorateBackupStoreSpec {
        serde_json::from_value(spec).unwrap()
    }

    fn content(entries: &[(&str, &str)]) -> Content {
        Some(entries.iter().map(|(key, value)| (key.to_string(), value.as_bytes().to_vec())).collect())
    }

    /// What is not there is named with what to do, for each kind of store; what is whole is not.
    #[test]
    fn what_is_missing() {
        let key = "0123456789abcdef0123456789abcdef";
        let s3 = store(
            json!({"s3": {"bucket": "b", "credentialsSecretRef": {"name": "c"}}, "encryption": {"secretRef": {"name": "k"}}}),
        );
        let azure = store(json!({"azure": {"account": "a", "container": "b", "credentialsSecretRef": {"name": "c"}}}));
        let credentials = content(&[("AWS_ACCESS_KEY_ID", "a"), ("AWS_SECRET_ACCESS_KEY", "b")]);
        let said = |store: &QuorateBackupStoreSpec, contents: &[Content]| {
            let found: Vec<_> = wanted(store, None).into_iter().zip(contents.iter().cloned()).collect();
            assert_eq!(found.len(), contents.len());
            judge(&found).missing
        };
        let has = |said: Option<String>, words: &[&str]| {
            let said = said.unwrap();
            assert!(words.iter().all(|word| said.contains(word)), "{said}");
        };
        assert_eq!(said(&s3, &[credentials.clone(), content(&[("key", key)])]), None);
        has(said(&s3, &[None, content(&[("key", key)])]), &["secret c is not there", "create", "spec.s3.credentialsSecretRef"]);
        has(said(&s3, &[content(&[("AWS_ACCESS_KEY_ID", "a")]), None]), &["no entry AWS_SECRET_ACCESS_KEY"]);
        has(said(&s3, &[credentials.clone(), content(&[("old", key)])]), &["secret k has no entry key", "spec.encryption"]);
        has(said(&s3, &[credentials, content(&[("key", "short")])]), &["entry key of secret k is no key", "64 hexadecimal"]);
        has(said(&azure, &[content(&[])]), &["none of the entries AZURE_STORAGE_ACCOUNT_KEY, AZURE_STORAGE_SAS_TOKEN"]);
        assert_eq!(said(&azure, &[content(&[("AZURE_STORAGE_SAS_TOKEN", "x")])]), None);
        assert_eq!(said(&store(json!({"volume": {"claimName": "v"}})), &[]), None);
    }

    /// The hash follows what the Secrets hold, and nothing else.
    #[test]
    fn what_has_changed() {
        let store = store(json!({"gcs": {"bucket": "b", "credentialsSecretRef": {"name": "c"}}}));
        let hash = |value: &str, certificate: &str| {
            let contents = [content(&[("GOOGLE_SERVICE_ACCOUNT_KEY", value)]), content(&[("tls.crt", certificate)])];
            judge(&wanted(&store, Some("t")).into_iter().zip(contents).collect::<Vec<_>>()).hash
        };
        assert_eq!(hash("a", "b"), hash("a", "b"));
        assert!(hash("a", "b") != hash("c", "b") && hash("a", "b") != hash("a", "c") && hash("ab", "") != hash("a", "b"));
    }
}
