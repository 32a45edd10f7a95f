use super::routes::Routes;
use hyper::body::{Body, Frame, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::cell::Cell;
use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::Instant;

use super::Limits;

/// What a connection is doing, so that one that does nothing can be told from one that waits for a verb.
#[derive(Clone)]
struct Activity {
    answering: Rc<Cell<bool>>,
    last: Rc<Cell<Instant>>,
}

impl Activity {
    fn note(&self, answering: bool) {
        self.answering.set(answering);
        self.last.set(Instant::now());
    }

    /// Returns when nothing has happened for too long.
    async fn stalled(&self, limits: &Limits) {
        loop {
            tokio::time::sleep_until(self.last.get() + limits.stall_time).await;
            if self.answering.get() {
                self.last.set(Instant::now());
            } else if self.last.get().elapsed() >= limits.stall_time {
                return;
            }
        }
    }
}

/// A body whose frames are activity.
struct Progress<B> {
    body: B,
    activity: Activity,
}

impl<B: Body + Unpin> Body for Progress<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        self.activity.note(false);
        Poll::Ready(frame)
    }
    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Serves one connection to its end: the peer's, the limits', or ours, when `ending` becomes true; then a request that
/// is being answered is still answered. Whatever the peer does, it returns.
pub(super) async fn connection<S>(
    stream: S,
    routes: Routes,
    limits: &Limits,
    mut ending: watch::Receiver<bool>,
) where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let activity = Activity { answering: Rc::default(), last: Rc::new(Cell::new(Instant::now())) };
    let noted = activity.clone();
    let service = service_fn(move |request| {
        let (routes, noted) = (routes.clone(), noted.clone());
        async move {
            noted.note(true);
            let answer = routes.answer(request).await;
            noted.note(false);
            // A body that goes on for long is looked at by its progress.
            Ok::<_, Infallible>(answer.map(|body| Progress { body, activity: noted }))
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_time)
        // A peer may close its side after the request and still want the answer.
        .half_close(true)
        .max_headers(limits.headers)
        .max_header_size(limits.head)
        .max_buf_size(limits.head.max(8192))
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let mut stalled = pin!(activity.stalled(limits));
    let mut ended = false;
    loop {
        tokio::select! {
            // A peer's mistake or departure is its own affair: there is nobody to tell.
            _ = connection.as_mut() => return,
            () = stalled.as_mut() => return,
            _ = ending.wait_for(|e| *e), if !ended => {
                ended = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}
