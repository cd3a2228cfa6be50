//! Time that passes when the test says so, and a runtime of one future that notices when it spins.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use async_trait::async_trait;
use futures::{FutureExt as _, channel::oneshot, future::BoxFuture};
use khala_core::{
    Timestamp,
    clock::{Clock, Moment, Now},
};

/// A clock that stands still until it is moved.
#[derive(Debug)]
pub struct TestClock(Mutex<State>);

#[derive(Debug)]
struct State {
    /// What the wall clock shows.
    now: Timestamp,
    /// What has really passed, which is what sleepers wait for.
    passed: Moment,
    sleepers: Vec<(Moment, oneshot::Sender<()>)>,
}

impl TestClock {
    pub fn new() -> Arc<Self> {
        let now = Timestamp::from_millis(1_000_000);
        let passed = Moment::from_millis(5_000_000);
        Arc::new(Self(Mutex::new(State { now, passed, sleepers: Vec::new() })))
    }

    pub fn pass(&self, time: Duration) {
        let mut state = self.0.lock().unwrap();
        state.now = state.now.plus(time);
        state.passed = state.passed.plus(time);
        let passed = state.passed;
        let (due, later) = std::mem::take(&mut state.sleepers)
            .into_iter()
            .filter(|(_, sleeper)| !sleeper.is_canceled())
            .partition(|(until, _)| *until <= passed);
        state.sleepers = later;
        let due: Vec<(Moment, oneshot::Sender<()>)> = due;
        for (_, sleeper) in due {
            let _ = sleeper.send(());
        }
    }

    /// Somebody sets the wall clock back.
    pub fn set_back(&self, time: Duration) {
        let mut state = self.0.lock().unwrap();
        state.now = state.now.minus(time);
    }

    /// Somebody sets the wall clock forward.
    pub fn set_forward(&self, time: Duration) {
        let mut state = self.0.lock().unwrap();
        state.now = state.now.plus(time);
    }

    /// Those who sleep and still want to be woken.
    pub fn sleepers(&self) -> usize {
        self.0.lock().unwrap().sleepers.iter().filter(|(_, sleeper)| !sleeper.is_canceled()).count()
    }
}

#[async_trait]
impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        self.0.lock().unwrap().now
    }

    fn moment(&self) -> Moment {
        self.0.lock().unwrap().passed
    }

    async fn sleep(&self, duration: Duration) {
        let woken = {
            let mut state = self.0.lock().unwrap();
            let until = state.passed.plus(duration);
            if until <= state.passed {
                return;
            }
            let (sleeper, woken) = oneshot::channel();
            state.sleepers.push((until, sleeper));
            woken
        };
        let _ = woken.await;
    }

    fn finish(&self, work: BoxFuture<'static, ()>) {
        // The stores of these tests answer at once.
        let _ = work.now_or_never();
    }
}

#[derive(Debug, Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// One future, run by hand.
pub struct Task<T> {
    future: Pin<Box<dyn Future<Output = T> + Send>>,
    woken: Arc<Woken>,
    pub done: Option<T>,
}

impl<T> Task<T> {
    pub fn new(future: impl Future<Output = T> + Send + 'static) -> Self {
        let woken = Arc::new(Woken(AtomicBool::new(true)));
        Self { future: Box::pin(future), woken, done: None }
    }

    /// Polls it for as long as something wakes it.
    pub fn run(&mut self) {
        let waker = Waker::from(Arc::clone(&self.woken));
        for _ in 0..100_000 {
            if self.done.is_some() || !self.woken.0.swap(false, Ordering::Relaxed) {
                return;
            }
            if let Poll::Ready(done) = self.future.as_mut().poll(&mut Context::from_waker(&waker)) {
                self.done = Some(done);
            }
        }
        panic!("it spins");
    }
}

/// What both clocks say where nobody has set one.
pub fn both(now: Timestamp) -> Now {
    Now { wall: now, steady: steady(now) }
}

/// The moment of that date, where nobody has set a clock.
pub const fn steady(now: Timestamp) -> Moment {
    Moment::from_millis(now.as_millis())
}
