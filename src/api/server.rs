//! The accept loop: header time-out, connection cap and graceful drain, which `axum::serve` does not have.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::with_normal_path;

/// What a connection may cost us.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections at the same time; further ones wait to be accepted.
    pub connections: usize,
    /// For the head of a request, idle time before it included.
    pub header_timeout: Duration,
    /// For connections to end once the server closes.
    pub close_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { connections: 4096, header_timeout: Duration::from_secs(75), close_timeout: Duration::from_secs(5) }
    }
}

/// Serves a router on a listener.
pub struct Server {
    router: Router,
    limits: Limits,
}

impl Server {
    pub fn new(router: Router, limits: Limits) -> Server {
        Server { router, limits }
    }

    /// Accepts until `stop`, then lets open requests end until `closing` and a little longer.
    pub async fn run(self, listener: TcpListener, stop: CancellationToken, closing: CancellationToken) {
        let slots = Arc::new(Semaphore::new(self.limits.connections));
        let graceful = GracefulShutdown::new();
        loop {
            let accepted = tokio::select! {
                accepted = accept(&listener, &slots) => accepted,
                () = stop.cancelled() => break,
            };
            match accepted {
                Ok((stream, peer, slot)) => self.serve(stream, peer, slot, &graceful),
                Err(error) => {
                    // Out of file descriptors, most likely: some will be closed soon.
                    tracing::warn!("accept: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
        drop(listener);
        let ended = graceful.shutdown();
        let too_late = async {
            closing.cancelled().await;
            tokio::time::sleep(self.limits.close_timeout).await;
        };
        tokio::select! {
            () = ended => {}
            () = too_late => tracing::warn!("some connections did not end in time"),
        }
    }

    fn serve(&self, stream: TcpStream, peer: SocketAddr, slot: OwnedSemaphorePermit, graceful: &GracefulShutdown) {
        // Without it small answers may wait for an acknowledgement; a failure only costs time.
        let _ = stream.set_nodelay(true);
        let router = self.router.clone();
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(ConnectInfo(peer));
            let router = router.clone();
            async move { Ok::<_, Infallible>(answer(router, request).await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.limits.header_timeout)
            .serve_connection(TokioIo::new(stream), service);
        let watched = graceful.watch(connection);
        tokio::spawn(async move {
            let _slot = slot;
            if let Err(error) = watched.await {
                tracing::debug!("connection: {error}");
            }
        });
    }
}

async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let slot = Arc::clone(slots).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, peer) = listener.accept().await?;
    Ok((stream, peer, slot))
}

/// Routes one request and says in the log what became of it. Headers are not logged: they hold keys; nor are paths
/// that are themselves the right to read what is there.
async fn answer(router: Router, request: Request<Incoming>) -> axum::response::Response {
    let request = with_normal_path(request.map(Body::new));
    let method = request.method().clone();
    let path = request.uri().path();
    let secret =
        ["/outputs/", "/files/", "/streams/", "/previews/"].into_iter().find(|folder| path.starts_with(folder));
    let path = secret.map_or_else(|| path.to_string(), |folder| format!("{folder}…"));
    let start = std::time::Instant::now();
    let Ok(response) = router.oneshot(request).await;
    tracing::debug!("{method} {path} {} in {:.1?}", response.status().as_u16(), start.elapsed());
    response
}
