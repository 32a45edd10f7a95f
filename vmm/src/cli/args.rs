mod images;
mod net;
mod snapshots;

pub(super) use images::{DiskCreateArgs, DiskInfoArgs, Made};
pub(super) use net::{Direction, NetAddArgs, NetArgs, NetCommand, NetLimitArgs, NetRemoveArgs};
pub(super) use snapshots::{RestoreArgs, SnapshotArgs};

use super::time::Time;
use crate::config::{
    Affinity, BootProtocol, ByteSize, Config, ConfigError, ConsoleConfig, CpuConfig, CpusConfig, DiskConfig,
    HugePages, LimitGroupConfig, LimitSettings, MAX_CPUS, MemoryBacking, ModelChoice, NetConfig, PanicPolicy,
    Policy, ShutdownSignal, Transport,
};
use crate::log::Level;
use crate::registry::VmId;
use clap::{Args, Parser, Subcommand};
use drystone_vcpu::cpuid::FeatureSettings;
use std::ffi::OsString;
use std::path::PathBuf;

const WIDTH: usize = 110;

const AFTER_HELP: &str = "\
Examples:
  drystone run                                                 a small guest that is built in; type help there
  drystone run --kernel vmlinuz --initrd initrd.cpio           a shell, if the initrd has one
  drystone run --kernel vmlinuz --cpus 4 --memory 2G --id web --cmdline 'quiet'
  drystone run --config vm.toml --cpus 2                       flags win over the file
  drystone ls                                                  what runs
  drystone pause web; drystone info web; drystone resume web
  drystone stop web --graceful --timeout 1m                    its power button; after a minute, the plug
  drystone snapshot web /snapshots/web; drystone restore /snapshots/web --id web2
  drystone events web --follow                                 what happened to it, and what happens

In a terminal the guest's serial console has the keyboard. Its escape key is Ctrl-A:
  Ctrl-A x  stop the machine and leave      Ctrl-A p  press the power button
  Ctrl-A a  send Ctrl-A to the guest        Ctrl-A h  help

Exit codes:
  0    the guest powered off, or was asked to stop
  1    error: the machine could not be made or asked
  2    usage: the command line or the configuration makes no sense
  3    the guest crashed (triple fault)
  4    the guest cannot go on, for example because the host cannot run its instruction
  5    the guest asked for a reset, and on_reset is stop
  6    the guest's kernel panicked, and on_panic is stop
  128+n  ended by signal n (SIGTERM: 143, SIGINT: 130, SIGHUP: 129)

Files:
  A running machine has a directory DIR/ID with control.sock, log, pid and lock. DIR is $DRYSTONE_RUNTIME_DIR,
  else $XDG_RUNTIME_DIR/drystone, else /run/user/UID/drystone, else /tmp/drystone-UID. It is removed when the
  machine ends; what a killed one leaves is removed by the next command that meets it.";

/// Runs Linux guests in virtual machines, and speaks to those that run.
#[derive(Debug, Parser)]
#[command(name = "drystone", version, after_help = AFTER_HELP, max_term_width = WIDTH)]
#[command(subcommand_required = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// Run a machine, with its serial console in this terminal, until it ends
#[derive(Debug, Parser)]
#[command(bin_name = "drystone run", max_term_width = WIDTH)]
struct Run {
    #[command(flatten)]
    args: RunArgs,
}

impl Command {
    /// What the command line says, with the program's name first. Of all commands only `run` is somebody's start-up time: it
    /// is looked for before the others are described to the parser.
    pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let args: Vec<_> = args.into_iter().collect();
        match args.get(1..) {
            Some(run @ [name, ..]) if name == "run" => {
                Run::try_parse_from(run).map(|run| Self::Run(Box::new(run.args)))
            }
            _ => Cli::try_parse_from(args).map(|cli| cli.command),
        }
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run a machine, with its serial console in this terminal, until it ends
    Run(Box<RunArgs>),
    /// List the machines that run
    Ls(JsonArgs),
    /// Say what is known of a machine
    Info(InfoArgs),
    /// Say what has happened to a machine
    Events(EventsArgs),
    /// Say what a machine's devices and virtual CPUs have counted
    Metrics(MetricsArgs),
    /// Say what a guest sees of this host's processor, or how two hosts differ
    Cpu(CpuCommandArgs),
    /// Make a machine stand still
    Pause(IdArgs),
    /// Let a paused machine go on
    Resume(IdArgs),
    /// Press a machine's power button, which its guest may heed
    Power(IdArgs),
    /// Type Ctrl-Alt-Del on a machine's keyboard, which its guest may heed
    CtrlAltDel(IdArgs),
    /// Send a machine's virtual CPUs a non-maskable interrupt
    Nmi(NmiArgs),
    /// Start a machine's guest again, in place
    Reset(IdArgs),
    /// Write a machine down into a directory, from which it can be restored
    Snapshot(SnapshotArgs),
    /// Give up the snapshot that is just being written of a machine
    CancelSnapshot(IdArgs),
    /// Have a machine go on where its snapshot was made, with its serial console in this terminal, until it ends
    Restore(RestoreArgs),
    /// Make image files and look at them, and change a machine's disks while its guest runs
    Disk(DiskArgs),
    /// Change a machine's network devices while its guest runs
    Net(NetArgs),
    /// Change a machine's entropy device while its guest runs
    Rng(RngArgs),
    /// End a machine at once, as if the plug were pulled, or gracefully, and wait until it is gone
    Stop(StopArgs),
}

