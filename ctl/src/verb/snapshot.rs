//! `snapshot save`: one member's state, as a file.
//!
//! Invariant: the file appears under its name only when it is whole, checked and on disk. Until then it is `NAME.part`.

use std::fs::{File, OpenOptions, remove_file, rename};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use quorate_client::Client;
use quorate_client::proto::etcdserverpb::SnapshotRequest;
use sha2::{Digest, Sha256};

use crate::context::{Context, client};
use crate::failure::{self, Done};
use crate::notation::system_text;
use crate::print;

/// Bytes of the checksum at the end.
const SUM: usize = 32;

/// Runs the command.
pub async fn save(mut cx: Context) -> Done {
    if cx.args().len() != 1 {
        return Err(failure::bad_args("snapshot save expects one argument <filename>"));
    }
    let path = cx.text(0);
    let (config, _) = cx.open()?;
    if config.endpoints.len() != 1 {
        let all = config.endpoints.join(" ");
        return Err(failure::interrupted(format!("snapshot must be requested to one selected node, not multiple [{all}]")));
    }
    let client = client(config).await?;
    let part = PathBuf::from(format!("{path}.part"));
    let limit = cx.flags.given("command-timeout").then(|| cx.flags.duration("command-timeout"));
    let fetch = fetch(&client, &part);
    let fetched = match limit {
        Some(limit) => tokio::time::timeout(limit, fetch).await.unwrap_or_else(|_| Err(quorate_client::Error::Timeout.to_string())),
        None => fetch.await,
    };
    let saved = fetched.and_then(|version| {
        rename(&part, &path).map_err(|error| format!("could not rename {} to {path} ({error})", part.display()))?;
        sync_folder(Path::new(&path)).map_err(|error| format!("could not sync the folder of {path} ({error})"))?;
        Ok(version)
    });
    let version = match saved {
        Ok(version) => version,
        Err(error) => {
            let _ = remove_file(&part);
            return Err(failure::interrupted(error));
        }
    };
    print::line(format!("Snapshot saved at {path}"))?;
    if version.is_empty() { Ok(()) } else { print::line(format!("Server version {version}")) }
}

/// Downloads to `part`, checks and syncs it. Gives the version that the server named.
async fn fetch(client: &Client, part: &Path) -> Result<String, String> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(part)
        .map_err(|error| format!("could not open {} (open {}: {})", part.display(), part.display(), system_text(&error)))?;
    let mut stream = client.snapshot(SnapshotRequest {}).await.map_err(|error| error.to_string())?;
    let mut sum = Sha256::new();
    // The last bytes seen, which may be the checksum and so are not summed up yet.
    let mut tail: Vec<u8> = Vec::new();
    let mut version = String::new();
    while let Some(piece) = stream.message().await.map_err(|status| quorate_client::Error::from(status).to_string())? {
        file.write_all(&piece.blob).map_err(|error| format!("could not write {} ({error})", part.display()))?;
        tail.extend_from_slice(&piece.blob);
        let keep = tail.len().saturating_sub(SUM);
        sum.update(&tail[..keep]);
        tail.drain(..keep);
        if !piece.version.is_empty() {
            version = piece.version;
        }
    }
    if tail.len() != SUM || sum.finalize()[..] != tail[..] {
        let length = file.metadata().map_or(0, |metadata| metadata.len());
        return Err(format!("sha256 checksum not found or wrong [bytes: {length}]"));
    }
    file.sync_all().map_err(|error| format!("could not sync {} ({error})", part.display()))?;
    Ok(version)
}

fn sync_folder(path: &Path) -> std::io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}
