//! Networks of stock kernels: frames both ways over a tap, cables, limits, addresses.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

use drystone_lab::Version;
use drystone_tests::{Bench, full, report};

/// The guest: reaches the host, moves data both ways with sums, sees its cable.
const INIT: &str = r#"#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
@LOAD_MODULES@
n=0; until [ -e /sys/class/net/eth0 ] || [ $n = 200 ]; do usleep 100000; n=$((n+1)); done
ip link set lo up; ip link set eth0 up; ip addr add 10.9.0.2/24 dev eth0
echo "report mac $(cat /sys/class/net/eth0/address)"
echo "report mtu $(cat /sys/class/net/eth0/mtu)"
echo "report queues $(ls -d /sys/class/net/eth0/queues/rx-* | wc -l)"
ping -c 3 -w 20 10.9.0.1 > /dev/null; echo "report ping $?"
ping -c 3 -w 20 -s 8000 10.9.0.1 > /dev/null; echo "report large_ping $?"
# Whoever receives has nothing to send, and must not end for that.
mkfifo /never; exec 9<>/never
nc 10.9.0.1 7000 <&9 > /data; echo "report received $(md5sum < /data)"
nc 10.9.0.1 7001 < /data > /dev/null; echo "report sent $?"
echo "report segments $(cat /sys/class/net/eth0/statistics/tx_packets) $(cat /sys/class/net/eth0/statistics/tx_bytes)"
echo cable
until [ "$(cat /sys/class/net/eth0/carrier)" = 0 ]; do usleep 50000; done
ping -c 1 -w 2 10.9.0.1 > /dev/null; echo "report unplugged $?"
echo out
until [ "$(cat /sys/class/net/eth0/carrier)" = 1 ]; do usleep 50000; done
ping -c 1 -w 20 10.9.0.1 > /dev/null; echo "report plugged $?"
echo "report errors $(cat /sys/class/net/eth0/statistics/rx_errors) $(cat /sys/class/net/eth0/statistics/tx_errors)"
dmesg -r | grep '^<[0-4]>' | grep -i 'eth0\|virtio' | sed 's/^/warning /'
poweroff -f
"#;

/// The host: an interface with an address, and something that sends and takes data.
const SCRIPT: &str = r#"
await() { n=0; until "$@"; do usleep 100000; n=$((n+1)); [ $n -lt 3000 ] || { echo "TIMEOUT: $*"; cat out log; exit 99; }; done; }
says() { grep -q "$1" out 2>/dev/null; }
metric() { drystone metrics n $1 | sed -n "s/^$1 //p"; }
dd if=/dev/urandom of=data bs=1M count=MEGABYTES 2>/dev/null
mkfifo never; exec 9<>never
nc -l -p 7000 < data > /dev/null & nc -l -p 7001 > back <&9 &
drystone run --id n --kernel vmlinux --initrd guest.cpio --memory 256M --cmdline quiet --console file:out --log-file log \
    OPTIONS < /dev/null & pid=$!
await test -e /sys/class/net/vm0
ip addr add 10.9.0.1/24 dev vm0
echo "report flags $(cat /sys/class/net/vm0/flags) $(cat /sys/class/net/vm0/mtu)"
await says cable
echo "report sum $(md5sum < data)"; echo "report back $(md5sum < back)"
echo "report frames $(metric net.net0.rx_frames) $(metric net.net0.rx_bytes) $(metric net.net0.tx_frames) $(metric net.net0.tx_bytes)"
echo "report name $(metric net.net0.interface)"
drystone net link n net0 down; await says out
drystone net link n nosuch up; echo "report nosuch $?"
drystone net limit n net0 both --bandwidth 1M; echo "report limit $(metric net.net0.rx_limit.bandwidth) $(metric net.net0.tx_limit.bandwidth)"
# The guest ends soon after.
drystone net link n net0 up
wait $pid; echo "report exit $?"
test -e /sys/class/net/vm0; echo "report left $?"
sed 's/^report /guest /' out; cat log
"#;

const MAC: &str = "52:54:00:12:34:56";