#[derive(Debug, Args)]
pub(super) struct IdArgs {
    /// The machine's name; may be left out when exactly one runs
    pub id: Option<VmId>,
}

#[derive(Debug, Args)]
pub(super) struct EventsArgs {
    #[command(flatten)]
    pub id: IdArgs,
    /// Go on with those that happen from now on, until the machine ends
    #[arg(long, short)]
    pub follow: bool,
    #[command(flatten)]
    pub json: JsonArgs,
}

#[derive(Debug, Args)]
pub(super) struct MetricsArgs {
    /// The machine's name
    pub id: VmId,
    /// Only those whose names begin with this, such as block.root
    #[arg(default_value = "", hide_default_value = true)]
    pub prefix: String,
    #[command(flatten)]
    pub json: JsonArgs,
}

#[derive(Debug, Args)]
pub(super) struct NmiArgs {
    #[command(flatten)]
    pub id: IdArgs,
    /// Only to the virtual CPU of this number
    #[arg(long, value_name = "N")]
    pub cpu: Option<u32>,
}

#[derive(Debug, Args)]
pub(super) struct StopArgs {
    #[command(flatten)]
    pub id: IdArgs,
    /// Ask the guest to shut down first, as the machine's shutdown_signal says, and force it if it has not in time
    #[arg(long)]
    pub graceful: bool,
    /// How long the guest may take: a number with ms, s, m or h [default: 30s]
    #[arg(long, value_name = "TIME", requires = "graceful")]
    pub timeout: Option<Time>,
}

const DISK_HELP: &str = "\
Examples:
  drystone disk add web data.img,id=data         the guest gets one disk more
  drystone disk remove web data                  asks the guest to let go of it, and waits until it has
  drystone disk remove web data --surprise       cuts it off from its file at once
  drystone disk resize web data 20G              makes its file 20 GiB long, and tells the guest
  drystone disk resize web data                  somebody else has changed its size: tells the guest
  drystone disk limit web data --bandwidth 100M --operations 2000
  drystone disk limit web data --none
  drystone disk limit web --group shared --bandwidth 500M
  drystone disk create root.qcow2 --format qcow2 --size 20G
  drystone disk create web.qcow2 --format qcow2 --backing root.qcow2 --backing-format qcow2
  drystone run --disk web.qcow2,format=qcow2,backing=allow
  drystone disk info web.qcow2 --format qcow2";

#[derive(Debug, Args)]
#[command(after_help = DISK_HELP)]
pub(super) struct DiskArgs {
    #[command(subcommand)]
    pub command: DiskCommand,
}

#[derive(Debug, Subcommand)]
pub(super) enum DiskCommand {
    /// Make an image file
    Create(DiskCreateArgs),
    /// Say what is known of an image file
    Info(DiskInfoArgs),
    /// Add a disk
    Add(DiskAddArgs),
    /// Take a disk away: when the guest has let go of it, or by surprise
    Remove(DiskRemoveArgs),
    /// Tell the guest that a disk has another size
    Resize(DiskResizeArgs),
    /// Limit how fast a disk, or a group of disks, may be
    Limit(DiskLimitArgs),
}

#[derive(Debug, Args)]
pub(super) struct DiskAddArgs {
    /// The machine's name
    pub id: VmId,
    /// The disk, as for drystone run --disk
    #[arg(value_name = "PATH[,SETTING=VALUE]…")]
    pub disk: DiskConfig,
}

