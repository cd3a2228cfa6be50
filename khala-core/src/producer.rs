//! Publishing many updates without waiting for each: in order, pipelined, in bounded memory.
//!
//! What appends or sends stands at the other end, which is a [`Submissions`]: the handle's, or that of `khala-client`.
//!
//! # Invariants
//! What is stored is a prefix of what was submitted, but for conflicts, each of which is answered and leaves out its own updates
//! alone. No failure is lost: its [`Ticket`] tells it, or, where that was dropped, the next [`flush`](Producer::flush).

use std::{
    collections::VecDeque,
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use crate::{
    error::Error,
    journal::{Append, Batch, BatchError, Conflict, Receipt},
    update::NewUpdate,
};

/// Bytes that may be on their way to stable storage.
const BYTES_IN_FLIGHT: usize = 4 << 20;
/// What a batch counts at least, so that there are 1,024 of them at most.
const BATCH_COUNTS: usize = 4 << 10;

/// Why an update was not published.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError<E: std::error::Error + 'static = Error> {
    /// Something was stored meanwhile that it must not replace. Nothing of the batch is stored.
    #[error("not stored: {0}")]
    Conflict(Conflict),
    /// It is not known to be stored.
    #[error(transparent)]
    Failed(E),
    /// The updates do not make a batch. Nothing of them is stored.
    #[error(transparent)]
    Invalid(#[from] BatchError),
    /// Nothing of it was stored, because what was submitted to the same producer before it failed.
    #[error("not attempted, because what was submitted before it was not stored")]
    NotAttempted,
    /// What appends for the producer has gone, as when the runtime ends. It may be stored.
    #[error("no answer came; it may be stored")]
    Unanswered,
}

impl<E: std::error::Error + 'static> PublishError<E> {
    /// What became of an append: the receipt of what is stored, now or at the first of several attempts.
    ///
    /// # Errors
    /// [`PublishError::Conflict`].
    pub fn of(append: Append) -> Result<Receipt, Self> {
        match append {
            Append::Written(receipt) | Append::Duplicate(receipt) => Ok(receipt),
            Append::Conflict(conflict) => Err(Self::Conflict(conflict)),
        }
    }
}

/// Publishes updates to one topic, each without waiting for those before it.
///
/// ```
/// # use khala_core::{Khala, MemoryStore, Update};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let producer = Khala::open(MemoryStore::new()).topic("readings")?.producer();
/// for reading in [20.5, 20.7, 20.6] {
///     producer.submit(Update::json("temperature", &reading)?).await?;
/// }
/// producer.flush().await?;
/// # Ok(())
/// # }
/// ```
///
/// # When something fails
/// A conflict is the answer to its own batch alone. After any other failure nothing that was submitted later is stored: each
/// of those tickets, and every later [`submit`](Self::submit), gives [`PublishError::NotAttempted`]. Make another producer,
/// and submit again from the one that failed; whether that one is stored is not known, unless its batch has a dedup key.
///
/// # Dropping it
/// What was submitted is published to its end, also where the producer and all tickets are gone.
#[derive(Debug)]
pub struct Producer<E: std::error::Error + 'static = Error> {
    sender: mpsc::UnboundedSender<Submitted<E>>,
    room: Arc<Semaphore>,
}

/// A batch that was submitted: a future of its receipt. Dropping it leaves the batch where it is.
#[derive(Debug)]
pub struct Ticket<E: std::error::Error + 'static = Error>(
    oneshot::Receiver<Result<Receipt, PublishError<E>>>,
);

/// The receiving end of a [`Producer`]: the code that appends or sends the updates reads it.
#[derive(Debug)]
pub struct Submissions<E: std::error::Error + 'static = Error> {
    receiver: mpsc::UnboundedReceiver<Submitted<E>>,
    /// Each with how many batches were taken before it.
    flushes: VecDeque<(u64, Flushed<E>)>,
    taken: u64,
    answered: u64,
    /// The first failure whose ticket was dropped.
    unheard: Option<PublishError<E>>,
}

type Flushed<E> = oneshot::Sender<Result<(), PublishError<E>>>;

#[derive(Debug)]
enum Submitted<E: std::error::Error + 'static> {
    Batch(Batch, Answer<E>),
    Flush(Flushed<E>),
}

/// Where the answer to a submitted batch goes. It holds the batch's share of the room until then.
pub struct Answer<E: std::error::Error + 'static = Error> {
    ticket: oneshot::Sender<Result<Receipt, PublishError<E>>>,
    _room: OwnedSemaphorePermit,
}

