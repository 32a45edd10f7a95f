//! What `drystone net` is asked.

use super::LimitArgs;
use crate::cli::time::Time;
use crate::config::NetConfig;
use crate::registry::VmId;
use clap::{Args, Subcommand, ValueEnum};

const NET_HELP: &str = "\
Examples:
  drystone net add web tap=vm1,id=lan                the guest gets one network device more
  drystone net remove web lan                       asks the guest to let go of it, and waits until it has
  drystone net remove web lan --surprise            takes it off its network at once
  drystone net link web net0 down                   pulls its cable
  drystone net link web net0 up
  drystone net limit web net0 tx --bandwidth 10M    what the guest sends
  drystone net limit web net0 both --none";

#[derive(Debug, Args)]
#[command(after_help = NET_HELP)]
pub(in crate::cli) struct NetArgs {
    #[command(subcommand)]
    pub command: NetCommand,
}

#[derive(Debug, Subcommand)]
pub(in crate::cli) enum NetCommand {
    /// Add a network device
    Add(Box<NetAddArgs>),
    /// Take a network device away: when the guest has let go of it, or by surprise
    Remove(NetRemoveArgs),
    /// Plug a network device's cable in, or pull it
    Link(NetLinkArgs),
    /// Limit what a network device's guest receives or sends
    Limit(NetLimitArgs),
}

#[derive(Debug, Args)]
pub(in crate::cli) struct NetAddArgs {
    /// The machine's name
    pub id: VmId,
    /// The device, as for drystone run --net
    #[arg(value_name = "NETWORK[,SETTING=VALUE]…")]
    pub net: NetConfig,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct NetRemoveArgs {
    /// The machine's name
    pub id: VmId,
    /// The device's id
    pub net: String,
    /// Do not wait for the guest, whatever it is doing with the device: it is on no network from now on
    #[arg(long)]
    pub surprise: bool,
    /// How long the guest may take to let go: a number with ms, s, m or h [default: 30s]
    #[arg(long, value_name = "TIME", conflicts_with = "surprise")]
    pub timeout: Option<Time>,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct NetLinkArgs {
    /// The machine's name
    pub id: VmId,
    /// The device's id
    pub net: String,
    /// What becomes of its cable
    pub link: Link,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum Link {
    Up,
    Down,
}

#[derive(Debug, Args)]
pub(in crate::cli) struct NetLimitArgs {
    /// The machine's name
    pub id: VmId,
    /// The device's id
    pub net: String,
    /// What is limited: what the guest receives, what it sends, or each of them
    pub direction: Direction,
    #[command(flatten)]
    pub limit: LimitArgs,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum Direction {
    Rx,
    Tx,
    Both,
}

impl NetLinkArgs {
    /// Whether the cable goes in.
    pub fn up(&self) -> bool {
        self.link == Link::Up
    }
}
