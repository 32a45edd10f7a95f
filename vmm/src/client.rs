//! The other end of the control socket, for the command line and for programs that do not want to speak HTTP.

mod follow;

use crate::control::{Action, Info};
use crate::events::Record;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixStream;
use tokio::task::LocalSet;

/// A longer answer is not one of ours.
const MAX_ANSWER: usize = 1 << 20;

/// Terabytes of memory on a slow disk are written in less.
const LONGEST_SNAPSHOT: Duration = Duration::from_secs(24 * 60 * 60);

/// What became of a request.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// Nobody listens there, or the host has no means left.
    #[error("control socket {}: cannot connect: {cause}", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// What the host said.
        cause: io::Error,
    },
    /// No answer came.
    #[error("control socket {}: no answer within {} seconds", path.display(), time.as_secs_f32())]
    Timeout {
        /// The socket.
        path: PathBuf,
        /// How long was waited.
        time: Duration,
    },
    /// What came is no answer.
    #[error("control socket {}: {what}", path.display())]
    Protocol {
        /// The socket.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// The machine said no.
    #[error("{why}")]
    Refused {
        /// The HTTP status: 409 when the request makes no sense in the machine's state.
        status: u16,
        /// Why.
        why: String,
    },
}

/// Speaks to one machine. Each call makes a connection of its own and blocks until the answer is there.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
    time: Duration,
}

#[derive(Deserialize)]
struct Failure {
    error: String,
}

#[derive(Deserialize)]
struct Events {
    events: Vec<Record>,
}

impl Client {
    /// For the socket at `socket`; a call takes at most `time`.
    pub fn new(socket: &Path, time: Duration) -> Self {
        Self { socket: socket.into(), time }
    }

    /// What is known of the machine.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn info(&self) -> Result<Info, ClientError> {
        self.blocking(self.request(Method::GET, "/v1/vm".into(), Vec::new()))
    }

    /// Counters and state of its parts, by name.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn metrics(&self) -> Result<BTreeMap<String, serde_json::Value>, ClientError> {
        self.blocking(self.request(Method::GET, "/v1/vm/metrics".into(), Vec::new()))
    }

    /// Asks for `action`, and returns how things are when it is done. One that waits for the guest may take so much longer.
    ///
    /// # Errors
    /// [`ClientError`]; [`ClientError::Refused`] when the machine says no.
    pub fn act(&self, action: Action) -> Result<Info, ClientError> {
        let more = match action {
            Action::Snapshot(_) => LONGEST_SNAPSHOT,
            _ => action.patience().unwrap_or_default(),
        };
        let patient = Self { socket: self.socket.clone(), time: self.time.saturating_add(more) };
        let path = format!("/v1/vm/{}", action.verb());
        self.blocking(patient.request(Method::PUT, path, action.body()))
    }

    /// The events after number `since` that are still known, oldest first; 0 for all.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn events(&self, since: u64) -> Result<Vec<Record>, ClientError> {
        let path = format!("/v1/vm/events?since={since}");
        let Events { events } = self.blocking(self.request(Method::GET, path, Vec::new()))?;
        Ok(events)
    }

    /// [`Client::info`] of many machines at once, in their order, so that one that hangs costs its time only once.
    pub fn infos(clients: &[Self]) -> Vec<Result<Info, ClientError>> {
        let Some(first) = clients.first() else { return Vec::new() };
        let all = first.blocking(async {
            let local = LocalSet::new();
            let tasks: Vec<_> = clients
                .iter()
                .cloned()
                .map(|c| {
                    local
                        .spawn_local(async move { c.request(Method::GET, "/v1/vm".into(), Vec::new()).await })
                })
                .collect();
            local.await;
            let mut infos = Vec::new();
            for (task, client) in tasks.into_iter().zip(clients) {
                infos.push(task.await.unwrap_or_else(|e| Err(client.protocol(&e))));
            }
            Ok(infos)
        });
        // Without a runtime all fail alike; the first says why, and the others cannot say more.
        all.unwrap_or_else(|e| vec![Err(e)])
    }

    fn protocol(&self, what: &dyn std::fmt::Display) -> ClientError {
        ClientError::Protocol { path: self.socket.clone(), what: what.to_string() }
    }

    fn connect_failed(&self, cause: io::Error) -> ClientError {
        ClientError::Connect { path: self.socket.clone(), cause }
    }

    fn blocking<T>(&self, work: impl Future<Output = Result<T, ClientError>>) -> Result<T, ClientError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.map_err(|e| self.connect_failed(e))?.block_on(work)
    }

    fn late(&self) -> ClientError {
        ClientError::Timeout { path: self.socket.clone(), time: self.time }
    }

    async fn request<T>(&self, method: Method, path: String, body: Vec<u8>) -> Result<T, ClientError>
    where
        T: DeserializeOwned,
    {
        let exchange = self.exchange(method, path, body, async |answer| {
            let status = answer.status();
            let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await;
            self.read(status, &body.map_err(|e| self.protocol(&e))?.to_bytes())
        });
        tokio::time::timeout(self.time, exchange).await.map_err(|_| self.late())?
    }

    /// Sends one request on a connection of its own, and has `read` take the answer from it.
    async fn exchange<T>(
        &self,
        method: Method,
        path: String,
        body: Vec<u8>,
        read: impl AsyncFnOnce(Response<Incoming>) -> Result<T, ClientError>,
    ) -> Result<T, ClientError> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|e| self.connect_failed(e))?;
        let request = Request::builder().method(method).uri(path).header(HOST, "drystone");
        let request = request.body(Full::<Bytes>::new(body.into())).map_err(|e| self.protocol(&e))?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|e| self.protocol(&e))?;
        let answer = async move {
            let answer = sender.send_request(request).await.map_err(|e| self.protocol(&e))?;
            read(answer).await
        };
        // The connection does the work while the answer is waited for; how it ends afterwards is of no interest.
        let mut answer = std::pin::pin!(answer);
        tokio::select! {
            answer = &mut answer => answer,
            _ = connection => answer.await,
        }
    }

    fn read<T: DeserializeOwned>(&self, status: StatusCode, body: &[u8]) -> Result<T, ClientError> {
        if status.is_success() {
            return serde_json::from_slice(body).map_err(|e| self.protocol(&e));
        }
        let why = serde_json::from_slice(body).map_or_else(|_| status.to_string(), |f: Failure| f.error);
        Err(ClientError::Refused { status: status.as_u16(), why })
    }
}

impl ClientError {
    /// Whether nobody listens at the socket: the machine is not there yet, or not any more.
    pub fn is_absent(&self) -> bool {
        use io::ErrorKind::{ConnectionRefused, NotFound};
        matches!(self, Self::Connect { cause, .. } if matches!(cause.kind(), NotFound | ConnectionRefused))
    }
}
