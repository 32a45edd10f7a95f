//! Whether passt will get the ports that it is to forward: one that it gets for one version of IP only it does not complain of.
use super::{Forward, PasstError, Protocol};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};

/// Looks whether each port is free.
pub(super) fn check(forwards: &[Forward]) -> Result<(), PasstError> {
    for forward in forwards {
        let addresses = match forward.address {
            Some(address) => vec![address],
            None => vec![Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()],
        };
        for address in addresses {
            match take(forward, address) {
                Err(e) if forward.address.is_none() && is_no_version(&e) => {}
                Err(cause) if cause.kind() == ErrorKind::PermissionDenied => {
                    return Err(PasstError::Privileged { forward: *forward });
                }
                Err(cause) => return Err(PasstError::Forward { forward: *forward, cause }),
                Ok(()) => {}
            }
        }
    }
    Ok(())
}

fn take(forward: &Forward, address: IpAddr) -> io::Result<()> {
    let place = SocketAddr::new(address, forward.host);
    match forward.protocol {
        Protocol::Tcp => TcpListener::bind(place).map(drop),
        Protocol::Udp => UdpSocket::bind(place).map(drop),
    }
}

/// The host does without this version of IP.
fn is_no_version(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL))
}
