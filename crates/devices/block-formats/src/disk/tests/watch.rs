use std::io::{self, IoSlice};
use std::sync::{Mutex, MutexGuard};

/// What a file was asked for.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    Write(u64, Vec<u8>),
    Punch(u64, u64),
    /// All that was asked for before is on stable storage.
    Sync,
}

/// Sees what is asked of a file, and fails it as planned.
#[derive(Debug, Default)]
pub(crate) struct Watch(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    events: Vec<Event>,
    /// How many calls go well, and what the others fail with.
    plan: Option<(u64, i32)>,
}

impl Watch {
    pub fn read(&self) -> io::Result<()> {
        self.state().call()
    }
    pub fn write(&self, from: &[IoSlice<'_>], offset: u64) -> io::Result<()> {
        let mut state = self.state();
        state.call()?;
        state.events.push(Event::Write(offset, from.iter().flat_map(|piece| piece.to_vec()).collect()));
        Ok(())
    }
    pub fn sync(&self) -> io::Result<()> {
        let mut state = self.state();
        state.call()?;
        state.events.push(Event::Sync);
        Ok(())
    }
    pub fn punch(&self, offset: u64, len: u64) {
        self.state().events.push(Event::Punch(offset, len));
    }

    /// How many there were.
    pub fn len(&self) -> usize {
        self.state().events.len()
    }
    pub fn events(&self) -> Vec<Event> {
        self.state().events.clone()
    }
    /// After `good` calls all fail with this error, until another plan is made.
    pub fn fail_after(&self, good: u64, error: i32) {
        self.state().plan = Some((good, error));
    }
    pub fn fail_no_more(&self) {
        self.state().plan = None;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }
}

impl State {
    fn call(&mut self) -> io::Result<()> {
        match &mut self.plan {
            Some((0, error)) => Err(io::Error::from_raw_os_error(*error)),
            Some((good, _)) => {
                *good -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }
}
