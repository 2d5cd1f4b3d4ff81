//! Snapshots on their way: the real view cut into chunks, the real receiver that checks and writes them, and between them a
//! connection that may break at any chunk. What broke goes on where it stopped when the same view is offered again; what has come
//! whole is the receiver's, which hands it to raft whether the sender is still there or not.

use crate::world::{Event, MS, World};
use quorate::node::stepped::chunk_now;
use quorate::snapshot::{Place, Staging, View};
use raft::eraftpb::Message;
use std::sync::Arc;

/// Bytes of rows in one chunk: small, so that a snapshot takes several.
const CHUNK: usize = 700;
/// Pause before a failure is reported, as the real sender makes it.
const PAUSE: u64 = 500 * MS;

enum Stage {
    Offer,
    Rows { view: Arc<View>, staging: Arc<Staging>, attempt: u64, from: Option<Place>, rows: u64, checksum: u32 },
    Handed { staging: Arc<Staging>, answer: quorate::node::stepped::Taken },
    Over,
}

/// One snapshot from one member to another.
pub struct Transfer {
    from: usize,
    to: usize,
    lives: (u32, u32),
    message: Message,
    stage: Stage,
}

impl World {
    pub fn begin_transfer(&mut self, from: usize, to: usize, message: Message) {
        let pair = self.net.pair(from, to);
        if std::mem::replace(&mut self.net.sending[pair], true) {
            return;
        }
        let lives = (self.members[from].life, self.members[to].life);
        let id = self.transfers.len();
        self.transfers.push(Transfer { from, to, lives, message, stage: Stage::Offer });
        let delay = self.chance.between(MS, 5 * MS);
        self.after(delay, Event::Transfer { id });
    }

    /// The next step of a transfer.
    pub fn transfer(&mut self, id: usize) {
        let stage = std::mem::replace(&mut self.transfers[id].stage, Stage::Over);
        let Transfer { from, to, lives, .. } = self.transfers[id];
        let alive = |world: &Self, at: usize, life| world.members[at].life == life && world.members[at].running.is_some();
        if self.members[to].paused_until.is_some() || self.members[from].paused_until.is_some() {
            self.transfers[id].stage = stage;
            return self.after(100 * MS, Event::Transfer { id });
        }
        let handed = matches!(stage, Stage::Handed { .. });
        if !handed && !alive(self, from, lives.0) {
            return self.sent(from, to);
        }
        let reached =
            alive(self, to, lives.1) && !self.refuses(to, from) && !self.net.is_cut(from, to) && !self.net.is_cut(to, from);
        if !handed && reached && self.is_damaged(from) {
            self.lead_elsewhere(from, to);
        }
        // A damaged member that is not found out in time would hand its damage on, and a majority decides what is damage.
        let connected = if handed { alive(self, to, lives.1) } else { reached && !self.is_damaged(from) };
        let next = match connected {
            true => self.guarded(to, |world| world.advance(id, stage)),
            false => Some(Err("the connection broke".to_string())),
        };
        match next {
            None => self.transferred(id, false),
            Some(Ok(Stage::Over)) => {
                self.snapshots += 1;
                let fenced = self.members[to].running.as_ref().is_some_and(|r| r.node.handle().is_fenced());
                self.rebuilt += u32::from(fenced);
                self.members[to].digest_flipped = false;
                self.note(&format!("a snapshot from {from} to {to} is taken"));
                self.transferred(id, reached);
            }
            Some(Ok(stage)) => {
                self.transfers[id].stage = stage;
                self.settle(to);
                let delay = self.delay(from, to) + self.chance.between(200, 3 * MS);
                self.after(delay, Event::Transfer { id });
            }
            Some(Err(reason)) => {
                self.note(&format!("a snapshot from {from} to {to} failed: {reason}"));
                self.transferred(id, false);
            }
        }
    }

    /// The channel of snapshots between two members is free again.
    fn sent(&mut self, from: usize, to: usize) {
        let pair = self.net.pair(from, to);
        self.net.sending[pair] = false;
    }

    /// The sender learns how it ended, if it is still there.
    fn transferred(&mut self, id: usize, ok: bool) {
        let Transfer { from, to, lives, .. } = self.transfers[id];
        if self.members[from].life != lives.0 {
            return self.sent(from, to);
        }
        let about = self.members[to].id;
        let delay = if ok { MS } else { PAUSE };
        self.after(delay, Event::Report { at: from, life: lives.0, about, ok });
    }

    fn advance(&mut self, id: usize, mut stage: Stage) -> Result<Stage, String> {
        let Transfer { from, to, ref message, .. } = self.transfers[id];
        if let (Stage::Handed { staging, answer }, Some(receiver)) = (&mut stage, &self.members[to].running) {
            // The receiver's alone by now: whoever sent it may be gone.
            let Some(taken) = answer.poll() else { return Ok(stage) };
            if !taken {
                staging.give_up();
            }
            receiver.node.receiver().settled(staging);
            return if taken { Ok(Stage::Over) } else { Err("raft does not want this snapshot".into()) };
        }
        let (Some(sender), Some(receiver)) = (&self.members[from].running, &self.members[to].running) else {
            return Err("a member is down".into());
        };
        let index = message.get_snapshot().get_metadata().index;
        let failed = |e: quorate::snapshot::SnapshotError| e.to_string();
        match stage {
            Stage::Offer => {
                let view = sender.node.announced_view(index).ok_or("its rows are no longer kept")?;
                if !receiver.node.handle().wants_snapshot(index) {
                    // As the real intake does: raft answers with where the member stands.
                    let _ = receiver.node.offer_snapshot(message.clone(), false);
                    return Err(format!("a snapshot at entry {index} brings nothing new"));
                }
                let (staging, attempt, place) = receiver.node.receiver().begin(view.id, index).map_err(failed)?;
                Ok(Stage::Rows { view, staging, attempt, from: Some(place), rows: 0, checksum: 0 })
            }
            Stage::Rows { view, staging, attempt, from: Some(place), mut rows, mut checksum } => {
                if !sender.node.handle().status().is_leader {
                    return Err("the sender no longer leads".into());
                }
                let chunk = chunk_now(&view, place, CHUNK).map_err(failed)?;
                if chunk.count > 0 {
                    rows += chunk.count;
                    checksum = crc32c::crc32c_append(checksum, &chunk.rows);
                    staging.write(attempt, chunk.family, &chunk.rows, crc32c::crc32c(&chunk.rows)).map_err(failed)?;
                }
                Ok(Stage::Rows { view, staging, attempt, from: chunk.next, rows, checksum })
            }
            Stage::Rows { staging, attempt, from: None, rows, checksum, .. } => {
                staging.finish(attempt, rows, checksum).map_err(failed)?;
                match receiver.node.offer_snapshot(message.clone(), true).map_err(|e| e.to_string()) {
                    Ok(answer) => Ok(Stage::Handed { staging, answer }),
                    Err(e) => {
                        staging.give_up();
                        receiver.node.receiver().settled(&staging);
                        Err(e)
                    }
                }
            }
            Stage::Handed { .. } | Stage::Over => Err("it is over".into()),
        }
    }
}
