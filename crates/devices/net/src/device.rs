use crate::features::{
    CTRL_GUEST_OFFLOADS, CTRL_MAC_ADDR, CTRL_RX, CTRL_RX_EXTRA, CTRL_VLAN, CTRL_VQ, GUEST_ANNOUNCE, MAC, MQ,
    MRG_RXBUF, MTU, STATUS, agree,
};
use crate::pair::Pair;
use crate::shared::Shared;
use crate::{
    Backend, Filter, Hook, NetConfig, NetError, NetHandle, Offloads, Port, control, features, space,
};
use drystone_bus::Clock;
use drystone_memory::Mem;
use drystone_state::PersistDyn;
use drystone_virtio::{
    Cx, Description, Fault, Mailbox, Postbox, Source, Timer, VirtioDevice, Worker, mailbox,
};
use std::io;
use std::marker::PhantomData;
use std::sync::Arc;

/// The device type (5.1.1).
const TYPE: u32 = 1;
/// Messages that wait at most: an operator's, while the machine is paused.
const MAX_MESSAGES: usize = 16;
/// Entries of the control queue.
const CONTROL_SIZE: u16 = 64;

/// To the device, from its handle and its workers.
#[derive(Debug)]
pub(crate) enum Message {
    /// The cable goes in or out.
    Link(bool),
    /// There is no network any more.
    Pulled,
    /// The guest is to tell the network where it is.
    Announce,
    /// Nothing comes or goes on a port any more.
    Gone(io::Error),
    /// Something does again.
    Back,
}

/// The device. As a worker it has the control queue; each pair of queues has a worker of its own.
pub struct Net<M: Mem> {
    shared: Arc<Shared>,
    queue_size: u16,
    /// Until they are handed out.
    pairs: Vec<Pair>,
    postbox: Postbox<Message>,
    mailbox: Mailbox<Message>,
    memory: PhantomData<fn() -> M>,
}

impl<M: Mem> Net<M> {
    /// A device on `backend`, with one of its ports for each pair of queues.
    ///
    /// # Errors
    /// [`NetError`].
    pub fn new(
        config: &NetConfig,
        backend: Arc<dyn Backend>,
        ports: Vec<Box<dyn Port>>,
        clock: Arc<dyn Clock>,
    ) -> Result<(Self, NetHandle), NetError> {
        Self::with_hook(config, backend, ports, clock, None)
    }

