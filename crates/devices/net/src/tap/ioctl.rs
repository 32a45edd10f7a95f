//! The kernel's calls for tap devices and interfaces (if_tun.h, netdevice(7)).
#![allow(unsafe_code)]

use crate::Offloads;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use std::ffi::{c_int, c_short, c_uint, c_ulong, c_void};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// Frames, without a header of the kernel's own before them, with virtio's.
const FLAGS: c_int = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;

/// sockios.h; libc does not have it.
const SIOCBRADDIF: libc::Ioctl = 0x89a2;

/// What the kernel calls each.
const OFFLOADS: [(Offloads, c_uint); 7] = [
    (Offloads::CHECKSUM, libc::TUN_F_CSUM),
    (Offloads::TSO4, libc::TUN_F_TSO4),
    (Offloads::TSO6, libc::TUN_F_TSO6),
    (Offloads::ECN, libc::TUN_F_TSO_ECN),
    (Offloads::UFO, libc::TUN_F_UFO),
    (Offloads::USO4, libc::TUN_F_USO4),
    (Offloads::USO6, libc::TUN_F_USO6),
];

/// # Safety
/// What `request` makes the kernel do with `argument` must be allowed.
unsafe fn call(fd: BorrowedFd<'_>, request: libc::Ioctl, argument: *mut c_void) -> io::Result<()> {
    // SAFETY: the descriptor is open; the rest is the caller's promise.
    let done = unsafe { libc::ioctl(fd.as_raw_fd(), request, argument) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Calls that take a number by value.
fn with_number(fd: BorrowedFd<'_>, request: libc::Ioctl, number: c_ulong) -> io::Result<()> {
    // SAFETY: the kernel takes the argument as a number.
    unsafe { call(fd, request, std::ptr::without_provenance_mut(number as usize)) }
}

/// Calls that take a number by address.
fn with_int(fd: BorrowedFd<'_>, request: libc::Ioctl, mut number: c_int) -> io::Result<()> {
    // SAFETY: the kernel reads an int there.
    unsafe { call(fd, request, (&raw mut number).cast()) }
}

/// Calls that read, and may change, a request.
fn with_request(fd: BorrowedFd<'_>, request: libc::Ioctl, ifreq: &mut libc::ifreq) -> io::Result<()> {
    // SAFETY: the kernel reads and writes a whole ifreq there.
    unsafe { call(fd, request, (ifreq as *mut libc::ifreq).cast()) }
}

fn request(name: &str) -> libc::ifreq {
    // SAFETY: zeros are a valid ifreq: all of it is numbers, and pointers that the calls used here do not look at.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays zero.
    let room = request.ifr_name.iter_mut().take(libc::IFNAMSIZ - 1);
    room.zip(name.bytes()).for_each(|(to, from)| *to = from.cast_signed());
    request
}

fn name_of(request: &libc::ifreq) -> String {
    let bytes = request.ifr_name.iter().map(|c| c.cast_unsigned()).take_while(|b| *b != 0).collect();
    String::from_utf8(bytes).unwrap_or_default()
}

/// Makes `queue` one of the interface's, which is made if there is none. Gives its name.
pub(super) fn attach(queue: BorrowedFd<'_>, name: &str, several: bool) -> io::Result<String> {
    let mut request = request(name);
    let flags = FLAGS | if several { libc::IFF_MULTI_QUEUE } else { 0 };
    request.ifr_ifru.ifru_flags = flags as c_short;
    with_request(queue, libc::TUNSETIFF, &mut request)?;
    Ok(name_of(&request))
}

/// A descriptor of this process, by its number.
pub(super) fn inherit(number: i32) -> io::Result<OwnedFd> {
    // SAFETY: a number that is open or not: the kernel says so. Only another descriptor of the same is kept of it, and nothing is closed.
    let fd = unsafe { BorrowedFd::borrow_raw(number.max(0)) };
    let own = rustix::io::fcntl_dupfd_cloexec(fd, 3)?;
    rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::CLOEXEC)?;
    Ok(own)
}

/// The name of a queue's interface, and the flags that it was opened with.
pub(super) fn interface_of(queue: BorrowedFd<'_>) -> io::Result<(String, c_int)> {
    let mut request = request("");
    with_request(queue, libc::TUNGETIFF, &mut request)?;
    // SAFETY: this call sets the flags.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    Ok((name_of(&request), c_int::from(flags.cast_unsigned())))
}

/// What a queue should have been opened with, and was not.
pub(super) fn lacks(flags: c_int, queues: usize) -> Option<&'static str> {
    let needs = [
        (libc::IFF_TAP, "IFF_TAP"),
        (libc::IFF_NO_PI, "IFF_NO_PI"),
        (libc::IFF_VNET_HDR, "IFF_VNET_HDR"),
        (libc::IFF_MULTI_QUEUE, "IFF_MULTI_QUEUE"),
    ];
    let needs = needs.get(..if queues > 1 { 4 } else { 3 }).unwrap_or_default();
    needs.iter().find(|(flag, _)| flags & flag == 0).map(|(_, name)| *name)
}

