//! The operations on the whole tree, one scan at a time: freeze, thaw, terminate, kill.
//!
//! Each one is a small state machine. The loop calls its `look` again and again, until it returns that it is done. Nothing here
//! waits, and nothing assumes that a sent signal took effect: done means seen.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::time::Duration;

use rustix::process::Signal;

use crate::clock::{Clock, SystemClock};
use crate::pipeline::Killed;
use crate::process::{self, Cgroup, Descendants, Identity, ProcState, Stat, TreeUsage};

/// The first pause between two scans; it doubles up to [`LOOK_AGAIN_MAX`]. A stop becomes visible after some tens of
/// microseconds.
const LOOK_AGAIN_MIN: Duration = Duration::from_micros(50);
const LOOK_AGAIN_MAX: Duration = Duration::from_millis(500);

/// How long a process may sleep uninterruptibly before it is taken for the parent of a vfork(2) whose child was stopped before
/// it executed a program. Such a parent cannot stop until its child continues.
const VFORK_SUSPECTED_AFTER: Duration = Duration::from_millis(10);

/// How long a process may take to die of SIGKILL before it is reported: a process with much memory takes a while.
const SURVIVES_AFTER: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    Done,
    /// Scan again at this awake time.
    Again(Duration),
}

/// Growing pauses between scans.
#[derive(Debug)]
struct Backoff(Duration);

impl Default for Backoff {
    fn default() -> Self {
        Self(LOOK_AGAIN_MIN)
    }
}

impl Backoff {
    fn again(&mut self, now: Duration) -> Look {
        let at = now + self.0;
        self.0 = (self.0 * 2).min(LOOK_AGAIN_MAX);
        Look::Again(at)
    }
}

/// The tree of a run: the descendants of this process, and the processes in the run's control group.
#[derive(Debug)]
pub(super) struct Tree {
    cgroup: Option<Cgroup>,
    /// The events of the control group. Without them a pause is scanned as if there were no group.
    events: Option<File>,
}

impl Tree {
    pub(super) fn new(cgroup: Option<Cgroup>) -> Self {
        let events = cgroup.as_ref().and_then(|cgroup| cgroup.events().ok());
        Self { cgroup, events }
    }

    /// Returns the control group that holds the tree.
    pub(super) fn cgroup(&self) -> Option<&Cgroup> {
        self.cgroup.as_ref()
    }

    /// Measures what the tree uses.
    pub(super) fn usage(&self) -> io::Result<TreeUsage> {
        process::usage_of_tree(self.cgroup())
    }

    /// Returns whether the kernel holds the whole tree, until [`Tree::events`] report a change. A process with sufficient rights
    /// can have left the group, or can have been moved: `sudo` and `systemd-run` do that.
    pub(super) fn is_held(&self) -> bool {
        if self.events.is_none() {
            return false;
        }
        let held = self.held();
        let all = self.all();
        !all.is_torn && all.found.iter().all(|stat| stat.state == ProcState::Dead || held.contains(&stat.identity.pid))
    }

    /// Returns a file that polls as urgent when the hold on the tree may have changed.
    pub(super) fn events(&self) -> Option<&File> {
        self.events.as_ref()
    }

    /// Returns whether another program has released the tree. Clears [`Tree::events`].
    pub(super) fn was_released(&self) -> bool {
        self.events.as_ref().is_some_and(process::has_thawed)
    }

    /// Returns the processes that are frozen in the control group, whatever `ps` shows.
    fn held(&self) -> BTreeSet<u32> {
        let members = self.cgroup.as_ref().filter(|_| self.is_frozen()).and_then(|cgroup| cgroup.members().ok());
        members.unwrap_or_default().into_iter().collect()
    }

    /// Freezes or thaws the control group. While it is frozen, no process in it runs, even if something sends CONT.
    fn freeze(&self, is_to_freeze: bool) {
        if let Some(cgroup) = &self.cgroup {
            // Without it the signals remain, and the next scan shows their effect.
            let _seen_by_the_next_look = cgroup.freeze(is_to_freeze);
        }
    }

    fn is_frozen(&self) -> bool {
        self.cgroup.as_ref().is_some_and(|cgroup| cgroup.is_frozen().unwrap_or(false))
    }

    fn all(&self) -> Descendants {
        // Processes that cannot be read, such as on a shortage of descriptors, may be awake.
        let unseen = |_| Descendants { is_torn: true, ..Descendants::default() };
        let mut all = process::descendants(std::process::id()).unwrap_or_else(unseen);
        let Some(cgroup) = &self.cgroup else { return all };
        let seen: BTreeSet<u32> = all.found.iter().map(|stat| stat.identity.pid).collect();
        let members = cgroup.members().unwrap_or_else(|error| {
            // A group that was removed contains no process.
            all.is_torn |= process::is_shortage(&error);
            Vec::new()
        });
        for pid in members.into_iter().filter(|pid| !seen.contains(pid)) {
            match process::read_stat(pid) {
                Ok(stat) => all.found.push(stat),
                Err(_) => all.is_torn = true,
            }
        }
        all
    }

