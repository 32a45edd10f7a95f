use super::{Info, Limits, Verb, VerbError, Verbs};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body, Bytes};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use serde::Serialize;
use std::sync::Arc;
use tokio::sync::Semaphore;

type Answer = Response<Full<Bytes>>;

/// Answers requests. Clones answer for the same machine and share its limits.
#[derive(Clone)]
pub(super) struct Routes {
    verbs: Arc<dyn Verbs>,
    limits: Limits,
    /// Verbs that may be asked for at a time; held until the verb is done, also when its peer has gone.
    places: Arc<Semaphore>,
    /// One verb at a time, so that two peers' wishes do not mix.
    turn: Arc<Semaphore>,
    /// Calls of `info` at a time.
    looks: Arc<Semaphore>,
}

/// What a path stands for.
enum Resource {
    Index,
    Vm,
    Verb(Verb),
}

#[derive(Serialize)]
struct Failure {
    error: String,
}

#[derive(Serialize)]
struct Index {
    version: &'static str,
    routes: Vec<String>,
}

impl Routes {
    pub fn new(verbs: Arc<dyn Verbs>, limits: Limits) -> Self {
        let semaphore = |n| Arc::new(Semaphore::new(n));
        Self {
            verbs,
            limits,
            places: semaphore(limits.verbs),
            turn: semaphore(1),
            looks: semaphore(limits.connections),
        }
    }

    /// Answers a request; never fails.
    pub async fn answer<B>(&self, request: Request<B>) -> Answer
    where
        B: Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let Some(resource) = resource(request.uri().path()) else {
            return failure(StatusCode::NOT_FOUND, "no such path: GET /v1 lists what there is");
        };
        let allowed: &[Method] = match resource {
            Resource::Verb(_) => &[Method::PUT],
            _ => &[Method::GET, Method::HEAD],
        };
        if !allowed.contains(request.method()) {
            return wrong_method(request.method(), allowed);
        }
        match resource {
            Resource::Index => json(StatusCode::OK, &index()),
            Resource::Vm => self.info().await,
            Resource::Verb(verb) => match self.body(request).await {
                Ok(()) => self.act(verb).await,
                Err(answer) => *answer,
            },
        }
    }

    /// Reads the body of a verb, which says nothing yet.
    async fn body<B>(&self, request: Request<B>) -> Result<(), Box<Answer>>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let refuse = |status, why: &str| Err(Box::new(failure(status, why)));
        let too_long = || {
            let why = format!("the body may have {} bytes", self.limits.body);
            Err(Box::new(failure(StatusCode::PAYLOAD_TOO_LARGE, &why)))
        };
        // What a peer announces is refused before it is sent.
        if request.body().size_hint().lower() > self.limits.body as u64 {
            return too_long();
        }
        let body = Box::pin(Limited::new(request.into_body(), self.limits.body).collect());
        let bytes = match tokio::time::timeout(self.limits.body_time, body).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(e)) if e.is::<LengthLimitError>() => return too_long(),
            Ok(Err(e)) => return refuse(StatusCode::BAD_REQUEST, &format!("cannot read the body: {e}")),
            Err(_) => return refuse(StatusCode::REQUEST_TIMEOUT, "the body did not come in time"),
        };
        if bytes.iter().all(u8::is_ascii_whitespace) {
            return Ok(());
        }
        // An object, so that later versions can have options.
        let bad =
            |what: &str| refuse(StatusCode::BAD_REQUEST, &format!("the body must be empty or {{}}: {what}"));
        match serde_json::from_slice::<serde_json::Map<_, _>>(&bytes) {
            Ok(options) if options.is_empty() => Ok(()),
            Ok(_) => bad("there are no options"),
            Err(e) => bad(&e.to_string()),
        }
    }

    async fn info(&self) -> Answer {
        let Ok(look) = self.looks.clone().acquire_owned().await else { return gone() };
        let verbs = self.verbs.clone();
        // The machine promises not to take long; a mistake there must not stop the socket.
        let info = tokio::task::spawn_blocking(move || {
            let info = verbs.info();
            drop(look);
            info
        });
        match info.await {
            Ok(info) => json(StatusCode::OK, &info),
            Err(_) => failure(StatusCode::INTERNAL_SERVER_ERROR, "internal error"),
        }
    }

    async fn act(&self, verb: Verb) -> Answer {
        let Ok(place) = self.places.clone().try_acquire_owned() else {
            return failure(StatusCode::SERVICE_UNAVAILABLE, "too many requests are being carried out");
        };
        let Ok(turn) = self.turn.clone().acquire_owned().await else { return gone() };
        let verbs = self.verbs.clone();
        let done = tokio::task::spawn_blocking(move || {
            let done = verbs.act(verb);
            drop((turn, place));
            done
        });
        match done.await {
            Ok(Ok(info)) => json::<Info>(StatusCode::OK, &info),
            Ok(Err(VerbError::Illegal(why))) => failure(StatusCode::CONFLICT, &why),
            Ok(Err(VerbError::Failed(why))) => failure(StatusCode::INTERNAL_SERVER_ERROR, &why),
            Err(_) => failure(StatusCode::INTERNAL_SERVER_ERROR, "internal error"),
        }
    }
}

fn resource(path: &str) -> Option<Resource> {
    match path {
        "/v1" | "/v1/" => Some(Resource::Index),
        "/v1/vm" => Some(Resource::Vm),
        _ => path.strip_prefix("/v1/vm/").and_then(|verb| verb.parse().ok()).map(Resource::Verb),
    }
}

fn index() -> Index {
    let verbs = Verb::ALL.iter().map(|v| format!("PUT /v1/vm/{v}"));
    let routes = ["GET /v1".into(), "GET /v1/vm".into()].into_iter().chain(verbs).collect();
    Index { version: env!("CARGO_PKG_VERSION"), routes }
}

fn json<T: Serialize>(status: StatusCode, value: &T) -> Answer {
    // Strings, numbers and maps of them: there is nothing in it that JSON cannot hold.
    let mut body = serde_json::to_vec(value).unwrap_or_default();
    body.push(b'\n');
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

fn failure(status: StatusCode, why: &str) -> Answer {
    json(status, &Failure { error: why.into() })
}

fn gone() -> Answer {
    failure(StatusCode::SERVICE_UNAVAILABLE, "the machine is ending")
}

fn wrong_method(method: &Method, allowed: &[Method]) -> Answer {
    let allowed = allowed.iter().map(Method::as_str).collect::<Vec<_>>().join(", ");
    // A method is a token of any length: the answer names only those that are known.
    let known = matches!(method.as_str().len(), 0..=7);
    let method = if known { method.as_str() } else { "this method" };
    let mut answer =
        failure(StatusCode::METHOD_NOT_ALLOWED, &format!("{method} is not allowed here: use {allowed}"));
    if let Ok(allowed) = HeaderValue::from_str(&allowed) {
        answer.headers_mut().insert(ALLOW, allowed);
    }
    answer
}
