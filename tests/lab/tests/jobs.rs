//! Jobs through the library, in the machine that this host calls for.

#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]

mod common;

use std::time::Duration;

use drystone_lab::{Cancel, Error, Job, Lab, Mode};

fn quick(lab: &Lab, script: &str) -> drystone_lab::Outcome {
    Job::shell(script).run(lab).unwrap()
}

#[test]
fn commands_run_and_say_how_they_ended() {
    let lab = common::lab();
    let outcome = quick(&lab, "printf 'out\\000\\377'; echo err >&2; exit 7");
    assert_eq!((outcome.code, outcome.stdout.as_slice()), (7, b"out\0\xff".as_slice()));
    assert_eq!(outcome.error_text(), "err\n");
    let outcome = quick(&lab, "kill -TERM $$");
    assert_eq!((outcome.code, outcome.signal), (143, Some(15)));
    let outcome = Job::new("no-such-program").run(&lab).unwrap();
    assert_eq!(outcome.code, 127);
    assert!(outcome.not_started.unwrap().contains("no-such-program"));
    let outcome = Job::new("./data").contents("data", "text").run(&lab).unwrap();
    assert_eq!(outcome.code, 126, "{outcome:?}");
}

#[test]
fn files_go_in_and_come_back() {
    let lab = common::lab();
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    std::fs::create_dir_all(tree.join("sub")).unwrap();
    std::fs::write(tree.join("sub/file"), "from the host").unwrap();
    let large: Vec<u8> = (0..3_000_000u32).flat_map(u32::to_le_bytes).collect();
    let job = Job::shell(
        "set -e; cat tree/sub/file; test \"$PWD\" = \"$LAB_JOB\"; echo changed > tree/sub/file
         mkdir out; cp large out/copy; ln -s copy out/link; chmod 755 out/copy; exit 3",
    );
    let job = job.file(&tree, "tree").contents("large", large.clone());
    let out = dir.path().join("back/out");
    let outcome = job.output("out", &out).output("tree/sub/file", dir.path().join("file")).run(&lab).unwrap();
    assert_eq!((outcome.code, outcome.text().as_str()), (3, "from the host"), "{outcome:?}");
    assert!(std::fs::read(out.join("link")).unwrap() == large);
    assert_eq!(std::fs::read_to_string(dir.path().join("file")).unwrap(), "changed\n");
    assert_eq!(
        std::fs::read_to_string(tree.join("sub/file")).unwrap(),
        "from the host",
        "a job works on copies"
    );
    let missing = Job::new("true").output("nothing", dir.path().join("x")).run(&lab).unwrap_err();
    assert!(
        missing.to_string().starts_with("cannot bring back nothing from the job: No such file"),
        "{missing}"
    );
}

#[test]
fn input_reaches_the_command_whole() {
    let lab = common::lab();
    let input: Vec<u8> = (0..2_000_000u32).map(|index| (index / 251) as u8).collect();
    let outcome = Job::new("cat").stdin_bytes(input.clone()).run(&lab).unwrap();
    assert!(outcome.code == 0 && outcome.stdout == input);
    let outcome = Job::shell("exec <&-; sleep 1; echo done").stdin_bytes(input).run(&lab).unwrap();
    assert_eq!(outcome.text(), "done\n", "input that nobody reads is no hindrance");
    assert_eq!(quick(&lab, "wc -c").text().trim(), "0", "without any input there is an end of file");
}

#[test]
fn a_time_limit_ends_everything_in_the_job() {
    let lab = common::lab();
    // A child in a session of its own, that has let go of the output, writes for as long as it lives.
    let script = "setsid sh -c 'while :; do echo x >> alive; sleep 0.05; done' > /dev/null 2>&1 &
                  echo started; trap '' TERM; while :; do sleep 1; done";
    let dir = tempfile::tempdir().unwrap();
    let job = Job::shell(script).time_limit(Duration::from_secs(2)).output("alive", dir.path().join("alive"));
    let outcome = job.run(&lab).unwrap();
    assert_eq!((outcome.code, outcome.timed_out, outcome.text().as_str()), (124, true, "started\n"));
    assert!(dir.path().join("alive").exists());
    // What is left behind neither keeps a job from ending nor lives on to say anything.
    let outcome = quick(&lab, "setsid sh -c 'sleep 3; echo late' & echo done");
    assert_eq!((outcome.code, outcome.text().as_str()), (0, "done\n"));
}

