//! A running machine is paused, reset, stopped and killed from outside, and leaves nothing behind.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

use drystone_lab::{Job, Version};
use drystone_tests::{Bench, full, report};
use std::time::Duration;

/// A guest that is reset leaves half a line behind, and one that is stopped too: what they say is looked for anywhere in a line.
/// `start NAME TEST [FLAGS]` runs a guest in the background, its console in NAME.out; `await NAME TEXT` waits for a line.
const PRELUDE: &str = r#"
start() { name=$1; test=$2; shift 2; rm -f $name.out
    drystone run --id $name --kernel vmlinux --initrd guest.cpio --memory 128M --cmdline "quiet test=$test" \
        --console file:$name.out --log-file $name.log "$@" < /dev/null & pid=$!; }
says() { grep -q "$2" $1.out 2>/dev/null; }
await() { until_done says "$@"; }
lines() { grep -c '^count' $1.out; }
until_done() { tries=0; until "$@"; do usleep 100000; tries=$((tries+1)); [ $tries -lt 1500 ] || hangs "$@"; done; }
hangs() { echo "TIMEOUT: $*"; for file in *.out *.log; do echo "--- $file"; tail -n 40 $file; done
    drystone ls; for id in $(ls run); do drystone info $id; done; exit 99; }
boots() { [ "$(cat $1.out 2>/dev/null | grep -c 'report release')" -ge $2 ]; }
is_paused() { drystone info $1 | grep -q 'state    paused'; }
events() { sed -n "s/.* event [0-9]* //p" $1.log | tr '\n' ',' | tr ' ' '.'; }
"#;

fn run(script: &str) -> String {
    outcome(|bench| bench.job(Version::V6_12, &format!("{PRELUDE}{script}")))
}

/// The same with another first program in the guest.
fn run_guest(init: &str, script: &str) -> String {
    outcome(|bench| bench.job_of(Version::V6_12, init, &[], &format!("{PRELUDE}{script}")))
}

fn outcome(job: impl FnOnce(&Bench) -> Job) -> String {
    let bench = Bench::new();
    // A limit for what hangs, on a busy host; the long rows of `DRYSTONE_FULL=1` take longer.
    let minutes = if std::env::var_os("DRYSTONE_FULL").is_some() { 120 } else { 10 };
    let outcome = bench.run(job(&bench).time_limit(Duration::from_secs(60 * minutes)));
    assert_eq!(outcome.code, 0);
    outcome.text()
}

fn number(text: &str, name: &str) -> u64 {
    report(text, name).unwrap_or_else(|| panic!("no report of {name}")).parse().unwrap()
}

