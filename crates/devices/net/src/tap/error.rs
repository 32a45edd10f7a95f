use std::io::{self, ErrorKind};

/// Why there is no tap interface, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TapError {
    /// No interface can be called that.
    #[error("`{0}` is no name of an interface: 1 to 15 characters are, without spaces and slashes")]
    Name(String),
    /// Nobody has made it.
    #[error("the host has no interface `{name}`: `ip tuntap add {name} mode tap{}` makes it, `ip link set {name} up` brings it up", queues(*pairs))]
    NoInterface {
        /// The interface.
        name: String,
        /// Pairs of queues that it was to have.
        pairs: u16,
    },
    /// It is there already.
    #[error("the host has an interface `{0}` already: leave the making of it away, or choose another name")]
    Exists(String),
    /// The host lets nobody make or open taps.
    #[error("cannot open /dev/net/tun: {0}{hint}", hint = tun(.0))]
    Tun(io::Error),
    /// It cannot be opened, or made.
    #[error("interface `{name}`: cannot attach a queue: {cause}{}", attach(name, *pairs, cause))]
    Attach {
        /// The interface.
        name: String,
        /// Pairs of queues that it was to have.
        pairs: u16,
        /// What the host said.
        cause: io::Error,
    },
    /// The host refused something else.
    #[error("interface `{name}`: cannot {attempt}: {cause}")]
    Host {
        /// The interface.
        name: String,
        /// What was tried.
        attempt: &'static str,
        /// What the host said.
        cause: io::Error,
    },
    /// It did not become a port of a bridge.
    #[error("interface `{name}`: cannot join bridge `{bridge}`: {cause}{}", join(bridge, cause))]
    Bridge {
        /// The interface.
        name: String,
        /// The bridge.
        bridge: String,
        /// What the host said.
        cause: io::Error,
    },
    /// A descriptor is of something else.
    #[error("the descriptor is not a queue of a tap interface: {0}")]
    NotATap(io::Error),
    /// It was opened in another way than is needed.
    #[error("interface `{name}`: its queue was opened without {lack}")]
    Flags {
        /// The interface.
        name: String,
        /// What is missing.
        lack: &'static str,
    },
    /// Queues of different interfaces, or none.
    #[error("the descriptors are not queues of one interface")]
    Several,
}

fn queues(pairs: u16) -> &'static str {
    if pairs > 1 { " multi_queue" } else { "" }
}

fn tun(error: &io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::NotFound => ": `modprobe tun` loads the module that makes it",
        ErrorKind::PermissionDenied => {
            ": its owner can give access, `chmod 666 /dev/net/tun`, which is safe: interfaces have owners of their own"
        }
        _ => "",
    }
}

fn attach(name: &str, pairs: u16, cause: &io::Error) -> String {
    match cause.raw_os_error() {
        Some(libc::EPERM) => format!(
            ": it belongs to somebody else, or is to be made: `ip tuntap add {name} mode tap user $USER{}`, by an administrator",
            queues(pairs)
        ),
        Some(libc::EBUSY) => ": another program has it".into(),
        Some(libc::EINVAL) if pairs > 1 => format!(
            ": was it made for several queues? `ip tuntap del {name} mode tap; ip tuntap add {name} mode tap multi_queue`"
        ),
        Some(libc::EINVAL) => format!(
            ": is it a tap, and was it made for one queue? `ip tuntap del {name} mode tap multi_queue; ip tuntap add {name} mode tap`, or use more pairs"
        ),
        Some(libc::E2BIG) => ": the host takes no more queues".into(),
        _ => String::new(),
    }
}

fn join(bridge: &str, cause: &io::Error) -> String {
    match cause.raw_os_error() {
        Some(libc::ENODEV | libc::EOPNOTSUPP) => {
            format!(": `ip link add {bridge} type bridge` makes it, `ip link set {bridge} up` brings it up")
        }
        Some(libc::EPERM) => ": an administrator can (CAP_NET_ADMIN)".into(),
        _ => String::new(),
    }
}