fn goes_and_comes(version: Version, queues: u32, options: &str, megabytes: u32) {
    let bench = Bench::new();
    let options = format!("--cpus {queues} --net tap=vm0,mtu=9000,mac={MAC},queues={queues},{options}");
    let script = SCRIPT.replace("OPTIONS", &options).replace("MEGABYTES", &megabytes.to_string());
    let job = bench.job_of(version, INIT, &["virtio_mmio", "virtio_pci", "virtio_net"], &script);
    let outcome = bench.run(job);
    let text = outcome.text();
    assert_eq!(outcome.code, 0, "{text}");
    let guest = |name: &str| {
        let prefix = format!("guest {name} ");
        text.lines().find_map(|l| l.trim_end().strip_prefix(prefix.as_str())).map(str::to_owned)
    };
    let is = |name: &str, value: &str| assert_eq!(guest(name).as_deref(), Some(value), "{name}\n{text}");
    is("mac", MAC);
    is("mtu", "9000");
    is("queues", &queues.to_string());
    is("ping", "0");
    is("large_ping", "0");
    assert_eq!(guest("received").as_deref(), report(&text, "sum"), "{text}");
    is("sent", "0");
    assert_eq!(report(&text, "back"), report(&text, "sum"), "{text}");
    let numbers: Vec<u64> = report(&text, "frames").unwrap().split(' ').map(|n| n.parse().unwrap()).collect();
    let [rx_frames, rx_bytes, tx_frames, tx_bytes] = numbers[..] else { panic!("{text}") };
    let data = u64::from(megabytes) << 20;
    assert!(rx_bytes > data && tx_bytes > data, "{text}");
    // Segments are cut by nobody here, so frames are larger than the network's packets.
    assert!(rx_bytes / rx_frames > 9100 || tx_bytes / tx_frames > 9100, "{numbers:?}");
    is("unplugged", "1");
    is("plugged", "0");
    is("errors", "0 0");
    assert_eq!(report(&text, "name"), Some("vm0"));
    assert_eq!(report(&text, "flags"), Some("0x1003 9000"));
    assert_eq!(report(&text, "limit"), Some("1048576 1048576"));
    assert_eq!(
        (report(&text, "nosuch"), report(&text, "exit"), report(&text, "left")),
        (Some("1"), Some("0"), Some("1"))
    );
    assert!(!text.contains("\nwarning "), "{text}");
}

#[test]
fn data_goes_and_comes_over_pci() {
    goes_and_comes(Version::V6_12, 1, "transport=pci", 20);
}

#[test]
fn data_goes_and_comes_over_mmio_by_four_queues() {
    goes_and_comes(Version::V6_12, 4, "transport=mmio", 20);
}

#[test]
fn much_data_goes_and_comes() {
    // More finds no room in the guest.
    if full("90 MB each way, over both transports, by one queue and by four, on both kernels") {
        for (version, queues, transport) in [
            (Version::V6_12, 1, "mmio"),
            (Version::V6_12, 4, "pci"),
            (Version::V6_1, 1, "pci"),
            (Version::V6_1, 4, "mmio"),
        ] {
            goes_and_comes(version, queues, &format!("transport={transport}"), 90);
        }
    }
}