#[test]
fn pause_resume_reset_and_stop_through_the_socket() {
    let text = run(r#"
has_grown() { [ $(lines a) -gt $((x+2)) ]; }
start a count; await a 'count 5'
echo "report ls $(drystone ls | grep '^a ' | tr -s ' ')"
drystone pause a; echo "report pause $?"
x=$(lines a); sleep 2; echo "report grown_paused $(( $(lines a) - x ))"
echo "report state $(drystone info a | tr -s ' ' | tr '\n' ' ')"
drystone power a; echo "report power_paused $?"
drystone pause a; echo "report pause_again $?"
drystone resume a; echo "report resume $?"
until_done has_grown; echo "report grown_resumed $?"
drystone reset a; echo "report reset $?"
until_done boots a 2; echo "report boots $(grep -c 'report release' a.out)"
await a 'count 5'
drystone stop a; echo "report stop $?"
wait $pid; echo "report exit $?"
echo "report left $(ls run | wc -l)"
drystone info a; echo "report info_gone $?"
"#);
    assert!(report(&text, "ls").unwrap().contains("running"));
    for ok in ["pause", "pause_again", "resume", "grown_resumed", "reset", "stop", "exit", "left"] {
        assert_eq!(number(&text, ok), 0, "{ok}");
    }
    // What was on its way to the file when the guest stood still.
    assert!(number(&text, "grown_paused") <= 2);
    assert!(report(&text, "state").unwrap().contains("paused"));
    assert_eq!(number(&text, "power_paused"), 1, "nobody would see the button");
    assert_eq!(number(&text, "boots"), 2);
    assert_eq!(number(&text, "info_gone"), 1);
}

#[test]
fn signals_leave_nothing_behind() {
    let text = run(r#"
start t count; await t 'count 3'; kill -TERM $pid; wait $pid; echo "report term $?"; echo "report left $(ls run | wc -l)"
start k count; await k 'count 3'; kill -KILL $pid; wait $pid; echo "report kill $?"
echo "report stale $(ls run | wc -l)"
drystone ls > ls.txt; echo "report ls $?"; echo "report listed $(grep -c '^k ' ls.txt)"
echo "report cleaned $(ls run | wc -l)"
start k count; await k 'count 3'; drystone stop k; wait $pid; echo "report again $?"
echo "report processes $(pidof drystone | wc -w)"
"#);
    assert_eq!(number(&text, "term"), 143);
    assert_eq!(number(&text, "left"), 0);
    assert_eq!(number(&text, "kill"), 137);
    assert!(number(&text, "stale") > 0, "nothing can clean up after SIGKILL");
    assert_eq!((number(&text, "ls"), number(&text, "listed"), number(&text, "cleaned")), (0, 0, 0));
    assert_eq!((number(&text, "again"), number(&text, "processes")), (0, 0));
}

#[test]
fn the_guest_heeds_its_button_and_its_console() {
    let text = run(r#"
start b button; await b ready; drystone power b; echo "report power $?"; wait $pid; echo "report button $?"
echo "report pressed $(grep -c 'button pressed' b.out)"
mkfifo keys; exec 3<>keys; printf 'one\nend\n' >&3; drystone run --kernel vmlinux --initrd guest.cpio --memory 128M \
    --cmdline 'quiet test=echo' <&3 > e.out; echo "report echo $?"; echo "report heard $(grep -c '^heard' e.out)"
"#);
    assert_eq!((number(&text, "power"), number(&text, "button"), number(&text, "pressed")), (0, 0, 1));
    assert_eq!((number(&text, "echo"), number(&text, "heard")), (0, 2));
}

/// The guest's first program, where all that a guest is to do is to end: by a crash if its command line says so, else by a reset.
const ENDS: &str = r#"#!/bin/sh
mount -t proc proc /proc
echo "report release and cpus $(grep -c ^processor /proc/cpuinfo)"
grep -q test=crash /proc/cmdline && echo c > /proc/sysrq-trigger
reboot -f
"#;

/// Whichever way a Linux on several processors takes, its reset is one, and a machine that is reset is as it was.
#[test]
fn a_guest_resets_itself_in_every_way_that_linux_knows() {
    let text = run_guest(
        ENDS,
        r#"
start acpi "reboot reboot=a" --cpus 2 --on-reset stop; a=$pid; start keyboard "reboot reboot=k" --cpus 2 --on-reset stop; k=$pid
wait $a; echo "report acpi $?"; wait $k; echo "report keyboard $?"
start panic "crash panic=1" --cpus 2 --on-reset stop; p=$pid; start triple "reboot reboot=t" --cpus 2; t=$pid
wait $p; echo "report panic $?"; wait $t; echo "report triple $?"
start itself reboot --cpus 4; until_done boots itself 2; drystone stop itself; wait $pid; echo "report itself $?"
echo "report cpus_again $(grep -o 'cpus [0-9]*' itself.out | sort | uniq | tr '\n' ' ')"
for name in acpi keyboard panic triple itself; do echo "report events_$name $(events $name)"; done
"#,
    );
    assert_eq!((number(&text, "acpi"), number(&text, "keyboard"), number(&text, "panic")), (5, 5, 5));
    assert_eq!((number(&text, "triple"), number(&text, "itself")), (3, 0));
    assert_eq!(report(&text, "cpus_again").unwrap().trim(), "cpus 4", "in every life");
    for name in ["acpi", "keyboard", "panic"] {
        let told = report(&text, &format!("events_{name}")).unwrap();
        assert_eq!(told, "started.operator,guest_reset,stopped.guest_reset,");
    }
    assert_eq!(report(&text, "events_triple"), Some("started.operator,stopped.triple_fault,"));
    let told = report(&text, "events_itself").unwrap();
    assert!(told.starts_with("started.operator,guest_reset,reset.guest_reset,"), "{told}");
}

#[test]
fn a_panic_is_seen_and_answered_and_an_nmi_arrives() {
    let text = run(r#"
start n nmi --cpus 2 --on-panic pause; nmi=$pid; start r panic --on-panic reset; reset=$pid
await n ready; drystone nmi n; await n 'nmi 1 1'; drystone nmi n --cpu 1; await n 'nmi 1 2'; await n armed
drystone nmi n --cpu 7; echo "report no_such_cpu $?"
drystone nmi n --cpu 0; until_done is_paused n
echo "report panicked $(drystone events n | cut -d' ' -f3- | tr '\n' ',' | tr ' ' '.')"
drystone reset n; drystone resume n; until_done boots n 2; drystone stop n; wait $nmi; echo "report paused $?"
until_done boots r 2; drystone stop r; wait $reset; echo "report reset $?"; echo "report events_reset $(events r)"
start p panic; wait $pid; echo "report stopped $?"; echo "report events_stopped $(events p)"
"#);
    let panicked = "started.operator,nmi:.all.vCPUs,nmi:.vCPU.1,nmi:.vCPU.0,guest_panic,paused.guest_panic,";
    assert_eq!(report(&text, "panicked"), Some(panicked));
    assert_eq!((number(&text, "no_such_cpu"), number(&text, "paused"), number(&text, "reset")), (1, 0, 0));
    assert!(
        report(&text, "events_reset").unwrap().starts_with("started.operator,guest_panic,reset.guest_panic,")
    );
    assert_eq!(number(&text, "stopped"), 6);
    assert_eq!(report(&text, "events_stopped"), Some("started.operator,guest_panic,stopped.guest_panic,"));
}

#[test]
fn a_graceful_stop_asks_waits_and_forces() {
    let text = run(r#"
start c cad --shutdown-signal ctrl_alt_del; c=$pid; start b button; b=$pid
await c ready; drystone ctrl-alt-del c; await c 'ctrl-alt-del 1'
echo "report asked $(drystone stop c --graceful)"; wait $c; echo "report asked_exit $?"; echo "report events_asked $(events c)"
await b ready; drystone events b --follow > b.events & follower=$!
echo "report pressed $(drystone stop b --graceful --timeout 1m)"; wait $b; echo "report pressed_exit $?"
wait $follower; echo "report follower $?"; echo "report followed $(cut -d' ' -f3- b.events | tr '\n' ',' | tr ' ' '.')"
start d count; d=$pid; start e count; e=$pid
await d 'count 1'; echo "report forced $(drystone stop d --graceful --timeout 1s)"; wait $d; echo "report forced_exit $?"
echo "report events_forced $(events d)"
await e 'count 1'; drystone stop e --graceful --timeout 1h > e.txt & asking=$!
until_done grep -q graceful_stop e.log; drystone pause e; echo "report meanwhile $?"; drystone info e | grep -q paused; echo "report seen $?"
drystone stop e; wait $asking; echo "report otherwise $(cat e.txt)"; wait $e; echo "report otherwise_exit $?"
"#);
    assert_eq!(report(&text, "asked"), Some("c: the guest shut down"));
    let asked = "started.operator,ctrl_alt_del,graceful_stop:.within.30000.ms,ctrl_alt_del,guest_power_off,stopped.shutdown,";
    assert_eq!(report(&text, "events_asked"), Some(asked));
    assert_eq!(report(&text, "pressed"), Some("b: the guest shut down"));
    let pressed =
        "started.operator,graceful_stop:.within.60000.ms,power_button,guest_power_off,stopped.shutdown,";
    assert_eq!(report(&text, "followed"), Some(pressed), "to the last word");
    assert_eq!(report(&text, "forced"), Some("d: the guest did not shut down in time, and was forced"));
    let forced =
        "started.operator,graceful_stop:.within.1000.ms,power_button,graceful_stop_timeout,stopped.overdue,";
    assert_eq!(report(&text, "events_forced"), Some(forced));
    assert_eq!(report(&text, "otherwise"), Some("e: it ended otherwise: operator"));
    for exit in
        ["asked_exit", "pressed_exit", "follower", "forced_exit", "meanwhile", "seen", "otherwise_exit"]
    {
        assert_eq!(number(&text, exit), 0, "{exit}");
    }
}

/// What is the machine's and not the guest's stays as it is over many resets. Guest RAM is a memory file, so that memory beside
/// it can be told apart.
#[test]
fn resets_in_a_row_take_nothing() {
    if !full("a stock kernel is reset 100 times in a row") {
        return;
    }
    let (first, last) = (2, 100);
    let text = run_guest(
        ENDS,
        &format!(
            r#"
resets() {{ kill -0 $pid || hangs "the machine is gone"; [ "$(cat r.log 2>/dev/null | grep -c ' event .* reset guest_reset')" -ge $1 ]; }}
look() {{ echo "report $1_kib $(awk '/^RssAnon/ {{ print $2 }}' /proc/$pid/status)"
    echo "report $1_threads $(ls /proc/$pid/task | wc -l)"; echo "report $1_fds $(ls /proc/$pid/fd | wc -l)"; }}
start r reboot --cpus 2 --memory-backing memfd
until_done resets {first}; look first; n={first}
while [ $n -lt {last} ]; do n=$((n+1)); until_done resets $n; done; look last
drystone stop r; wait $pid; echo "report exit $?"
"#
        ),
    );
    assert_eq!(number(&text, "exit"), 0);
    assert_eq!(number(&text, "first_threads"), number(&text, "last_threads"));
    assert_eq!(number(&text, "first_fds"), number(&text, "last_fds"));
    let (before, after) = (number(&text, "first_kib"), number(&text, "last_kib"));
    println!("beside guest RAM: {before} KiB, and {} resets later {after} KiB", last - first);
    assert!(after <= before + 256, "{before} KiB, then {after} KiB");
}
