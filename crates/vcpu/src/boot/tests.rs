use super::*;
use drystone_hypervisor::fake::FakeHypervisor;
use drystone_hypervisor::{Hypervisor, VmConfig};
use vm_memory::GuestMemoryMmap;

fn memory(len: usize) -> GuestMemoryMmap {
    GuestMemoryMmap::from_ranges(&[(GuestAddress(0), len)]).unwrap()
}

fn entry(memory: &GuestMemoryMmap, addr: u64) -> u64 {
    memory.read_obj(GuestAddress(addr)).unwrap()
}

/// Walks the tables as the processor does.
fn translate(memory: &GuestMemoryMmap, cr3: u64, linear: u64) -> Option<u64> {
    let index = |shift: u32| (linear >> shift & 0x1ff) * 8;
    let mut table = cr3;
    for shift in [39, 30, 21] {
        let e = entry(memory, table + index(shift));
        if e & PRESENT_WRITABLE != PRESENT_WRITABLE {
            return None;
        }
        if shift == 21 {
            assert_eq!(e & LARGE_PAGE, LARGE_PAGE);
            return Some((e & !0x1f_ffff) | (linear & 0x1f_ffff));
        }
        assert_eq!(e & LARGE_PAGE, 0);
        table = e & !0xfff;
    }
    None
}

#[test]
fn the_first_4_gib_map_to_themselves_and_nothing_else_does() {
    let memory = memory(1 << 20);
    // What an earlier kernel left must not shine through.
    memory.write_slice(&[0xff; 0xf000], GuestAddress(0)).unwrap();
    write_tables(&memory).unwrap();
    assert_eq!(entry(&memory, map::PML4), u64::MAX, "page tables are for who asks for them");
    write_page_tables(&memory).unwrap();
    let sregs = long_mode_sregs(&Sregs::default());
    for page in 0..2048 {
        let linear = (page << 21) | 0x12345;
        assert_eq!(translate(&memory, sregs.cr3, linear), Some(linear));
    }
    for linear in [1 << 32, 5 << 30, 511 << 30, 1 << 39, 255 << 39] {
        assert_eq!(translate(&memory, sregs.cr3, linear), None, "{linear:#x}");
    }
    assert_eq!(entry(&memory, 0xf000), 0, "nothing is written past the tables");
    assert_eq!(entry(&memory, map::GDT - 8), u64::MAX, "or before the GDT");
    assert_eq!(entry(&memory, map::GDT + 64), u64::MAX, "or after it");
}

#[test]
fn every_selector_names_the_descriptor_that_is_loaded() {
    let memory = memory(1 << 20);
    write_tables(&memory).unwrap();
    let sregs = long_mode_sregs(&Sregs::default());
    let at = |selector: u16| entry(&memory, sregs.gdt.base + u64::from(selector));
    // Written out by hand from the SDM's figure, not by the function under test.
    assert_eq!(at(0), 0);
    assert_eq!(at(sregs.cs.selector), 0x00af_9b00_0000_ffff);
    assert_eq!(at(sregs.ss.selector), 0x00cf_9300_0000_ffff);
    assert_eq!(at(sregs.tr.selector), 0x0000_8b00_0000_ffff);
    assert_eq!(at(sregs.tr.selector + 8), 0);
    assert!(sregs.tr.selector + 15 <= sregs.gdt.limit);
    assert_eq!((sregs.cs.selector, sregs.ds.selector), (0x10, 0x18), "__BOOT_CS, __BOOT_DS");
    assert_eq!([sregs.ds, sregs.es, sregs.fs, sregs.gs], [sregs.ss; 4]);
    assert!(sregs.ldt.unusable);
}

