//! Whole-workspace and whole-machine tests; they live in `tests/`. This library is what the latter share: a stock
//! kernel, a small guest, and a `drystone` to boot them with, as files of a job in the lab.
#![allow(clippy::expect_used)]

mod tools;

pub use tools::{TOOLS, tools_disk};

use drystone_lab::initramfs::{Builder, LOAD_MODULES};
use drystone_lab::{Error as LabError, Job, Lab, Outcome, Progress, Reference, Version, build_binary};
use std::path::PathBuf;
use std::time::Duration;
use tempfile::TempDir;

/// The guest's first program: reports what it sees, then does what `test=…` on its command line says.
const INIT: &str = r#"#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
echo "report release $(uname -r)"
echo "report cpus $(grep -c ^processor /proc/cpuinfo)"
echo "report memory_kib $(awk '/^MemTotal/ { print $2 }' /proc/meminfo)"
echo "report loader $(cat /proc/sys/kernel/bootloader_type)"
sed -n 's/^\([0-9a-f]*-[0-9a-f]*\) : System RAM.*/iomem \1/p' /proc/iomem
echo "report ttyS0 $(cat /sys/class/tty/ttyS0/type)"
echo "report selftests_off $(dmesg | grep -c 'alg: self-tests disabled')"
echo "report date $(date +%s)"
dmesg -r | grep '^<[0-4]>' | sed 's/^<[0-9]>\[[ 0-9.]*\] /warning /'
dmesg | grep -iE 'firmware (bug|info)|acpi.*(error|exception|warning)|unchecked msr|not reserved|not using (mmconfig|ecam)' | sed 's/^/complaint /'
echo "report done"
for word in $(cat /proc/cmdline); do case $word in test=*) test=${word#test=};; esac; done
case $test in
count) i=0; while :; do i=$((i+1)); echo "count $i"; usleep 50000; done;;
echo) stty -echo; echo ready; while read -r line; do echo "heard $line"; [ "$line" = end ] && break; done;;
button)
    @LOAD_MODULES@
    mkdir -p /etc/acpi/PWRF; printf '#!/bin/sh\necho button pressed > /dev/console\npoweroff -f\n' > /etc/acpi/PWRF/00000080
    chmod +x /etc/acpi/PWRF/00000080
    acpid -f -l /dev/null & until ls -l /proc/$!/fd | grep -q /dev/input/; do usleep 100000; done
    echo ready; while :; do sleep 1; done;;
cad)
    echo 0 > /proc/sys/kernel/ctrl-alt-del
    trap 'n=$((n+1)); echo "ctrl-alt-del $n"; [ $n = 2 ] && poweroff -f' INT
    echo ready; while :; do sleep 1; done;;
nmi)
    @LOAD_MODULES@
    echo ready; while :; do
        set -- $(grep NMI: /proc/interrupts); [ "$2 $3" = "$seen" ] || echo "nmi $2 $3"; seen="$2 $3"
        [ "$3" = 2 ] && [ -z "$armed" ] && armed=1 && echo 1 > /proc/sys/kernel/unknown_nmi_panic && echo armed
        usleep 100000
    done;;
panic)
    @LOAD_MODULES@
    echo c > /proc/sysrq-trigger;;
reboot) reboot -f;;
crash) echo c > /proc/sysrq-trigger;;
esac
poweroff -f
"#;

/// What it may load.
const GUEST_MODULES: &[&str] = &["button", "evdev", "pvpanic_mmio"];

/// A lab with everything that a whole-machine test needs.
pub struct Bench {
    /// The lab.
    pub lab: Lab,
    vmm: PathBuf,
    dir: TempDir,
}

impl Bench {
    /// Prepares the lab and builds `drystone`.
    ///
    /// # Panics
    /// When that fails.
    pub fn new() -> Self {
        let lab = Lab::prepare(&Progress::stderr()).expect("the lab");
        let vmm = build_binary("drystone", "drystone").expect("drystone builds");
        Self { lab, vmm, dir: TempDir::new().expect("a temporary directory") }
    }

    /// A job whose script finds `drystone`, `guest.cpio` and, as `vmlinux` and `bzImage`, a kernel of `version`.
    ///
    /// # Panics
    /// When the guest cannot be packed.
    pub fn job(&self, version: Version, script: &str) -> Job {
        self.job_of(version, INIT, GUEST_MODULES, script)
    }

    /// A [`job`](Self::job) whose guest starts with `init`, in which `@LOAD_MODULES@` stands for the loading of `modules`.
    ///
    /// # Panics
    /// When the guest cannot be packed.
    pub fn job_of(&self, version: Version, init: &str, modules: &[&str], script: &str) -> Job {
        self.job_with(version, init, modules, |guest| guest, script)
    }

    /// A [`job_of`](Self::job_of) with `more` in the guest.
    ///
    /// # Panics
    /// When the guest cannot be packed.
    pub fn job_with(
        &self,
        version: Version,
        init: &str,
        modules: &[&str],
        more: impl FnOnce(Builder) -> Builder,
        script: &str,
    ) -> Job {
        let kernel = self.lab.kernel(version);
        let initrd = self.guest_with(version, init, modules, more);
        let prelude = "export DRYSTONE_RUNTIME_DIR=$PWD/run PATH=$PWD:$PATH\n";
        Job::shell(format!("{prelude}{script}"))
            .file(&self.vmm, "drystone")
            .file(&initrd, "guest.cpio")
            .file(&kernel.vmlinux, "vmlinux")
            .file(&kernel.bzimage, "bzImage")
            .time_limit(Duration::from_secs(300))
    }

