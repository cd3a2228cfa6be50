//! The client: what it is built from, and what can be asked of it.

use std::{error::Error as StdError, fmt, future::Future, num::NonZeroUsize, sync::Arc};

use bytes::Bytes;
use http::{
    Method, StatusCode,
    header::{HeaderName, HeaderValue},
};
use khala_core::{Append, Batch, Bounds, Start, Token, Topic};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use crate::{
    address::Address,
    api,
    channel::Channel,
    connect::Connector,
    error::Error,
    http::{Call, Http, OnRetry, Retry},
    options::ClientOptions,
    renewal::{FreshToken, Renewal},
    subscription::{ConnectionEvents, Pulse},
    token::{Source, Tokens},
};

/// How many topics one answer lists at most.
const TOPICS: NonZeroUsize = NonZeroUsize::new(500).expect("500 is not zero");

/// A client of one server. Cheap to clone; clones share connections and the token.
///
/// Its methods run on tokio, with the I/O and time drivers on.
#[derive(Clone, Debug)]
pub struct Client {
    http: Arc<Http>,
    pulse: Pulse,
}

/// What a [`Client`] is made from.
#[derive(Debug)]
pub struct ClientBuilder {
    url: String,
    source: Source,
    options: ClientOptions,
    on_retry: Option<OnRetry>,
}

impl ClientBuilder {
    /// Uses one token for as long as it lasts. When it no longer does (it has run out, it was revoked, its key is no
    /// longer trusted), calls and subscriptions end with an error that says so.
    #[must_use]
    pub fn token(mut self, token: Token) -> Self {
        self.source = Source::Fixed(token);
        self
    }