#[test]
fn a_job_can_be_cancelled() {
    let lab = common::lab();
    let cancel = Cancel::new().unwrap();
    let switch = cancel.clone();
    let job = Job::shell("echo ready; sleep 1000").on_stdout(move |_| switch.cancel()).cancel(&cancel);
    assert!(matches!(job.run(&lab), Err(Error::Cancelled(None))));
    assert!(matches!(Job::new("true").cancel(&cancel).run(&lab), Err(Error::Cancelled(None))));
}

#[test]
fn what_cannot_be_a_job_is_refused_before_anything_starts() {
    let lab = common::lab();
    for job in [
        Job::new("true").output("/etc/passwd", "x"),
        Job::new("true").contents("../x", ""),
        Job::new("a\0b"),
        Job::new("true").memory(1),
        Job::new("true").processors(0),
    ] {
        assert!(matches!(job.run(&lab), Err(Error::Job(_))));
    }
    let error = Job::new("true").file("/nowhere/file", "x").run(&lab).unwrap_err().to_string();
    assert!(error.starts_with("cannot find /nowhere/file: "), "{error}");
}

#[test]
fn the_machine_is_a_fresh_one_with_kvm() {
    let lab = common::lab();
    if lab.mode() == Mode::Direct {
        return;
    }
    let script = "test -c /dev/kvm && test -w /dev/kvm && date +%s; cat /proc/sys/kernel/random/uuid; grep -c processor /proc/cpuinfo";
    let (first, second) = (quick(&lab, script).text(), quick(&lab, script).text());
    let lines = |text: &str| text.lines().map(String::from).collect::<Vec<_>>();
    let (first, second) = (lines(&first), lines(&second));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    assert!(now.abs_diff(first[0].parse().unwrap()) < 3600, "the clock is today's: {first:?}");
    assert_ne!(first[1], second[1], "random numbers differ from one job to the next");
    assert_eq!(first[2], "1");
    let two = Job::shell("grep -c processor /proc/cpuinfo").processors(2).run(&lab).unwrap();
    assert_eq!(two.text(), "2\n");
}

#[test]
fn a_test_of_another_package_gets_the_agent_built() {
    let lab = Lab::prepare(&drystone_lab::Progress::stderr()).unwrap();
    assert_eq!(quick(&lab, "echo it runs").text(), "it runs\n");
}

#[test]
fn direct_jobs_mean_the_same() {
    // A process of its own, as the choice comes from the environment.
    let run = |arguments: &[&str]| {
        let mut command = common::runner();
        command.env("DRYSTONE_LAB", "direct").args(arguments).output().unwrap()
    };
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("in"), "hello").unwrap();
    let (input, back) = (dir.path().join("in"), dir.path().join("out"));
    let output = format!("out:{}", back.display());
    let script = "cat in; cp in out; echo err >&2; setsid sleep 1000 > /dev/null 2>&1 & exit 9";
    let outcome = run(&["-f", input.to_str().unwrap(), "-o", &output, "--", script]);
    assert_eq!(outcome.status.code(), Some(9), "{outcome:?}");
    assert_eq!(
        (outcome.stdout.as_slice(), outcome.stderr.as_slice()),
        (b"hello".as_slice(), b"err\n".as_slice())
    );
    assert_eq!(std::fs::read(&back).unwrap(), b"hello");
    let marker = "DIRECT_TEST_MARKER=x";
    let script = "setsid sh -c 'sleep 1000' > /dev/null 2>&1 & sleep 1000";
    let outcome = run(&["-t", "1", "-e", marker, "--", script]);
    assert_eq!(outcome.status.code(), Some(124));
    let carries = |pid: &std::path::Path| {
        let environment = std::fs::read(pid.join("environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable == marker.as_bytes())
    };
    let left = std::fs::read_dir("/proc").unwrap().flatten().filter(|entry| carries(&entry.path())).count();
    assert_eq!(left, 0, "no process of the job is left");
}
