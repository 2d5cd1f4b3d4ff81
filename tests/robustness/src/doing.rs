//! Doing faults, and undoing them.
//!
//! A fault that was undone leaves three voting members that can all be reached. Whether they come to rest is asked afterwards.

use crate::asking::ask;
use crate::cluster::Cluster;
use crate::faults::Fault;
use crate::ground::MEMBERS;
use crate::member::{Signal, client, endpoint, leader, peer, status};
use crate::traffic::value;
use quorate_proto::entry::command::Op;
use quorate_proto::entry::{Compact, Put};
use quorate_proto::etcdserverpb as pb;
use sim::rng::Rng;
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// Writes of 48 KiB that make up for a member's time away.
const FLOOD: u64 = 220;
/// Longest that it may take until a member that is away again and again is given a snapshot.
const AWAY: Duration = Duration::from_secs(100);

/// Longest that it may take until the feature level follows the last member's upgrade.
const RAISED: Duration = Duration::from_secs(30);

fn seconds(chance: &mut Rng, low: u64, high: u64) -> Duration {
    Duration::from_millis(chance.between(low * 1000, high * 1000))
}

impl Cluster {
    async fn leading(&self) -> usize {
        leader(self.all()).await.unwrap_or(0)
    }

    async fn follower(&self, chance: &mut Rng) -> usize {
        let leader = self.leading().await;
        (leader + 1 + chance.below(MEMBERS as u64 - 1) as usize) % MEMBERS
    }

    /// Does one fault and undoes it.
    pub async fn fault(&mut self, fault: Fault, chance: &mut Rng) -> Result<(), String> {
        match fault {
            Fault::Kill => self.killed(self.follower(chance).await, seconds(chance, 0, 3)).await,
            Fault::KillLeader => self.killed(self.leading().await, seconds(chance, 0, 4)).await,
            Fault::KillAll => {
                for at in 0..MEMBERS {
                    self.members.signal(at, Signal::Kill)?;
                }
                for at in 0..MEMBERS {
                    self.members.wait(at)?;
                }
                (0..MEMBERS).try_for_each(|at| self.members.start(&self.ground, at, true))
            }
            Fault::RollingRestart => self.rolling_restart().await,
            Fault::Pause => self.paused(self.follower(chance).await, seconds(chance, 1, 6)).await,
            Fault::PauseLeader => self.paused(self.leading().await, seconds(chance, 2, 6)).await,
            Fault::Cut => self.cut(self.follower(chance).await, seconds(chance, 2, 8)).await,
            Fault::CutLeader => self.cut(self.leading().await, seconds(chance, 2, 8)).await,
            Fault::CutOneWay => {
                let from = chance.below(MEMBERS as u64) as usize;
                let to = (from + 1 + chance.below(MEMBERS as u64 - 1) as usize) % MEMBERS;
                self.ground.cut(from, to)?;
                sleep(seconds(chance, 2, 8)).await;
                self.ground.mend()
            }
            Fault::Unplug => {
                let at = chance.below(MEMBERS as u64) as usize;
                self.ground.cable(at, false)?;
                sleep(seconds(chance, 2, 8)).await;
                self.ground.cable(at, true)
            }
            Fault::Loss => {
                let percent = chance.between(5, 20);
                (0..MEMBERS).try_for_each(|at| self.ground.lose(at, percent))?;
                sleep(seconds(chance, 3, 8)).await;
                self.ground.mend()
            }
            Fault::FullDisk => self.full_disk(chance).await,
            Fault::SlowDisk => self.slow_disk(chance).await,
            Fault::StalledDisk => {
                let at = self.leading().await;
                self.ground.freeze(at)?;
                sleep(seconds(chance, 1, 5)).await;
                self.ground.thaw(at)
            }
            Fault::MemberReplaced => self.replaced(self.follower(chance).await).await,
            Fault::KillInCompaction => self.kill_in_compaction(chance).await,
            Fault::KillInDefrag => {
                let at = chance.below(MEMBERS as u64) as usize;
                let Some(one) = self.all().only(&endpoint(at)) else { return Ok(()) };
                let asked = tokio::spawn(async move { one.defragment(pb::DefragmentRequest {}).await.map(|_| ()) });
                sleep(Duration::from_millis(chance.below(20))).await;
                self.killed(at, Duration::ZERO).await?;
                asked.abort();
                Ok(())
            }
            Fault::Snapshot => self.away(self.follower(chance).await).await,
            Fault::TwoSnapshots => {
                let at = self.follower(chance).await;
                self.away(at).await?;
                // The next leader has sent none, and so has trimmed its log.
                let from = self.leading().await;
                if let Some(to) = (0..MEMBERS).find(|to| *to != from && *to != at) {
                    self.hand_over(from, to).await;
                }
                sleep(Duration::from_millis(chance.between(100, 2000))).await;
                self.away(at).await
            }
            Fault::LeaderMoved => self.move_leader(chance).await,
            Fault::OneUpgraded => self.bring_to(1).await,
            Fault::TwoUpgraded => self.bring_to(2).await,
            Fault::WayBack => self.bring_to(0).await,
            Fault::AllUpgraded => {
                self.bring_to(MEMBERS).await?;
                self.level_raised().await
            }
            Fault::TooOld => self.too_old(self.follower(chance).await).await,
        }
    }