/// The guest: sends without an end over every network device that comes, by its address, which is its number.
const COMES: &str = r#"#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
@LOAD_MODULES@
echo ready
n=0
while :; do
    for net in $(ls /sys/class/net); do
        [ $net = lo ] && continue
        [ -e /tmp.$net ] && continue
        touch /tmp.$net
        ip link set $net up; ip addr add 10.9.0.2/24 dev $net
        (ping -c 1 -w 20 10.9.0.1 > /dev/null; echo "report up $net $?"; ping -A -s 1400 10.9.0.1 > /dev/null 2>&1) &
    done
    for mark in /tmp.*; do
        net=${mark#/tmp.}; [ -e $mark ] && [ ! -e /sys/class/net/$net ] && rm $mark && echo "report gone $net"
    done
    [ -e /sys/class/net/lo ] || break
    usleep 100000
done
"#;

const COMES_SCRIPT: &str = r#"
await() { n=0; until "$@"; do usleep 100000; n=$((n+1)); [ $n -lt 1200 ] || { echo "TIMEOUT: $*"; cat out log; exit 99; }; done; }
count() { [ "$(grep -c "$1" out 2>/dev/null)" -ge $2 ] 2>/dev/null; }
drystone run --id n --kernel vmlinux --initrd guest.cpio --memory 256M --cmdline quiet --console file:out --log-file log --cpus 2 < /dev/null & pid=$!
await count ready 1
round=0
while [ $round -lt ROUNDS ]; do
    round=$((round+1))
    drystone net add n tap=vm0,id=lan || { echo "report failed add"; break; }
    ip addr add 10.9.0.1/24 dev vm0
    await count 'report up' $round
    # Under traffic.
    usleep 300000
    if [ $((round % 2)) = 1 ]; then drystone net remove n lan || echo "report failed remove"
    else
        drystone net remove n lan --surprise || echo "report failed pull"
        echo "report pulled $(drystone metrics n net.lan.pulled)"
    fi
    await count 'report gone' $round
    await test ! -e /sys/class/net/vm0
done
drystone net remove n lan; echo "report nothing $?"
drystone stop n; wait $pid; echo "report rounds $round"
echo "report ups $(grep -c 'report up eth0 0' out)"
drystone events n > /dev/null 2>&1
for event in net_added net_requested net_pulled net_removed; do echo "report $event $(grep -c " $event" log)"; done
tail -20 out; cat log
"#;

#[test]
fn network_devices_come_and_go_under_traffic() {
    let rounds = if full("50 rounds of adding and removing a network device, instead of 2") { 50 } else { 2 };
    let bench = Bench::new();
    let script = COMES_SCRIPT.replace("ROUNDS", &rounds.to_string());
    let job = bench.job_of(Version::V6_12, COMES, &["virtio_pci", "virtio_net"], &script);
    let outcome = bench.run(job);
    let text = outcome.text();
    assert_eq!(outcome.code, 0, "{text}");
    let number = |name: &str| report(&text, name).unwrap_or_else(|| panic!("{name}")).parse::<u32>().unwrap();
    assert_eq!((number("rounds"), number("ups")), (rounds, rounds), "{text}");
    assert_eq!((number("net_added"), number("net_removed")), (rounds, rounds), "{text}");
    assert_eq!((number("net_requested"), number("net_pulled")), (rounds / 2, rounds / 2), "{text}");
    assert_eq!((report(&text, "failed"), number("nothing")), (None, 1), "{text}");
}

/// The guest: a connection over which it says a number ten times a second, and hears each again.
const TALKS: &str = r#"#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
@LOAD_MODULES@
n=0; until [ -e /sys/class/net/eth0 ] || [ $n = 200 ]; do usleep 100000; n=$((n+1)); done
ip link set eth0 up; ip addr add 10.9.0.2/24 dev eth0
mkfifo /say
nc 10.9.0.1 7000 < /say > /heard & nc=$!
exec 8>/say
n=0
while [ $n -lt 100000 ]; do
    n=$((n+1)); echo $n >&8
    [ $((n % 10)) = 0 ] && echo "said $n heard $(tail -n 1 /heard)"
    kill -0 $nc 2>/dev/null || { echo "report lost at $n"; break; }
    usleep 100000
done
"#;

const TALKS_SCRIPT: &str = r#"
await() { n=0; until "$@"; do usleep 100000; n=$((n+1)); [ $n -lt 1200 ] || { echo "TIMEOUT: $*"; cat out log; exit 99; }; done; }
heard() { grep -q "^$1\$" heard 2>/dev/null; }
# What is heard is said again.
nc -l -p 7000 -e tee heard &
run() { log=$1; shift; drystone "$@" --console file:out.$log --log-file log.$log < /dev/null & pid=$!; }
run 0 run --id t0 --kernel vmlinux --initrd guest.cpio --memory 256M --cmdline quiet --cpus CPUS --net tap=vm0,mac=52:54:00:12:34:56
await test -e /sys/class/net/vm0; ip addr add 10.9.0.1/24 dev vm0
ln -s out.0 out
await heard 20
said() { [ "$(sed -n 's/.*heard \([0-9][0-9]*\).*/\1/p' out.$1 | tail -n 1)" -gt $2 ] 2>/dev/null; }
await said 0 15
for life in LIVES; do
    drystone snapshot t$((life-1)) snap --stop; wait $pid
    last=$(tail -n 1 heard)
    # On another interface, which has the host's address a little later.
    run $life restore snap --id t$life --net net0=tap=vm$life
    await test -e /sys/class/net/vm$life; ip addr add 10.9.0.1/24 dev vm$life
    await heard $((last+20)); await said $life $((last+10))
    echo "report life $life"
done
drystone restore snap --net nosuch=tap=vm9; echo "report nosuch $?"
drystone restore snap --net net0=tap=vm9,mtu=100; echo "report more $?"
drystone restore snap --net net0=tap=vm9,queues=2; echo "report pairs $?"
drystone stop t$life; wait $pid
# All numbers, once, in order.
n=0; while read number; do n=$((n+1)); [ $number = $n ] || { echo "report wrong $number"; break; }; done < heard
echo "report numbers $n"
grep -h lost out.*; cat log.$life
"#;

fn connections_go_on(cpus: u32) {
    let bench = Bench::new();
    let lives: &[&str] = if full("a connection over three restored lives, instead of one") {
        &["1", "2", "3"]
    } else {
        &["1"]
    };
    let script = TALKS_SCRIPT.replace("CPUS", &cpus.to_string()).replace("LIVES", &lives.join(" "));
    let outcome = bench.run(bench.job_of(Version::V6_12, TALKS, &["virtio_pci", "virtio_net"], &script));
    let text = outcome.text();
    assert_eq!(outcome.code, 0, "{text}");
    for life in lives {
        assert!(text.contains(&format!("report life {life}\n")), "{text}");
    }
    assert_eq!(report(&text, "wrong"), None, "{text}");
    assert!(report(&text, "numbers").unwrap().parse::<u32>().unwrap() > 35, "{text}");
    assert!(!text.contains("report lost"), "{text}");
    for (name, code) in [("nosuch", "2"), ("more", "2"), ("pairs", "2")] {
        assert_eq!(report(&text, name), Some(code), "{name}\n{text}");
    }
}

#[test]
fn connections_go_on_in_a_restored_machine_on_another_interface() {
    connections_go_on(1);
}