    fn guest(&self, version: Version, init: &str, modules: &[&str]) -> PathBuf {
        self.guest_with(version, init, modules, |guest| guest)
    }

    fn guest_with(
        &self,
        version: Version,
        init: &str,
        modules: &[&str],
        more: impl FnOnce(Builder) -> Builder,
    ) -> PathBuf {
        let initrd = self.dir.path().join(format!("guest-{}.cpio", version.name()));
        let init = init.replace("@LOAD_MODULES@", LOAD_MODULES);
        let guest = Builder::new().busybox(self.lab.busybox()).expect("busybox").init(&init);
        let guest = guest.modules(self.lab.kernel(version), modules).expect("modules");
        more(guest).write_to(&initrd).expect("the guest's initramfs");
        initrd
    }

    /// What the guest says on its console when the same kernel boots on QEMU's q35 machine, with this command line.
    ///
    /// # Panics
    /// When the lab cannot boot it.
    pub fn on_qemu(&self, version: Version, cmdline: &str, cpus: u32) -> String {
        let (kernel, initramfs) =
            (self.lab.kernel(version).bzimage.clone(), self.guest(version, INIT, GUEST_MODULES));
        let (memory, time_limit) = (256 << 20, Duration::from_secs(300));
        let guest = Reference { kernel, initramfs, cmdline: cmdline.into(), cpus, memory, time_limit };
        let said = guest.boot(&self.lab).expect("QEMU boots the kernel");
        println!("--- on QEMU\n{said}");
        said
    }

    /// Runs a job and gives what it said; everything is shown if the test fails.
    ///
    /// Emulated processors that are busy at once are not to be trusted ([`Job::processors`]): now and then they corrupt a kernel's
    /// stack, lose an interrupt for ever, or a guest dies of a triple fault. So a job on more than one that ends so is run again, once, and
    /// that is said: a defect of ours that shows twice in a row still fails the test. On one processor a guest that dies or stands
    /// still fails the test at once.
    ///
    /// # Panics
    /// When the lab cannot run it.
    pub fn run(&self, job: Job) -> Outcome {
        let (again, excused) = (job.again(), job.emulated_processors() > 1);
        let outcome = match job.run(&self.lab) {
            Err(error @ LabError::Machine { .. }) => {
                eprintln!("RUN AGAIN, because of the emulator: {error}");
                again.run(&self.lab)
            }
            Ok(outcome) if excused && (outcome.code == HUNG || outcome.code == OUT_OF_TIME) => {
                eprintln!(
                    "RUN AGAIN, because a guest stood still: {}{}",
                    outcome.text(),
                    outcome.error_text()
                );
                again.run(&self.lab)
            }
            Ok(outcome) if excused && outcome.error_text().contains(TRIPLE_FAULT) => {
                eprintln!("RUN AGAIN, because a guest died: {}{}", outcome.text(), outcome.error_text());
                again.run(&self.lab)
            }
            done => done,
        };
        let outcome = outcome.expect("the lab runs the job");
        println!("{}\n--- stderr\n{}--- exit code {}", outcome.text(), outcome.error_text(), outcome.code);
        outcome
    }
}

/// The exit code of a script that has waited in vain for a guest.
const HUNG: i32 = 99;
/// The exit code of a job whose time was up.
const OUT_OF_TIME: i32 = 124;
/// What `drystone` says of a guest that died of one.
const TRIPLE_FAULT: &str = "the guest crashed: triple fault";

impl Default for Bench {
    fn default() -> Self {
        Self::new()
    }
}

/// Kernel parameters for a guest whose warnings are looked at. How long a vCPU waits for a processor is the host's doing, and the host
/// may be an emulated machine on a busy one. A kernel's watchdogs cannot tell that from a lock-up, so they get the patience that
/// the tests themselves have (the most that the kernel takes); a guest that hangs still says so.
pub const PATIENT: &str = "watchdog_thresh=60 rcupdate.rcu_cpu_stall_timeout=300";

/// Whether a kernel's warning only says how long something took. The keyboard's driver gives it 200 ms to answer, and the second
/// warning says that the answer was there, later.
pub fn is_lateness(warning: &str) -> bool {
    const LATE: &[&str] = &[
        "hrtimer: interrupt took ",
        "clocksource: Long readout interval",
        "perf: interrupt took too long",
        "sched: DL replenish lagged too much",
        "atkbd serio0: Failed to enable keyboard on isa0060/serio0",
        "atkbd serio0: Spurious ACK on isa0060/serio0.",
    ];
    LATE.iter().any(|start| warning.starts_with(start))
}

/// Whether these kernels warn so of a machine like this one under any VMM: of this processor also on QEMU's q35 machine, or of how
/// long something took. Anything else is new.
pub fn is_known_warning(warning: &str) -> bool {
    warning == "amd_pstate: the _CPC object is not present in SBIOS or ACPI disabled" || is_lateness(warning)
}

/// The value that a guest's or a script's line `report NAME VALUE` gives.
pub fn report<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let prefix = format!("report {name} ");
    text.lines().find_map(|line| line.trim_end().strip_prefix(&prefix))
}

/// Whether the full matrices were asked for (`DRYSTONE_FULL=1`). If not, says out loud that `what` is not run.
pub fn full(what: &str) -> bool {
    let asked = std::env::var_os("DRYSTONE_FULL").is_some();
    if !asked {
        eprintln!("NOT RUN: {what}; DRYSTONE_FULL=1 runs it");
    }
    asked
}
