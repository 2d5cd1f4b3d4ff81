//! Errands in the model: recoveries by the boot ticket, restores by a job, volumes put aside and back. And their own scenarios.

use super::*;

impl Model {
    pub(super) fn positions(&self) -> BTreeMap<Slot, (u64, u64)> {
        if self.has_quorum() {
            return BTreeMap::new();
        }
        let alive = self.members.iter().filter(|member| self.alive(member));
        alive.map(|member| (member.slot, (1, 1000 - member.behind))).collect()
    }

    pub(super) fn ask(&mut self, ask: Ask) {
        let uid = format!("r{}", self.id());
        let confirm = if self.dice.one_in(8) { "other".to_string() } else { self.store.to_string() };
        self.note(format!("asked: {ask:?} as {uid} for store {confirm}"));
        self.request = Some(Request { name: uid.clone(), uid, confirm: Some(confirm), ask });
    }

    /// Too few members have their data for them ever to be a quorum again.
    fn is_lost(&self) -> bool {
        let whole = |member: &&ModelMember| self.holds_data(member) && !self.volumes[&member.slot].terminating;
        self.formed && self.voters().filter(whole).count() <= self.voters().count() / 2
    }

    /// Somebody sees that it is lost, sooner or later; and where all must stop first, that a node which is off ends no pod.
    pub(super) fn ask_for_help(&mut self) {
        if self.errand.is_some() && self.dice.one_in(5) {
            self.pods.retain(|_, pod| pod.off.is_none());
        }
        if self.request.is_none() && self.errand.is_none() && self.is_lost() && self.dice.one_in(5) {
            let keep = self.dice.one_in(2);
            self.ask(Ask::Recover { slot: None, keep });
        }
    }

    /// The majority's data goes. One voter that is up to date keeps its own.
    pub(super) fn disaster(&mut self) {
        let able = |member: &&ModelMember| self.holds_data(member) && member.behind == 0 && !self.volumes[&member.slot].terminating;
        let whole: Vec<Slot> = self.voters().filter(able).map(|member| member.slot).collect();
        if self.errand.is_some() || self.request.is_some() || whole.len() < 2 || !self.has_quorum() {
            return;
        }
        let spared = whole[usize::try_from(self.dice.below(whole.len() as u64)).unwrap()];
        let victims: Vec<Slot> = self.members.iter().map(|member| member.slot).filter(|slot| *slot != spared).collect();
        for slot in victims {
            let deleted = self.dice.one_in(2);
            if let Some(volume) = self.volumes.get_mut(&slot) {
                match volume.disk {
                    Disk::Of(id) if !deleted => volume.disk = Disk::Damaged(id),
                    _ => volume.terminating = true,
                }
            }
            if let Some(pod) = self.pods.get_mut(&slot) {
                pod.terminating = true;
            }
        }
        self.note(format!("disaster: only {spared} keeps its data"));
    }

    /// The ticket names the recovery under way, and afterwards the last one; a restored store has none behind it.
    pub(super) fn write_ticket(&mut self) {
        match &self.errand {
            Some(errand) if errand.in_ticket() => self.ticket = Some((errand.slot, errand.uid.clone())),
            Some(errand) if errand.purpose == Purpose::Restore && errand.stage == Stage::Starting => self.ticket = None,
            None if self.ended.last().is_some_and(|ended| !ended.done) => {
                self.ticket = self.ticket.take().filter(|(_, id)| self.recovered.contains(id));
            }
            _ => (),
        }
    }

