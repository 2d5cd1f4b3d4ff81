//! Queues between threads: many senders, one receiver that sleeps when there is nothing to do.
//!
//! In: items from any thread. Out: the same items in order to the one receiver, with crossbeam-channel's error types.
//! Other channels spin and yield before they sleep. A yield tells the scheduler that the thread can wait: on a busy machine it
//! loses its turn for milliseconds, just when the next item is about to arrive, and on an idle one the spinning is pure cost. Here
//! the receiver sleeps at once, and a sender pays for a wake-up only when the receiver sleeps.
//! Invariants: items leave in the order in which their sends took the lock; a bounded queue never holds more than its limit, but for
//! what is sent over it, whose number the sender bounds; when all senders are gone the receiver still gets what is queued; when the
//! receiver is gone every send fails.

use crossbeam_channel::{RecvError, RecvTimeoutError, SendError, TryRecvError, TrySendError};
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

struct State<T> {
    items: VecDeque<(T, Class)>,
    /// Items of each class.
    of: [usize; CLASSES],
    senders: usize,
    receiver_alive: bool,
    /// What wakes the receiver; `None` while it does not sleep.
    sleep: Option<Classes>,
    /// Senders that wait for room.
    blocked: usize,
}

/// How an item was sent: the receiver may say which classes it has a use for, and only those end its sleep.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Class(u8);

/// Classes there are.
const CLASSES: usize = 8;

impl Class {
    /// What [`Sender::send`] and [`Sender::try_send`] send: it wakes every receiver.
    pub const URGENT: Class = Class(0);

    /// One of the other classes, `n` from 1 to 7.
    #[must_use]
    pub const fn patient(n: u8) -> Class {
        assert!(n > 0 && (n as usize) < CLASSES);
        Class(n)
    }
}

/// A set of classes; [`Class::URGENT`] is always in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Classes(u8);

impl Classes {
    /// Every class.
    pub const ALL: Classes = Classes(u8::MAX);
    /// [`Class::URGENT`] alone.
    pub const URGENT: Classes = Classes(1);

    /// With `class` in it, if `wanted`.
    #[must_use]
    pub const fn and(self, class: Class, wanted: bool) -> Classes {
        Classes(self.0 | (wanted as u8) << class.0)
    }

    const fn has(self, class: Class) -> bool {
        self.0 & (1 << class.0) != 0
    }
}

struct Shared<T> {
    state: Mutex<State<T>>,
    limit: usize,
    filled: Condvar,
    drained: Condvar,
}

impl<T> State<T> {
    fn pop(&mut self) -> Option<T> {
        let (item, class) = self.items.pop_front()?;
        self.of[usize::from(class.0)] -= 1;
        Some(item)
    }

    /// True when an item of one of these classes waits.
    fn has(&self, classes: Classes) -> bool {
        (0..CLASSES).any(|n| self.of[n] > 0 && classes.has(Class(n as u8)))
    }
}

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // No code of ours runs under the lock, so a poisoned one is as good as any.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The sending end; clones feed the same queue.
pub struct Sender<T>(Arc<Shared<T>>);

/// The receiving end.
pub struct Receiver<T>(Arc<Shared<T>>);

/// A queue of at most `limit` items; `limit` is at least one.
pub fn bounded<T>(limit: usize) -> (Sender<T>, Receiver<T>) {
    let state = State { items: VecDeque::new(), of: [0; CLASSES], senders: 1, receiver_alive: true, sleep: None, blocked: 0 };
    let shared =
        Arc::new(Shared { state: Mutex::new(state), limit: limit.max(1), filled: Condvar::new(), drained: Condvar::new() });
    (Sender(shared.clone()), Receiver(shared))
}

/// A queue whose length something else bounds.
pub fn unbounded<T>() -> (Sender<T>, Receiver<T>) {
    bounded(usize::MAX)
}

impl<T> Sender<T> {
    /// Queues an item; waits while the queue is full. Fails, with the item, when the receiver is gone.
    pub fn send(&self, item: T) -> Result<(), SendError<T>> {
        let mut state = self.0.lock();
        while state.receiver_alive && state.items.len() >= self.0.limit {
            state.blocked += 1;
            // Whatever the receiver waits for, room comes first.
            if state.sleep.take().is_some() {
                self.0.filled.notify_one();
            }
            state = self.0.drained.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.blocked -= 1;
        }
        if !state.receiver_alive {
            return Err(SendError(item));
        }
        self.push(state, item, Class::URGENT);
        Ok(())
    }