    /// Returns its live processes, as far as one scan shows them.
    fn living(&self) -> Vec<Stat> {
        let mut stats = self.all().found;
        stats.retain(|stat| stat.state != ProcState::Dead);
        stats
    }

    /// Returns whether none of its processes is alive. If that cannot be known, the tree counts as alive.
    pub(super) fn is_empty(&self) -> bool {
        let is_populated = || {
            let populated = self.cgroup.as_ref().map(Cgroup::is_populated);
            populated.is_some_and(|populated| populated.unwrap_or_else(|error| process::is_shortage(&error)))
        };
        process::has_living_child().is_ok_and(|has| !has) && !is_populated()
    }

    /// Returns whether one of its processes has work to do and is not held up by another process.
    pub(super) fn is_busy(&self) -> bool {
        self.all().found.iter().any(|stat| stat.is_busy)
    }

    /// Returns a process of it, other than `spared`, that is neither stopped nor held; or a process that `/proc` does not show,
    /// whose state is unknown.
    pub(super) fn straggler(&self, spared: Option<Identity>) -> Option<u32> {
        let held = self.held();
        let is_loose =
            |stat: &Stat| !stat.state.is_stopped() && stat.state != ProcState::Dead && !held.contains(&stat.identity.pid);
        let all = self.all();
        let seen = all.found.iter().find(|stat| is_loose(stat) && Some(stat.identity) != spared).map(|stat| stat.identity.pid);
        let is_loose = |&pid: &u32| Some(pid) != spared.map(|spared| spared.pid) && process::is_there(pid);
        seen.or_else(|| all.unseen.into_iter().find(is_loose))
    }

    /// Asks every process to end: TERM, then CONT, because a stopped process receives TERM only when it continues.
    pub(super) fn terminate(&self) {
        self.freeze(false);
        let (mut asked, mut asked_unseen) = (BTreeSet::new(), BTreeSet::new());
        // Twice, to include those that were created during the first time; later ones are killed after the grace.
        for _ in 0..2 {
            let Descendants { found, unseen, .. } = self.all();
            for stat in found.iter().filter(|stat| stat.state != ProcState::Dead) {
                if asked.insert(stat.identity) {
                    send(stat.identity, Signal::TERM);
                    send(stat.identity, Signal::CONT);
                }
            }
            for pid in unseen {
                if asked_unseen.insert(pid) {
                    send_unseen(pid, Signal::TERM);
                    send_unseen(pid, Signal::CONT);
                }
            }
        }
    }

    /// Removes the control group, whose last process has ended.
    pub(super) fn remove(&self) -> io::Result<()> {
        self.cgroup.as_ref().map_or(Ok(()), Cgroup::remove)
    }
}

/// Sends a signal, and returns whether it was sent. A process that has ended needs no signal. Any other error shows in the next
/// scan, which finds the process unchanged.
fn send(to: Identity, signal: Signal) -> bool {
    process::signal(to, signal).is_ok_and(|is_there| is_there)
}

/// Returns whether our child has not ended, regardless of `/proc`.
fn is_living_child(pid: u32) -> bool {
    process::peek_exit(pid).is_ok_and(|exit| exit.is_none())
}

/// Signals a process that `/proc` does not show, if it is a child: a set-user-ID program may have changed its user, and we may
/// still signal it. Any other process may have ended, and its pid may have been reused. Returns whether the signal was sent.
fn send_unseen(pid: u32, signal: Signal) -> bool {
    is_living_child(pid) && process::signal_child(pid, signal).is_ok()
}

#[derive(Debug, Default)]
pub(super) struct Freeze {
    backoff: Backoff,
    /// The live and the dead processes of the previous scan, if all of the live ones were stopped.
    stopped: Option<[BTreeSet<Identity>; 2]>,
    /// The processes that a tracer held when they were sent a STOP. They stop once the tracer lets them continue.
    told_while_traced: BTreeSet<Identity>,
    uninterruptible_since: Option<Duration>,
    /// `None` before the first scan.
    grip: Option<Grip>,
    /// The number of scans so far.
    pub(super) looks: u32,
}

