use super::*;
use crate::config::Config;
use drystone_hypervisor::Hypervisor;
use drystone_hypervisor::fake::FakeHypervisor;

const CX16: u32 = 1 << 13;

fn host() -> Cpuid {
    FakeHypervisor::new(|cpu| cpu.halt()).supported_cpuid().unwrap()
}

fn model(cpus: u32) -> CpuModel {
    let config = Config { cpus: cpus.into(), ..Config::default() };
    config.cpu.resolve(config.cpus.topology().unwrap()).unwrap().0
}

/// A host with all features of `host` but those of leaf 1 whose bits in ECX are in `without`.
fn lesser(host: &Cpuid, without: u32) -> Cpuid {
    let mut lesser = host.clone();
    lesser.0.iter_mut().filter(|entry| entry.leaf == 1).for_each(|entry| entry.ecx &= !without);
    lesser
}

#[test]
fn a_host_that_lacks_what_the_guest_had_is_refused_with_a_list() {
    let (host, model) = (host(), model(2));
    let saved = SavedCpuid::of(&model.on(&host).unwrap());
    assert_eq!(saved.clone().on(&host, &model).unwrap(), saved);
    // CMPXCHG16B, which the guest may be using.
    let refused = saved.clone().on(&lesser(&host, CX16), &model).unwrap_err().to_string();
    assert!(
        refused.contains("lacks what the guest had: ") && refused.contains("drystone cpu --compare"),
        "{refused}"
    );
    assert!(refused.contains("cx16") && !refused.contains("sse3"), "{refused}");

    // What it never had it does not miss, and what it did not have it is not given.
    let modest = SavedCpuid::of(&model.on(&lesser(&host, CX16)).unwrap());
    assert_eq!(modest.clone().on(&host, &model).unwrap(), modest);
}

#[test]
fn answers_of_another_number_of_processors_or_without_end_are_refused() {
    let (host, model) = (host(), model(2));
    let of = |vcpus| SavedCpuid { vcpus }.on(&host, &model).unwrap_err().to_string();
    let good = SavedCpuid::of(&model.on(&host).unwrap()).vcpus;
    let one = vec![good[0].clone()];
    let swapped = vec![good[1].clone(), good[0].clone()];
    let entry = host.0[0];
    let endless = vec![good[0].clone(), (1, Cpuid(vec![entry; MAX_ENTRIES + 1]))];
    for saved in [Vec::new(), one, swapped, endless] {
        assert!(of(saved).contains("not those of its configuration"));
    }
}