    /// As [`new`](Self::new), with somebody between the guest and its network.
    ///
    /// # Errors
    /// [`NetError`].
    pub fn with_hook(
        config: &NetConfig,
        backend: Arc<dyn Backend>,
        ports: Vec<Box<dyn Port>>,
        clock: Arc<dyn Clock>,
        hook: Option<Box<dyn Hook>>,
    ) -> Result<(Self, NetHandle), NetError> {
        config.validate()?;
        let id = || config.id.clone();
        if ports.len() != usize::from(config.pairs) {
            let what = format!("{} pairs of queues: the back end has {} ports", config.pairs, ports.len());
            return Err(NetError::Config { id: id(), what });
        }
        let begin = |attempt| move |cause| NetError::Backend { id: id(), attempt, cause };
        backend.set_pairs(1).map_err(begin("use a single pair of queues"))?;
        backend.set_offloads(Offloads::NONE).map_err(begin("turn offloads off"))?;
        let event = |cause| NetError::Event { id: id(), cause };
        let (postbox, mailbox) = mailbox(MAX_MESSAGES).map_err(event)?;
        let timers = ports.iter().map(|_| Timer::new()).collect::<Result<Vec<_>, _>>().map_err(event)?;
        let shared = Arc::new(Shared::new(config, backend, hook, clock));
        let parts = (0..).zip(ports).zip(&timers);
        let pair = |((index, port), timer): ((u16, Box<dyn Port>), &Timer)| {
            Pair::new(index, port, shared.clone(), timer.clone(), postbox.clone())
        };
        let pairs = parts.map(pair).collect();
        let handle = NetHandle { shared: shared.clone(), postbox: postbox.clone(), timers };
        let queue_size = config.queue_size;
        Ok((Self { shared, queue_size, pairs, postbox, mailbox, memory: PhantomData }, handle))
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// The guest is to announce itself once it runs.
    pub(crate) fn announce_later(&self) {
        // Freshly built, nothing waits there.
        let _ = self.postbox.post(Message::Announce);
    }

    /// The queue that carries commands for a driver that uses all pairs; else that is the worker's of the second.
    fn control(&self) -> u16 {
        2 * self.shared.counters.len() as u16
    }

    fn take_messages(&mut self, cx: &Cx<'_, M>) {
        while let Some(message) = self.mailbox.take() {
            match message {
                Message::Link(up) => self.change_link(cx, |shared| shared.set_cable(up)),
                Message::Back => self.change_link(cx, |shared| shared.count_lost(false)),
                // The link was cut when it was said.
                Message::Pulled if cx.features() & STATUS != 0 => cx.config_changed(),
                Message::Pulled => {}
                Message::Announce if cx.features() & GUEST_ANNOUNCE != 0 => {
                    self.shared.set_announce(true);
                    cx.config_changed();
                }
                Message::Announce => {}
                Message::Gone(error) => {
                    cx.report("reaching the network: the guest's link is down", &error);
                    self.change_link(cx, |shared| shared.count_lost(true));
                }
            }
        }
    }

    /// Tells the driver if a change is one of its link.
    fn change_link(&self, cx: &Cx<'_, M>, change: impl FnOnce(&Shared)) {
        let before = self.shared.link();
        change(&self.shared);
        if self.shared.link() != before && cx.features() & STATUS != 0 {
            cx.config_changed();
        }
    }

    /// Has the back end do what the driver wants, as it was or is.
    fn apply(&self, cx: &Cx<'_, M>) {
        let shared = &self.shared;
        let offloads = shared.guest_offloads().unwrap_or(cx.features() & features::CHANGEABLE);
        shared.set_guest_offloads(Some(offloads));
        if let Err(e) = shared.backend.set_offloads(Offloads::of_guest(offloads)) {
            cx.report("setting offloads", &e);
        }
        if let Err(e) = shared.backend.set_pairs(shared.pairs()) {
            cx.report("using several queues", &e);
        }
        let filter = shared.filter.load();
        if cx.features() & CTRL_VLAN != 0 && filter.vlans.is_none() {
            // Who can choose VLANs gets none that it has not chosen.
            shared.filter.store(Arc::new(Filter { vlans: Some(Vec::new()), ..Filter::clone(&filter) }));
        }
    }
}

impl<M: Mem> Worker<M> for Net<M> {
    fn start(&mut self, cx: &mut Cx<'_, M>) -> Result<(), Fault> {
        self.apply(cx);
        self.take_messages(cx);
        control::serve(self.control(), &self.shared, cx)
    }
    fn on_kick(&mut self, queue: u16, cx: &mut Cx<'_, M>) -> Result<(), Fault> {
        control::serve(queue, &self.shared, cx)
    }
    fn on_ready(&mut self, _: u32, cx: &mut Cx<'_, M>) -> Result<(), Fault> {
        self.take_messages(cx);
        Ok(())
    }
    fn sources(&self) -> Vec<Source> {
        vec![self.mailbox.source(0)]
    }
}

impl<M: Mem> VirtioDevice<M> for Net<M> {
    fn describe(&self) -> Description {
        let shared = &self.shared;
        let several = if shared.counters.len() > 1 { MQ } else { 0 };
        let mtu = if shared.mtu.is_some() { MTU } else { 0 };
        let offloads = shared.backend.offloads().features();
        let change = if offloads & features::CHANGEABLE != 0 { CTRL_GUEST_OFFLOADS } else { 0 };
        let address = if shared.enforce_mac { 0 } else { CTRL_MAC_ADDR };
        let always =
            MAC | STATUS | MRG_RXBUF | CTRL_VQ | CTRL_RX | CTRL_RX_EXTRA | CTRL_VLAN | GUEST_ANNOUNCE;
        let mut queue_sizes = vec![self.queue_size; self.control().into()];
        queue_sizes.push(CONTROL_SIZE);
        Description {
            device_type: TYPE,
            features: always | several | mtu | offloads | change | address,
            queue_sizes,
            config_len: space::LEN as u32,
            shared_memory: Vec::new(),
        }
    }
    fn accept(&self, features: u64) -> bool {
        agree(features)
    }
    fn config_read(&self, offset: u64, out: &mut [u8]) {
        let space = space::content(&self.shared);
        let from = usize::try_from(offset).ok().and_then(|o| space.get(o..)).unwrap_or_default();
        out.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
    }
    fn split(&mut self) -> Vec<(Vec<u16>, Box<dyn Worker<M>>)> {
        let worker =
            |pair: Pair| -> (Vec<u16>, Box<dyn Worker<M>>) { (pair.queues().to_vec(), Box::new(pair)) };
        self.pairs.drain(..).map(worker).collect()
    }
    fn reset(&mut self) {
        let Self { shared, queue_size: _, pairs: _, postbox: _, mailbox: _, memory: _ } = self;
        shared.undrive();
        // Whatever they answer: the next driver sets both anew, and is told then.
        let _ = shared.backend.set_pairs(1);
        let _ = shared.backend.set_offloads(Offloads::NONE);
        // A guest's own reset must not give it a burst: what the limits have saved up stays, and so does the cable.
    }
    fn persist(&self) -> Option<&dyn PersistDyn> {
        Some(self)
    }
}
