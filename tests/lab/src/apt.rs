//! Packages from the machine's own Debian archive, without root and without touching the system's apt.

mod private;
mod sources;

pub(crate) use private::Apt;
#[cfg(test)]
pub(crate) use sources::parse_deb822;