impl<E: std::error::Error + 'static> fmt::Debug for Answer<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer").finish_non_exhaustive()
    }
}

impl<E: std::error::Error + 'static> Producer<E> {
    /// A producer, and the other end of it.
    pub fn channel() -> (Self, Submissions<E>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let room = Arc::new(Semaphore::new(BYTES_IN_FLIGHT));
        let submissions =
            Submissions { receiver, flushes: VecDeque::new(), taken: 0, answered: 0, unheard: None };
        (Self { sender, room }, submissions)
    }

    /// Submits an update, many, or a [`Batch`], behind everything that was submitted before. Waits while 4 MiB, or 1,024 batches,
    /// are on their way.
    ///
    /// # Cancellation
    /// A future that is dropped before it is ready has submitted nothing.
    ///
    /// # Errors
    /// [`PublishError::Invalid`], and [`PublishError::NotAttempted`] once something has failed.
    pub async fn submit(
        &self,
        updates: impl TryInto<Batch, Error: Into<BatchError>>,
    ) -> Result<Ticket<E>, PublishError<E>> {
        let batch = updates.try_into().map_err(|fault| PublishError::Invalid(fault.into()))?;
        let size: usize = batch.updates().iter().map(NewUpdate::size).sum();
        let counts = u32::try_from(size.clamp(BATCH_COUNTS, BYTES_IN_FLIGHT)).expect("4 MiB at most");
        let room = Arc::clone(&self.room).acquire_many_owned(counts).await;
        let room = room.map_err(|_| PublishError::NotAttempted)?;
        let (ticket, answer) = oneshot::channel();
        let submitted = Submitted::Batch(batch, Answer { ticket, _room: room });
        self.sender.send(submitted).map_err(|_| PublishError::NotAttempted)?;
        Ok(Ticket(answer))
    }

    /// Waits until everything that was submitted before is answered.
    ///
    /// # Errors
    /// The first failure since the last flush, a conflict too, whose ticket was dropped; [`PublishError::NotAttempted`] where
    /// something failed before, and some ticket was told.
    pub async fn flush(&self) -> Result<(), PublishError<E>> {
        let (flushed, done) = oneshot::channel();
        self.sender.send(Submitted::Flush(flushed)).map_err(|_| PublishError::NotAttempted)?;
        done.await.unwrap_or(Err(PublishError::Unanswered))
    }
}

impl<E: std::error::Error + 'static> Future for Ticket<E> {
    type Output = Result<Receipt, PublishError<E>>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(ready!(Pin::new(&mut self.0).poll(context)).unwrap_or(Err(PublishError::Unanswered)))
    }
}

impl<E: std::error::Error + 'static> Submissions<E> {
    /// The next batch; none once the producer is gone and everything was taken. Each must be [answered](Self::answer), in the
    /// order in which they come. Cancel safe.
    pub async fn next(&mut self) -> Option<(Batch, Answer<E>)> {
        loop {
            match self.receiver.recv().await? {
                Submitted::Batch(batch, answer) => {
                    self.taken += 1;
                    return Some((batch, answer));
                }
                Submitted::Flush(flushed) => {
                    self.flushes.push_back((self.taken, flushed));
                    self.tell_flushes();
                }
            }
        }
    }

    /// Gives the answer to the oldest batch that has none.
    pub fn answer(&mut self, answer: Answer<E>, result: Result<Receipt, PublishError<E>>) {
        self.answered += 1;
        if let Err(Err(failure)) = answer.ticket.send(result) {
            self.unheard.get_or_insert(failure);
        }
        self.tell_flushes();
    }

    /// Something failed: no more is taken, and what was submitted and not taken is answered so.
    pub fn stop(&mut self) {
        self.receiver.close();
        while let Ok(submitted) = self.receiver.try_recv() {
            match submitted {
                Submitted::Batch(_, answer) => drop(answer.ticket.send(Err(PublishError::NotAttempted))),
                Submitted::Flush(flushed) => self.flushes.push_back((self.taken, flushed)),
            }
        }
        for (_, flushed) in self.flushes.drain(..) {
            // Nobody waits any more if this fails.
            let _ = flushed.send(Err(self.unheard.take().unwrap_or(PublishError::NotAttempted)));
        }
    }

    fn tell_flushes(&mut self) {
        while let Some((_, flushed)) = self.flushes.pop_front_if(|(taken, _)| *taken <= self.answered) {
            // Nobody waits any more if this fails.
            let _ = flushed.send(self.unheard.take().map_or(Ok(()), Err));
        }
    }
}
