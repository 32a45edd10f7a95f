use drystone_hypervisor::Error;
use std::io;
use vmm_sys_util::errno;

/// The host's answer to an ioctl as an error that says what was tried. The sentence is only made on failure.
pub(crate) fn call<S: Into<String>>(attempt: impl FnOnce() -> S) -> impl FnOnce(errno::Error) -> Error {
    move |e| Error::Call { attempt: attempt().into(), cause: cause(e) }
}

pub(crate) fn cause(e: errno::Error) -> io::Error {
    io::Error::from_raw_os_error(e.errno())
}

pub(crate) fn invalid(attempt: impl Into<String>, why: impl Into<String>) -> Error {
    Error::Invalid { attempt: attempt.into(), why: why.into() }
}