    /// Asks `source` for a token before the first request, again before that one runs out, and whenever the server
    /// no longer takes the one there is: once for all clones of the client and all their subscriptions.
    ///
    /// Open connections are handed the fresh token and go on with it; none is opened anew for that. When a token
    /// runs out is read from the `exp` of a JSON Web Token. Of another kind of token the source says it, with a
    /// [`FreshToken`]; if nobody does, the first connection lasts until the server closes it with 4001, and a fresh
    /// token opens the next.
    ///
    /// A source that fails, or gives the same token again, is asked again after a wait ([`backoff`](ClientOptions::backoff)),
    /// and its error is logged as a warning: it must not hold a token. A token that is refused although it is fresh
    /// is an error, unless the connection can go on for a while with the one it has: then the source is asked
    /// again.
    ///
    /// ```no_run
    /// # use khala_client::{Client, FreshToken};
    /// # use khala_core::{Timestamp, Token};
    /// # async fn log_in() -> Result<(String, u64), std::io::Error> { unimplemented!() }
    /// let client = Client::builder("http://127.0.0.1:4510")
    ///     .token_from(|| async {
    ///         let (opaque, ends) = log_in().await?;
    ///         Ok(FreshToken::new(Token::new(opaque)).with_end(Timestamp::from_millis(ends)))
    ///     })
    ///     .build()?;
    /// # Ok::<_, khala_client::Error>(())
    /// ```
    #[must_use]
    pub fn token_from<F, Fut, T>(mut self, source: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<T, Box<dyn StdError + Send + Sync>>> + Send + 'static,
        T: Into<FreshToken>,
    {
        self.source = Source::asked(source);
        self
    }

    /// Waits, retries and keeps connections alive by these options.
    #[must_use]
    pub fn options(mut self, options: ClientOptions) -> Self {
        self.options = options;
        self
    }

    /// Is told of every call that failed and is about to be tried again, and of every reconnect of a subscription or a producer.
    #[must_use]
    pub fn on_retry(mut self, told: impl Fn(&Retry<'_>) + Send + Sync + 'static) -> Self {
        self.on_retry = Some(OnRetry(Arc::new(told)));
        self
    }

    /// The client. Nothing is sent yet.
    ///
    /// # Errors
    /// [`Error::Settings`] for a URL that cannot be used, and for a share that is none.
    pub fn build(self) -> Result<Client, Error> {
        self.options.check()?;
        let address = Address::parse(&self.url)?;
        let connector = Connector::new(&address, self.options.connect_timeout)?;
        Ok(self.build_with(address, connector))
    }

    pub(crate) fn build_with(self, address: Address, connector: Connector) -> Client {
        let Self { source, options, on_retry, .. } = self;
        let renewal = Renewal { share: options.renewal_share, before: options.renewal_margin };
        let http = Http {
            address,
            connector,
            connect_timeout: options.connect_timeout,
            tokens: Tokens::new(source, renewal, options.backoff),
            backoff: options.backoff,
            answer_within: options.answer_timeout,
            retry_for: options.retry_for,
            on_retry,
        };
        let pulse = Pulse { every: options.heartbeat_interval, within: options.heartbeat_timeout };
        Client { http: Arc::new(http), pulse }
    }
}

impl Client {
    /// A client of the server at `url`: `https://…` or `http://…`; `wss` and `ws` mean the same.
    ///
    /// It goes by the proxy that `HTTPS_PROXY`, `HTTP_PROXY` or `ALL_PROXY` names, as curl reads them, unless `NO_PROXY` says otherwise
    /// or the server is on this machine. The proxy is asked over `http`. For `https` it gives a tunnel; without TLS it has to pass
    /// the upgrade to a WebSocket on, which many do not.
    pub fn builder(url: impl Into<String>) -> ClientBuilder {
        ClientBuilder {
            url: url.into(),
            source: Source::None,
            options: ClientOptions::default(),
            on_retry: None,
        }
    }

    /// Follows a topic, as [`TopicHandle::subscribe`](crate::TopicHandle::subscribe) does, and tells also what its connections go
    /// through: for a program with a status line.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn connection_events(&self, topic: &Topic, start: impl Into<Start>) -> ConnectionEvents {
        let channel = Channel::new(topic.clone(), start.into().into());
        ConnectionEvents::start(Arc::clone(&self.http), channel, self.pulse)
    }

    /// Asks one of the server's routes for which this client has no method: an operator's, below `/internal/v1/khala/`, or one that
    /// an application added. Gives the body of the answer.
    ///
    /// `path` follows the path of the client's URL; it begins with a `/` and is percent-encoded. The body is JSON, or empty.
    ///
    /// It is tried again as every call is, so the route has to bear being asked twice, unless
    /// [`retry_for`](ClientOptions::retry_for) is zero.
    ///
    /// # Errors
    /// [`Error`]: it was refused, or there was no answer for too long.
    pub async fn request(
        &self,
        method: Method,
        path: &str,
        body: impl Into<Bytes> + Send,
    ) -> Result<Bytes, Error> {
        let call = Call { method, path: path.to_owned(), header: None, body: body.into() };
        Ok(self.http.call(&call, &[]).await?.body)
    }

    pub(crate) fn http(&self) -> &Arc<Http> {
        &self.http
    }

    /// Tells the application of a failure that is tried again.
    pub(crate) fn tell_retry(&self, retry: &Retry<'_>) {
        if let Some(OnRetry(told)) = &self.http.on_retry {
            told(retry);
        }
    }

    /// Publishes a batch, as a whole or not at all.
    ///
    /// A batch without a dedup key is given one, so that it is stored once however often its answer is lost.
    /// [`Append::Duplicate`] is therefore also what a batch is answered with whose first answer was lost.
    ///
    /// Where more is published to the topic than its class allows, it waits as long as the server says, within
    /// [`retry_for`](ClientOptions::retry_for).
    ///
    /// A future that is dropped before it is ready leaves the batch stored or not; publishing it again with the same
    /// [`Batch::dedup`] is safe.
    ///
    /// # Errors
    /// [`Error::Unreachable`] when there was no answer for too long: the batch may be stored.
    /// [`Error::Refused`] when it is not.
    pub async fn publish(&self, topic: &Topic, batch: Batch) -> Result<Append, Error> {
        let key = match &batch.dedup {
            Some(key) => key.clone(),
            None => api::draw_key()?,
        };
        let value = HeaderValue::try_from(key.as_str()).map_err(|_| {
            Error::Settings(format!("the key {key} cannot be sent: it must be visible ASCII"))
        })?;
        let call = Call {
            method: Method::POST,
            path: api::topic_path(topic, "/updates"),
            header: Some((HeaderName::from_static("idempotency-key"), value)),
            body: api::publish_body(&batch),
        };
        api::published(&self.http.call(&call, &[StatusCode::CONFLICT]).await?)
    }

    /// What a topic holds now.
    ///
    /// # Errors
    /// [`Error`]: it was refused, or there was no answer for too long.
    pub async fn bounds(&self, topic: &Topic) -> Result<Bounds, Error> {
        api::bounds(&self.http.call(&Call::read(api::topic_path(topic, "")), &[]).await?)
    }

    /// The topics whose names start with `prefix`, in byte order: those that were written at least once and are not retired.
    ///
    /// # Errors
    /// [`Error`]: it was refused, or there was no answer for too long.
    pub async fn topics(&self, prefix: &str) -> Result<Vec<(Topic, Bounds)>, Error> {
        let mut all: Vec<(Topic, Bounds)> = Vec::new();
        let prefix = utf8_percent_encode(prefix, NON_ALPHANUMERIC);
        let mut path = format!("/v1/topics?prefix={prefix}&limit={TOPICS}");
        loop {
            // A page may be empty and not the last: the server looks at a number of topics at a time, others' too.
            let (page, next) = api::topics(&self.http.call(&Call::read(path.clone()), &[]).await?)?;
            all.extend(page);
            match next {
                // The same page would be asked for forever.
                Some(next) if self.http.address.route(&next) != path => {
                    path = self.http.address.route(&next).to_owned();
                }
                _ => return Ok(all),
            }
        }
    }
}

impl fmt::Display for Client {
    /// The server's address.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.http.address.fmt(f)
    }
}