    /// What the ticket makes of a pod's data when its container starts; old data must never run beside a new store.
    pub(super) fn recover(&mut self, slot: Slot) {
        let (pod, volume) = (&self.pods[&slot], self.volumes.get(&slot));
        let (Some(volume), true) = (volume.cloned(), pod.starting <= 1 && Some(pod.template) != self.broken) else { return };
        match (volume.disk, pod.ticket.clone()) {
            (Disk::Restored(id), _) => {
                self.begin_anew(ModelMember { id, slot, started: true, learner: false, behind: 0 });
                self.volumes.get_mut(&slot).unwrap().disk = Disk::Of(id);
            }
            (Disk::Of(id), Some((chosen, recovery))) if chosen == slot && !self.recovered.contains(&recovery) => {
                self.recovered.push(recovery);
                self.begin_anew(ModelMember { id, slot, started: true, learner: false, behind: 0 });
                self.past.retain(|past| *past != id);
            }
            (Disk::Of(id), None) => {
                self.require(!self.past.contains(&id), "old data does not start without a word of the recovery")
            }
            _ => (),
        }
    }

    fn begin_anew(&mut self, member: ModelMember) {
        let others = self.pods.iter().any(|(slot, pod)| {
            let old = matches!(self.volumes.get(slot).map(|volume| volume.disk), Some(Disk::Of(_)));
            *slot != member.slot && old && pod.ticket.is_none()
        });
        self.require(!others, "no member of before runs beside the new store");
        self.past.extend(self.members.iter().map(|member| member.id));
        self.note(format!("store {} begins with {member:?}", self.store + 1));
        self.former = Some((self.members.clone(), self.store));
        self.members = vec![member];
        self.store += 1;
    }

    /// The job that fills the first volume, and the way back.
    pub(super) fn outside(&mut self) -> Option<Outside> {
        let errand = self.errand.clone()?;
        if errand.stage == Stage::Retiring {
            let old = errand.old.iter().find(|old| old.slot == errand.slot)?;
            return (!errand.keep && !self.aside.contains_key(&old.volume.parse().unwrap())).then_some(Outside::Done);
        }
        if self.replicas > 0 || !self.pods.is_empty() {
            return None;
        }
        let slot = errand.slot;
        let known = self.volumes.get(&slot).cloned();
        let is_old = known.as_ref().is_some_and(|volume| errand.is_old(&volume.uid.to_string()));
        match errand.stage {
            Stage::Filling if !is_old && !self.withdrawn => {
                let Some(volume) = known else {
                    let (uid, name) = (self.id(), self.id());
                    self.volumes.insert(slot, ModelVolume { uid, name, terminating: false, disk: Disk::Empty });
                    return Some(Outside::Busy("fill".into()));
                };
                if matches!(volume.disk, Disk::Restored(_)) {
                    return Some(Outside::Done);
                }
                match self.fills_in {
                    None => return Some(Outside::Failed("no such object".into())),
                    Some(0) => {
                        let id = self.id();
                        self.volumes.get_mut(&slot).unwrap().disk = Disk::Restored(id);
                    }
                    Some(rounds) => self.fills_in = Some(rounds - 1),
                }
                Some(Outside::Busy("fill".into()))
            }
            Stage::GoingBack => {
                if is_old {
                    return Some(Outside::Done);
                }
                let Some(old) = errand.old.iter().find(|old| old.slot == slot) else {
                    // There was nothing to put aside; what is there is the copy.
                    return Some(match self.volumes.remove(&slot) {
                        Some(_) => Outside::Busy("remove the copy".into()),
                        None => Outside::Done,
                    });
                };
                match known {
                    Some(volume) if volume.name.to_string() == old.volume => Some(Outside::Done),
                    Some(_) => {
                        self.volumes.remove(&slot);
                        Some(Outside::Busy("remove the copy".into()))
                    }
                    None => {
                        let (uid, name) = (self.id(), old.volume.parse().unwrap());
                        // One that was deleted by hand before it could be put aside is not there.
                        let Some(disk) = self.aside.remove(&name) else { return Some(Outside::Done) };
                        self.volumes.insert(slot, ModelVolume { uid, name, terminating: false, disk });
                        Some(Outside::Busy("claim".into()))
                    }
                }
            }
            _ => None,
        }
    }