/// The part of the control group in stopping a tree: signals alone may never catch up with a tree that forks all the time.
#[derive(Clone, Copy, Debug)]
enum Grip {
    /// Only signals are used until then; after that, the group is told to freeze.
    Loose { until: Duration, pause: Duration },
    /// The group was told to freeze. Once it is frozen, no process can be created before every process has its signal.
    Closing { until: Duration, pause: Duration },
}

/// How long signals alone are tried, from the first scan on, before the group is frozen for the first time; the time doubles.
const GRIP_AFTER: Duration = Duration::from_millis(1);
/// How long a group may take to freeze: a process that sleeps uninterruptibly prevents it.
const GRIP_LIMIT: Duration = Duration::from_millis(50);

impl Freeze {
    /// Returns when to scan again if the signals must wait for the group to freeze, and `None` if they can be sent now.
    fn tighten(&mut self, tree: &Tree, now: Duration) -> Option<Look> {
        // From the first scan on, not earlier: if the group is frozen before the signals are sent, it must be thawed before any
        // process can stop.
        let grip = self.grip.get_or_insert(Grip::Loose { until: now + GRIP_AFTER, pause: GRIP_AFTER });
        if let Grip::Loose { until, pause } = *grip
            && until <= now
            && tree.cgroup.is_some()
        {
            tree.freeze(true);
            *grip = Grip::Closing { until: now + GRIP_LIMIT, pause };
            self.backoff = Backoff::default();
        }
        match *grip {
            Grip::Closing { until, .. } if !tree.is_frozen() && now < until => Some(self.backoff.again(now)),
            Grip::Loose { .. } | Grip::Closing { .. } => None,
        }
    }

    /// Thaws the group, because a frozen process does not stop before that. The next freeze waits at least as long as the scan
    /// that began at `began` took: a large tree on a busy machine needs that time to stop.
    fn loosen(&mut self, tree: &Tree, began: Duration) {
        if let Some(Grip::Closing { pause, .. }) = self.grip {
            tree.freeze(false);
            let now = SystemClock.awake();
            let pause = (pause * 2).max(now.saturating_sub(began));
            self.grip = Some(Grip::Loose { until: now + pause, pause });
        }
    }

    /// Done when two scans in a row find the same processes, all of them stopped, and none that died in between. Then no process
    /// was missed on its way from one parent to another: a process that escapes from child to child is never seen alive, but
    /// leaves dead ones behind.
    ///
    /// `spared` gets no signal, because another program stopped it and may continue it. Once done, the control group, if there
    /// is one, is frozen as it is.
    pub(super) fn look(&mut self, tree: &Tree, now: Duration, spared: Option<Identity>) -> Look {
        if let Some(later) = self.tighten(tree, now) {
            return later;
        }
        self.looks += 1;
        let Descendants { found, is_torn, .. } = tree.all();
        let (dead, living): (Vec<Stat>, Vec<Stat>) = found.into_iter().partition(|stat| stat.state == ProcState::Dead);
        let mut all_stopped = !is_torn;
        let mut any_uninterruptible = false;
        for stat in &living {
            match stat.state {
                ProcState::Stopped | ProcState::Dead => {}
                // A tracer's stop does not count: strace lets a process continue within microseconds.
                ProcState::Traced => {
                    if self.told_while_traced.insert(stat.identity) {
                        all_stopped = false;
                        send(stat.identity, Signal::STOP);
                    }
                }
                ProcState::Awake | ProcState::Uninterruptible => {
                    all_stopped = false;
                    any_uninterruptible |= stat.state == ProcState::Uninterruptible;
                    if spared != Some(stat.identity) {
                        send(stat.identity, Signal::STOP);
                    }
                }
            }
        }
        if any_uninterruptible {
            let since = *self.uninterruptible_since.get_or_insert(now);
            if now.saturating_sub(since) >= VFORK_SUSPECTED_AFTER {
                self.uninterruptible_since = Some(now);
                let_vforked_children_go(&living);
            }
        } else {
            self.uninterruptible_since = None;
        }
        let identities = |stats: &[Stat]| -> BTreeSet<Identity> { stats.iter().map(|stat| stat.identity).collect() };
        self.loosen(tree, now);
        let (living, dead) = (identities(&living), identities(&dead));
        if let Some([living_before, dead_before]) = &self.stopped
            && all_stopped
            && living == *living_before
            && dead.is_subset(dead_before)
        {
            tree.freeze(true);
            return Look::Done;
        }
        // A tree that is all stopped is scanned again at once.
        let look = if all_stopped { Look::Again(now) } else { self.backoff.again(now) };
        self.stopped = all_stopped.then_some([living, dead]);
        look
    }
}

