use super::events::{AnswerBody, Events, Follow, Query};
use super::{Action, Info, Limits, Verb, VerbError, Verbs};
use http_body_util::{BodyExt, Either, Full, LengthLimitError, Limited};
use hyper::body::{Body, Bytes};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use serde::Serialize;
use std::sync::Arc;
use tokio::sync::{Semaphore, watch};

type Answer = Response<AnswerBody>;

/// Answers requests. Clones answer for the same machine and share its limits.
#[derive(Clone)]
pub(super) struct Routes {
    verbs: Arc<dyn Verbs>,
    limits: Limits,
    /// Verbs that may be asked for at a time; held until the verb is done, also when its peer has gone.
    places: Arc<Semaphore>,
    /// One verb at a time, so that two peers' wishes do not mix.
    turn: Arc<Semaphore>,
    /// Verbs that wait for the guest; they take nobody's turn.
    waits: Arc<Semaphore>,
    /// Calls of `info` at a time.
    looks: Arc<Semaphore>,
    /// Those who follow events.
    followers: Arc<Semaphore>,
    ending: watch::Receiver<bool>,
}

/// What a path stands for.
enum Resource {
    Index,
    Vm,
    Metrics,
    Events,
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
    /// `ending` becomes true when the server ends.
    pub fn new(verbs: Arc<dyn Verbs>, limits: Limits, ending: watch::Receiver<bool>) -> Self {
        let semaphore = |n| Arc::new(Semaphore::new(n));
        Self {
            verbs,
            limits,
            places: semaphore(limits.verbs),
            turn: semaphore(1),
            waits: semaphore(limits.verbs),
            looks: semaphore(limits.connections),
            followers: semaphore(limits.followers),
            ending,
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
            Resource::Vm => self.look(|verbs| verbs.info()).await,
            Resource::Metrics => self.look(|verbs| verbs.metrics()).await,
            Resource::Events => match Query::parse(request.uri().query().unwrap_or("")) {
                Ok(query) => self.events(query, request.method() == Method::HEAD),
                Err(why) => failure(StatusCode::BAD_REQUEST, &why),
            },
            Resource::Verb(verb) => match self.action(verb, request).await {
                Ok(action) => self.act(action).await,
                Err(answer) => *answer,
            },
        }
    }

    /// Reads what a request for `verb` asks for in its body.
    async fn action<B>(&self, verb: Verb, request: Request<B>) -> Result<Action, Box<Answer>>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let body = self.body(request).await?;
        Action::parse(verb, &body).map_err(|why| {
            let what = format!("the body must be empty or a JSON object of {verb}'s options: {why}");
            Box::new(failure(StatusCode::BAD_REQUEST, &what))
        })
    }

    async fn body<B>(&self, request: Request<B>) -> Result<Bytes, Box<Answer>>
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
        match tokio::time::timeout(self.limits.body_time, body).await {
            Ok(Ok(body)) => Ok(body.to_bytes()),
            Ok(Err(e)) if e.is::<LengthLimitError>() => too_long(),
            Ok(Err(e)) => refuse(StatusCode::BAD_REQUEST, &format!("cannot read the body: {e}")),
            Err(_) => refuse(StatusCode::REQUEST_TIMEOUT, "the body did not come in time"),
        }
    }

    fn events(&self, query: Query, head: bool) -> Answer {
        let history = self.verbs.history();
        if !query.follow || head {
            return json(StatusCode::OK, &Events { events: history.since(query.since) });
        }
        let Ok(place) = self.followers.clone().try_acquire_owned() else {
            return failure(StatusCode::SERVICE_UNAVAILABLE, "too many follow the events");
        };
        // A peer that does not read is found out after a few of these.
        let pulse = self.limits.stall_time / 3;
        let body = Follow::new(history, query.since, self.ending.clone(), pulse, place);
        let mut answer = Response::new(Either::Right(body));
        answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
        answer
    }

    /// Answers with what `look` sees.
    async fn look<T: Serialize + Send + 'static>(&self, look: fn(&dyn Verbs) -> T) -> Answer {
        let Ok(place) = self.looks.clone().acquire_owned().await else { return gone() };
        let verbs = self.verbs.clone();
        // The machine promises not to take long; a mistake there must not stop the socket.
        let seen = tokio::task::spawn_blocking(move || {
            let seen = look(&*verbs);
            drop(place);
            seen
        });
        match seen.await {
            Ok(seen) => json(StatusCode::OK, &seen),
            Err(_) => failure(StatusCode::INTERNAL_SERVER_ERROR, "internal error"),
        }
    }

    async fn act(&self, action: Action) -> Answer {
        let takes_no_turn = action.takes_no_turn();
        let places = if takes_no_turn { &self.waits } else { &self.places };
        let Ok(place) = places.clone().try_acquire_owned() else {
            return failure(StatusCode::SERVICE_UNAVAILABLE, "too many requests are being carried out");
        };
        let turn = match takes_no_turn {
            true => None,
            false => match self.turn.clone().acquire_owned().await {
                Ok(turn) => Some(turn),
                Err(_) => return gone(),
            },
        };
        let verbs = self.verbs.clone();
        let done = tokio::task::spawn_blocking(move || {
            let done = verbs.act(action);
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
        "/v1/vm/metrics" => Some(Resource::Metrics),
        "/v1/vm/events" => Some(Resource::Events),
        _ => path.strip_prefix("/v1/vm/").and_then(|verb| verb.parse().ok()).map(Resource::Verb),
    }
}

fn index() -> Index {
    let verbs = Verb::ALL.iter().map(|v| format!("PUT /v1/vm/{v}"));
    let routes = ["GET /v1", "GET /v1/vm", "GET /v1/vm/metrics", "GET /v1/vm/events"]
        .map(String::from)
        .into_iter()
        .chain(verbs)
        .collect();
    Index { version: env!("CARGO_PKG_VERSION"), routes }
}

fn json<T: Serialize>(status: StatusCode, value: &T) -> Answer {
    // Strings, numbers and maps of them: there is nothing in it that JSON cannot hold.
    let mut body = serde_json::to_vec(value).unwrap_or_default();
    body.push(b'\n');
    let mut answer = Response::new(Either::Left(Full::new(body.into())));
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
