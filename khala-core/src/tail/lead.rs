//! Who reads the newest updates of a topic, while the others who were woken for them wait to be woken once more.
//!
//! A thousand followers wake together, and the first of them reads. For those who come before that read is done, waiting for
//! it as futures would cost more than their delivery. What must stay true: whoever waits is woken when the one who reads is
//! done, has failed or is gone; nobody waits twice for the same, nor after a failure, so that one fault, or a head that is
//! not there, is not met by each in turn.

use std::{
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Waker,
};

/// What somebody does who wants the newest updates.
#[derive(Debug)]
pub(crate) enum Part {
    /// Read, with others if they do the same.
    Alone,
    /// Read, and tell the others by dropping this.
    Leads(Lead),
    /// Wait to be woken when this lead has ended, and look again.
    Waits(u64),
}

#[derive(Debug, Default)]
pub(super) struct Leads(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    led: bool,
    /// How many leads there were.
    leads: u64,
    /// The last who led failed, and nobody succeeded since.
    failed: bool,
    waiting: Vec<Waker>,
}

impl Leads {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The part of one who would be woken by `waker`, and who has waited for that lead in vain, if for any.
    pub(super) fn take_part(self: &Arc<Self>, waited_for: Option<u64>, waker: &Waker) -> Part {
        let mut state = self.lock();
        if state.failed || waited_for.is_some() {
            return Part::Alone;
        }
        if state.led {
            state.waiting.push(waker.clone());
            return Part::Waits(state.leads);
        }
        state.led = true;
        state.leads += 1;
        Part::Leads(Lead { leads: Arc::clone(self), failed: false })
    }

    /// Whether the lead of that number goes on.
    pub(super) fn is_led(&self, number: u64) -> bool {
        let state = self.lock();
        state.led && state.leads == number
    }

    /// A read has succeeded, whoever did it.
    pub(super) fn succeeded(&self) {
        self.lock().failed = false;
    }
}

/// The part of the one who reads for others, until it is dropped.
#[derive(Debug)]
pub(crate) struct Lead {
    leads: Arc<Leads>,
    failed: bool,
}

impl Lead {
    /// Says that nothing could be read.
    pub(crate) fn fail(&mut self) {
        self.failed = true;
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        let waiting = {
            let mut state = self.leads.lock();
            state.led = false;
            state.failed |= self.failed;
            mem::take(&mut state.waiting)
        };
        waiting.into_iter().for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        task::Wake,
    };

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn one_leads_and_its_end_wakes_the_others_whatever_it_is() {
        let (leads, count) = (Arc::new(Leads::default()), Arc::new(Count::default()));
        let waker = Waker::from(Arc::clone(&count));
        for (number, failed) in [(1, false), (2, true)] {
            let Part::Leads(mut lead) = leads.take_part(None, &waker) else { panic!("nobody leads") };
            for _ in 0..3 {
                assert!(matches!(leads.take_part(None, &waker), Part::Waits(led) if led == number));
            }
            assert!(leads.is_led(number) && !leads.is_led(number - 1));
            if failed {
                lead.fail();
            }
            drop(lead);
            assert!(!leads.is_led(number));
            assert_eq!(count.0.swap(0, Ordering::Relaxed), 3);
            assert!(matches!(leads.take_part(Some(number), &waker), Part::Alone), "nobody waits twice");
        }
        assert!(matches!(leads.take_part(None, &waker), Part::Alone), "the last one failed");
        leads.succeeded();
        assert!(matches!(leads.take_part(None, &waker), Part::Leads(_)));
        assert!(matches!(leads.take_part(None, &waker), Part::Leads(_)), "who is gone leads no longer");
    }
}
