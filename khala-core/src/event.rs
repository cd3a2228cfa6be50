//! What a subscription hands out, embedded or remote: the same types, so that code moves from one to the other.
//!
//! # Invariants
//! Updates come in order and without a hole: each event continues from the one before it. After [`Event::Stale`] the stream
//! ends. A stream that is not polled on holds no queue, only what was already read of one page.

use std::{
    fmt,
    ops::Deref,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use futures::{Stream, StreamExt, stream::BoxStream};
use serde::de::DeserializeOwned;

use crate::{
    error::Error,
    position::{Cursor, Epoch, Stale, Watermark},
    tail::SharedPage,
    text::TextError,
    update::{Timestamp, Update},
    wire::{JoinRequest, OnStale, Resume},
};

/// Where a subscription starts, and what it does where that is not possible.
///
/// ```
/// # use khala_core::{Cursor, Epoch, Start, Watermark};
/// # let saved = Cursor::new(Epoch::from_bits(1), Watermark::ORIGIN);
/// let start = Start::after(saved).or_snapshot();
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a start is for `subscribe`"]
pub struct Start(JoinRequest);

impl Start {
    const fn at(resume: Resume) -> Self {
        Self(JoinRequest { resume, on_stale: OnStale::Error, published_at: None })
    }

    /// After everything that the cursor covers.
    pub const fn after(cursor: Cursor) -> Self {
        Self::at(Resume::After(cursor))
    }

    /// At the oldest update that is kept.
    pub const fn floor() -> Self {
        Self::at(Resume::Floor)
    }

    /// At the newest update: only what comes from now on.
    pub const fn head() -> Self {
        Self::at(Resume::Head)
    }

    /// With the documents as they are, then the log.
    pub const fn snapshot() -> Self {
        Self::at(Resume::Snapshot)
    }

    /// Where the log cannot be continued, now or later, hands out a snapshot and goes on from it. Without this, the
    /// subscription ends with [`Event::Stale`].
    pub const fn or_snapshot(mut self) -> Self {
        self.0.on_stale = OnStale::Snapshot;
        self
    }

    /// Says when the last update was published that the cursor covers. A topic that was restored from a backup, and has
    /// another update in that place, is then noticed.
    pub const fn published_at(mut self, moment: Timestamp) -> Self {
        self.0.published_at = Some(moment);
        self
    }
}

impl From<Cursor> for Start {
    fn from(cursor: Cursor) -> Self {
        Self::after(cursor)
    }
}

impl From<JoinRequest> for Start {
    fn from(request: JoinRequest) -> Self {
        Self(request)
    }
}

impl From<Start> for JoinRequest {
    fn from(Start(request): Start) -> Self {
        request
    }
}

/// What a [`Subscription`] hands out.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_enums, reason = "a subscriber must handle every event")]
pub enum Event {
    /// Some documents of a snapshot. The log continues from [`DocumentPage::at`] once all pages are applied.
    Snapshot(DocumentPage),
    /// The log cannot be continued: it was trimmed past the cursor, or its epoch is over. The stream ends here.
    Stale(Stale),
    /// The next update.
    Update(DeliveredUpdate),
}

/// What [`Pages`] hand out: the same as an [`Event`], with updates by the page.
#[derive(Clone, Debug)]
#[expect(clippy::exhaustive_enums, reason = "a subscriber must handle every event")]
pub enum EventPage {
    /// Some documents of a snapshot.
    Snapshot(DocumentPage),
    /// The log cannot be continued. The stream ends here.
    Stale(Stale),
    /// The next updates.
    Updates(UpdatePage),
}

/// An update, and where a subscriber stands that has applied it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeliveredUpdate {
    update: Update,
    epoch: Epoch,
}

impl DeliveredUpdate {
    /// What to keep, in the same transaction as what the update changed, and to bring back after a restart.
    pub fn cursor(&self) -> Cursor {
        Cursor::new(self.epoch, self.update.seq.watermark())
    }

    /// The payload, read as a `T`.
    ///
    /// # Errors
    /// A [`TextError`] that says where the payload is not a `T`.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, TextError> {
        self.update.payload.json()
    }

    /// The update alone.
    pub fn into_update(self) -> Update {
        self.update
    }
}

impl Deref for DeliveredUpdate {
    type Target = Update;

    fn deref(&self) -> &Update {
        &self.update
    }
}

/// Some documents of a snapshot.
///
/// A snapshot may start again, perhaps at another cursor: `first` says to drop what came of the one before. A document that
/// came twice is the same or newer: the higher seq wins.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DocumentPage {
    /// What to keep once all of the pages are applied, and not before.
    pub at: Cursor,
    /// Whether a snapshot starts here: whatever was there before goes.
    pub first: bool,
    /// The newest update of each document.
    pub documents: Vec<Update>,
    /// Whether it is the last page.
    pub complete: bool,
    /// Why a snapshot came in the place of the log, where that is known; on the first page only.
    pub stale: Option<Stale>,
}

impl DocumentPage {
    /// A page of the snapshot at that cursor.
    pub fn new(at: Cursor, first: bool, documents: Vec<Update>, complete: bool) -> Self {
        Self { at, first, documents, complete, stale: None }
    }

    /// Says why the snapshot came.
    #[must_use]
    pub fn with_stale(mut self, stale: Option<Stale>) -> Self {
        self.stale = stale;
        self
    }
}

/// Updates that follow one another; never empty.
#[derive(Clone, Debug)]
pub struct UpdatePage {
    updates: Updates,
    /// How many of them were handed out already.
    skip: usize,
    epoch: Epoch,
    head: Watermark,
    complete: bool,
}

#[derive(Clone, Debug)]
enum Updates {
    Owned(Arc<Vec<Update>>),
    Shared(Arc<SharedPage>),
}

