//! A 16550A with flow control in both directions: `uart` is what the guest sees, `input` and `output` are the host's ends.
mod aml;
mod config;
mod input;
mod output;
mod state;
mod uart;

pub use config::{SerialConfig, SerialError};
pub use input::SerialInput;
pub use output::{SerialOutput, SerialWaker, Taken};
pub use state::{RequestToSend, SerialState};

use crate::bytes::{self, lock};
use drystone_bus::{BusDevice, Effect, Interrupt};
use drystone_state::{Component, ComponentError, Persist, PersistDyn, RestoreError, SaveError};
use std::sync::{Arc, Condvar, Mutex};
use uart::Uart;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

/// A serial port: a 16550A for the guest, a [`SerialInput`] and a [`SerialOutput`] for the host.
///
/// The registers are at offsets 0 to 7. The register file and the loopback come from vm-superio; what it leaves
/// out is added here: the FIFO control register, the order in which interrupts are reported, and flow control.
///
/// **Input** waits in a receive FIFO of [`Serial::RECEIVE_FIFO`] bytes, and [`SerialInput::push`] takes no more
/// than fits. A driver that opens a port reads and throws away what it finds there, so bytes are held back, as by
/// a sender that respects RTS, while a driver has set the port up and has not yet said that it listens (by raising
/// RTS or enabling the receive interrupt), or has lowered RTS. Clearing the receive FIFO clears what came round in
/// loopback, and not what was typed.
///
/// **Output** goes into a bounded buffer, from where [`SerialOutput::take`] takes it. When there is no room for
/// another transmit FIFO, the line status says "not empty" and the guest waits, as on a slow line; the transmit
/// interrupt comes when there is room. A vCPU never waits. What the guest writes in spite of a full transmitter is
/// lost, as on hardware, and counted.
///
/// Dropping the `Serial` ends both: `push` takes nothing more and `take` says `Closed` after the last byte.
pub struct Serial {
    shared: Arc<Shared>,
    config: SerialConfig,
}

/// What [`Serial::build`] returns.
pub struct SerialParts {
    /// The device.
    pub serial: Serial,
    /// Where bytes for the guest go in.
    pub input: SerialInput,
    /// Where bytes from the guest come out.
    pub output: SerialOutput,
}

/// What the device and the host's two ends share.
struct Shared {
    inner: Mutex<Inner>,
    interrupt: Arc<dyn Interrupt>,
    /// The guest has made room in the receive FIFO, or the port is gone.
    room: Condvar,
    /// The same for who waits in `poll`.
    room_event: EventFd,
    /// There are bytes to take, or there will be no more.
    bytes: Condvar,
}

struct Inner {
    uart: Uart,
    paused: bool,
    /// A push came short, and whoever pushed waits for room.
    starved: bool,
    /// The device is gone.
    finished: bool,
    /// Someone is blocked in `take`.
    taker_waits: bool,
    /// Whoever takes is to come back with what there is.
    woken: bool,
}

impl Serial {
    /// How many bytes wait for the guest at most.
    pub const RECEIVE_FIFO: usize = uart::RECEIVE_FIFO;
    /// The length of the register block: how many ports it takes.
    pub const LEN: u64 = 8;