    /// Queues an item even when the queue is full: for who must never wait for the receiver, and has few such items under way.
    /// Fails, with the item, when the receiver is gone.
    pub fn send_over(&self, item: T, class: Class) -> Result<(), SendError<T>> {
        let state = self.0.lock();
        if !state.receiver_alive {
            return Err(SendError(item));
        }
        self.push(state, item, class);
        Ok(())
    }

    /// Queues an item unless the queue is full or the receiver is gone.
    pub fn try_send(&self, item: T) -> Result<(), TrySendError<T>> {
        self.try_send_as(item, Class::URGENT)
    }

    /// As [`Sender::try_send`], for an item of a class that the receiver may not be waiting for.
    pub fn try_send_as(&self, item: T, class: Class) -> Result<(), TrySendError<T>> {
        let state = self.0.lock();
        if !state.receiver_alive {
            return Err(TrySendError::Disconnected(item));
        }
        if state.items.len() >= self.0.limit {
            return Err(TrySendError::Full(item));
        }
        self.push(state, item, class);
        Ok(())
    }

    fn push(&self, mut state: MutexGuard<'_, State<T>>, item: T, class: Class) {
        state.items.push_back((item, class));
        state.of[usize::from(class.0)] += 1;
        let wake = state.sleep.is_some_and(|classes| classes.has(class));
        if wake {
            state.sleep = None;
        }
        drop(state);
        if wake {
            self.0.filled.notify_one();
        }
    }

    /// Items that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.lock().items.len()
    }

    /// True when nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.lock().senders += 1;
        Self(self.0.clone())
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.senders -= 1;
        if state.senders == 0 {
            drop(state);
            self.0.filled.notify_one();
        }
    }
}

impl<T> Receiver<T> {
    /// The next item, as soon as there is one. Fails when the queue is empty and all senders are gone.
    pub fn recv(&self) -> Result<T, RecvError> {
        self.take(None, Classes::ALL).map_err(|_| RecvError)
    }

    /// The next item, if it comes within `wait`.
    pub fn recv_timeout(&self, wait: Duration) -> Result<T, RecvTimeoutError> {
        self.take(Some(wait), Classes::ALL)
    }

    /// As [`Receiver::recv_timeout`], but items of other classes neither wake it nor end the wait by being there already: they come,
    /// in their order, with the next that does.
    pub fn recv_some_timeout(&self, classes: Classes, wait: Duration) -> Result<T, RecvTimeoutError> {
        self.take(Some(wait), classes)
    }

    /// The next item, if it comes before `until`.
    pub fn recv_deadline(&self, until: Instant) -> Result<T, RecvTimeoutError> {
        self.take(Some(until.saturating_duration_since(Instant::now())), Classes::ALL)
    }

    /// The next item, if it is there.
    pub fn try_recv(&self) -> Result<T, TryRecvError> {
        let mut state = self.0.lock();
        match state.pop() {
            Some(item) => {
                self.popped(state);
                Ok(item)
            }
            None if state.senders == 0 => Err(TryRecvError::Disconnected),
            None => Err(TryRecvError::Empty),
        }
    }