#[derive(Debug, Args)]
pub(super) struct DiskRemoveArgs {
    /// The machine's name
    pub id: VmId,
    /// The disk's id
    pub disk: String,
    /// Do not wait for the guest, whatever it is doing with the disk: all that it asks of it fails from now on, and its file is free
    #[arg(long)]
    pub surprise: bool,
    /// How long the guest may take to let go: a number with ms, s, m or h [default: 30s]
    #[arg(long, value_name = "TIME", conflicts_with = "surprise")]
    pub timeout: Option<Time>,
}

#[derive(Debug, Args)]
pub(super) struct DiskResizeArgs {
    /// The machine's name
    pub id: VmId,
    /// The disk's id
    pub disk: String,
    /// Make its file so long first; it may only grow
    pub size: Option<ByteSize>,
}

#[derive(Debug, Args)]
pub(super) struct DiskLimitArgs {
    /// The machine's name
    pub id: VmId,
    /// The disk's id
    #[arg(required_unless_present = "group")]
    pub disk: Option<String>,
    /// Instead of a disk, a limit group: its disks together
    #[arg(long, value_name = "NAME", conflicts_with = "disk")]
    pub group: Option<String>,
    #[command(flatten)]
    pub limit: LimitArgs,
}

#[derive(Debug, Args)]
pub(super) struct RngArgs {
    #[command(subcommand)]
    pub command: RngCommand,
}

#[derive(Debug, Subcommand)]
pub(super) enum RngCommand {
    /// Limit how many random bytes the guest gets
    Limit(RngLimitArgs),
}

#[derive(Debug, Args)]
pub(super) struct RngLimitArgs {
    #[command(flatten)]
    pub id: IdArgs,
    #[command(flatten)]
    pub limit: LimitArgs,
}

/// Limits from now on: what is not given is not limited any more.
#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
pub(super) struct LimitArgs {
    /// Bytes a second, both directions together
    #[arg(long, value_name = "SIZE")]
    pub bandwidth: Option<ByteSize>,
    /// Bytes that may pass at once after a rest [default: 50 ms of the bandwidth]
    #[arg(long, value_name = "SIZE", requires = "bandwidth")]
    pub bandwidth_burst: Option<ByteSize>,
    /// Requests a second
    #[arg(long, value_name = "N")]
    pub operations: Option<u64>,
    /// Requests that may pass at once after a rest [default: 50 ms of the rate]
    #[arg(long, value_name = "N", requires = "operations")]
    pub operations_burst: Option<u64>,
    /// No limit
    #[arg(long, conflicts_with_all = ["bandwidth", "operations"])]
    pub none: bool,
}

impl From<LimitArgs> for LimitSettings {
    fn from(args: LimitArgs) -> Self {
        let LimitArgs { bandwidth, bandwidth_burst, operations, operations_burst, none: _ } = args;
        Self { bandwidth, bandwidth_burst, operations, operations_burst }
    }
}

