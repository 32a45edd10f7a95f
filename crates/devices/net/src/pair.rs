mod rx;
mod tx;

use crate::device::Message;
use crate::features::{MQ, MRG_RXBUF};
use crate::shared::Shared;
use crate::{NetCounters, Port, control};
use drystone_memory::Mem;
use drystone_virtio::{Cx, Fault, Postbox, Source, Timer, Worker};
use rx::Rx;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Duration;
use tx::Tx;

const TIMER: u32 = 0;
const PORT: u32 = 1;

/// Serves a queue for each direction, over one port.
pub(crate) struct Pair {
    end: End,
    rx: Rx,
    tx: Tx,
}

/// What both directions have together.
struct End {
    index: u16,
    port: Box<dyn Port>,
    shared: Arc<Shared>,
    timer: Timer,
    postbox: Postbox<Message>,
    /// Nothing comes or goes, until the port is back.
    gone: bool,
}

/// What a pair is to a driver.
#[derive(PartialEq, Eq)]
enum Role {
    Frames,
    /// The driver wants a single pair: where the second would receive it gives commands (5.1.2).
    Commands,
    Nothing,
}

impl End {
    fn count(&self) -> &NetCounters {
        self.shared.count(self.index)
    }

    /// Whether frames come and go.
    fn is_connected(&self) -> bool {
        self.shared.link() && !self.gone
    }

    /// Goes on as soon as others had their turn.
    fn again(&self) {
        self.timer.set(Duration::ZERO);
    }

    /// Has the port go on with what it has.
    fn flush<M: Mem>(&mut self, cx: &Cx<'_, M>) {
        if self.gone && !self.comes_back() {
            return;
        }
        let failure = self.port.flush().err().filter(|e| e.kind() != ErrorKind::WouldBlock);
        if let Some(error) = failure.and_then(|error| self.check(error)) {
            self.count().tx_errors.increment();
            cx.report("sending a frame", &error);
        }
    }

    /// The port is gone: is it back?
    fn comes_back(&mut self) -> bool {
        // With a full mailbox the guest does not hear of it, and it is asked again.
        self.gone = !(self.port.is_back() && self.postbox.post(Message::Back).is_ok());
        !self.gone
    }

    /// The port has failed: is it gone?
    fn check(&mut self, error: io::Error) -> Option<io::Error> {
        if !self.port.is_gone(&error) {
            return Some(error);
        }
        if !self.gone {
            self.gone = true;
            // A full mailbox means that the machine stands still; others of its messages are as bad.
            let _ = self.postbox.post(Message::Gone(error));
        }
        None
    }
}

impl Pair {
    pub fn new(
        index: u16,
        port: Box<dyn Port>,
        shared: Arc<Shared>,
        timer: Timer,
        postbox: Postbox<Message>,
    ) -> Self {
        let end = End { index, port, shared, timer, postbox, gone: false };
        Self { end, rx: Rx::new(2 * index), tx: Tx::new(2 * index + 1) }
    }

    pub fn queues(&self) -> [u16; 2] {
        [self.rx.queue, self.tx.queue]
    }

    fn role(&self, features: u64) -> Role {
        match self.end.index {
            0 => Role::Frames,
            _ if features & MQ != 0 => Role::Frames,
            1 => Role::Commands,
            _ => Role::Nothing,
        }
    }

    fn send<M: Mem>(&mut self, cx: &mut Cx<'_, M>) -> Result<(), Fault> {
        self.tx.serve(&mut self.end, cx)?;
        if self.end.shared.has_replies() { self.receive(cx) } else { Ok(()) }
    }

    fn receive<M: Mem>(&mut self, cx: &mut Cx<'_, M>) -> Result<(), Fault> {
        self.rx.serve(&mut self.end, cx)
    }

    fn serve_all<M: Mem>(&mut self, cx: &mut Cx<'_, M>) -> Result<(), Fault> {
        match self.role(cx.features()) {
            Role::Frames => {
                self.end.flush(cx);
                self.tx.serve(&mut self.end, cx)?;
                self.receive(cx)
            }
            Role::Commands => control::serve(self.rx.queue, &self.end.shared, cx),
            Role::Nothing => Ok(()),
        }
    }
}

impl<M: Mem> Worker<M> for Pair {
    fn start(&mut self, cx: &mut Cx<'_, M>) -> Result<(), Fault> {
        self.end.shared.rx_limiter.resume();
        self.end.shared.tx_limiter.resume();
        self.rx.begin(cx.features() & MRG_RXBUF != 0, cx);
        self.serve_all(cx)
    }
    fn on_kick(&mut self, queue: u16, cx: &mut Cx<'_, M>) -> Result<(), Fault> {
        match self.role(cx.features()) {
            Role::Frames if queue == self.tx.queue => self.send(cx),
            Role::Frames => self.receive(cx),
            Role::Commands | Role::Nothing => self.serve_all(cx),
        }
    }
    fn on_ready(&mut self, _: u32, cx: &mut Cx<'_, M>) -> Result<(), Fault> {
        self.serve_all(cx)
    }
    fn drain(&mut self, cx: &mut Cx<'_, M>) -> Result<(), Fault> {
        self.tx.drain(&self.end, cx)?;
        self.rx.drain(&self.end, cx)?;
        self.end.shared.rx_limiter.pause();
        self.end.shared.tx_limiter.pause();
        Ok(())
    }
    fn cancel(&mut self) {
        self.tx.cancel(&self.end);
        self.rx.cancel(&self.end);
        self.end.timer.clear();
    }
    fn sources(&self) -> Vec<Source> {
        let port = self.end.port.source(PORT);
        [self.end.timer.source(TIMER)].into_iter().chain(port).collect()
    }
}