#[test]
fn pvh_starts_in_protected_mode_with_flat_segments_on_the_same_table() {
    let memory = memory(1 << 20);
    write_tables(&memory).unwrap();
    let sregs = protected_mode_sregs(&Sregs { apic_base: 0xfee0_0900, cr0: 0x6000_0010, ..Sregs::default() });
    let at = |selector: u16| entry(&memory, sregs.gdt.base + u64::from(selector));
    assert_eq!(at(sregs.cs.selector), 0x00cf_9b00_0000_ffff, "32-bit code");
    assert_eq!(at(sregs.ss.selector), 0x00cf_9300_0000_ffff);
    assert_eq!(at(sregs.tr.selector), 0x0000_8b00_0000_0067, "a busy TSS of 0x67 bytes");
    assert!(sregs.tr.selector + 7 <= sregs.gdt.limit);
    assert_eq!([sregs.ds, sregs.es, sregs.fs, sregs.gs], [sregs.ss; 4]);
    assert_eq!((sregs.cr0, sregs.cr4, sregs.efer), (0x11, 0, 0), "protected, not paged");
    assert_eq!(sregs.apic_base, 0xfee0_0900);
    let regs = pvh_regs(0x10_0000, 0x7000);
    assert_eq!((regs.rip, regs.rbx, regs.rflags), (0x10_0000, 0x7000, 2));
}

#[test]
fn registers_follow_the_boot_protocol() {
    let regs = linux_regs(0x100_0200, 0x7000);
    assert_eq!((regs.rip, regs.rsi, regs.rsp), (0x100_0200, 0x7000, 0x8ff0));
    assert_eq!(regs.rflags, 2, "interrupts off");
    let sregs = long_mode_sregs(&Sregs { apic_base: 0xfee0_0900, cr0: 0x6000_0010, ..Sregs::default() });
    assert_eq!(sregs.apic_base, 0xfee0_0900);
    assert_eq!(sregs.cr0, 0x8000_0011, "protected mode, paging, caches on");
    assert_eq!((sregs.cr4, sregs.efer), (0x20, 0x500), "PAE; long mode enabled and active");
}

#[test]
fn memory_that_is_too_small_is_named() {
    let error = write_page_tables(&memory(0x9000)).unwrap_err().to_string();
    assert!(error.starts_with("boot page table at 0x9000: cannot write to guest memory: "), "{error}");
    assert!(write_page_tables(&memory(0xe000)).is_err());
    assert!(write_page_tables(&memory(0xf000)).is_ok());
    let error = write_tables(&memory(0xf_f000)).unwrap_err().to_string();
    assert!(error.starts_with("boot reset vector at 0xfffe8: "), "{error}");
    assert!(write_tables(&memory(1 << 20)).is_ok());
}

#[test]
fn the_reset_vector_resets() {
    let memory = memory(1 << 20);
    write_tables(&memory).unwrap();
    let mut code = [0; 16];
    memory.read_slice(&mut code, GuestAddress(0xf_fff0)).unwrap();
    assert_eq!(code[..4], [0xb0, 0xfe, 0xe6, 0x64], "0xfe to port 0x64");
    // The operand of LIDT, an offset in segment F000, is an empty table.
    let operand = u64::from(u16::from_le_bytes([code[8], code[9]]));
    assert_eq!((operand, entry(&memory, 0xf_0000 + operand)), (0xffe8, 0));
}

#[test]
fn only_the_boot_processor_starts_and_all_have_the_same_memory_types() {
    let (linux, pvh) = (LinuxBoot::new(0x20_0200), PvhBoot::new(0x20_0000));
    starts_one(&linux, linux_regs(0x20_0200, 0x7000), long_mode_sregs);
    starts_one(&pvh, pvh_regs(0x20_0000, 0x7000), protected_mode_sregs);
}

fn starts_one(boot: &dyn BootState, started: Regs, mode: fn(&Sregs) -> Sregs) {
    let vm = FakeHypervisor::new(|_| ()).create_vm(&VmConfig::default()).unwrap();
    for id in 0..3 {
        let mut vcpu = vm.create_vcpu(id).unwrap();
        let (regs, sregs) = (vcpu.regs().unwrap(), vcpu.sregs().unwrap());
        boot.apply(vcpu.as_mut()).unwrap();
        if id == 0 {
            assert_eq!(vcpu.regs().unwrap(), started);
            assert_eq!(vcpu.sregs().unwrap(), mode(&sregs));
        } else {
            assert_eq!((vcpu.regs().unwrap(), vcpu.sregs().unwrap()), (regs, sregs));
        }
        let msrs: Vec<_> = vcpu.msrs(&[0x2ff, 0x1a0]).unwrap().iter().map(|m| m.value).collect();
        assert_eq!(msrs, [0x806, 1], "vCPU {id}: MTRRs on and write-back, not fixed ones; fast strings");
    }
}
