//! Ticket: a file in which whoever counts the members says how an empty disk becomes one of them. It is read again while the member
//! waits, so that it may come late or change.
//!
//! ```json
//! {"cluster": "8f0c...", "form": true, "members": {"kv-0": "https://kv-0.kv.ns.svc:2380"},
//!  "recover": {"slot": "kv-0", "id": "5d1e..."}}
//! ```
//!
//! `recover` is there once a cluster was lost for good: the member of that name goes on alone, once, and the others join it with
//! empty disks. A ticket that names a recovery never lets a cluster be formed: there is one to join.

use crate::config::{InitialCluster, Url};
use std::path::Path;

/// What the file says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// The id of what the cluster is made for: a cluster made for another never counts as this one.
    pub owner: String,
    /// A cluster may be formed by exactly these members.
    pub form: bool,
    /// Peer URLs by name; each list sorted.
    pub members: InitialCluster,
    /// The newest recovery of the cluster, if there ever was one.
    pub recover: Option<TicketRecovery>,
}

/// Who goes on alone, and the name of that event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TicketRecovery {
    /// The name of the member whose data counts.
    pub slot: String,
    /// Never given twice: what carries this id already is not recovered again.
    pub id: String,
}

/// Longest id of a recovery, in bytes; it is written into every member's identity.
pub const MAX_RECOVERY_ID: usize = 256;

/// Reads the field `recover`, absent or null in most tickets.
fn recovery(page: &serde_json::Value) -> Result<Option<TicketRecovery>, String> {
    if page.is_null() {
        return Ok(None);
    }
    let text = |key: &str| page[key].as_str().filter(|s| !s.is_empty()).map(str::to_string);
    let wrong = "\"recover\" must hold \"slot\", a member's name, and \"id\", a text, both not empty";
    let (Some(slot), Some(id)) = (text("slot"), text("id")) else { return Err(wrong.into()) };
    if id.len() > MAX_RECOVERY_ID {
        return Err(format!("\"recover\": an id of {} bytes is longer than {MAX_RECOVERY_ID}", id.len()));
    }
    Ok(Some(TicketRecovery { slot, id }))
}

/// Largest file that is read, in bytes.
const MAX_BYTES: u64 = 1 << 20;

impl Ticket {
    /// Reads the file.
    ///
    /// # Errors
    /// One sentence that names the file and what is wrong with it.
    pub fn read(path: &Path) -> Result<Self, String> {
        let named = |e: String| format!("the boot ticket {}: {e}", path.display());
        let size = std::fs::metadata(path).map_err(|e| named(e.to_string()))?.len();
        if size > MAX_BYTES {
            return Err(named(format!("{size} bytes are more than {MAX_BYTES}")));
        }
        let text = std::fs::read_to_string(path).map_err(|e| named(e.to_string()))?;
        Self::parse(&text).map_err(named)
    }

    /// Reads the text.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let page: serde_json::Value = serde_json::from_str(text).map_err(|e| format!("it is not JSON: {e}"))?;
        let owner = page["cluster"].as_str().filter(|s| !s.is_empty()).ok_or("\"cluster\" must be a text that is not empty")?;
        let form = page["form"].as_bool().ok_or("\"form\" must be true or false")?;
        let rows = page["members"].as_object().filter(|m| !m.is_empty()).ok_or("\"members\" must name at least one member")?;
        let mut members = InitialCluster::new();
        for (name, urls) in rows {
            let urls = urls.as_str().ok_or_else(|| format!("member {name:?}: its URL must be a text"))?;
            let mut urls = Url::parse_list(urls).map_err(|e| format!("member {name:?}: {e}"))?;
            for url in &urls {
                url.check_advertised().map_err(|e| format!("member {name:?}: {e}"))?;
            }
            urls.sort_by_cached_key(ToString::to_string);
            if name.is_empty() || urls.is_empty() {
                return Err(format!("member {name:?}: a name and a URL are needed"));
            }
            if let Some((other, _)) = members.iter().find(|(_, u): &(&String, &Vec<Url>)| u.iter().any(|u| urls.contains(u))) {
                return Err(format!("members {other:?} and {name:?} have the same URL"));
            }
            members.insert(name.clone(), urls);
        }
        Ok(Self { owner: owner.to_string(), form, members, recover: recovery(&page["recover"])? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tickets() {
        let ticket = Ticket::parse(r#"{"cluster":"u1","form":true,"members":{"kv-1":"http://b:1","kv-0":"http://a:1"}}"#).unwrap();
        assert_eq!((ticket.owner.as_str(), ticket.form), ("u1", true));
        assert_eq!(ticket.members.keys().collect::<Vec<_>>(), ["kv-0", "kv-1"]);
        assert_eq!(ticket.recover, None);
        let lost = r#"{"cluster":"u1","form":false,"members":{"a":"http://a:1"},"recover":{"slot":"a","id":"r1"}}"#;
        assert_eq!(Ticket::parse(lost).unwrap().recover, Some(TicketRecovery { slot: "a".into(), id: "r1".into() }));
        for (bad, why) in [
            (r#"{"cluster":"u","form":false,"members":{"a":"http://a:1"},"recover":{"slot":"a"}}"#, "recover"),
            (r#"{"cluster":"u","form":false,"members":{"a":"http://a:1"},"recover":"a"}"#, "recover"),
            ("", "not JSON"),
            (r#"{"form":true,"members":{"a":"http://a:1"}}"#, "cluster"),
            (r#"{"cluster":"u","members":{"a":"http://a:1"}}"#, "form"),
            (r#"{"cluster":"u","form":false,"members":{}}"#, "members"),
            (r#"{"cluster":"u","form":false,"members":{"a":7}}"#, "text"),
            (r#"{"cluster":"u","form":false,"members":{"a":"a:1"}}"#, "\"a\""),
            (r#"{"cluster":"u","form":false,"members":{"a":"http://x:1","b":"http://x:1"}}"#, "same URL"),
        ] {
            let error = Ticket::parse(bad).unwrap_err();
            assert!(error.contains(why), "{bad}: {error}");
        }
    }
}