    /// The journal, as the status keeps it.
    pub(super) fn keep_errand(&mut self, world: &World, plan: &Plan) {
        if let Some(ended) = &plan.ended {
            self.note(format!("ended: {ended:?}"));
            if let Some(errand) = self.errand.as_ref().filter(|errand| errand.stage == Stage::GoingBack)
                && let Some(old) = errand.old.iter().find(|old| old.slot == errand.slot)
                && let Some(volume) = world.volume(errand.slot)
            {
                self.written
                    .iter_mut()
                    .filter(|known| known.volume == old.claim)
                    .for_each(|known| known.volume.clone_from(&volume.uid));
            }
            // A restored store that nobody saw serve is given up; the one of before is the cluster's.
            let back = self.errand.as_ref().is_some_and(|errand| errand.stage == Stage::GoingBack);
            if let Some((members, store)) = self.former.take().filter(|_| back) {
                let given_up: Vec<u64> = self.members.iter().map(|member| member.id).collect();
                self.past.retain(|id| !members.iter().any(|member| member.id == *id));
                self.past.extend(given_up);
                (self.members, self.store) = (members, store);
            }
            self.request = self.request.take().filter(|request| request.uid != ended.uid);
            self.withdrawn = false;
            self.ended.push(ended.clone());
        }
        self.errand.clone_from(&plan.errand);
    }

    pub(super) fn judge_retirement(&mut self, slot: Slot, uid: &str, keep: bool) {
        let Some(volume) = self.volumes.get(&slot).filter(|volume| volume.uid.to_string() == uid).cloned() else { return };
        let errand = self.errand.clone().unwrap();
        self.require(errand.is_old(uid), "only volumes of before are retired");
        if errand.stage == Stage::Filling {
            self.require(keep && self.pods.is_empty(), "before the restored data serves, old data is only put aside");
        } else {
            self.require(self.has_quorum(), "old data goes only when the new store serves");
            self.require(!self.members.iter().any(|member| volume.disk == Disk::Of(member.id)), "no volume of a member is retired");
        }
        if keep {
            self.aside.insert(volume.name, volume.disk);
        }
        self.volumes.get_mut(&slot).unwrap().terminating = true;
    }
}

pub(super) fn lose(model: &mut Model, slots: &[Slot]) {
    for slot in slots {
        model.volumes.get_mut(slot).unwrap().terminating = true;
        model.pods.get_mut(slot).unwrap().terminating = true;
    }
}

pub(super) fn request(model: &mut Model, ask: Ask) {
    let confirm = Some(model.store.to_string());
    model.request = Some(Request { name: "t".into(), uid: "t1".into(), confirm, ask });
}

/// Two of three are lost: the third becomes the cluster under its own id, the others' volumes are put aside, and three serve again.
#[test]
fn a_lost_quorum_is_recovered() {
    let mut model = settled(3);
    let spared = model.members.iter().find(|member| member.slot == 2).unwrap().id;
    lose(&mut model, &[0, 1]);
    for _ in 0..20 {
        model.pass();
        assert_eq!(model.operate(false).step, Step::Nothing);
    }
    request(&mut model, Ask::Recover { slot: None, keep: true });
    let began = model.now;
    let steps = steps(&mut model);
    assert_eq!(steps.first(), Some(&Step::SetReplicas(0)), "{steps:?}");
    assert_eq!(steps.get(1), Some(&Step::SetReplicas(3)));
    assert!(model.now - began > 30, "a loss must have lasted");
    assert!(model.members.iter().any(|member| member.id == spared && member.slot == 2));
    assert!(model.ended.last().is_some_and(|ended| ended.done));
    assert_eq!(model.members.len(), 3);
}

/// The one whose log reaches furthest is gone on with, unless another one is named.
#[test]
fn the_furthest_is_chosen() {
    for (named, want) in [(None, 3), (Some(1), 1)] {
        let mut model = settled(5);
        lose(&mut model, &[0, 2, 4]);
        model.members.iter_mut().filter(|member| member.slot == 1).for_each(|member| member.behind = 90);
        request(&mut model, Ask::Recover { slot: named, keep: false });
        for _ in 0..200 {
            model.pass();
            model.members.iter_mut().filter(|member| member.slot == 1).for_each(|member| member.behind = 90);
            model.operate(false);
            if model.errand.is_some() {
                break;
            }
        }
        assert_eq!(model.errand.map(|errand| errand.slot), Some(want));
    }
}

