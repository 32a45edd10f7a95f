use super::*;
use crate::monitor::mailbox;
use drystone_hypervisor::fake::{FakeHypervisor, GuestCpu};
use drystone_hypervisor::{Exit, Hypervisor, VmConfig};
use drystone_loader::acpi::AcpiTables;
use drystone_memory::{GuestRam, RamConfig};
use drystone_vcpu::BusIo;
use std::path::Path;
use std::process::Command;

/// `cpu`'s accesses to ports 0xcf8 and 0xcfc: the address, and what is found there.
fn selects_the_bridge(cpu: &mut GuestCpu) {
    cpu.out32(0xcf8, 0x8000_0000);
    assert_eq!(cpu.in32(0xcfc), 0x0008_1b36);
    cpu.out32(0xcf8, 0x8000_0800);
    assert_eq!(cpu.in32(0xcfc), u32::MAX);
    cpu.shutdown();
}

/// Of an access to configuration space through ports only the second half leaves the guest.
#[test]
fn selecting_a_register_of_configuration_space_is_no_exit() {
    let vm = FakeHypervisor::new(selects_the_bridge).create_vm(&VmConfig::default()).unwrap();
    let (devices, _wires, _console) = devices(vm.as_ref());
    let mut vcpu = vm.create_vcpu(0).unwrap();
    let mut io = BusIo::new(devices.bus.clone());
    while vcpu.run(&mut io).unwrap() != Exit::Shutdown {}
    assert_eq!((io.counts().pio_reads, io.counts().pio_writes), (2, 0));
}

fn devices(vm: &dyn Vm) -> (Devices, Vec<Guard>, Console) {
    let layout = Layout::new(1 << 30, 40).unwrap();
    let memory = GuestRam::new(&layout, &RamConfig::default()).unwrap();
    let (handle, _mailbox) = mailbox();
    Devices::new(vm, &layout, memory.view(), &PciConfig::default(), Identity::New, &handle).unwrap()
}

/// The tables of a whole machine, with every component's AML in one DSDT.
fn tables(cpus: u32) -> Vec<Vec<u8>> {
    let vm = FakeHypervisor::new(|cpu| cpu.halt()).create_vm(&VmConfig::default()).unwrap();
    let (devices, _wires, _console) = devices(vm.as_ref());
    let mut tables = Vec::new();
    devices.describe(Vec::new(), (0..cpus).collect())(&mut |acpi| {
        let built = AcpiTables::build(acpi).unwrap();
        tables = built.tables().map(|(_, table)| table.to_vec()).collect();
    });
    tables
}

fn iasl(folder: &Path, args: &[&str]) -> String {
    let out = Command::new("iasl").args(args).current_dir(folder).output().unwrap();
    let said = String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned();
    assert!(out.status.success(), "iasl {args:?}: {said}");
    said
}

/// ACPICA resolves every name and compiles what it has taken apart without a complaint.
#[test]
fn acpica_finds_nothing_wrong_with_the_whole_machine() {
    if Command::new("iasl").arg("-v").output().is_err() {
        eprintln!("NOT TESTED: iasl is missing (Debian package acpica-tools)");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for table in tables(1).into_iter().chain(tables(32)) {
        let name = String::from_utf8_lossy(&table[..4]).into_owned();
        std::fs::write(folder.path().join(format!("{name}.dat")), &table).unwrap();
        let said = iasl(folder.path(), &["-d", &format!("{name}.dat")]);
        assert!(!said.contains("External") && !said.contains("Unresolved"), "{name}: {said}");
        let said = iasl(folder.path(), &["-f", &format!("{name}.dsl")]);
        // It ends with numbers of them; a complaint itself is the word and spaces.
        assert!(!said.contains("Error  ") && !said.contains("Warning  "), "{name}: {said}");
    }
    let dsdt = std::fs::read_to_string(folder.path().join("DSDT.dsl")).unwrap();
    for device in ["COM1", "RTC", "KBD", "PWRB", "GED", "PEVT", "PCI0"] {
        let there = dsdt.lines().any(|line| line.trim().starts_with(&format!("Device ({device})")));
        assert!(there, "no {device} in {dsdt}");
    }
}
