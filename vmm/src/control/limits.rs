use std::time::Duration;

/// What a peer of the control socket may take up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections at a time. More wait in the socket's backlog.
    pub connections: usize,
    /// Verbs being carried out or waiting for it, and apart from them as many that wait for the guest. More are answered with
    /// status 503.
    pub verbs: usize,
    /// Peers that follow the events; less than `connections`, so that others get through. More are answered with status 503.
    pub followers: usize,
    /// Bytes of a request body; more are answered with status 413.
    pub body: usize,
    /// Bytes of a request line with its headers; more are answered with status 431. At least 8192.
    pub head: usize,
    /// Header fields of a request; more are answered with status 431.
    pub headers: usize,
    /// Time for the head of a request, counted from the end of the one before, so also how long a connection may be
    /// idle; then it is closed.
    pub head_time: Duration,
    /// Time for the body of a request; then it is answered with status 408.
    pub body_time: Duration,
    /// Time in which a connection must make progress when the peer does not read its answers; then it is closed.
    pub stall_time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 16,
            verbs: 4,
            followers: 8,
            body: 64 << 10,
            head: 16 << 10,
            headers: 64,
            head_time: Duration::from_secs(10),
            body_time: Duration::from_secs(10),
            stall_time: Duration::from_secs(30),
        }
    }
}