    fn older(&self) -> Result<std::path::PathBuf, String> {
        self.builds.older.clone().ok_or_else(|| "there is no older build".to_string())
    }

    /// Restarts members, one at a time, until `count` of them run the newer build.
    async fn bring_to(&mut self, count: usize) -> Result<(), String> {
        let (older, newer) = (self.older()?, self.builds.newer.clone());
        for at in 0..MEMBERS {
            let program = if at < count { &newer } else { &older };
            if self.members.runs(at, program) {
                continue;
            }
            self.members.set_program(at, program);
            self.restart(at).await?;
        }
        Ok(())
    }

    /// Waits until a leader has raised the level; one restarted meanwhile may leave it to the next.
    async fn level_raised(&self) -> Result<(), String> {
        let began = Instant::now();
        while !(0..MEMBERS).any(|at| self.members.said(at, 0).contains("raised the feature level")) {
            if began.elapsed() > RAISED {
                return Err("the feature level was not raised although every member knows it".into());
            }
            sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    /// A member's older build must not take up what it does not know: it ends, and says that a newer one is needed.
    async fn too_old(&mut self, at: usize) -> Result<(), String> {
        let (older, newer) = (self.older()?, self.builds.newer.clone());
        self.members.signal(at, Signal::Term)?;
        self.members.wait(at)?;
        let from = std::fs::metadata(self.members.log(at)).map_or(0, |m| m.len() as usize);
        self.members.set_program(at, &older);
        self.members.start(&self.ground, at, true)?;
        let end = self.members.wait(at);
        self.members.set_program(at, &newer);
        self.members.start(&self.ground, at, true)?;
        let said = self.members.said(at, from);
        match end? {
            end if end.success() => Err(format!("the older build of member {} ended as if nothing was wrong", at + 1)),
            _ if !said.contains("this build knows") => {
                Err(format!("the older build of member {} does not say why it ended: {said}", at + 1))
            }
            _ => Ok(()),
        }
    }

    async fn killed(&mut self, at: usize, down: Duration) -> Result<(), String> {
        self.members.kill(at)?;
        sleep(down).await;
        self.members.start(&self.ground, at, true)
    }

    /// Stops a member as a host would, starts it again and waits until all are at rest.
    async fn restart(&mut self, at: usize) -> Result<(), String> {
        self.members.signal(at, Signal::Term)?;
        let end = self.members.wait(at)?;
        if !end.success() {
            return Err(format!("member {} was told to stop and ended with {end}", at + 1));
        }
        self.members.start(&self.ground, at, true)?;
        self.settle().await?;
        Ok(())
    }

    async fn rolling_restart(&mut self) -> Result<(), String> {
        for at in 0..MEMBERS {
            self.restart(at).await?;
        }
        Ok(())
    }

    async fn paused(&mut self, at: usize, time: Duration) -> Result<(), String> {
        self.members.signal(at, Signal::Stop)?;
        sleep(time).await;
        self.members.signal(at, Signal::Cont)
    }

    async fn cut(&mut self, at: usize, time: Duration) -> Result<(), String> {
        for other in (0..MEMBERS).filter(|other| *other != at) {
            self.ground.cut(at, other)?;
            self.ground.cut(other, at)?;
        }
        sleep(time).await;
        self.ground.mend()
    }

    /// A member that could not write its rows ends itself once there is space again, and is started anew.
    async fn full_disk(&mut self, chance: &mut Rng) -> Result<(), String> {
        let at = chance.below(MEMBERS as u64) as usize;
        if let Err(e) = self.ground.fill(at, chance.below(200_000)) {
            let _ = self.ground.free(at);
            return Err(e);
        }
        sleep(seconds(chance, 3, 8)).await;
        self.ground.free(at)?;
        let until = Instant::now() + Duration::from_secs(5);
        while Instant::now() < until {
            if let Some(end) = self.members.ended(at) {
                println!("  member {} ended itself after its disk was full: {end}", at + 1);
                return self.members.start(&self.ground, at, true);
            }
            sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    async fn slow_disk(&mut self, chance: &mut Rng) -> Result<(), String> {
        let at = chance.below(MEMBERS as u64) as usize;
        let until = Instant::now() + seconds(chance, 4, 8);
        while Instant::now() < until {
            self.ground.freeze(at)?;
            sleep(Duration::from_millis(chance.between(50, 400))).await;
            self.ground.thaw(at)?;
            sleep(Duration::from_millis(chance.between(10, 100))).await;
        }
        Ok(())
    }

    async fn replaced(&mut self, at: usize) -> Result<(), String> {
        let patient = client(Duration::from_secs(15))?;
        let Some(id) = status(self.all(), at).await.and_then(|s| s.header).map(|h| h.member_id) else {
            return Err(format!("member {} does not say its id", at + 1));
        };
        let others = (0..MEMBERS).filter(|other| *other != at).collect::<Vec<_>>();
        let Some(patient) = patient.only(&endpoint(others[0])) else { return Ok(()) };
        let until = Instant::now() + Duration::from_secs(60);
        // Changes wait until the leader has been connected to everyone for five seconds, as etcd's do.
        while let Err(e) = patient.member_remove(pb::MemberRemoveRequest { id }).await {
            if !e.is_etcd("unhealthy cluster") || Instant::now() > until {
                return Err(format!("removal of member {}: {e}", at + 1));
            }
            sleep(Duration::from_millis(300)).await;
        }
        let end = self.members.wait(at)?;
        if end.code() != Some(6) {
            return Err(format!("member {} was removed and ended with {end}, not 6", at + 1));
        }
        let data = self.ground.disk(at).join("data");
        std::fs::remove_dir_all(&data).map_err(|e| format!("{}: {e}", data.display()))?;
        let request = pb::MemberAddRequest { peer_urls: vec![peer(at)], is_learner: true };
        let added = loop {
            match patient.member_add(request.clone()).await {
                Ok(added) => break added,
                Err(e) if e.is_etcd("unhealthy cluster") && Instant::now() < until => sleep(Duration::from_millis(300)).await,
                Err(e) => return Err(format!("addition of member {}: {e}", at + 1)),
            }
        };
        let id = added.member.map_or(0, |m| m.id);
        self.members.start(&self.ground, at, true)?;
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            match patient.member_promote(pb::MemberPromoteRequest { id }).await {
                Ok(_) => return Ok(()),
                Err(e) if Instant::now() > until => return Err(format!("member {} was not promoted: {e}", at + 1)),
                Err(_) => sleep(Duration::from_millis(200)).await,
            }
        }
    }

    async fn kill_in_compaction(&mut self, chance: &mut Rng) -> Result<(), String> {
        let at = chance.below(MEMBERS as u64) as usize;
        let revision = self.shared.book.with(|p| p.history.head());
        let (number, op) = self.shared.book.begin(usize::MAX, |_| Op::Compact(Compact { revision }));
        let told = ask(self.all(), &op).await;
        self.shared.book.end(number, told);
        sleep(Duration::from_millis(chance.below(60))).await;
        self.killed(at, seconds(chance, 0, 1)).await
    }

    /// A member is away while more passes than is kept for it, until it has been given a snapshot.
    async fn away(&mut self, at: usize) -> Result<(), String> {
        let before = self.members.installs(at);
        let until = Instant::now() + AWAY;
        loop {
            self.members.kill(at)?;
            self.flood().await?;
            self.members.start(&self.ground, at, true)?;
            self.settle().await?;
            if self.members.installs(at) > before {
                return Ok(());
            }
            if Instant::now() > until {
                return Err(format!("member {} was away again and again and never given a snapshot", at + 1));
            }
            // A leader that sent a snapshot lately keeps the log behind it for a minute; the other one may not.
            let from = self.leading().await;
            if let Some(to) = (0..MEMBERS).find(|to| *to != from && *to != at) {
                self.hand_over(from, to).await;
            }
        }
    }

    /// Writes more than a member keeps in memory, so that the log is trimmed.
    async fn flood(&mut self) -> Result<(), String> {
        let patient = client(Duration::from_secs(20))?;
        for n in 0..FLOOD {
            let key = format!("z{}", n % 4);
            let (number, op) = self
                .shared
                .book
                .begin(usize::MAX, |name| Op::Put(Put { key: key.into(), value: value(name, 48 << 10), ..Default::default() }));
            let told = ask(&patient, &op).await;
            self.shared.book.end(number, told);
        }
        Ok(())
    }

    /// Leadership may have moved by itself in between, so a refusal is no failure.
    async fn hand_over(&self, from: usize, to: usize) {
        let target_id = status(self.all(), to).await.and_then(|s| s.header).map_or(0, |h| h.member_id);
        let Some(one) = self.all().only(&endpoint(from)) else { return };
        if let Err(e) = one.timeout(Some(Duration::from_secs(10))).move_leader(pb::MoveLeaderRequest { target_id }).await {
            println!("  leadership was not handed over: {e}");
        }
    }

    async fn move_leader(&mut self, chance: &mut Rng) -> Result<(), String> {
        for _ in 0..chance.between(1, 4) {
            let from = self.leading().await;
            let to = self.follower(chance).await;
            self.hand_over(from, to).await;
            sleep(Duration::from_millis(chance.between(200, 1500))).await;
        }
        Ok(())
    }
}
