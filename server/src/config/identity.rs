//! Ids of the first members and of their cluster, computed as etcd does, so that a cluster started with the same flags has
//! the same ids. In: peer URLs and the cluster token. Out: 64-bit ids. Pure; used only when a cluster is born, since later
//! members get their ids from the leader.

use sha1::{Digest, Sha1};

/// The id of a bootstrap member: the first eight bytes, big-endian, of SHA-1 over its peer URLs (sorted, joined without a
/// separator) followed by the cluster token.
pub fn member_id<S: AsRef<str>>(peer_urls: &[S], token: &str) -> u64 {
    let mut urls: Vec<&str> = peer_urls.iter().map(AsRef::as_ref).collect();
    urls.sort_unstable();
    let mut hash = Sha1::new();
    for url in urls {
        hash.update(url.as_bytes());
    }
    hash.update(token.as_bytes());
    head(hash)
}

/// The id of a cluster: the first eight bytes, big-endian, of SHA-1 over its first members' ids, ascending, eight
/// big-endian bytes each.
pub fn cluster_id(member_ids: &[u64]) -> u64 {
    let mut ids = member_ids.to_vec();
    ids.sort_unstable();
    let mut hash = Sha1::new();
    for id in ids {
        hash.update(id.to_be_bytes());
    }
    head(hash)
}

fn head(hash: Sha1) -> u64 {
    let digest: [u8; 20] = hash.finalize().into();
    let mut first = [0u8; 8];
    first.copy_from_slice(&digest[..8]);
    u64::from_be_bytes(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What etcd 3.7.3 logs as local-member-id and cluster-id when started without any flag.
    #[test]
    fn a_lone_default_member_has_etcd_s_ids() {
        let id = member_id(&["http://localhost:2380"], "etcd-cluster");
        assert_eq!(format!("{id:x}"), "8e9e05c52164694d");
        assert_eq!(format!("{:x}", cluster_id(&[id])), "cdf818194e3a8c32");
    }

    /// Three local members with the token etcd-cluster-1, as etcdctl prints them; the order given must not matter.
    #[test]
    fn three_members_have_etcd_s_ids_in_any_order() {
        let ids: Vec<u64> =
            [32380, 12380, 22380].iter().map(|port| member_id(&[format!("http://127.0.0.1:{port}")], "etcd-cluster-1")).collect();
        let shown: Vec<String> = ids.iter().map(|id| format!("{id:x}")).collect();
        assert_eq!(shown, ["fd422379fda50e48", "8211f1d0f64f3269", "91bc3c398fb3c146"]);
        assert_eq!(format!("{:x}", cluster_id(&ids)), "ef37ad9dc622a7c4");
    }

    #[test]
    fn several_urls_of_one_member_are_sorted_first() {
        let a = member_id(&["http://b:1", "http://a:1"], "t");
        assert_eq!(a, member_id(&["http://a:1", "http://b:1"], "t"));
    }
}
