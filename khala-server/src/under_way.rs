//! What is under way, given out in the order in which it set out.
//!
//! One waker for all of them: a store answers many at once, and one wake-up has to be enough for that. What must stay true:
//! each is polled on after it was woken, whoever is before it; and none is polled for nothing more than once a wake-up.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use futures::task::AtomicWaker;

pub(crate) struct UnderWay<T> {
    queue: VecDeque<Place<T>>,
    woken: Arc<Woken>,
    waker: Waker,
    /// Somebody was woken, and not all were polled since.
    owed: bool,
}

type Way<T> = Pin<Box<dyn Future<Output = T> + Send>>;

enum Place<T> {
    Arrived(T),
    OnItsWay(Way<T>),
}

/// Whether anybody was woken, and whom to tell.
#[derive(Default)]
struct Woken {
    any: AtomicBool,
    task: AtomicWaker,
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.any.swap(true, Ordering::AcqRel) {
            self.task.wake();
        }
    }
}

impl<T> UnderWay<T> {
    pub(crate) fn new() -> Self {
        let woken = Arc::new(Woken::default());
        let waker = Arc::clone(&woken).into();
        Self { queue: VecDeque::new(), woken, waker, owed: false }
    }

    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Sets out, behind all others: `way` is polled once, here.
    pub(crate) fn set_out(&mut self, way: impl Future<Output = T> + Send + 'static) {
        let mut way: Way<T> = Box::pin(way);
        self.queue.push_back(match way.as_mut().poll(&mut Context::from_waker(&self.waker)) {
            Poll::Ready(arrived) => Place::Arrived(arrived),
            Poll::Pending => Place::OnItsWay(way),
        });
    }

    /// The first, once it has arrived; none if there is none. Pending while the first is on its way.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<T>> {
        if self.queue.is_empty() {
            return Poll::Ready(None);
        }
        self.woken.task.register(cx.waker());
        if self.woken.any.swap(false, Ordering::AcqRel) {
            self.owed = true;
        }
        // A store answers in its order: the first is mostly the one that was woken.
        if self.owed {
            poll_one(self.queue.front_mut(), &self.waker);
        }
        if let Some(Place::Arrived(_)) = self.queue.front()
            && let Some(Place::Arrived(arrived)) = self.queue.pop_front()
        {
            return Poll::Ready(Some(arrived));
        }
        if self.owed {
            self.owed = false;
            for place in self.queue.iter_mut().skip(1) {
                poll_one(Some(place), &self.waker);
            }
        }
        Poll::Pending
    }

    /// The same, as a future.
    pub(crate) async fn next(&mut self) -> Option<T> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }
}

fn poll_one<T>(place: Option<&mut Place<T>>, waker: &Waker) {
    if let Some(place) = place
        && let Place::OnItsWay(way) = place
        && let Poll::Ready(arrived) = way.as_mut().poll(&mut Context::from_waker(waker))
    {
        *place = Place::Arrived(arrived);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn what_arrives_is_given_out_in_order() {
        let mut under_way = UnderWay::new();
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..100).map(|_| oneshot::channel()).unzip();
        for receiver in receivers {
            under_way.set_out(async { receiver.await.unwrap() });
        }
        under_way.set_out(async { 100 });
        // Each after one that is behind it.
        let telling = async {
            let mut senders: Vec<_> = senders.into_iter().enumerate().collect();
            for pair in senders.chunks_mut(2) {
                pair.reverse();
            }
            for (number, sender) in senders {
                sender.send(number).unwrap();
                tokio::task::yield_now().await;
            }
        };
        let hearing = async {
            for number in 0..=100 {
                assert_eq!(under_way.next().await, Some(number));
            }
            assert_eq!(under_way.next().await, None);
        };
        futures::join!(telling, hearing);
    }

    #[tokio::test]
    async fn who_is_behind_goes_on_while_the_first_waits() {
        let mut under_way = UnderWay::new();
        let (first, waits) = oneshot::channel();
        under_way.set_out(async { waits.await.unwrap() });
        let (start, started) = oneshot::channel();
        let (end, mut ended) = oneshot::channel();
        under_way.set_out(async {
            started.await.unwrap();
            end.send(()).unwrap();
            2
        });
        assert!(under_way.next().now_or_never().is_none());
        start.send(()).unwrap();
        assert!(under_way.next().now_or_never().is_none());
        assert!(ended.try_recv().is_ok(), "it went on");
        first.send(1).unwrap();
        assert_eq!((under_way.next().await, under_way.next().await), (Some(1), Some(2)));
    }
}
