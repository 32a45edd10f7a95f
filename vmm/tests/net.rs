//! Network devices that come, go and are set under a guest that has no driver for them: the small one, on the real `/dev/kvm`. Their
//! network is a socket of the test's, in passt's place.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

mod common;

use common::place::{Place, ask, leave};
use common::{has_kvm, wait_until};
use std::os::unix::net::UnixListener;
use std::process::Command;

/// What `drystone metrics` says of `name`.
fn metric(place: &Place, id: &str, name: &str) -> Option<String> {
    let said = place.say(&["metrics", id, name]);
    said.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ').map(str::to_owned))
}

/// How many virtio devices the guest finds on its bus.
fn found(session: &mut common::Session) -> usize {
    ask(session, "pci").lines().filter(|line| line.contains("1af4:1041")).count()
}

#[test]
fn network_devices_come_are_set_and_go() {
    if !has_kvm() {
        return;
    }
    let place = Place::new();
    let _network = UnixListener::bind(place.path("a.sock")).unwrap();
    let mut m = place.run("m", &["--net", "passt=a.sock,mac=52:54:00:12:34:56,tx_operations=500"]);
    assert_eq!(found(&mut m), 1);
    assert_eq!(metric(&place, "m", "net.net0.mac").as_deref(), Some("52:54:00:12:34:56"));
    assert_eq!(metric(&place, "m", "net.net0.tx_limit.operations").as_deref(), Some("500"));
    place.say(&["net", "limit", "m", "net0", "rx", "--bandwidth", "3M"]);
    assert_eq!(metric(&place, "m", "net.net0.rx_limit.bandwidth").as_deref(), Some("3145728"));
    assert_eq!(metric(&place, "m", "net.net0.tx_limit.operations").as_deref(), Some("500"), "it stays");
    place.say(&["net", "limit", "m", "net0", "both", "--none"]);
    assert_eq!(metric(&place, "m", "net.net0.tx_limit.operations"), None);
    place.say(&["net", "link", "m", "net0", "down"]);
    // A guest without a driver takes no messages.
    assert!(place.say(&["events", "m"]).contains("net_link: net0 down"));

    place.say(&["net", "add", "m", "passt=a.sock,id=lan"]);
    place.say(&["net", "add", "m", "passt=a.sock"]);
    assert_eq!(found(&mut m), 3);
    assert!(metric(&place, "m", "net.net1.mac").is_some(), "the first name that is free");
    let refused = |args: &[&str], why: &str| {
        let output = place.output(args);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && said.contains(why), "{args:?}: {said}");
    };
    refused(&["net", "add", "m", "passt=a.sock,id=lan"], "`lan`: there is a network device of that name");
    refused(&["net", "add", "m", "passt=a.sock,transport=mmio"], "on virtio-mmio nothing can be added");
    refused(&["net", "add", "m", "passt=none.sock"], "cannot connect to the passt at");
    refused(&["net", "remove", "m", "wan"], "there is no network device `wan`");
    refused(&["net", "link", "m", "wan", "up"], "there is no network device `wan`");
    refused(
        &["net", "remove", "m", "lan", "--timeout", "1ms"],
        "has not let go of network device `lan` in time",
    );
    assert_eq!(found(&mut m), 3, "what the guest does not let go of stays");
    place.say(&["net", "remove", "m", "lan", "--surprise"]);
    assert_eq!(metric(&place, "m", "net.lan.pulled").as_deref(), Some("true"));
    refused(
        &["net", "add", "m", "passt=a.sock,id=lan"],
        "there is a network device of that name, which was pulled and which the guest has not let go of",
    );
    let events = place.say(&["events", "m"]);
    for told in
        ["net_added: lan, PCI slot", "net_requested: lan", "net_request_timeout: lan", "net_pulled: lan"]
    {
        assert!(events.contains(told), "{told}: {events}");
    }
    leave(m);
}

#[test]
fn a_restored_machine_is_on_the_network_that_it_is_told() {
    if !has_kvm() {
        return;
    }
    let place = Place::new();
    let first = UnixListener::bind(place.path("a.sock")).unwrap();
    let m = place.run(
        "m",
        &["--net", "passt=a.sock", "--net", "passt=a.sock,id=lan", "--net", "passt=a.sock,id=gone"],
    );
    let mac = metric(&place, "m", "net.net0.mac");
    place.say(&["net", "limit", "m", "lan", "tx", "--operations", "7"]);
    place.say(&["net", "remove", "m", "gone", "--surprise"]);
    place.say(&["snapshot", "m", "shot", "--stop"]);
    m.end();
    drop(first);
    std::fs::remove_file(place.path("a.sock")).unwrap();
    place.refuses(
        &["restore", "shot", "--net", "wan=passt=b.sock"],
        2,
        "drystone: the machine in the snapshot has no network device `wan` (it has net0, lan, gone)",
    );
    place.refuses(
        &["restore", "shot", "--net", "lan=passt=b.sock,mtu=1400"],
        2,
        "…only what the network is can change…",
    );
    place.refuses(
        &["restore", "shot"],
        1,
        "…`net0`: cannot connect to the passt at …/a.sock: …`passt --socket …`…",
    );
    let _second = UnixListener::bind(place.path("b.sock")).unwrap();
    let to = ["--net", "net0=passt=b.sock", "--net", "lan=passt=b.sock"];
    let mut m = place.session(&[&["restore", "shot", "--id", "m2"], &to[..]].concat());
    m.type_in(b"\r");
    m.read_to("> ");
    assert_eq!(found(&mut m), 3);
    assert_eq!(metric(&place, "m2", "net.net0.mac"), mac, "its guest knows it by that");
    assert_eq!(
        metric(&place, "m2", "net.lan.tx_limit.operations").as_deref(),
        Some("7"),
        "what was set holds"
    );
    assert_eq!(metric(&place, "m2", "net.gone.pulled").as_deref(), Some("true"), "it needs no network");
    leave(m);
}

#[test]
fn a_network_by_passt_lives_as_long_as_its_machine() {
    let place = Place::new();
    let nowhere = place.path("nowhere");
    let output = place.command(&["run", "--net", "user"]).env("PATH", &nowhere).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    if has_kvm() {
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("network device `net0`") && said.contains("apt install passt"), "{said}");
    }
    if !has_kvm() || Command::new("passt").arg("--version").output().is_err() {
        eprintln!("NOT RUN: a network by passt, which takes /dev/kvm and passt");
        return;
    }
    let running = || {
        let all = std::fs::read_dir("/proc").unwrap().flatten();
        let command = |entry: std::fs::DirEntry| std::fs::read(entry.path().join("cmdline")).ok();
        let is_it = |text: &Vec<u8>| {
            let text = String::from_utf8_lossy(text);
            text.starts_with("passt") && text.contains("127.0.0.1/28765:80")
        };
        all.filter_map(command).filter(is_it).count()
    };
    let m = place.run("m", &["--net", "user,forward=127.0.0.1:28765:80"]);
    assert_eq!((metric(&place, "m", "net.net0.network").as_deref(), running()), (Some("passt"), 1));
    let output = place.output(&["net", "add", "m", "user,forward=127.0.0.1:28765:80"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("Address already in use") && said.contains("28765"), "{said}");
    leave(m);
    wait_until("passt ends", || running() == 0);
}
