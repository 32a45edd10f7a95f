//! The command line of QEMU: what the emulated machine is made of.

use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use crate::guest::PORT;
use crate::tools::Tools;

/// The size of the disk with a job's files, in bytes; a snapshot depends on it, so it is the same for all.
pub(crate) const DISK_SIZE: u64 = 4 << 30;
/// The machine's kernel command line. A processor that the emulator has lost, which happens, ends the machine: whoever waits for it
/// hears of that after a minute.
const KERNEL_COMMAND_LINE: &str = "console=ttyS0 quiet panic=-1 tsc=reliable mitigations=off nokaslr cryptomgr.notests \
     random.trust_cpu=on audit=0 nowatchdog rcupdate.rcu_cpu_stall_timeout=60 sysctl.kernel.panic_on_rcu_stall=1";

/// What a job asks of the machine. Each shape has its own snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Bytes, whole MiB.
    pub memory: u64,
    pub processors: u8,
    /// Its time is the number of its instructions, at one a nanosecond.
    pub counted: bool,
}

/// What differs between the machines of one snapshot.
pub(crate) struct Wiring<'a> {
    pub tools: &'a Tools,
    pub shape: Shape,
    /// The file that is the machine's memory, and whether what the machine writes goes back to it.
    pub ram: &'a Path,
    pub ram_shared: bool,
    pub disk: &'a Path,
    pub console: &'a Path,
    /// Descriptor numbers of the control socket and of the job's port.
    pub control: i32,
    pub port: i32,
}

/// How a machine begins.
pub(crate) enum Start<'a> {
    /// By booting this kernel with this initramfs.
    Boot { kernel: &'a Path, initramfs: &'a Path },
    /// By waiting for a saved state.
    Resume,
}

/// The arguments that make the machine what it is; the same ones are part of a snapshot's key.
pub(crate) fn hardware() -> Vec<&'static str> {
    // Nested paging needs the AMD extensions: QEMU's emulation has those, and not Intel's.
    let machine = ["-M", "q35,memory-backend=ram", "-cpu", "max,+svm,+npt"];
    let bare = ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"];
    let devices = ["-device", "virtio-blk-pci,drive=job", "-device", "virtio-serial-pci"];
    [machine.as_slice(), &bare, &devices].concat()
}

/// How processors are emulated.
pub(crate) fn accelerator(shape: Shape) -> &'static [&'static str] {
    if shape.counted {
        &["-accel", "tcg,thread=single,tb-size=256", "-icount", "shift=0,sleep=off"]
    } else {
        &["-accel", "tcg,thread=multi,tb-size=256"]
    }
}

/// The kernel's command line.
pub(crate) fn kernel_command_line() -> &'static str {
    KERNEL_COMMAND_LINE
}

/// The whole command.
pub(crate) fn command(wiring: &Wiring<'_>, start: &Start<'_>) -> Command {
    let mut command = wiring.tools.qemu.command();
    for dir in &wiring.tools.firmware {
        command.arg("-L").arg(dir);
    }
    // Devices are made in the order in which they are named, and the objects they refer to come first.
    let shared = if wiring.ram_shared { "on" } else { "off" };
    let ram = format!("memory-backend-file,id=ram,size={},share={shared},mem-path=", wiring.shape.memory);
    command.arg("-object").arg(with_path(&ram, wiring.ram));
    command.arg("-m").arg(format!("{}M", wiring.shape.memory >> 20));
    command.arg("-smp").arg(wiring.shape.processors.to_string());
    command.args(accelerator(wiring.shape));
    command
        .arg("-drive")
        .arg(with_path("if=none,id=job,format=raw,cache=unsafe,file.locking=off,file=", wiring.disk));
    command.args(hardware());
    command.arg("-serial").arg(with_path("file:", wiring.console));
    command.arg("-chardev").arg(format!("socket,id=control,server=off,fd={}", wiring.control));
    command.args(["-mon", "chardev=control,mode=control"]);
    command.arg("-chardev").arg(format!("socket,id=port,server=off,fd={}", wiring.port));
    command.arg("-device").arg(format!("virtserialport,chardev=port,name={PORT}"));
    match start {
        Start::Resume => command.args(["-incoming", "defer"]),
        Start::Boot { kernel, initramfs } => command
            .arg("-kernel")
            .arg(kernel)
            .arg("-initrd")
            .arg(initramfs)
            .args(["-append", KERNEL_COMMAND_LINE]),
    };
    command
}

/// Appends a path to an option; QEMU wants commas doubled.
fn with_path(option: &str, path: &Path) -> OsString {
    let path = path.to_string_lossy().replace(',', ",,");
    OsString::from(format!("{option}{path}"))
}
