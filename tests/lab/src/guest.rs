//! Life inside of the emulated machine: its first process, and the one that waits for a job.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use rustix::mount::{MountFlags, mount};
use rustix::process::WaitOptions;
use rustix::system::{RebootCommand, finit_module, reboot, sethostname};
use rustix::time::{ClockId, Timespec, clock_settime};

use crate::executor::{Containment, Link, execute};
use crate::spawn::{flush_block_device, reseed_random};
use crate::wire::{End, Kind, Request, parse};

/// The name of the virtio port.
pub(crate) const PORT: &str = "lab";
/// Where the job's files are.
pub(crate) const JOB: &str = "/job";
const DISK: &str = "/dev/vda";

/// What is mounted before anything else: type, place; the last ones may be missing from a kernel.
const MOUNTS: [(&str, &str); 9] = [
    ("proc", "/proc"),
    ("sysfs", "/sys"),
    ("devtmpfs", "/dev"),
    ("devpts", "/dev/pts"),
    ("tmpfs", "/dev/shm"),
    ("tmpfs", "/tmp"),
    ("tmpfs", "/run"),
    ("cgroup2", "/sys/fs/cgroup"),
    ("securityfs", "/sys/kernel/security"),
];
const OPTIONAL: [&str; 1] = ["securityfs"];

/// True in a process that has to call [`agent`]: the first one of a machine, or one whose first argument is `agent`.
pub fn is_agent() -> bool {
    rustix::process::getpid().is_init()
        || std::env::args_os().nth(1).is_some_and(|argument| argument == "agent")
}

/// Does what the machine's side has to do; never returns while the machine is of use.
///
/// This is the whole of `drystone-lab agent`. It means to run as the first process of a machine made for it, and refuses
/// to run anywhere else.
pub fn agent() -> ExitCode {
    let first = rustix::process::getpid().is_init();
    if !first && !Path::new("/modules").is_dir() {
        eprintln!("drystone-lab: `agent` is for the inside of the lab's machine only");
        return ExitCode::from(2);
    }
    let result = if first { become_init() } else { serve() };
    if let Err(error) = &result {
        eprintln!("lab: {error}");
    }
    if first {
        // Returning would be a kernel panic.
        let _ = reboot(RebootCommand::PowerOff);
    }
    ExitCode::from(u8::from(result.is_err()))
}

fn failed(what: impl Into<String>) -> impl FnOnce(io::Error) -> io::Error {
    let what = what.into();
    move |error| io::Error::new(error.kind(), format!("cannot {what}: {error}"))
}

/// The first process: sets the machine up, then only collects orphans until the server ends.
fn become_init() -> io::Result<()> {
    for (kind, place) in MOUNTS {
        fs::create_dir_all(place).ok();
        let mounted = mount(kind, place, kind, MountFlags::empty(), None).map_err(io::Error::from);
        if !OPTIONAL.contains(&kind) {
            mounted.map_err(failed(format!("mount {place}")))?;
        }
    }
    load_modules()?;
    let _ = sethostname(b"lab");
    let _ = Command::new("/bin/ip").args(["link", "set", "lo", "up"]).status();
    let kvm = fs::metadata("/dev/kvm").map_err(failed("find /dev/kvm"))?;
    let mut permissions = kvm.permissions();
    permissions.set_mode(0o666);
    fs::set_permissions("/dev/kvm", permissions).map_err(failed("open /dev/kvm to everyone"))?;
    let server = Command::new("/proc/self/exe").arg("agent").spawn().map_err(failed("start the server"))?;
    loop {
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some((pid, _))) if u32::try_from(pid.as_raw_nonzero().get()) == Ok(server.id()) => {
                return Ok(());
            }
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn load_modules() -> io::Result<()> {
    let mut files: Vec<PathBuf> = fs::read_dir("/modules")?.flatten().map(|entry| entry.path()).collect();
    files.sort();
    for file in files {
        let loaded = File::open(&file).and_then(|module| Ok(finit_module(module, c"", 0)?));
        loaded.map_err(failed(format!("load {}", file.display())))?;
    }
    Ok(())
}

/// Waits for the one job of this machine's life and runs it.
fn serve() -> io::Result<()> {
    let path = port()?;
    let port = File::options().read(true).write(true).open(&path).map_err(failed("open the port"))?;
    let mut link = Link::new(port.into())?;
    let containment =
        Containment::cgroup(Path::new("/sys/fs/cgroup/job")).map_err(failed("make a cgroup"))?;
    link.send(Kind::Ready, &[]);
    link.flush()?;
    let request = receive(&mut link)?;
    match prepare(&request) {
        Ok(()) => execute(&request, &mut link, Path::new(JOB), &containment)?,
        Err(error) => {
            link.send_json(Kind::End, &End::Failed(error.to_string()));
            link.flush()?;
        }
    }
    // The host ends the machine; being faster would cut off what it has not read yet.
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}

fn receive(link: &mut Link) -> io::Result<Request> {
    loop {
        link.block_for_input()?;
        if !link.exchange()? {
            // Nobody has connected to the port's other end yet.
            std::thread::sleep(Duration::from_millis(1));
        }
        if let Some((kind, payload)) = link.next().map_err(io::Error::other)?
            && kind == Kind::Run
        {
            return parse(payload).map_err(io::Error::other);
        }
    }
}

/// Makes the machine fit for a job after it may have slept in a snapshot.
fn prepare(request: &Request) -> io::Result<()> {
    if let Some((seconds, nanoseconds)) = request.clock {
        let now = Timespec { tv_sec: seconds, tv_nsec: nanoseconds };
        clock_settime(ClockId::Realtime, now).map_err(|error| failed("set the clock")(error.into()))?;
    }
    let mut random = File::options().write(true).open("/dev/urandom")?;
    io::Write::write_all(&mut random, &request.seed)?;
    reseed_random(&random).map_err(failed("reseed the random numbers"))?;
    // The disk's content is another one than when the machine first looked at it.
    let disk = File::open(DISK).map_err(failed(format!("open {DISK}")))?;
    flush_block_device(&disk).map_err(failed("forget the disk's old content"))?;
    fs::create_dir_all(JOB)?;
    mount(DISK, JOB, "ext4", MountFlags::NOATIME, None)
        .map_err(|error| failed("mount the job's files")(error.into()))?;
    // The file system's own, and of no use to a job.
    let _ = fs::remove_dir(Path::new(JOB).join("lost+found"));
    Ok(())
}

/// The device of the port; it may appear a little after its driver.
fn port() -> io::Result<PathBuf> {
    let begun = Instant::now();
    loop {
        for entry in fs::read_dir("/sys/class/virtio-ports").into_iter().flatten().flatten() {
            if fs::read_to_string(entry.path().join("name")).is_ok_and(|name| name.trim() == PORT) {
                return Ok(Path::new("/dev").join(entry.file_name()));
            }
        }
        if begun.elapsed() > Duration::from_secs(30) {
            return Err(io::Error::new(io::ErrorKind::NotFound, "there is no virtio port for jobs"));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
