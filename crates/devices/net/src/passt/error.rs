use super::{Forward, Protocol};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

/// Why there is no network by passt, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PasstError {
    /// A setting makes no sense; says which, and what is allowed.
    #[error("passt: {0}")]
    Config(String),
    /// It cannot be started.
    #[error("cannot start `{}`: {cause}{}", program.display(), start(program, cause))]
    Start {
        /// The program.
        program: PathBuf,
        /// What the host said.
        cause: io::Error,
    },
    /// It was started, and ended at once.
    #[error("`{}` does not begin: {}{}", program.display(), said(messages), refused(messages))]
    Refused {
        /// The program.
        program: PathBuf,
        /// What it said, a line each.
        messages: Vec<String>,
    },
    /// It was started, and was not ready in time.
    #[error("`{}` is not ready after {seconds} s, and was ended: {}", program.display(), said(messages))]
    Slow {
        /// The program.
        program: PathBuf,
        /// How long it had.
        seconds: u64,
        /// What it said, a line each.
        messages: Vec<String>,
    },
    /// A port of the host that is to lead to the guest cannot.
    #[error("forward {forward}: cannot listen on port {} of the host: {cause}{}", forward.host, taken(forward, cause))]
    Forward {
        /// The forward.
        forward: Forward,
        /// What the host said.
        cause: io::Error,
    },
    /// The port is for an administrator.
    #[error("forward {forward}: ports below 1024 are for administrators: `sysctl -w net.ipv4.ip_unprivileged_port_start={}` gives them to everybody, or take another, as in {}", forward.host, other(forward))]
    Privileged {
        /// The forward.
        forward: Forward,
    },
    /// Nothing answers at a socket.
    #[error("cannot connect to the passt at {}: {cause}{}", path.display(), connect(path, cause))]
    Connect {
        /// The socket.
        path: PathBuf,
        /// What the host said.
        cause: io::Error,
    },
    /// A descriptor is of something else.
    #[error("the descriptor is not a connected stream socket: {0}")]
    NotAStream(io::Error),
}

fn said(messages: &[String]) -> String {
    if messages.is_empty() { "it says nothing".into() } else { messages.join("; ") }
}

fn start(program: &Path, error: &io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::NotFound if program == Path::new("passt") => {
            ": `apt install passt` installs it on Debian and Ubuntu, `dnf install passt` on Fedora"
        }
        ErrorKind::PermissionDenied => ": `chmod +x` makes it a program",
        _ => "",
    }
}

/// What to do about what passt complains of.
fn refused(messages: &[String]) -> String {
    let says = |what: &str| messages.iter().any(|line| line.contains(what));
    if says("user namespace") || says("isolating namespaces") {
        return format!(": it needs user namespaces, which this host does not permit: {}", user_namespaces());
    }
    if says("interface not usable") || says("routable interface") {
        return ": the host has no default route to be like: `ip route` shows its routes; name an interface that has an address and a default route of its own".into();
    }
    String::new()
}

/// How an administrator permits user namespaces, by what forbids them.
fn user_namespaces() -> String {
    let is = |name: &str, value: &str| {
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        std::fs::read_to_string(path).is_ok_and(|content| content.trim() == value)
    };
    let set = |what| format!("`sysctl -w {what}`, by an administrator, permits them");
    if is("kernel.unprivileged_userns_clone", "0") {
        set("kernel.unprivileged_userns_clone=1")
    } else if is("kernel.apparmor_restrict_unprivileged_userns", "1") {
        set("kernel.apparmor_restrict_unprivileged_userns=0")
    } else if is("user.max_user_namespaces", "0") {
        set("user.max_user_namespaces=15000")
    } else {
        "a container's or service's own rules may, such as seccomp or RestrictNamespaces=".into()
    }
}

fn taken(forward: &Forward, error: &io::Error) -> String {
    let letter = if forward.protocol == Protocol::Udp { 'u' } else { 't' };
    match error.kind() {
        ErrorKind::AddrInUse => format!(
            ": `ss -l{letter}np 'sport = :{}'` shows who has it; or take another, as in {}",
            forward.host,
            other(forward)
        ),
        ErrorKind::AddrNotAvailable => ": `ip address` shows the addresses that the host has".into(),
        _ => String::new(),
    }
}

/// The same with a port that nobody minds.
fn other(forward: &Forward) -> Forward {
    let host = if forward.host < 1024 { forward.host + 8000 } else { forward.host ^ 1 };
    Forward { host, ..*forward }
}

fn connect(path: &Path, error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
            format!(": `passt --socket {}` begins one", path.display())
        }
        ErrorKind::WouldBlock => ": it serves somebody else".into(),
        ErrorKind::PermissionDenied => {
            ": it is its user's: run as the same one, or give access to the socket".into()
        }
        _ => String::new(),
    }
}