impl UpdatePage {
    /// The updates of one batch. `complete`: whether the replay ends with them, or had ended before.
    pub fn new(epoch: Epoch, updates: Vec<Update>, head: Watermark, complete: bool) -> Self {
        Self { updates: Updates::Owned(Arc::new(updates)), skip: 0, epoch, head, complete }
    }

    pub(crate) fn shared(page: Arc<SharedPage>, complete: bool) -> Self {
        let bounds = page.page().bounds;
        Self { updates: Updates::Shared(page), skip: 0, epoch: bounds.epoch, head: bounds.head, complete }
    }

    /// The updates, in order.
    pub fn updates(&self) -> &[Update] {
        let updates = match &self.updates {
            Updates::Owned(updates) => updates.as_slice(),
            Updates::Shared(page) => &page.page().updates,
        };
        &updates[self.skip..]
    }

    /// What to keep once they are applied, and to bring back after a restart.
    pub fn cursor(&self) -> Cursor {
        let end = self.updates().last().map_or(Watermark::ORIGIN, |update| update.seq.watermark());
        Cursor::new(self.epoch, end)
    }

    /// The newest update that was known when these were read.
    pub fn head(&self) -> Watermark {
        self.head
    }

    /// Whether what had been missed at the start of the subscription ends here, or ended before.
    pub fn is_complete(&self) -> bool {
        self.complete
    }
}

/// The events of one topic, in order: a [`Stream`] that goes on until it is dropped, or the log cannot be continued.
///
/// `E` is the error of the side that made it: of the handle ([`Error`]), or of `khala-client`. An error of the handle that
/// [is retryable](Error::is_retryable) does not end the stream: polling on waits and tries again from where it stood.
///
/// # Cancel safety
/// A `next()` that is dropped before it is ready loses nothing. Delivery is at least once: what was handed out and not applied
/// when the process ends comes again from the cursor that was kept.
#[derive(Debug)]
pub struct Subscription<E = Error> {
    pages: Pages<E>,
    page: Option<UpdatePage>,
    cursor: Option<Cursor>,
}

/// The events of one topic by the page: a [`Stream`] for those who apply many updates at once, which copies none of them.
pub struct Pages<E = Error> {
    pages: BoxStream<'static, Result<EventPage, E>>,
    rest: Option<UpdatePage>,
    cursor: Option<Cursor>,
    over: bool,
}

impl<E> Subscription<E> {
    /// The subscription that hands out these pages, for implementers of a client; `cursor` is where it starts, if that is known.
    pub fn new(
        pages: impl Stream<Item = Result<EventPage, E>> + Send + 'static,
        cursor: Option<Cursor>,
    ) -> Self {
        let pages = Pages { pages: pages.boxed(), rest: None, cursor, over: false };
        Self { pages, page: None, cursor }
    }

    /// The next event; none after the last. Cancel safe. The same as `StreamExt::next`.
    pub async fn next(&mut self) -> Option<Result<Event, E>> {
        StreamExt::next(self).await
    }

    /// The same events by the page.
    pub fn pages(self) -> Pages<E> {
        let Self { mut pages, page, cursor } = self;
        (pages.rest, pages.cursor) = (page, cursor);
        pages
    }

    /// The cursor behind everything that was handed out, or where the subscription starts; none where that is not known yet, and
    /// while a snapshot is handed out.
    pub fn cursor(&self) -> Option<Cursor> {
        self.cursor
    }
}

impl<E> Pages<E> {
    /// The next page; none after the last. Cancel safe. The same as `StreamExt::next`.
    pub async fn next(&mut self) -> Option<Result<EventPage, E>> {
        StreamExt::next(self).await
    }

    /// As [`Subscription::cursor`].
    pub fn cursor(&self) -> Option<Cursor> {
        self.cursor
    }
}

impl<E> fmt::Debug for Pages<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pages")
            .field("cursor", &self.cursor)
            .field("over", &self.over)
            .finish_non_exhaustive()
    }
}

impl<E> Stream for Pages<E> {
    type Item = Result<EventPage, E>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(rest) = self.rest.take() {
            self.cursor = Some(rest.cursor());
            return Poll::Ready(Some(Ok(EventPage::Updates(rest))));
        }
        if self.over {
            return Poll::Ready(None);
        }
        let next = ready!(self.pages.poll_next_unpin(context));
        match &next {
            Some(Ok(EventPage::Updates(page))) => self.cursor = Some(page.cursor()),
            Some(Ok(EventPage::Snapshot(page))) => self.cursor = page.complete.then_some(page.at),
            Some(Ok(EventPage::Stale(_))) | None => self.over = true,
            Some(Err(_)) => {}
        }
        Poll::Ready(next)
    }
}

impl<E> Stream for Subscription<E> {
    type Item = Result<Event, E>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(page) = &mut self.page
                && let Some(update) = page.updates().first()
            {
                let update = DeliveredUpdate { update: update.clone(), epoch: page.epoch };
                page.skip += 1;
                if page.updates().is_empty() {
                    self.page = None;
                }
                self.cursor = Some(update.cursor());
                return Poll::Ready(Some(Ok(Event::Update(update))));
            }
            let event = match ready!(self.pages.poll_next_unpin(context)) {
                Some(Ok(EventPage::Updates(page))) => {
                    self.page = Some(page);
                    continue;
                }
                Some(Ok(EventPage::Snapshot(page))) => {
                    self.cursor = self.pages.cursor;
                    Some(Ok(Event::Snapshot(page)))
                }
                Some(Ok(EventPage::Stale(stale))) => Some(Ok(Event::Stale(stale))),
                Some(Err(error)) => Some(Err(error)),
                None => None,
            };
            return Poll::Ready(event);
        }
    }
}
