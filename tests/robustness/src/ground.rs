//! The ground that members stand on: a network namespace and a file system each, all inside namespaces of this run.
//!
//! The program starts itself again inside new network, mount and process namespaces; whatever it makes there ends with it. Members
//! and clients are joined by a bridge. A member's file system is a file behind a loop device, so that it can be full or frozen.
//!
//! Invariant: nothing of this is seen by other programs of the machine, and nothing is left behind.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Set for the inner start of the program.
const INSIDE: &str = "QUORATE_ROBUSTNESS_INSIDE";
/// Size of a member's file system, bytes. It is sparse and lies in memory.
pub const DISK: u64 = 800 << 20;

/// Members of the cluster.
pub const MEMBERS: usize = 3;

/// Runs a program to its end; its words are the error.
pub fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let out = Command::new(program).args(arguments).output().map_err(|e| format!("{program}: {e}"))?;
    if out.status.success() {
        return Ok(());
    }
    Err(format!("{program} {}: {}", arguments.join(" "), String::from_utf8_lossy(&out.stderr).trim()))
}

/// Starts the program again inside its own namespaces and gives its exit code; `None` when this is the inner start.
pub fn enter() -> Result<Option<u8>, String> {
    if std::env::var_os(INSIDE).is_some() {
        return Ok(None);
    }
    let may = Command::new("unshare").args(["--net", "true"]).output().map_err(|e| format!("needs `unshare`: {e}"))?;
    if !may.status.success() {
        return Err("needs root with CAP_SYS_ADMIN: it makes network namespaces".into());
    }
    let me = std::env::current_exe().map_err(|e| format!("cannot find itself: {e}"))?;
    // When this process is killed, so is the inner one, and with it all of its namespaces.
    let status = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--"])
        .arg(me)
        .args(std::env::args_os().skip(1))
        .env(INSIDE, "1")
        .status()
        .map_err(|e| format!("setpriv: {e}"))?;
    Ok(Some(status.code().and_then(|c| u8::try_from(c).ok()).unwrap_or(1)))
}

/// The networks and disks of one run.
pub struct Ground {
    disks: PathBuf,
}

/// A member's address; members count from 0.
pub fn address(at: usize) -> String {
    format!("10.77.0.{}", 11 + at)
}

/// The namespace of a member.
fn space(at: usize) -> String {
    format!("/run/netns/m{}", at + 1)
}

/// A command inside a member's network.
pub fn inside(at: usize, program: &str) -> Command {
    let mut command = Command::new("nsenter");
    command.env_remove(INSIDE).arg(format!("--net={}", space(at))).arg(program);
    command
}

fn run_inside(at: usize, line: &str) -> Result<(), String> {
    let net = format!("--net={}", space(at));
    let mut all = vec![net.as_str()];
    all.extend(line.split(' '));
    run("nsenter", &all)
}

/// Bytes of a disk that are filled write by write.
const MARGIN: u64 = 8 << 20;
/// Bytes of such a write.
const PIECE: usize = 64 << 10;

impl Ground {
    /// Lays everything out; `folder` becomes the mount point of what lies in memory.
    pub fn lay(folder: &Path) -> Result<Self, String> {
        std::fs::create_dir_all("/run/netns").map_err(|e| format!("/run/netns: {e}"))?;
        run("mount", &["-t", "tmpfs", "none", "/run/netns"])?;
        run("ip", &["link", "set", "lo", "up"])?;
        run("ip", &["link", "add", "br0", "type", "bridge"])?;
        run("ip", &["addr", "add", "10.77.0.1/24", "dev", "br0"])?;
        run("ip", &["link", "set", "br0", "up"])?;
        let disks = folder.to_path_buf();
        let path = disks.display().to_string();
        std::fs::create_dir_all(&disks).map_err(|e| format!("{path}: {e}"))?;
        run("mount", &["-t", "tmpfs", "-o", &format!("size={}", DISK * 4), "none", &path])?;
        let ground = Self { disks };
        for at in 0..MEMBERS {
            let name = format!("m{}", at + 1);
            run("ip", &["netns", "add", &name])?;
            let (outer, address) = (format!("v{}", at + 1), format!("{}/24", address(at)));
            run("ip", &["link", "add", &outer, "type", "veth", "peer", "name", "eth0", "netns", &name])?;
            run("ip", &["link", "set", &outer, "master", "br0", "up"])?;
            run_inside(at, "ip link set lo up")?;
            run_inside(at, &format!("ip addr add {address} dev eth0"))?;
            run_inside(at, "ip link set eth0 up")?;
            run_inside(at, "nft add table inet fault")?;
            run_inside(at, "nft add chain inet fault in { type filter hook input priority 0 ; }")?;
            run_inside(at, "nft add chain inet fault out { type filter hook output priority 0 ; }")?;
            ground.make_disk(at)?;
        }
        Ok(ground)
    }

