//! The queue before a store's one writer: what is handed in comes out in the order in which it was handed in.
//!
//! A bounded channel does not keep that promise. Where it is full, the value stays with its future until that is polled
//! again, and of two futures that are let in at once the later one may be polled first. Here a value is in the queue as
//! soon as it is handed in. Whoever waits for an answer would hold it in any case, so a bound would save no memory, but
//! for what was given up: that is taken out again at once, when its [`Handed`] is dropped.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::mpsc;

/// The end that takes values in. Cloning it gives another such end.
pub struct Inbox<T>(mpsc::UnboundedSender<Slot<T>>);

/// The end that values come out of.
pub struct Arrivals<T> {
    slots: mpsc::UnboundedReceiver<Slot<T>>,
    came: Vec<Slot<T>>,
}

/// A value that was handed in. Dropping it takes the value out again, if nobody has got it yet.
#[must_use = "what is dropped was not handed in"]
pub struct Handed<T>(Option<Slot<T>>);

/// Nobody takes what is handed in any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("nobody takes what is handed in any more")]
#[non_exhaustive]
pub struct InboxClosed;

struct Slot<T>(Arc<Mutex<Option<T>>>);

impl<T> Slot<T> {
    fn take(&self) -> Option<T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl<T> Inbox<T> {
    /// An inbox, and where its values come out. They end when all clones of the inbox are gone.
    pub fn new() -> (Self, Arrivals<T>) {
        let (sender, slots) = mpsc::unbounded_channel();
        (Self(sender), Arrivals { slots, came: Vec::new() })
    }

    /// Hands a value in, behind all that were before it.
    ///
    /// # Errors
    /// [`InboxClosed`] if the other end is gone.
    pub fn hand_in(&self, value: T) -> Result<Handed<T>, InboxClosed> {
        let slot = Arc::new(Mutex::new(Some(value)));
        self.0.send(Slot(Arc::clone(&slot))).map_err(|_| InboxClosed)?;
        Ok(Handed(Some(Slot(slot))))
    }
}

impl<T> Handed<T> {
    /// Leaves the value where it is, whoever waits for it.
    pub fn leave(mut self) {
        self.0 = None;
    }
}

impl<T> Drop for Handed<T> {
    fn drop(&mut self) {
        if let Some(slot) = &self.0 {
            drop(slot.take());
        }
    }
}

impl<T> Arrivals<T> {
    /// Waits until something is there, and moves up to `limit` of it into `fresh`. No once there never will be. What was
    /// given up wakes it too, so `fresh` may stay as it is. Cancel safe.
    pub async fn receive(&mut self, fresh: &mut Vec<T>, limit: usize) -> bool {
        let came = self.slots.recv_many(&mut self.came, limit).await;
        fresh.extend(self.came.drain(..).filter_map(|slot| slot.take()));
        came > 0
    }

    /// The same for a thread.
    ///
    /// # Panics
    /// Within an asynchronous task.
    pub fn blocking_receive(&mut self, fresh: &mut Vec<T>, limit: usize) -> bool {
        let came = self.slots.blocking_recv_many(&mut self.came, limit);
        fresh.extend(self.came.drain(..).filter_map(|slot| slot.take()));
        came > 0
    }

    /// The next value, as soon as there is one; none once there never will be. Cancel safe.
    pub async fn next(&mut self) -> Option<T> {
        loop {
            if let Some(value) = self.slots.recv().await?.take() {
                return Some(value);
            }
        }
    }

    /// The next value, if it is there.
    pub fn try_next(&mut self) -> Option<T> {
        loop {
            if let Some(value) = self.slots.try_recv().ok()?.take() {
                return Some(value);
            }
        }
    }
}

impl<T> Clone for Inbox<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> fmt::Debug for Inbox<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inbox").finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for Arrivals<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arrivals").finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for Handed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handed").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_handed_in_comes_out_in_order_but_for_what_was_given_up() {
        let (inbox, mut arrivals) = Inbox::new();
        let mut handed: Vec<_> = (0..10_000).map(|number| inbox.hand_in(number).unwrap()).collect();
        drop(handed.remove(1));
        handed.remove(1).leave();
        let mut fresh = Vec::new();
        assert!(arrivals.blocking_receive(&mut fresh, 3));
        assert_eq!(fresh, [0, 2]);
        assert_eq!(arrivals.try_next(), Some(3));
        drop(handed);
        assert_eq!(arrivals.try_next(), None);
        drop(inbox);
        assert!(!arrivals.blocking_receive(&mut fresh, 3));
    }

    #[test]
    fn what_is_given_up_takes_no_memory() {
        let (inbox, arrivals) = Inbox::new();
        let value = Arc::new(());
        for _ in 0..10 {
            drop(inbox.hand_in(Arc::clone(&value)).unwrap());
        }
        assert_eq!(Arc::strong_count(&value), 1);
        drop(arrivals);
        assert_eq!(inbox.hand_in(value).err(), Some(InboxClosed));
    }
}
