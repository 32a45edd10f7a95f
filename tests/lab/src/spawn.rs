//! Starting processes that end when we do.
//!
//! The one file with `unsafe` in it: what happens between `fork` and `exec`, and two ioctls without arguments.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

use rustix::io::FdFlags;
use rustix::process::{Pid, Signal};

/// What is done in the new process before the program starts.
#[derive(Debug, Default)]
pub(crate) struct Before {
    /// Descriptors that the program inherits under their own numbers.
    pub inherit: Vec<OwnedFd>,
    /// Become the leader of a new session.
    pub session: bool,
    /// Make stdin the controlling terminal (with `session`).
    pub terminal: bool,
    /// A `cgroup.procs` file to join.
    pub cgroup: Option<OwnedFd>,
}

/// Spawns `command` so that the kernel kills it when the calling *thread* ends, in whatever way.
///
/// The caller therefore stays in the thread for as long as it needs the process.
pub(crate) fn spawn(command: &mut Command, before: Before) -> io::Result<Child> {
    let parent = rustix::process::getpid();
    // SAFETY: the closure runs after fork in a process that may have had threads, so it may only make system calls:
    // it calls rustix functions, which are thin wrappers of one system call each, allocates nothing and takes no lock.
    unsafe {
        command.pre_exec(move || prepare(parent, &before));
    }
    command.spawn()
}

fn prepare(parent: Pid, before: &Before) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    // The parent may have died before the line above; then nobody would send that signal.
    if rustix::process::getppid() != Some(parent) {
        return Err(io::Error::from_raw_os_error(rustix::io::Errno::CANCELED.raw_os_error()));
    }
    if let Some(cgroup) = &before.cgroup {
        rustix::io::write(cgroup, b"0")?;
    }
    for descriptor in &before.inherit {
        rustix::io::fcntl_setfd(descriptor, FdFlags::empty())?;
    }
    if before.session {
        rustix::process::setsid()?;
    }
    if before.terminal {
        rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
    }
    Ok(())
}

/// `_IO(0x12, 97)`, from linux/fs.h: drop the cached blocks of a block device.
const BLKFLSBUF: u32 = 0x1261;
/// `_IO('R', 7)`, from linux/random.h: reseed the random number generator now.
const RNDRESEEDCRNG: u32 = 0x5207;

/// Drops the cached blocks of a block device.
pub(crate) fn flush_block_device(device: &impl AsFd) -> io::Result<()> {
    plain_ioctl::<BLKFLSBUF>(device.as_fd())
}

/// Makes the kernel's random numbers depend on what was written to `/dev/urandom` from now on.
pub(crate) fn reseed_random(device: &impl AsFd) -> io::Result<()> {
    plain_ioctl::<RNDRESEEDCRNG>(device.as_fd())
}

fn plain_ioctl<const OPCODE: u32>(device: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: both operations above take no argument and write nothing to this process's memory.
    unsafe { rustix::ioctl::ioctl(device, rustix::ioctl::NoArg::<OPCODE>::new())? };
    Ok(())
}