    /// A port with default registers, which raises `interrupt` when its interrupt line rises.
    ///
    /// # Errors
    /// [`SerialError::Config`] for settings out of range, [`SerialError::Event`] if there are no descriptors left.
    pub fn build(config: SerialConfig, interrupt: Arc<dyn Interrupt>) -> Result<SerialParts, SerialError> {
        config.check()?;
        let shared = Arc::new(Shared {
            inner: Mutex::new(Inner {
                uart: Uart::new(config.output_buffer),
                paused: false,
                starved: false,
                finished: false,
                taker_waits: false,
                woken: false,
            }),
            interrupt,
            room: Condvar::new(),
            room_event: EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).map_err(SerialError::Event)?,
            bytes: Condvar::new(),
        });
        Ok(SerialParts {
            input: SerialInput::new(shared.clone()),
            output: SerialOutput::new(shared.clone()),
            serial: Self { shared, config },
        })
    }

    /// The settings that it was built with.
    pub fn config(&self) -> &SerialConfig {
        &self.config
    }

    /// How many bytes the guest has written while the transmitter said that it was full, since the port was built.
    pub fn dropped(&self) -> u64 {
        lock(&self.shared.inner).uart.dropped()
    }

    /// Ends the host's side: nothing more is taken in, and [`SerialOutput::take`] returns what is left and then
    /// [`Taken::Closed`]. The guest's output is discarded from now on. Dropping the device does the same.
    pub fn finish(&self) {
        let mut inner = lock(&self.shared.inner);
        let Inner { uart, finished, paused, .. } = &mut *inner;
        *finished = true;
        uart.discard_output(*paused, &*self.shared.interrupt);
        drop(inner);
        self.shared.bytes.notify_all();
        self.shared.wake_pusher();
    }

    /// The guest reads registers from `offset` on; see [`BusDevice::read`].
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        let mut inner = lock(&self.shared.inner);
        bytes::read(offset, data, |at| inner.uart.read(at, &*self.shared.interrupt));
        self.shared.feed(&mut inner);
    }

    /// The guest writes registers from `offset` on; see [`BusDevice::write`]. It never has an effect.
    pub fn write(&self, offset: u64, data: &[u8]) -> Effect {
        let mut inner = lock(&self.shared.inner);
        let effect = bytes::write(offset, data, |at, value| {
            inner.uart.write(at, value, &*self.shared.interrupt);
            Effect::None
        });
        if inner.taker_waits && inner.uart.has_output() {
            inner.taker_waits = false;
            self.shared.bytes.notify_all();
        }
        effect
    }
}

impl Shared {
    /// Tells whoever waits for room in the receive FIFO once there is a good deal of it.
    fn feed(&self, inner: &mut Inner) {
        if inner.starved && !inner.paused && inner.uart.receive_room() >= uart::RECEIVE_FIFO / 2 {
            inner.starved = false;
            self.wake_pusher();
        }
    }

    fn wake_pusher(&self) {
        self.room.notify_all();
        // A full counter is as readable as one more.
        let _ = self.room_event.write(1);
    }
}

impl Drop for Serial {
    fn drop(&mut self) {
        self.finish();
    }
}

impl BusDevice for Serial {
    fn read(&self, offset: u64, data: &mut [u8]) {
        self.read(offset, data);
    }
    fn write(&self, offset: u64, data: &[u8]) -> Effect {
        self.write(offset, data)
    }
}

impl Component for Serial {
    fn pause(&self) -> Result<(), ComponentError> {
        lock(&self.shared.inner).paused = true;
        Ok(())
    }

    fn resume(&self) -> Result<(), ComponentError> {
        let mut inner = lock(&self.shared.inner);
        inner.paused = false;
        inner.uart.output_taken(&*self.shared.interrupt);
        self.shared.feed(&mut inner);
        Ok(())
    }

    /// What waits in the receive FIFO is lost, as on hardware. Output that the guest has written stays to be taken.
    fn reset(&self) -> Result<(), ComponentError> {
        let mut inner = lock(&self.shared.inner);
        // The host's side (paused, who waits, whether it ended) is not the guest's to reset.
        let Inner { uart, paused: _, starved: _, finished: _, taker_waits: _, woken: _ } = &mut *inner;
        uart.reset();
        self.shared.feed(&mut inner);
        Ok(())
    }

    fn persist(&self) -> Option<&dyn PersistDyn> {
        Some(self)
    }
}

impl Persist for Serial {
    type State = SerialState;

    /// Output that was not yet taken is not part of it: it has left the guest, and is still to be taken here.
    fn save(&self) -> Result<SerialState, SaveError> {
        Ok(lock(&self.shared.inner).uart.save())
    }

    fn restore(&self, state: SerialState) -> Result<(), RestoreError> {
        let mut inner = lock(&self.shared.inner);
        inner.uart.restore(state, &*self.shared.interrupt)
    }
}

#[cfg(test)]
mod tests;
