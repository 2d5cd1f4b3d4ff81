//! Identity: whose data a member's folder holds, in a file of a few lines with a checksum.
//!
//! In: a folder, an identity and its stamp. Out: the same, read back; a text that was changed, or written by a newer build, is refused.
//! Invariant: the file is replaced in one step, and is durable when the call returns.

use super::start::{StartError, io};
use crate::wal::Identity;
use std::path::Path;

/// What is written beside the ids when a member is made for somebody who counts his members.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    /// The member's name.
    pub name: Option<String>,
    /// The id of what the cluster was made for.
    pub owner: Option<String>,
    /// Ids of the recoveries that this member's data went through, or that it joined after.
    pub recovered: Vec<String>,
}

/// First lines of the identity file: without a stamp, and with one.
const IDENTITY_HEAD: &str = "quorate member 1";
const STAMPED_HEAD: &str = "quorate member 2";
/// With a recovery: an older build, which knows nothing of it, must not take the member up.
const RECOVERED_HEAD: &str = "quorate member 3";
/// The newest format of the identity file that this build knows.
const IDENTITY_VERSION: u32 = 3;

/// The file's text. A stamp's words are JSON strings: nothing in them can break a line.
fn identity_text(id: Identity, stamp: &Stamp) -> String {
    let head = match stamp {
        stamp if !stamp.recovered.is_empty() => RECOVERED_HEAD,
        stamp if *stamp == Stamp::default() => IDENTITY_HEAD,
        _ => STAMPED_HEAD,
    };
    let mut body = format!("{head}\ncluster {:016x}\nmember {:016x}\n", id.cluster, id.member);
    for (key, value) in [("name", &stamp.name), ("owner", &stamp.owner)] {
        if let Some(value) = value {
            body += &format!("{key} {}\n", serde_json::Value::from(value.as_str()));
        }
    }
    for id in &stamp.recovered {
        body += &format!("recovered {}\n", serde_json::Value::from(id.as_str()));
    }
    let sum = crc32c::crc32c(body.as_bytes());
    format!("{body}crc32c {sum:08x}\n")
}

fn parse_identity(text: &str) -> Option<(Identity, Stamp)> {
    let (body, sum) = text.strip_suffix('\n')?.rsplit_once("\ncrc32c ")?;
    let body = format!("{body}\n");
    if format!("{:08x}", crc32c::crc32c(body.as_bytes())) != sum {
        return None;
    }
    let mut lines = body.lines();
    let head = lines.next()?;
    let (mut cluster, mut member, mut stamp) = (None, None, Stamp::default());
    for line in lines {
        let (key, value) = line.split_once(' ')?;
        match key {
            "cluster" => cluster = Some(u64::from_str_radix(value, 16).ok()?),
            "member" => member = Some(u64::from_str_radix(value, 16).ok()?),
            "name" if head != IDENTITY_HEAD => stamp.name = serde_json::from_str(value).ok()?,
            "owner" if head != IDENTITY_HEAD => stamp.owner = serde_json::from_str(value).ok()?,
            "recovered" if head == RECOVERED_HEAD => stamp.recovered.push(serde_json::from_str(value).ok()?),
            _ => return None,
        }
    }
    let known = [IDENTITY_HEAD, STAMPED_HEAD, RECOVERED_HEAD].contains(&head);
    known.then_some((Identity { cluster: cluster?, member: member? }, stamp))
}

/// Whether a text is an identity file of a format that this build does not know yet, whole and unchanged.
fn is_newer(text: &str) -> bool {
    let sound = text
        .strip_suffix('\n')
        .and_then(|t| t.rsplit_once("\ncrc32c "))
        .is_some_and(|(body, sum)| format!("{:08x}", crc32c::crc32c(format!("{body}\n").as_bytes())) == sum);
    let version = text.lines().next().and_then(|head| head.strip_prefix("quorate member "));
    sound && version.and_then(|v| v.parse::<u32>().ok()).is_some_and(|v| v > IDENTITY_VERSION)
}

/// Replaces the identity file in one step; durable on return.
pub(super) fn write_identity(member: &Path, id: Identity, stamp: &Stamp) -> Result<(), StartError> {
    let (new, real) = (member.join("identity.new"), member.join("identity"));
    std::fs::write(&new, identity_text(id, stamp)).map_err(io(&new))?;
    std::fs::File::open(&new).and_then(|f| f.sync_all()).map_err(io(&new))?;
    std::fs::rename(&new, &real).map_err(io(&real))?;
    std::fs::File::open(member).and_then(|f| f.sync_all()).map_err(io(member))
}

/// The identity in a data folder; `None` when no member lives there.
pub fn read_identity(data_dir: &Path) -> Result<Option<Identity>, StartError> {
    Ok(read_stamped(data_dir)?.map(|(identity, _)| identity))
}

/// The identity in a data folder and the stamp beside it.
///
/// # Errors
/// As for [`read_identity`].
pub fn read_stamped(data_dir: &Path) -> Result<Option<(Identity, Stamp)>, StartError> {
    let path = data_dir.join("member").join("identity");
    match std::fs::read_to_string(&path) {
        Ok(text) => match parse_identity(&text) {
            Some(stamped) => Ok(Some(stamped)),
            None if is_newer(&text) => Err(StartError::NewerIdentity { path, known: IDENTITY_VERSION }),
            None => Err(StartError::BadIdentity { path, why: "its lines or checksum are wrong".into() }),
        },
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            let member = data_dir.join("member");
            if member.exists() {
                let why = "the folder has data but no identity (another program's?)".into();
                return Err(StartError::BadIdentity { path, why });
            }
            Ok(None)
        }
        Err(e) => Err(io(&path)(e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An identity file keeps its stamp, whatever its words; one without a stamp reads as it always did; a changed one is refused.
    #[test]
    fn identity_files() {
        let id = Identity { cluster: 0xc1, member: 7 };
        let plain = identity_text(id, &Stamp::default());
        assert!(plain.starts_with("quorate member 1\ncluster 00000000000000c1\nmember 0000000000000007\ncrc32c "));
        assert_eq!(parse_identity(&plain), Some((id, Stamp::default())));
        let stamp = Stamp { name: Some("kv-0".into()), owner: Some("8f0c-11".into()), ..Stamp::default() };
        let text = identity_text(id, &stamp);
        assert!(text.starts_with("quorate member 2\n"));
        assert_eq!(parse_identity(&text), Some((id, stamp)));
        assert_eq!(parse_identity(&text.replace("kv-0", "kv-1")), None);
        assert_eq!(parse_identity(&plain.replace("member 1", "member 2")), None);
        let recovered = Stamp { recovered: vec!["r-1".into(), "r 2".into()], ..Stamp::default() };
        let text = identity_text(id, &recovered);
        assert!(text.starts_with("quorate member 3\n"));
        assert_eq!(parse_identity(&text), Some((id, recovered)));
        assert!(!is_newer(&text));
        let broken = Stamp { name: Some("a\ncluster 0".into()), ..Stamp::default() };
        assert_eq!(parse_identity(&identity_text(id, &broken)), Some((id, broken)));
    }
}