/// A living quorum is not recovered, and a request for another store does nothing.
#[test]
fn what_does_not_fit_is_refused() {
    let mut model = settled(3);
    request(&mut model, Ask::Recover { slot: None, keep: true });
    assert_eq!(model.operate(false).step, Step::Nothing);
    assert!(model.ended.last().is_some_and(|ended| !ended.done && ended.message.contains("has a quorum")));
    model.request =
        Some(Request { name: "t".into(), uid: "t2".into(), confirm: Some("x".into()), ask: Ask::Restore { keep: true } });
    assert_eq!(model.operate(false).step, Step::Nothing);
    assert!(model.ended.last().is_some_and(|ended| !ended.done && ended.message.contains("confirm")));
    assert!(model.settled());
}

/// A backup takes the place of the data: all stop, the first volume is put aside and filled, the others join the first.
#[test]
fn a_restore_in_place() {
    for keep in [true, false] {
        let mut model = settled(3);
        let before: Vec<u64> = model.members.iter().map(|member| member.id).collect();
        model.fills_in = Some(2);
        request(&mut model, Ask::Restore { keep });
        steps(&mut model);
        assert!(model.ended.last().is_some_and(|ended| ended.done && ended.kept.len() == if keep { 3 } else { 0 }));
        assert!(model.members.iter().all(|member| !before.contains(&member.id)));
        assert_eq!(model.aside.len(), if keep { 3 } else { 0 });
    }
}

/// A restore that cannot be done leaves the old data, and goes back to it when it is withdrawn: the same members serve, none is
/// replaced.
#[test]
fn a_restore_that_fails_goes_back() {
    for replicas in [1, 3] {
        let mut model = settled(replicas);
        let before: Vec<u64> = model.members.iter().map(|member| member.id).collect();
        model.fills_in = None;
        request(&mut model, Ask::Restore { keep: false });
        let mut blocked = None;
        for _ in 0..100 {
            model.pass();
            blocked = model.operate(false).blocked;
        }
        assert_eq!(blocked.map(|blocked| blocked.reason), Some("RestoreFailed"));
        assert_eq!(model.aside.len(), 1);
        model.withdrawn = true;
        steps(&mut model);
        assert_eq!(model.members.iter().map(|member| member.id).collect::<Vec<_>>(), before);
        assert!(model.aside.is_empty() && model.ended.last().is_some_and(|ended| !ended.done));
    }
}

/// The same where the first volume was gone when the restore began: there is nothing to go back to in its place, so the copy goes, and
/// its member joins the others anew.
#[test]
fn a_restore_without_a_first_volume_goes_back() {
    let mut model = settled(3);
    let before: Vec<u64> = model.members.iter().filter(|member| member.slot > 0).map(|member| member.id).collect();
    model.fills_in = Some(0);
    model.pods.remove(&0);
    model.volumes.remove(&0);
    request(&mut model, Ask::Restore { keep: false });
    for _ in 0..2 {
        model.operate(false);
    }
    assert!(model.errand.as_ref().is_some_and(|errand| errand.old.len() == 2), "{:?}", model.errand);
    for _ in 0..200 {
        model.pass();
        if matches!(model.volumes.get(&0), Some(ModelVolume { disk: Disk::Restored(_), .. })) {
            break;
        }
        model.operate(false);
    }
    model.withdrawn = true;
    steps(&mut model);
    assert!(before.iter().all(|id| model.members.iter().any(|member| member.id == *id)), "{:?}", model.members);
    assert!(model.members.len() == 3 && model.ended.last().is_some_and(|ended| !ended.done));
}
