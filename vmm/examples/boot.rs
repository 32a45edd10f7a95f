//! The library without its command line: boots a kernel, shows its console, and says how it ended.
//!
//! `cargo run --example boot -- KERNEL INITRD [CPUS]`
#![allow(clippy::panic, clippy::unwrap_used)]

use drystone::config::Config;
use drystone::events::Journal;
use drystone::log::Log;
use drystone::machine::Machine;
use drystone::monitor::mailbox;
use drystone_chipset::Taken;
use drystone_kvm::Kvm;
use std::io::Write;
use std::time::Duration;

fn main() {
    let mut args = std::env::args().skip(1);
    let config = Config {
        kernel: Some(args.next().unwrap().into()),
        initrd: args.next().map(Into::into),
        cpus: args.next().map_or(1.into(), |n| n.parse().unwrap()),
        ..Config::default()
    };
    let kvm = Kvm::open().unwrap();
    let (handle, mailbox) = mailbox();
    let journal = Journal::new(Log::none());
    let (machine, console) =
        Machine::build(&config, &kvm, &handle, &journal).unwrap_or_else(|e| panic!("{e}"));
    let show = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        while console.output.take(&mut bytes, Duration::from_secs(1)) != Taken::Closed {
            std::io::stdout().write_all(&bytes).unwrap();
            std::io::stdout().flush().unwrap();
            bytes.clear();
        }
    });
    let end = mailbox.begin(machine).unwrap().serve().unwrap();
    show.join().unwrap();
    journal.history().since(0).iter().for_each(|event| println!("{event}"));
    println!("{} {}", end.cause, end.hint);
}
