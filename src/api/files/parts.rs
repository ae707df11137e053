//! The parts of a form as they arrive, within bounds of size and time.
//!
//! The parser underneath gathers whatever comes until it finds the boundary or the end of a part's header that it looks
//! for. So it is fed piece by piece, and no further once it has gathered too much without finding anything.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::BodyDataStream;
use axum::extract::Request;
use axum::http::header;
use bytes::Bytes;
use futures::Stream;
use multer::{Field, Multipart};
use tokio::time::timeout;

use crate::uploads::SIZE_LIMIT;

/// Bytes of a whole request. Beyond the file's limit they are read and thrown away, so that a client that sends its body
/// before it listens hears the refusal.
const BODY_LIMIT: usize = 2 * SIZE_LIMIT as usize;

/// Bytes that the parser may gather before it finds something.
const HEAD_LIMIT: usize = 1024 * 1024;

/// For the next bytes of a request to arrive.
const PIECE_TIMEOUT: Duration = Duration::from_secs(60);

/// For the rest of a request that is refused.
const REST_TIMEOUT: Duration = Duration::from_secs(30);

/// Why a form ends early.
#[derive(Debug, thiserror::Error)]
pub enum PartsError {
    #[error("it is too large")]
    TooLarge,
    #[error("it did not arrive in time")]
    TooSlow,
    #[error("no boundary or end of a header is found in {HEAD_LIMIT} bytes")]
    Endless,
    #[error("the connection broke off")]
    Broken,
    #[error("{0}")]
    Malformed(multer::Error),
}

/// A form that is being read.
pub struct Parts {
    form: Multipart<'static>,
    flow: Arc<Flow>,
}

/// What the parser and its source tell each other.
#[derive(Default)]
struct Flow {
    /// Bytes that the parser was given since it last found something.
    gathered: AtomicUsize,
    /// The rest is not wanted.
    discard: AtomicBool,
}

impl Parts {
    /// `None`: the body is no form.
    pub fn of(request: Request) -> Option<Parts> {
        let kind = request.headers().get(header::CONTENT_TYPE)?.to_str().ok()?;
        let boundary = multer::parse_boundary(kind).ok()?;
        let flow = Arc::new(Flow::default());
        let body = request.into_body().into_data_stream();
        let source = Source { body, flow: flow.clone(), total: 0, yielded: false };
        Some(Parts { form: Multipart::new(source, boundary), flow })
    }

    /// The next part, once the one before is read and dropped.
    pub async fn next(&mut self) -> Result<Option<Field<'static>>, PartsError> {
        let next = timeout(PIECE_TIMEOUT, self.form.next_field()).await;
        self.found(next)
    }

    /// The next bytes of a part.
    pub async fn piece(&self, part: &mut Field<'static>) -> Result<Option<Bytes>, PartsError> {
        self.found(timeout(PIECE_TIMEOUT, part.chunk()).await)
    }

    fn found<T>(&self, result: Result<multer::Result<T>, tokio::time::error::Elapsed>) -> Result<T, PartsError> {
        match result {
            Ok(Ok(found)) => {
                self.flow.gathered.store(0, Ordering::Relaxed);
                Ok(found)
            }
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(PartsError::TooSlow),
        }
    }

    /// Reads the rest without looking at it.
    pub async fn pass_over(mut self) {
        self.flow.discard.store(true, Ordering::Relaxed);
        // What the parser still has may hold further parts; then the form breaks off for it.
        let rest = async { while let Ok(Some(_)) = self.form.next_field().await {} };
        let _ = timeout(REST_TIMEOUT, rest).await;
    }
}

impl From<multer::Error> for PartsError {
    fn from(error: multer::Error) -> Self {
        match error {
            multer::Error::StreamReadFailed(cause) => match cause.downcast::<PartsError>() {
                Ok(own) => *own,
                Err(_) => PartsError::Broken,
            },
            other => PartsError::Malformed(other),
        }
    }
}

/// The body on its way to the parser.
struct Source {
    body: BodyDataStream,
    flow: Arc<Flow>,
    total: usize,
    /// The parser was just given something.
    yielded: bool,
}

impl Stream for Source {
    type Item = Result<Bytes, PartsError>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if std::mem::take(&mut this.yielded) {
            // The parser asks for more before it looks at what it has: it is to look first.
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        loop {
            let discard = this.flow.discard.load(Ordering::Relaxed);
            if !discard && this.flow.gathered.load(Ordering::Relaxed) > HEAD_LIMIT {
                return Poll::Ready(Some(Err(PartsError::Endless)));
            }
            let bytes = match ready!(Pin::new(&mut this.body).poll_next(context)) {
                Some(Ok(bytes)) => bytes,
                Some(Err(_)) => return Poll::Ready(Some(Err(PartsError::Broken))),
                None => return Poll::Ready(None),
            };
            this.total += bytes.len();
            if this.total > BODY_LIMIT {
                return Poll::Ready(Some(Err(PartsError::TooLarge)));
            }
            if !discard {
                this.flow.gathered.fetch_add(bytes.len(), Ordering::Relaxed);
                this.yielded = true;
                return Poll::Ready(Some(Ok(bytes)));
            }
        }
    }
}
