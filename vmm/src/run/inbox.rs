use super::signals::{self, Signals};
use crate::console::{Escape, Terminal};
use crate::monitor::End;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

/// What the thread that runs a machine waits for.
pub(super) enum Event {
    /// A signal that means the end.
    Signal(i32),
    /// The user's wish.
    Escape(Escape),
    /// Some thread panicked: this program has a bug.
    Panic,
    /// The machine has ended and is gone.
    Ended(Result<End, String>),
    /// Somebody is at the door.
    Knock,
}

/// Where events arrive: from other threads, and as signals. It takes the signals from when it is made on.
pub(super) struct Inbox {
    signals: Signals,
    events: Receiver<Event>,
    post: Post,
    terminal: Option<Terminal>,
}

/// Sends events to an [`Inbox`], from any thread. If nobody listens any more, the machine has ended.
#[derive(Clone)]
pub(super) struct Post {
    events: Sender<Event>,
    /// The end that signals write to as well, so that one descriptor tells of both.
    bell: Arc<UnixStream>,
}

impl Post {
    pub fn send(&self, event: Event) {
        let _ = self.events.send(event);
        // Fails only when it is full, and then it rings.
        let _ = (&*self.bell).write(&[0]);
    }
}

impl Inbox {
    pub fn new() -> io::Result<Self> {
        let (read, bell) = UnixStream::pair()?;
        bell.set_nonblocking(true)?;
        let signals = signals::take(read, bell.try_clone()?)?;
        let (sender, events) = channel();
        let post = Post { events: sender, bell: Arc::new(bell) };
        Ok(Self { signals, events, post, terminal: None })
    }

    pub fn post(&self) -> Post {
        self.post.clone()
    }

    /// From now on stopping and continuing this process gives `terminal` back and takes it again.
    pub fn control_jobs(&mut self, terminal: Terminal) -> io::Result<()> {
        self.terminal = Some(terminal);
        signals::take_jobs(&self.signals)
    }

    /// Waits for an event, or for `door` to become readable; `None` when there is neither until `deadline`.
    pub fn next(&mut self, deadline: Option<Instant>, door: Option<BorrowedFd<'_>>) -> Option<Event> {
        loop {
            // This empties the descriptor, so it comes first: what is sent from now on rings again.
            for signal in self.signals.pending() {
                match signals::follow(signal, self.terminal.as_ref()) {
                    Some(end) => return Some(Event::Signal(end)),
                    None => continue,
                }
            }
            if let Ok(event) = self.events.try_recv() {
                return Some(event);
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let timeout = left.and_then(|left| Timespec::try_from(left).ok());
            let fds = [Some(self.signals.get_read().as_fd()), door].into_iter().flatten();
            let mut fds: Vec<_> = fds.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
            match poll(&mut fds, timeout.as_ref()) {
                Ok(0) => return None,
                Ok(_) if fds.get(1).is_some_and(|door| !door.revents().is_empty()) => {
                    return Some(Event::Knock);
                }
                // An error is a signal that came, which is looked at next.
                _ => (),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn events_come_in_order_from_any_thread_and_a_deadline_passes() {
        let mut inbox = Inbox::new().unwrap();
        let post = inbox.post();
        let sender = std::thread::spawn(move || {
            post.send(Event::Panic);
            post.send(Event::Escape(Escape::Leave));
        });
        assert!(matches!(inbox.next(None, None), Some(Event::Panic)));
        assert!(matches!(inbox.next(None, None), Some(Event::Escape(Escape::Leave))));
        sender.join().unwrap();
        assert!(inbox.next(Some(Instant::now()), None).is_none());
        assert!(inbox.next(Some(Instant::now() + Duration::from_millis(5)), None).is_none());
    }

    #[test]
    fn a_knock_is_heard_until_somebody_opens_and_signals_come_first() {
        let (mut inbox, (door, mut visitor)) = (Inbox::new().unwrap(), UnixStream::pair().unwrap());
        assert!(inbox.next(Some(Instant::now()), Some(door.as_fd())).is_none());
        visitor.write_all(&[1]).unwrap();
        inbox.post().send(Event::Panic);
        assert!(matches!(inbox.next(None, Some(door.as_fd())), Some(Event::Panic)));
        assert!(matches!(inbox.next(None, Some(door.as_fd())), Some(Event::Knock)));
        assert!(matches!(inbox.next(None, Some(door.as_fd())), Some(Event::Knock)));
        assert!(inbox.next(Some(Instant::now()), None).is_none());
    }

    #[test]
    fn more_events_than_the_bell_has_room_for_are_all_there() {
        let mut inbox = Inbox::new().unwrap();
        let post = inbox.post();
        (0..100_000).for_each(|_| post.send(Event::Panic));
        assert!((0..100_000).all(|_| matches!(inbox.next(None, None), Some(Event::Panic))));
        assert!(inbox.next(Some(Instant::now()), None).is_none());
    }
}
