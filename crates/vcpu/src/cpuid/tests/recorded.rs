//! The filter over hosts that exist.

use super::*;
use drystone_testkit::hosts::{self, GENOA, HASWELL, Host, MILAN, SAPPHIRE_RAPIDS, WESTMERE};

fn guest(host: Host, baseline: Baseline, features: &str) -> Result<GuestCpu, ModelError> {
    let mut model = CpuModel::new(4).unwrap();
    model.baseline = baseline;
    model.features = features.parse().unwrap();
    model.on(&host.table())
}

fn state(cpu: &GuestCpu) -> (u32, u32, Vec<u32>) {
    let cpuid = cpu.for_vcpu(0);
    let listed = cpuid.0.iter().filter(|e| e.leaf == 0xd).filter_map(|e| e.subleaf).filter(|n| *n > 1);
    (get(&cpuid, 0xd, 0).eax, get(&cpuid, 0xd, 0).ecx, listed.collect())
}

#[test]
fn each_host_carries_its_baselines_and_names_what_it_lacks_for_the_next() {
    let cases = [
        (WESTMERE, Baseline::V2, Some("avx, avx2, bmi1, bmi2, f16c, fma, abm, movbe, xsave")),
        (HASWELL, Baseline::V3, Some("avx512f, avx512bw, avx512cd, avx512dq, avx512vl")),
        (MILAN, Baseline::V3, Some("avx512f, avx512bw, avx512cd, avx512dq, avx512vl")),
        (SAPPHIRE_RAPIDS, Baseline::V4, None),
        (GENOA, Baseline::V4, None),
    ];
    for (host, best, lacks) in cases {
        for baseline in [Baseline::V1, Baseline::V2, Baseline::V3, Baseline::V4] {
            match guest(host, baseline, "") {
                Ok(cpu) => {
                    assert!(baseline <= best, "{} {baseline}", host.name);
                    assert!(baseline.required().all(|f| cpu.has(f.name)), "{} {baseline}", host.name);
                }
                Err(e) => {
                    assert!(baseline > best, "{} {baseline}: {e}", host.name);
                    let next = Baseline::ALL.into_iter().find(|b| *b > best);
                    if Some(baseline) == next {
                        assert_eq!(
                            e.to_string(),
                            format!("this host cannot be {baseline}: it lacks {}", lacks.unwrap())
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn a_baseline_gives_its_instructions_and_no_others() {
    for host in hosts::ALL {
        let cpu = guest(host, Baseline::V2, "").unwrap();
        let mut instructions: Vec<_> =
            cpu.features().filter(|f| f.class == Class::Instructions).map(|f| f.name).collect();
        let mut required: Vec<_> = Baseline::V2.required().map(|f| f.name).collect();
        instructions.sort();
        required.sort();
        assert_eq!(instructions, required, "{}", host.name);
        assert_eq!(state(&cpu), (0, 0, vec![]), "no XSAVE, no state");
        for name in ["nx", "lm", "x2apic", "hypervisor", "kvmclock2", "kvm_steal_time"] {
            assert!(cpu.has(name), "{} {name}", host.name);
        }
    }
    let cpu = guest(GENOA, Baseline::V3, "").unwrap();
    assert!(cpu.has("smep") && cpu.has("smap") && cpu.has("amd_ibpb"), "what protects the guest stays");
    assert_eq!(state(&cpu), (7, 0x340, vec![2]));
    let names: Vec<u32> = cpu.for_vcpu(0).0.iter().map(|e| e.leaf).collect();
    assert!(!names.contains(&0x8000_001a), "no leaf that one host has and another may not");
}

#[test]
fn removing_one_removes_what_depends_on_it() {
    let gone = |host, features: &str| {
        let (all, less) =
            (guest(host, Baseline::Host, "").unwrap(), guest(host, Baseline::Host, features).unwrap());
        let gone: Vec<_> = all.features().filter(|f| !less.has(f.name)).map(|f| f.name).collect();
        (gone, state(&less))
    };
    assert_eq!(gone(HASWELL, "-avx2").0, ["avx2"]);
    assert_eq!(gone(HASWELL, "-avx"), (vec!["fma", "avx", "f16c", "avx2"], (3, 0x240, vec![])));
    let (names, left) = gone(SAPPHIRE_RAPIDS, "-avx2");
    assert!(
        names.contains(&"avx512f") && names.contains(&"avx512_fp16") && names.contains(&"avx_vnni"),
        "{names:?}"
    );
    assert_eq!(
        left,
        (0x6_0207, 0x2b00, vec![2, 9, 11, 12, 17, 18]),
        "AMX and protection keys stay where they were"
    );
    let (names, left) = gone(SAPPHIRE_RAPIDS, "-amx_tile");
    assert_eq!(names, ["amx_bf16", "amx_tile", "amx_int8"]);
    assert_eq!(left, (0x2e7, 0xa88, vec![2, 5, 6, 7, 9, 11, 12]));
    let (names, left) = gone(SAPPHIRE_RAPIDS, "-xsave");
    assert!(["avx", "fma", "pku", "amx_tile", "xsaveopt"].iter().all(|n| names.contains(n)), "{names:?}");
    assert_eq!(left, (0, 0, vec![]));
    assert_eq!(gone(MILAN, "-aes").0, ["aes", "vaes"]);
    assert_eq!(gone(MILAN, "-pge").0, ["pcid", "pge", "invpcid"]);
    assert_eq!(gone(MILAN, "-kvm_steal_time").0, ["kvm_steal_time", "kvm_pv_tlb_flush"]);
}

#[test]
fn the_last_bit_of_the_second_place_goes_too() {
    let cpu = guest(MILAN, Baseline::Host, "-cx8").unwrap().for_vcpu(0);
    assert_eq!((get(&cpu, 1, 0).edx >> 8 & 1, get(&cpu, 0x8000_0001, 0).edx >> 8 & 1), (0, 0));
}

#[test]
fn what_must_be_there_is_there_or_refused() {
    assert!(guest(HASWELL, Baseline::V2, "aes=require,+sha_ni").unwrap().has("aes"), "beyond the baseline");
    let refused = |host, features| guest(host, Baseline::Host, features).unwrap_err().to_string();
    assert_eq!(
        refused(HASWELL, "sha_ni=require,gfni=require"),
        "this host lacks sha_ni, gfni, which must be there"
    );
    assert_eq!(
        refused(HASWELL, "avx2=require,-avx"),
        "avx2 must be there, and is not: it needs avx, which the guest does not have"
    );
}

#[test]
fn any_bit_can_be_taken_away() {
    let cpu = guest(SAPPHIRE_RAPIDS, Baseline::Host, "-0x1e.0.ebx.14,-7.1.eax.11").unwrap();
    assert_eq!(get(&cpu.for_vcpu(0), 0x1e, 0).ebx, 0x10);
    assert!(!cpu.has("fsrs"));
}

#[test]
fn kvms_leaves_say_what_is_left() {
    let cpu = guest(HASWELL, Baseline::Host, "-kvm_asyncpf").unwrap().for_vcpu(0);
    assert_eq!(
        get(&cpu, 0x4000_0000, 0),
        entry(0x4000_0000, None, [0x4000_0001, 0x4b4d_564b, 0x564b_4d56, 0x4d])
    );
    assert_eq!(get(&cpu, 0x4000_0001, 0).eax, 0x0100_7efb & !(1 << 4 | 1 << 10 | 1 << 14));
    // A host under something else than KVM.
    let mut host = HASWELL.table();
    host.get_mut(0x4000_0000, 0).unwrap().ebx = 0x7263_694d;
    host.0.push(entry(0x4000_0003, None, [1; 4]));
    let cpu = CpuModel::new(1).unwrap().on(&host).unwrap().for_vcpu(0);
    assert!(cpu.0.iter().all(|e| e.leaf >> 28 != 4));
}

#[test]
fn every_host_and_baseline_is_coherent_and_a_fixed_point() {
    for host in hosts::ALL {
        for baseline in Baseline::ALL {
            let Ok(cpu) = guest(host, baseline, "") else { continue };
            let table = cpu.for_vcpu(3);
            assert_eq!(unmet(&table), Vec::<&Feature>::new());
            let mut again = CpuModel::new(4).unwrap();
            again.baseline = baseline;
            assert_eq!(again.on(&table).unwrap().for_vcpu(3), table, "{} {baseline}", host.name);
        }
    }
}

#[test]
fn topology_is_as_asked_on_hosts_that_exist() {
    for host in hosts::ALL {
        for (sockets, cores, threads) in [(1, 1, 1), (2, 2, 2), (1, 32, 1), (4, 3, 2)] {
            let model = model(sockets, cores, threads);
            let cpu = model.on(&host.table()).unwrap();
            for (n, id) in (0..).zip(model.topology.apic_ids()) {
                let place = decode(&cpu.for_vcpu(id), 0xb);
                let core = n / threads;
                assert_eq!(place, (n % threads, core % cores, core / cores), "{} vCPU {n}", host.name);
            }
        }
    }
}

#[test]
fn addresses_are_as_wide_as_asked_and_as_paging_reaches() {
    let width = |host: Host, baseline, bits| {
        let mut model = CpuModel::new(1).unwrap();
        (model.baseline, model.physical_bits) = (baseline, bits);
        model.on(&host.table()).map(|cpu| get(&cpu.for_vcpu(0), 0x8000_0008, 0).eax & 0xffff)
    };
    assert_eq!(width(SAPPHIRE_RAPIDS, Baseline::Host, None), Ok(0x3934));
    assert_eq!(width(SAPPHIRE_RAPIDS, Baseline::V4, Some(46)), Ok(0x302e), "four levels, 46 bits");
    let error = width(HASWELL, Baseline::Host, Some(47)).unwrap_err().to_string();
    assert_eq!(error, "47 bits of a physical address: must be 36 to 46, which is this host's width");
    assert!(width(HASWELL, Baseline::Host, Some(35)).is_err());
}