/// Every frame has a header of `len` bytes, little-endian.
pub(super) fn set_header(queue: BorrowedFd<'_>, len: usize) -> io::Result<()> {
    with_int(queue, libc::TUNSETVNETHDRSZ, len as c_int)?;
    with_int(queue, libc::TUNSETVNETLE, 1)
}

/// What the kernel can do. None of it is on afterwards.
pub(super) fn offloads(queue: BorrowedFd<'_>) -> io::Result<Offloads> {
    let old = Offloads::CHECKSUM | Offloads::TSO4 | Offloads::TSO6 | Offloads::ECN;
    let mut known = old;
    // Since kernel 6.2, both or none; and fragments, which some kernels had no more.
    for more in [Offloads::USO4 | Offloads::USO6, Offloads::UFO] {
        if set_offloads(queue, known | more).is_ok() {
            known = known | more;
        }
    }
    set_offloads(queue, Offloads::NONE)?;
    Ok(known)
}

/// What may be left to do in frames that come.
pub(super) fn set_offloads(queue: BorrowedFd<'_>, offloads: Offloads) -> io::Result<()> {
    let bits = OFFLOADS.iter().filter(|(own, _)| offloads.contains(*own));
    with_number(queue, libc::TUNSETOFFLOAD, bits.fold(0, |all, (_, bit)| all | c_ulong::from(*bit)))
}

/// Whether frames come through this queue.
pub(super) fn set_attached(queue: BorrowedFd<'_>, attached: bool) -> io::Result<()> {
    let mut request = request("");
    let flags = if attached { libc::IFF_ATTACH_QUEUE } else { libc::IFF_DETACH_QUEUE };
    request.ifr_ifru.ifru_flags = flags as c_short;
    with_request(queue, libc::TUNSETQUEUE, &mut request)
}

/// Whether there is an interface of that name, of whatever kind, in the network namespace of this thread.
pub(super) fn exists(name: &str) -> bool {
    Interface::new(name).is_ok_and(|it| rustix::net::netdevice::name_to_index(&it.socket, name).is_ok())
}

/// An interface of the host, of whatever kind.
pub(super) struct Interface {
    socket: OwnedFd,
    name: String,
}

impl Interface {
    pub fn new(name: &str) -> io::Result<Self> {
        let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
        Ok(Self { socket, name: name.into() })
    }

    pub fn set_mtu(&self, mtu: u16) -> io::Result<()> {
        let mut request = request(&self.name);
        request.ifr_ifru.ifru_mtu = mtu.into();
        with_request(self.socket.as_fd(), libc::SIOCSIFMTU as libc::Ioctl, &mut request)
    }

    pub fn set_up(&self) -> io::Result<()> {
        let mut request = request(&self.name);
        with_request(self.socket.as_fd(), libc::SIOCGIFFLAGS as libc::Ioctl, &mut request)?;
        // SAFETY: the call has set the flags.
        let flags = unsafe { request.ifr_ifru.ifru_flags };
        request.ifr_ifru.ifru_flags = flags | libc::IFF_UP as c_short;
        with_request(self.socket.as_fd(), libc::SIOCSIFFLAGS as libc::Ioctl, &mut request)
    }

    /// Becomes a port of a bridge.
    pub fn join(&self, bridge: &str) -> io::Result<()> {
        let mut own = request(&self.name);
        with_request(self.socket.as_fd(), libc::SIOCGIFINDEX as libc::Ioctl, &mut own)?;
        let mut request = request(bridge);
        // SAFETY: the call has set the index.
        request.ifr_ifru.ifru_ifindex = unsafe { own.ifr_ifru.ifru_ifindex };
        with_request(self.socket.as_fd(), SIOCBRADDIF, &mut request)
    }
}
