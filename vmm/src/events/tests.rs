use super::*;

#[test]
fn a_flood_pushes_out_the_oldest_and_takes_no_more_room() {
    let history = History::new();
    for _ in 0..3 * MAX_RECORDS {
        history.push(EventKind::GuestReset, None, Some("ü".repeat(4000)));
    }
    let records = history.since(0);
    assert_eq!(records.len(), MAX_RECORDS);
    let numbers: Vec<_> = records.iter().map(|r| r.seq).collect();
    let newest = 3 * MAX_RECORDS as u64;
    assert_eq!(numbers, (newest - MAX_RECORDS as u64 + 1..=newest).collect::<Vec<_>>());
    assert!(records.iter().all(|r| r.detail.as_ref().unwrap().len() <= 1024));
    assert_eq!(*history.newest().borrow(), newest);
    assert_eq!(history.since(newest - 2).len(), 2);
    assert!(history.since(newest).is_empty() && history.since(u64::MAX).is_empty());
}

#[test]
fn every_change_of_state_and_wish_of_the_guest_has_its_word() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("log");
    let journal = Journal::new(Log::open(&log, Level::Info).unwrap());
    let state = |from, to, cause| Event::State { from, to, cause };
    let cases = [
        (state(State::Built, State::Running, Cause::Operator), "1 started operator"),
        (Event::Effect(Effect::Reset), "2 guest_reset"),
        (Event::Reset { cause: Cause::GuestReset }, "3 reset guest_reset"),
        (Event::Reset { cause: Cause::TripleFault }, "4 reset triple_fault"),
        (Event::Effect(Effect::CrashLoaded), "5 guest_crash_loaded"),
        (Event::Effect(Effect::Panic), "6 guest_panic"),
        (state(State::Running, State::Paused, Cause::GuestPanic), "7 paused guest_panic"),
        (state(State::Paused, State::Running, Cause::Operator), "8 resumed operator"),
        (Event::Error("disk: no".into()), "9 error: disk: no"),
        (Event::Effect(Effect::PowerOff), "10 guest_power_off"),
        (state(State::Running, State::Stopped, Cause::Shutdown), "11 stopped shutdown"),
        (state(State::Running, State::Stopped, Cause::Overdue), "12 stopped overdue"),
        (state(State::Running, State::Stopped, Cause::Fault("no".into())), "13 stopped fault: no"),
    ];
    for (event, _) in &cases {
        journal.lifecycle(event);
    }
    let told: Vec<_> = journal.history().since(0).iter().map(Record::to_string).collect();
    let expected: Vec<_> = cases.iter().map(|(_, line)| *line).collect();
    assert_eq!(told, expected);
    let log = std::fs::read_to_string(log).unwrap();
    assert!(expected.iter().all(|line| log.contains(&format!(" event {line}\n"))), "{log}");
}

#[test]
fn words_of_a_later_version_are_understood() {
    let line = r#"{"seq":1,"unix_ms":2,"event":"dreamt","cause":"moon","colour":"grey"}"#;
    let record: Record = serde_json::from_str(line).unwrap();
    assert_eq!((record.event, record.cause), (EventKind::Unknown, Some(CauseKind::Unknown)));
    let line = serde_json::to_string(&Record { event: EventKind::Nmi, cause: None, ..record }).unwrap();
    assert_eq!(line, r#"{"seq":1,"unix_ms":2,"event":"nmi"}"#);
}