#[derive(Debug, Args)]
pub(super) struct JsonArgs {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub(super) struct InfoArgs {
    #[command(flatten)]
    pub id: IdArgs,
    #[command(flatten)]
    pub json: JsonArgs,
}

const RUN_HELP: &str = "\
A configuration file is TOML with the same names, for example:
  kernel = \"vmlinuz\"          # paths are relative to the file
  initrd = \"initrd.cpio\"
  cmdline = \"quiet\"
  cpus = 2                     # or a table: [cpus] count, sockets, cores, threads
  memory = \"1G\"               # or a table: [memory] size, backing, huge_pages
  [[disk]]                     # one for each
  path = \"root.img\"

drystone --help explains the escape key, the exit codes and where files are.";

#[derive(Debug, Args)]
#[command(after_help = RUN_HELP)]
pub(super) struct RunArgs {
    /// Read the configuration from a TOML file; other flags win over it
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Name of the machine: up to 63 of a-z, 0-9, '-', '_', '.' [default: made up]
    #[arg(long)]
    pub id: Option<VmId>,
    /// A bzImage or an ELF kernel [default: a small guest that is built in]
    #[arg(long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,
    /// How the kernel is entered: auto lets its content decide [default: auto]
    #[arg(long, value_name = "PROTOCOL")]
    pub boot_protocol: Option<BootProtocol>,
    /// The initial RAM file system
    #[arg(long, value_name = "FILE")]
    pub initrd: Option<PathBuf>,
    /// Kernel command line, after console=ttyS0 i8042.noaux cryptomgr.notests
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub cmdline: Option<String>,
    #[arg(
        long,
        value_name = "N[,sockets=N][,cores=N][,threads=N]",
        allow_hyphen_values = true,
        help = format!("Virtual CPUs, 1 to {MAX_CPUS}, and how they are grouped [default: 1]")
    )]
    pub cpus: Option<CpusConfig>,
    #[command(flatten)]
    pub cpu: CpuArgs,
    /// The host's processors for vCPUs, such as 0=0,1=1-2,4; others run anywhere
    #[arg(long, value_name = "VCPU=CPUS[,...]", allow_hyphen_values = true)]
    pub cpu_affinity: Option<Affinity>,
    /// Microseconds for which a halted vCPU keeps its processor busy [default: as the host is set]
    #[arg(long, value_name = "US")]
    pub cpu_halt_poll_us: Option<u32>,
    /// Guest RAM with a unit (K, M, G: powers of 1024) [default: 512M]
    #[arg(long, value_name = "SIZE")]
    pub memory: Option<ByteSize>,
    /// What guest RAM is made of [default: anonymous]
    #[arg(long, value_name = "KIND")]
    pub memory_backing: Option<MemoryBacking>,
    /// Advice to the host on huge pages [default: host]
    #[arg(long, value_name = "ADVICE")]
    pub huge_pages: Option<HugePages>,
    /// PCI configuration space also at ports 0xcf8 and 0xcfc [default: true]
    #[arg(long, value_name = "BOOL")]
    pub pci_config_ports: Option<bool>,
    /// How the guest reaches virtio devices that do not say so themselves [default: pci]
    #[arg(long, value_name = "TRANSPORT")]
    pub transport: Option<Transport>,
    /// The guest's serial console: stdio, none, or file:PATH for its output [default: stdio]
    #[arg(long, value_name = "WHERE")]
    pub console: Option<ConsoleConfig>,
    /// A virtio disk, for example root.img,id=root,readonly or path=data.qcow2,format=qcow2; may be given more than once, and then replaces those of the file
    #[arg(long, value_name = "PATH[,SETTING=VALUE]…")]
    pub disk: Vec<DiskConfig>,
    /// A limit that the disks share that name it with limit_group=NAME, for example shared,bandwidth=100M,operations=2000; may be given more than once, and then replaces those of the file
    #[arg(long, value_name = "NAME[,SETTING=VALUE]…")]
    pub limit_group: Vec<LimitGroupConfig>,
    /// A virtio network device: user,forward=8080:80 needs no privilege; tap=vm0,queues=4 is an interface of the host; auto is what there is. May be given more than once, and then replaces those of the file
    #[arg(long, value_name = "NETWORK[,SETTING=VALUE]…", num_args = 0..=1, default_missing_value = "auto")]
    pub net: Vec<NetConfig>,
    /// Give the guest random bytes of the host's: true or false [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub rng: Option<bool>,
    /// What a reset by the guest does [default: reset]
    #[arg(long, value_name = "POLICY")]
    pub on_reset: Option<Policy>,
    /// What a triple fault of the guest does [default: stop]
    #[arg(long, value_name = "POLICY")]
    pub on_triple_fault: Option<Policy>,
    /// What a panic of the guest's kernel does, if it has the pvpanic driver [default: stop]
    #[arg(long, value_name = "POLICY")]
    pub on_panic: Option<PanicPolicy>,
    /// How a graceful stop tells the guest [default: power_button]
    #[arg(long, value_name = "SIGNAL")]
    pub shutdown_signal: Option<ShutdownSignal>,
    /// The least grave messages that are logged [default: info]
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<Level>,
    /// Where the log goes [default: in the machine's runtime directory, while it runs]
    #[arg(long, value_name = "FILE")]
    pub log_file: Option<PathBuf>,
    /// Print the configuration that would be run, as a file, and end
    #[arg(long)]
    pub dump_config: bool,
}

const CPU_HELP: &str = "\
Examples:
  drystone cpu                                        what a guest sees by default
  drystone cpu --cpu-model x86-64-v3 --cpus 8,sockets=2
  drystone cpu --json > a.json                        on one host, to take to another
  drystone cpu --compare a.json                       on the other: what each lacks
  drystone cpu --compare a.json b.json                anywhere
  drystone cpu --host a.json --cpu-model x86-64-v4    what a guest would see there

With --compare the exit code is 0 if a guest sees the same on both, 1 if not (then the widest model that both
can be is suggested), 2 if they cannot be compared. Names and revisions of processors are noted, but do not count.";

