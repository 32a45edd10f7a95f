//! A running machine is paused, reset, stopped and killed from outside, and leaves nothing behind.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

use drystone_lab::Version;
use drystone_tests::{Bench, report};

/// `start NAME TEST [FLAGS]` runs a guest in the background, its console in NAME.out; `await NAME TEXT` waits for a line.
const PRELUDE: &str = r#"
start() { name=$1; test=$2; shift 2; rm -f $name.out
    drystone run --id $name --kernel vmlinux --initrd guest.cpio --memory 128M --cmdline "quiet test=$test" \
        --console file:$name.out --log-file $name.log "$@" < /dev/null & pid=$!; }
await() { n=0; until grep -q "$2" $1.out 2>/dev/null; do usleep 100000; n=$((n+1))
    [ $n -lt 900 ] || { echo "TIMEOUT waiting for '$2' of $1"; cat $1.out $1.log; exit 99; }; done; }
lines() { grep -c '^count' $1.out; }
"#;

fn run(script: &str) -> String {
    let bench = Bench::new();
    let outcome = bench.run(bench.job(Version::V6_12, &format!("{PRELUDE}{script}")));
    assert_eq!(outcome.code, 0);
    outcome.text()
}

fn number(text: &str, name: &str) -> u64 {
    report(text, name).unwrap_or_else(|| panic!("no report of {name}")).parse().unwrap()
}

#[test]
fn pause_resume_reset_and_stop_through_the_socket() {
    let text = run(r#"
start a count; await a 'count 5'
echo "report ls $(drystone ls | grep '^a ' | tr -s ' ')"
drystone pause a; echo "report pause $?"
x=$(lines a); sleep 2; echo "report grown_paused $(( $(lines a) - x ))"
echo "report state $(drystone info a | tr -s ' ' | tr '\n' ' ')"
drystone power a; echo "report power_paused $?"
drystone pause a; echo "report pause_again $?"
drystone resume a; echo "report resume $?"
sleep 2; [ $(lines a) -gt $x ]; echo "report grown_resumed $?"
drystone reset a; echo "report reset $?"
n=0; until [ "$(grep -c '^report release' a.out)" = 2 ]; do usleep 100000; n=$((n+1)); [ $n -lt 900 ] || break; done
echo "report boots $(grep -c '^report release' a.out)"
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
fn the_guest_resets_crashes_and_heeds_its_button() {
    let text = run(r#"
start r reboot; n=0
until [ "$(grep -c '^report release' r.out)" -ge 2 ]; do usleep 100000; n=$((n+1)); [ $n -lt 900 ] || break; done
echo "report boots $(grep -c '^report release' r.out)"; drystone stop r; wait $pid; echo "report reset $?"
start s reboot --on-reset stop; wait $pid; echo "report on_reset_stop $?"
start b button; await b ready; sleep 1; drystone power b; echo "report power $?"; wait $pid; echo "report button $?"
echo "report pressed $(grep -c 'button pressed' b.out)"
printf 'one\nend\n' > typed; (sleep 8; cat typed; sleep 20) | drystone run --kernel vmlinux --initrd guest.cpio --memory 128M \
    --cmdline 'quiet test=echo' > e.out; echo "report echo $?"; echo "report heard $(grep -c '^heard' e.out)"
"#);
    assert!(number(&text, "boots") >= 2);
    assert_eq!((number(&text, "reset"), number(&text, "on_reset_stop")), (0, 5));
    assert_eq!((number(&text, "power"), number(&text, "button"), number(&text, "pressed")), (0, 0, 1));
    assert_eq!((number(&text, "echo"), number(&text, "heard")), (0, 2));
}
