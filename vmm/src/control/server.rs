use super::routes::Routes;
use super::serve;
use super::{Limits, Verbs};
use crate::log::Log;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{Semaphore, watch};
use tokio::task::LocalSet;

/// After the machine's end, answers that are on their way get so long.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// After a failure to accept, which most often means that there are no descriptors left.
const RECOVER: Duration = Duration::from_millis(100);

/// Why there is no control socket.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The socket cannot be made.
    #[error("control socket {}: cannot {attempt}: {cause}", path.display())]
    Socket {
        /// Where.
        path: PathBuf,
        /// What was tried.
        attempt: &'static str,
        /// What the host said.
        cause: io::Error,
    },
}

/// A control socket where connections wait until it is served. Dropping it removes it.
pub struct Socket {
    listener: UnixListener,
    name: Name,
}

/// The control socket and the thread that serves it. Dropping it ends both.
pub struct Server {
    name: Option<Name>,
    ending: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

/// A name in the file system, until it is dropped.
struct Name(PathBuf);

impl Drop for Name {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Server {
    /// Listens at `path`, for the user alone (mode 0600), and answers for `verbs` on a thread of its own.
    ///
    /// # Errors
    /// [`ServeError::Socket`] when the socket or the thread cannot be made.
    pub fn start(path: &Path, verbs: Arc<dyn Verbs>, limits: Limits, log: Log) -> Result<Self, ServeError> {
        Socket::bind(path)?.serve(verbs, limits, log)
    }
}

impl Socket {
    /// Listens at `path`, for the user alone (mode 0600).
    ///
    /// # Errors
    /// [`ServeError::Socket`] when it cannot be made.
    pub fn bind(path: &Path) -> Result<Self, ServeError> {
        let failed = |attempt| failed(path, attempt);
        let listener = UnixListener::bind(path).map_err(failed("listen"))?;
        let name = Name(path.into());
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o600)).map_err(failed("protect"))?;
        listener.set_nonblocking(true).map_err(failed("configure"))?;
        Ok(Self { listener, name })
    }

    /// Becomes readable when somebody connects.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    /// Answers for `verbs` on a thread of its own.
    ///
    /// # Errors
    /// [`ServeError::Socket`] when there can be no thread; the socket is gone then.
    pub fn serve(self, verbs: Arc<dyn Verbs>, limits: Limits, log: Log) -> Result<Server, ServeError> {
        let Self { listener, name } = self;
        let failed = || failed(&name.0, "serve");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            // One for each look and each verb that the limits allow.
            .max_blocking_threads(limits.connections + 2 * limits.verbs)
            .build()
            .map_err(failed())?;
        let (ending, is_ending) = watch::channel(false);
        let serve = move || {
            let local = LocalSet::new();
            let done = accept(listener, verbs, limits, is_ending, log.clone());
            if let Err(e) = local.block_on(&runtime, done) {
                log.error(format_args!("control socket: cannot serve: {e}"));
            }
            drop(local);
            // A verb that hangs must not hold up the end.
            runtime.shutdown_background();
        };
        let thread = std::thread::Builder::new().name("control".into()).spawn(serve).map_err(failed())?;
        Ok(Server { name: Some(name), ending, thread: Some(thread) })
    }
}

fn failed(path: &Path, attempt: &'static str) -> impl FnOnce(io::Error) -> ServeError {
    move |cause| ServeError::Socket { path: path.into(), attempt, cause }
}

impl Drop for Server {
    /// Takes no more requests, lets answers that are on their way out for at most a second, and removes the socket.
    fn drop(&mut self) {
        drop(self.name.take());
        let _ = self.ending.send(true);
        if let Some(thread) = self.thread.take() {
            // A panic in it was reported by the hook.
            let _ = thread.join();
        }
    }
}

async fn accept(
    listener: UnixListener,
    verbs: Arc<dyn Verbs>,
    limits: Limits,
    mut ending: watch::Receiver<bool>,
    log: Log,
) -> io::Result<()> {
    let listener = tokio::net::UnixListener::from_std(listener)?;
    let slots = Arc::new(Semaphore::new(limits.connections));
    let routes = Routes::new(verbs, limits, ending.clone());
    let limits = Rc::new(limits);
    let mut failing = false;
    loop {
        let next = async {
            // Nobody is accepted before there is a place for him.
            let slot = slots.clone().acquire_owned().await;
            (slot, listener.accept().await)
        };
        let (slot, accepted) = tokio::select! {
            next = next => next,
            _ = ending.wait_for(|e| *e) => break,
        };
        match accepted {
            Ok((stream, _)) => {
                failing = false;
                let (routes, limits, ending) = (routes.clone(), limits.clone(), ending.clone());
                tokio::task::spawn_local(async move {
                    serve::connection(stream, routes, &limits, ending).await;
                    drop(slot);
                });
            }
            Err(e) => {
                if !std::mem::replace(&mut failing, true) {
                    log.warn(format_args!("control socket: cannot accept: {e}"));
                }
                tokio::time::sleep(RECOVER).await;
            }
        }
    }
    drop(listener);
    let all = u32::try_from(limits.connections).unwrap_or(u32::MAX);
    let _ = tokio::time::timeout(LAST_WORDS, slots.acquire_many(all)).await;
    Ok(())
}