/// Continues the stopped children of uninterruptible parents until their exec; the next scan stops them again.
fn let_vforked_children_go(tree: &[Stat]) {
    for parent in tree.iter().filter(|stat| stat.state == ProcState::Uninterruptible) {
        for child in tree.iter().filter(|stat| stat.ppid == parent.identity.pid && stat.state == ProcState::Stopped) {
            send(child.identity, Signal::CONT);
        }
    }
}

#[derive(Debug)]
pub(super) struct Thaw {
    backoff: Backoff,
    leader: Identity,
    continued: BTreeSet<Identity>,
}

impl Thaw {
    pub(super) fn new(leader: Identity) -> Self {
        Self { backoff: Backoff::default(), leader, continued: BTreeSet::new() }
    }

    /// Done when a scan finds no stopped process that was not continued, and the leader is not stopped. A process that stops
    /// itself again is left alone. With `spares_leader`, another program continued the leader, and may stop it.
    pub(super) fn look(&mut self, tree: &Tree, now: Duration, spares_leader: bool) -> Look {
        tree.freeze(false);
        let mut found_new = false;
        let mut leader_stopped = false;
        let mut any_seen = false;
        for stat in tree.living() {
            any_seen = true;
            let is_leader = stat.identity == self.leader;
            leader_stopped |= is_leader && stat.state == ProcState::Stopped;
            // Includes processes that are not stopped yet: CONT also cancels a stop that waits for an uninterruptible sleep to
            // end.
            if !(is_leader && spares_leader) && self.continued.insert(stat.identity) {
                found_new |= stat.state.is_stopped();
                send(stat.identity, Signal::CONT);
            }
        }
        // If no process was seen, all may still be stopped.
        if any_seen && !found_new && !leader_stopped {
            return Look::Done;
        }
        if found_new { Look::Again(now) } else { self.backoff.again(now) }
    }
}

#[derive(Debug, Default)]
pub(super) struct Kill {
    backoff: Backoff,
    since: Option<Duration>,
    /// The processes that were alive and were sent a KILL.
    pub(super) killed: Killed,
    known: BTreeSet<Identity>,
    known_unseen: BTreeSet<u32>,
}

impl Kill {
    /// Done when no process of the tree is alive.
    pub(super) fn look(&mut self, tree: &Tree, now: Duration) -> Look {
        self.since.get_or_insert(now);
        let Descendants { found, unseen, .. } = tree.all();
        let living: Vec<Stat> = found.into_iter().filter(|stat| stat.state != ProcState::Dead).collect();
        // Before any signal, because a dead process has no name.
        let is_new = |stat: &&Stat| !self.known.contains(&stat.identity);
        let names: BTreeMap<u32, String> = living
            .iter()
            .filter(is_new)
            .take(self.killed.room())
            .filter_map(|stat| Some((stat.identity.pid, process::name_of(stat.identity.pid)?)))
            .collect();
        // The whole group at once. Processes that have left it, or for which the kernel refuses, are signalled one by one.
        let killed_as_group: BTreeSet<u32> = match &tree.cgroup {
            Some(cgroup) => {
                let members = cgroup.members().unwrap_or_default();
                cgroup.kill().map_or_else(|_| BTreeSet::new(), |()| members.into_iter().collect())
            }
            None => BTreeSet::new(),
        };
        // Stopped first, then killed: a stopped process creates no more children while the others are handled.
        if living.len() > 1 {
            for stat in &living {
                send(stat.identity, Signal::STOP);
            }
        }
        for Stat { identity, .. } in &living {
            let is_sent = send(*identity, Signal::KILL) || killed_as_group.contains(&identity.pid);
            if is_sent && self.known.insert(*identity) {
                self.killed.add(identity.pid, || names.get(&identity.pid).cloned());
            }
        }
        for &pid in &unseen {
            if send_unseen(pid, Signal::KILL) && self.known_unseen.insert(pid) {
                self.killed.add(pid, || None);
            }
        }
        if living.is_empty() && tree.is_empty() {
            return Look::Done;
        }
        self.backoff.again(now)
    }

    /// Returns a sentence about the processes that survive their KILL, once they have done so for a while.
    pub(super) fn survivors(&self, tree: &Tree, now: Duration) -> Option<String> {
        if self.since.is_none_or(|since| now < since + SURVIVES_AFTER) {
            return None;
        }
        let Descendants { found, unseen, .. } = tree.all();
        let mut survivors = Killed::default();
        for stat in found.iter().filter(|stat| stat.state != ProcState::Dead) {
            survivors.add(stat.identity.pid, || process::name_of(stat.identity.pid));
        }
        for pid in unseen.into_iter().filter(|&pid| is_living_child(pid)) {
            survivors.add(pid, || None);
        }
        survivors.surviving()
    }
}