#[derive(Debug, Args)]
#[command(after_help = CPU_HELP)]
pub(super) struct CpuCommandArgs {
    /// Read [cpus] and [cpu] from a machine's TOML file; other flags win over it
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Virtual CPUs, and how they are grouped [default: 1]
    #[arg(long, value_name = "N[,sockets=N][,cores=N][,threads=N]", allow_hyphen_values = true)]
    pub cpus: Option<CpusConfig>,
    #[command(flatten)]
    pub cpu: CpuArgs,
    /// Instead of this host, one that --json recorded
    #[arg(long, value_name = "FILE")]
    pub host: Option<PathBuf>,
    /// Print JSON, with all answers of guest and host
    #[arg(long, conflicts_with_all = ["raw", "compare"])]
    pub json: bool,
    /// Print the guest's answers, leaf by leaf
    #[arg(long, conflicts_with = "compare")]
    pub raw: bool,
    /// Compare this host with what --json printed on another, or two such files
    #[arg(long, value_name = "FILE", num_args = 1..=2)]
    pub compare: Vec<PathBuf>,
}

/// What vCPUs are: shared by all commands that need to know.
#[derive(Debug, Args)]
pub(super) struct CpuArgs {
    /// host, x86-64-v1 to x86-64-v4, or a file.toml with baseline and features [default: host]
    #[arg(long, value_name = "MODEL")]
    pub cpu_model: Option<ModelChoice>,
    /// Single features: +NAME if the host has it, -NAME not, NAME=require or refuse to run
    #[arg(long, value_name = "+A,-B[,...]", allow_hyphen_values = true)]
    pub cpu_features: Option<FeatureSettings>,
    /// Width of guest-physical addresses in bits [default: the host's]
    #[arg(long, value_name = "BITS")]
    pub cpu_physical_bits: Option<u8>,
}

impl CpuArgs {
    /// What was said wins over `config`; of features, those that were named.
    pub fn apply(&self, config: &mut CpuConfig) {
        if let Some(model) = &self.cpu_model {
            config.model = model.clone();
        }
        config.physical_bits = self.cpu_physical_bits.or(config.physical_bits);
        if let Some(features) = &self.cpu_features {
            config.features.extend(features);
        }
    }
}

impl RunArgs {
    /// The file, if there is one, with the flags over it.
    pub fn config(&self) -> Result<Config, ConfigError> {
        fn set<T: Clone>(field: &mut T, flag: &Option<T>) {
            if let Some(value) = flag {
                *field = value.clone();
            }
        }
        let mut config = self.config.as_deref().map(Config::from_file).transpose()?.unwrap_or_default();
        set(&mut config.id, &self.id.as_ref().map(|id| Some(id.to_string())));
        set(&mut config.kernel, &self.kernel.clone().map(Some));
        set(&mut config.boot_protocol, &self.boot_protocol);
        set(&mut config.initrd, &self.initrd.clone().map(Some));
        set(&mut config.cmdline, &self.cmdline);
        set(&mut config.cpus, &self.cpus);
        set(&mut config.cpu.affinity, &self.cpu_affinity);
        config.cpu.halt_poll_us = self.cpu_halt_poll_us.or(config.cpu.halt_poll_us);
        self.cpu.apply(&mut config.cpu);
        set(&mut config.memory.size, &self.memory);
        set(&mut config.memory.backing, &self.memory_backing);
        set(&mut config.memory.huge_pages, &self.huge_pages);
        set(&mut config.pci.config_ports, &self.pci_config_ports);
        set(&mut config.transport, &self.transport);
        set(&mut config.console, &self.console);
        set(&mut config.disk, &Some(self.disk.clone()).filter(|d| !d.is_empty()));
        set(&mut config.limit_group, &Some(self.limit_group.clone()).filter(|g| !g.is_empty()));
        set(&mut config.net, &Some(self.net.clone()).filter(|n| !n.is_empty()));
        set(&mut config.rng, &self.rng);
        set(&mut config.on_reset, &self.on_reset);
        set(&mut config.on_triple_fault, &self.on_triple_fault);
        set(&mut config.on_panic, &self.on_panic);
        set(&mut config.shutdown_signal, &self.shutdown_signal);
        set(&mut config.log_level, &self.log_level);
        set(&mut config.log_file, &self.log_file.clone().map(Some));
        config.validate()?;
        Ok(config)
    }
}