    /// Where a member's file system is mounted.
    pub fn disk(&self, at: usize) -> PathBuf {
        self.disks.join(format!("m{}", at + 1))
    }

    fn make_disk(&self, at: usize) -> Result<(), String> {
        let (image, folder) = (self.disks.join(format!("m{}.img", at + 1)), self.disk(at));
        let file = std::fs::File::create(&image).map_err(|e| format!("{}: {e}", image.display()))?;
        file.set_len(DISK).map_err(|e| format!("{}: {e}", image.display()))?;
        std::fs::create_dir(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
        let (image, folder) = (image.display().to_string(), folder.display().to_string());
        run("mkfs.ext4", &["-q", "-m", "0", "-O", "^has_journal", &image])?;
        run("mount", &["-o", "loop", &image, &folder])
    }

    /// Takes all that is left of a member's file system but about `left` bytes: most of it at once, the rest write by write, since
    /// where free space lies in pieces not all of it can be had at once.
    pub fn fill(&self, at: usize, left: u64) -> Result<(), String> {
        let path = self.disk(at).join("ballast");
        let ballast = path.display().to_string();
        let failed = |e: std::io::Error| format!("{ballast}: {e}");
        let most = self.space(at)?.saturating_sub(left.max(MARGIN));
        if most > 0 {
            run("fallocate", &["-l", &most.to_string(), &ballast]).inspect_err(|_| drop(self.free(at)))?;
        }
        let mut file = std::fs::OpenOptions::new().append(true).create(true).open(&path).map_err(failed)?;
        while self.space(at)? > left + PIECE as u64 {
            match file.write_all(&[0; PIECE]).and_then(|()| file.sync_data()) {
                Err(e) if e.kind() == std::io::ErrorKind::StorageFull => break,
                result => result.map_err(failed)?,
            }
        }
        Ok(())
    }

    /// Free bytes of a member's file system.
    fn space(&self, at: usize) -> Result<u64, String> {
        let out = Command::new("df").args(["--output=avail", "-B1"]).arg(self.disk(at)).output().map_err(|e| format!("df: {e}"))?;
        let text = String::from_utf8_lossy(&out.stdout);
        text.lines().last().and_then(|l| l.trim().parse().ok()).ok_or_else(|| "df says nothing".into())
    }

    pub fn free(&self, at: usize) -> Result<(), String> {
        let ballast = self.disk(at).join("ballast");
        std::fs::remove_file(&ballast).map_err(|e| format!("{}: {e}", ballast.display()))
    }

    /// Whoever writes to the file system waits until [`Ground::thaw`].
    pub fn freeze(&self, at: usize) -> Result<(), String> {
        run("fsfreeze", &["-f", &self.disk(at).display().to_string()])
    }

    pub fn thaw(&self, at: usize) -> Result<(), String> {
        run("fsfreeze", &["-u", &self.disk(at).display().to_string()])
    }

    /// What `to` gets from `from` is dropped; members only, clients still reach both.
    pub fn cut(&self, from: usize, to: usize) -> Result<(), String> {
        run_inside(to, &format!("nft add rule inet fault in ip saddr {} drop", address(from)))
    }

    /// So many packets of a hundred that come from other members are dropped.
    pub fn lose(&self, to: usize, percent: u64) -> Result<(), String> {
        for from in (0..MEMBERS).filter(|from| *from != to) {
            let from = address(from);
            run_inside(to, &format!("nft add rule inet fault in ip saddr {from} numgen random mod 100 < {percent} drop"))?;
        }
        Ok(())
    }

    /// The member's cable: out for everyone, clients too.
    pub fn cable(&self, at: usize, plugged: bool) -> Result<(), String> {
        run("ip", &["link", "set", &format!("v{}", at + 1), if plugged { "up" } else { "down" }])
    }

    /// Ends [`Ground::cut`] and [`Ground::lose`].
    pub fn mend(&self) -> Result<(), String> {
        (0..MEMBERS).try_for_each(|at| run_inside(at, "nft flush table inet fault"))
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        // The loop devices are given back with their mounts.
        for at in 0..MEMBERS {
            let _ = run("umount", &["-l", &self.disk(at).display().to_string()]);
        }
        let _ = run("umount", &["-l", &self.disks.display().to_string()]);
    }
}