    /// True when nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.lock().items.is_empty()
    }

    fn take(&self, wait: Option<Duration>, classes: Classes) -> Result<T, RecvTimeoutError> {
        // The clock is read only when there is something to wait for.
        let mut until = None;
        let mut state = self.0.lock();
        loop {
            let waits = !state.has(classes) && state.blocked == 0 && state.senders > 0;
            if !waits && let Some(item) = state.pop() {
                self.popped(state);
                return Ok(item);
            }
            if state.senders == 0 {
                return Err(RecvTimeoutError::Disconnected);
            }
            state.sleep = Some(classes);
            state = match wait {
                None => self.0.filled.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(wait) => {
                    let now = Instant::now();
                    let left = until.get_or_insert(now + wait).saturating_duration_since(now);
                    if left.is_zero() {
                        state.sleep = None;
                        return Err(RecvTimeoutError::Timeout);
                    }
                    self.0.filled.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
            state.sleep = None;
        }
    }

    fn popped(&self, state: MutexGuard<'_, State<T>>) {
        let blocked = state.blocked > 0;
        drop(state);
        if blocked {
            self.0.drained.notify_one();
        }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.receiver_alive = false;
        let left = std::mem::take(&mut state.items);
        drop(state);
        self.0.drained.notify_all();
        // Outside the lock: an item may hold an end of this very queue.
        drop(left);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    /// Every item of every sender arrives once, each sender's in its order, through a queue far shorter than their number.
    #[test]
    fn many_senders_one_receiver() {
        let (sender, receiver) = bounded(3);
        let threads: Vec<_> = (0..4)
            .map(|s| {
                let sender = sender.clone();
                thread::spawn(move || (0..1000).for_each(|i| sender.send((s, i)).expect("the receiver lives")))
            })
            .collect();
        drop(sender);
        let mut next = [0; 4];
        while let Ok((s, i)) = receiver.recv() {
            assert_eq!(i, next[s]);
            next[s] += 1;
        }
        assert_eq!(next, [1000; 4]);
        threads.into_iter().for_each(|t| t.join().expect("no sender fails"));
    }

    /// A full queue refuses, an empty one says so, and each end notices that the other is gone; what was queued still arrives.
    #[test]
    fn full_empty_and_gone() {
        let (sender, receiver) = bounded(1);
        assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
        assert_eq!(receiver.recv_timeout(Duration::ZERO), Err(RecvTimeoutError::Timeout));
        assert_eq!(sender.try_send(1), Ok(()));
        assert_eq!(sender.try_send(2), Err(TrySendError::Full(2)));
        assert_eq!(sender.send_over(3, Class::URGENT), Ok(()), "a full queue is no reason to wait");
        assert_eq!(sender.try_send(4), Err(TrySendError::Full(4)));
        drop(sender);
        assert_eq!(receiver.recv(), Ok(1));
        assert_eq!(receiver.recv(), Ok(3));
        assert_eq!(receiver.recv(), Err(RecvError));
        assert_eq!(receiver.try_recv(), Err(TryRecvError::Disconnected));
        let (sender, receiver) = unbounded();
        drop(receiver);
        assert_eq!(sender.send(1), Err(SendError(1)));
    }

    /// Items that nobody waits for come with the next that somebody does, in their order, however many there are; but at once when
    /// a sender has to wait for room, and when nobody is left to send.
    #[test]
    fn patient_items_wait() {
        const PATIENT: Class = Class::patient(1);
        const OTHER: Class = Class::patient(2);
        let (sender, receiver) = bounded(3);
        let short = Duration::from_millis(5);
        let urgent = Classes::URGENT;
        sender.try_send_as(1, PATIENT).expect("room");
        sender.try_send_as(2, PATIENT).expect("room");
        assert_eq!(receiver.recv_some_timeout(urgent, short), Err(RecvTimeoutError::Timeout));
        sender.try_send(3).expect("room");
        assert_eq!(receiver.recv_some_timeout(urgent, short), Ok(1));
        assert_eq!((receiver.try_recv(), receiver.recv()), (Ok(2), Ok(3)));

        sender.try_send_as(1, OTHER).expect("room");
        assert_eq!(receiver.recv_some_timeout(urgent.and(PATIENT, true), short), Err(RecvTimeoutError::Timeout));
        sender.try_send_as(2, PATIENT).expect("room");
        assert_eq!(receiver.recv_some_timeout(urgent.and(PATIENT, false), short), Err(RecvTimeoutError::Timeout));
        assert_eq!(receiver.recv_some_timeout(urgent.and(PATIENT, true), short), Ok(1), "the first, though the second was awaited");
        assert_eq!(receiver.recv(), Ok(2));

        (1..=3).for_each(|n| sender.try_send_as(n, PATIENT).expect("room"));
        let other = sender.clone();
        let blocked = thread::spawn(move || other.send(4));
        assert_eq!(receiver.recv_some_timeout(urgent, Duration::from_secs(60)), Ok(1), "a full queue is no place to wait");
        blocked.join().expect("no panic").expect("the receiver lives");
        assert_eq!([receiver.recv(), receiver.recv(), receiver.recv()], [Ok(2), Ok(3), Ok(4)]);

        sender.try_send_as(5, PATIENT).expect("room");
        drop(sender);
        assert_eq!(receiver.recv_some_timeout(urgent, Duration::from_secs(60)), Ok(5));
        assert_eq!(receiver.recv_some_timeout(urgent, short), Err(RecvTimeoutError::Disconnected));
    }

    /// A sender that waits for room fails when the receiver goes instead.
    #[test]
    fn blocked_sender_is_told() {
        let (sender, receiver) = bounded(1);
        sender.send(1).expect("room");
        let blocked = thread::spawn(move || sender.send(2));
        drop(receiver);
        assert_eq!(blocked.join().expect("no panic"), Err(SendError(2)));
    }
}
