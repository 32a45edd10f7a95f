//! On a machine with hardware virtualisation the lab runs its jobs directly. The emulated machine is one, so the lab's
//! own program is a job in it, and has a job of its own there.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

use drystone_lab::{Version, build_binary};
use drystone_tests::{Bench, report};

#[test]
fn where_kvm_is_true_a_stock_kernel_boots_without_an_emulated_machine() {
    let bench = Bench::new();
    // What the inner lab would fetch is not used in direct mode, and cannot be fetched there: it finds it made.
    let script = "
        mkdir -p store/tools store/kernels/6.1 store/kernels/6.12
        unset DRYSTONE_LAB
        DRYSTONE_LAB_DIR=$PWD/store ./lab run -t 250 -f drystone:drystone -f vmlinux:kernel -f guest.cpio:guest.cpio -- '
            echo report inner $(cat /proc/sys/kernel/random/boot_id)
            ./drystone run --kernel kernel --initrd guest.cpio --memory 128M --cmdline quiet < /dev/null'
        echo report code $?
        echo report outer $(cat /proc/sys/kernel/random/boot_id)
        echo report left $(ls store/runs | wc -l)";
    let lab = build_binary("drystone-lab", "drystone-lab").unwrap();
    let outcome = bench.run(bench.job(Version::V6_12, script).file(lab, "lab"));
    let text = outcome.text();
    assert_eq!(report(&text, "code"), Some("0"));
    assert!(report(&text, "release").unwrap().starts_with("6.12."), "the guest ran");
    assert_eq!(
        report(&text, "inner"),
        report(&text, "outer"),
        "the job ran on the very machine that has KVM"
    );
    assert!(report(&text, "inner").unwrap().len() > 8);
    assert_eq!(report(&text, "left"), Some("0"));
}
