use super::host::{self, Latch, Ready};
use super::queue::Queue;
use super::{Escape, EscapeParser, InputSink, Key, Terminal};
use rustix::event::PollFlags;
use rustix::fs::OFlags;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// So much may be typed ahead of a guest that takes nothing. Whoever writes more waits.
const TYPE_AHEAD: usize = 64 << 10;
const CHUNK: usize = 4096;
/// How often a process in the background looks whether it is in front again, and a full guest is asked again.
const GLANCE: Duration = Duration::from_millis(100);

/// What is called, on the reading thread, with each wish that the user types.
pub type OnEscape = Box<dyn Fn(Escape) + Send>;

/// The threads that bring the user's input to the guest: one that reads, and for a terminal one that feeds the guest, so that
/// the escape key is seen also while the guest takes nothing.
pub struct Input {
    stop: Arc<Latch>,
    queue: Arc<Queue>,
    threads: Vec<JoinHandle<()>>,
}

struct Reader {
    fd: OwnedFd,
    /// The escape key counts only here: a file may hold any byte.
    terminal: Option<Terminal>,
    parser: EscapeParser,
    on_escape: OnEscape,
    stop: Arc<Latch>,
    to: To,
}

/// Where the reading thread puts what was typed.
enum To {
    Queue(Arc<Queue>),
    Guest(Box<dyn InputSink>),
}

impl Input {
    /// Begins to read from `from`. `terminal` says that it is one. The end of the input ends nothing but the reading; where it
    /// is known beforehand, nobody waits for it.
    ///
    /// # Errors
    /// What the host said when the descriptor is unusable or there can be no more threads.
    pub fn start(
        from: BorrowedFd<'_>,
        terminal: Option<Terminal>,
        sink: Box<dyn InputSink>,
        on_escape: OnEscape,
    ) -> io::Result<Self> {
        let (stop, queue) = (Arc::new(Latch::new()?), Arc::new(Queue::new(TYPE_AHEAD)));
        // Made first: should the second thread fail to start, dropping this ends the first.
        let mut input = Self { stop: stop.clone(), queue: queue.clone(), threads: Vec::new() };
        if host::is_null(from)? {
            return Ok(input);
        }
        let fd = host::reopen(from, OFlags::RDONLY)?;
        let thread = |name: &str| std::thread::Builder::new().name(name.into());
        let to = if terminal.is_some() {
            let queue = queue.clone();
            let feed = move || feed(&queue, sink.as_ref());
            input.threads.push(thread("console-feed").spawn(feed)?);
            To::Queue(input.queue.clone())
        } else {
            To::Guest(sink)
        };
        let reader = Reader { fd, terminal, parser: EscapeParser::default(), on_escape, stop, to };
        input.threads.push(thread("console-in").spawn(move || reader.run())?);
        Ok(input)
    }
}

impl Drop for Input {
    /// Ends the reading promptly. What the guest has not taken is lost with it.
    fn drop(&mut self) {
        self.stop.set();
        self.queue.stop();
        for thread in self.threads.drain(..) {
            // A panic in it was reported by the hook.
            let _ = thread.join();
        }
    }
}

impl Reader {
    fn run(mut self) {
        while self.step() {}
        if let To::Queue(queue) = &self.to {
            queue.end();
        }
    }

    /// False at the end of the input.
    fn step(&mut self) -> bool {
        // Reading from the background would stop this process (SIGTTIN), and the guest with it.
        if self.terminal.as_ref().is_some_and(|t| !t.is_foreground()) {
            return host::wait(None, Some(&self.stop), Some(GLANCE)) != Ready::Latched;
        }
        match host::wait(Some((self.fd.as_fd(), PollFlags::IN)), Some(&self.stop), None) {
            Ready::Latched => return false,
            Ready::TimedOut => return true,
            Ready::Yes => (),
        }
        let mut chunk = [0; CHUNK];
        match rustix::io::read(&self.fd, &mut chunk) {
            Ok(0) => false,
            Ok(n) => self.take(chunk.get(..n).unwrap_or_default()),
            Err(e) => host::is_transient(e),
        }
    }

    fn take(&mut self, typed: &[u8]) -> bool {
        if self.terminal.is_none() {
            return self.put(typed);
        }
        let mut bytes = Vec::with_capacity(typed.len() + 1);
        for byte in typed {
            match self.parser.feed(*byte) {
                Key::Pending => (),
                Key::Byte(byte) => bytes.push(byte),
                Key::Bytes(both) => bytes.extend(both),
                Key::Escape(wish) => (self.on_escape)(wish),
            }
        }
        self.put(&bytes)
    }

    /// False when nobody wants it any more.
    fn put(&self, mut bytes: &[u8]) -> bool {
        let sink = match &self.to {
            To::Queue(queue) => return queue.put(bytes),
            To::Guest(sink) => sink,
        };
        loop {
            bytes = bytes.get(sink.push(bytes)..).unwrap_or_default();
            if bytes.is_empty() {
                return true;
            }
            if sink.is_closed() || host::wait(None, Some(&self.stop), Some(Duration::ZERO)) == Ready::Latched
            {
                return false;
            }
            sink.wait_for_room(GLANCE);
        }
    }
}

fn feed(queue: &Queue, sink: &dyn InputSink) {
    let mut chunk = [0; 256];
    while let Some(n) = queue.peek(&mut chunk) {
        let taken = sink.push(chunk.get(..n).unwrap_or_default());
        queue.consume(taken);
        if taken < n && !sink.wait_for_room(GLANCE) && queue.is_stopped() {
            return;
        }
        if taken == 0 && sink.is_closed() {
            // Whoever writes into our input need not wait for ever.
            queue.stop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    struct Nobody;

    impl InputSink for Nobody {
        fn push(&self, _: &[u8]) -> usize {
            0
        }
        fn wait_for_room(&self, _: Duration) -> bool {
            false
        }
        fn is_closed(&self) -> bool {
            true
        }
    }

    #[test]
    fn nobody_waits_for_input_that_cannot_come() {
        let threads = |path: &str| {
            let file = File::open(path).unwrap();
            Input::start(file.as_fd(), None, Box::new(Nobody), Box::new(drop)).unwrap().threads.len()
        };
        assert_eq!((threads("/dev/null"), threads("/dev/zero"), threads("/proc/self/stat")), (0, 1, 1));
    }
}
