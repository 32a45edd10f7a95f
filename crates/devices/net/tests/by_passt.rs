//! A real passt: a guest whose driver's half is this test's, and whose network stack is smoltcp.
#![allow(clippy::expect_used, clippy::indexing_slicing, clippy::panic, clippy::unwrap_used)]
mod common;

use common::{ALL, MAC, config};
use drystone_net::{FRAME_HEADER, NetConfig, Passt, PasstConfig};
use drystone_testkit::net::NetMachine;
use drystone_testkit::virtio::within;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::{dhcpv4, tcp, udp};
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, IpCidr};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::time::Duration;

const GUEST: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);
const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 2);
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);
const LOCAL: Ipv4Addr = Ipv4Addr::LOCALHOST;
/// For what hangs.
const PATIENCE: Duration = Duration::from_secs(120);

/// Runs `body` in a network of its own that looks like a host's, or in this host's where that is not permitted.
#[allow(unsafe_code)]
fn apart(body: impl FnOnce() + Send + 'static) {
    within(3 * PATIENCE, || {
        if Command::new("passt").arg("--version").output().is_err() {
            println!("NOT TESTED HERE: passt is not installed (`apt install passt`)");
            return;
        }
        // SAFETY: only the network of this thread changes, and of those that it starts.
        if unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }.is_ok() {
            for arguments in [
                "link set lo up",
                "tuntap add up0 mode tap",
                "link set up0 up",
                "addr add 198.51.100.2/24 dev up0",
                "route add default via 198.51.100.1",
            ] {
                let done = Command::new("ip").args(arguments.split(' ')).output().unwrap();
                assert!(done.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&done.stderr));
            }
        }
        body();
    });
}

/// What a guest's stack sees of the device.
struct Nic {
    machine: NetMachine,
    mtu: usize,
}

impl Nic {
    fn new(mut machine: NetMachine, mtu: u16) -> Self {
        while machine.add(0, &[], &[4096]) {}
        machine.run();
        Self { machine, mtu: mtu.into() }
    }
}

struct Received(Vec<u8>);
struct Sent<'a>(&'a mut NetMachine);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Sent<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0; len];
        let result = f(&mut frame);
        while self.0.take(1).is_some() {}
        self.0.add(1, &[&[0; FRAME_HEADER], &frame], &[]);
        result
    }
}

impl Device for Nic {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sent<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Received, Sent<'_>)> {
        let (mut frame, buffers) = self.machine.received(0)?;
        (0..buffers).for_each(|_| assert!(self.machine.add(0, &[], &[4096])));
        frame.drain(..FRAME_HEADER);
        Some((Received(frame), Sent(&mut self.machine)))
    }
    fn transmit(&mut self, _: Instant) -> Option<Sent<'_>> {
        Some(Sent(&mut self.machine))
    }
    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = self.mtu + 14;
        capabilities
    }
}

/// A guest on a passt.
struct Guest {
    nic: Nic,
    interface: Interface,
    sockets: SocketSet<'static>,
}

impl Guest {
    fn new(passt: &PasstConfig) -> Self {
        let mtu = passt.mtu.unwrap_or(Passt::MTU);
        let (backend, ports) = Passt::start(passt).unwrap();
        println!("passt says {:?}", backend.messages());
        let config = NetConfig { mtu: Some(mtu), ..config() };
        let mut nic = Nic::new(NetMachine::on(config, backend, ports, ALL), mtu);
        let address = EthernetAddress(MAC.0).into();
        let interface = Interface::new(Config::new(address), &mut nic, Instant::now());
        Self { nic, interface, sockets: SocketSet::new(Vec::new()) }
    }

    /// Lets the guest and its device run until `done` has a value.
    fn until<T>(&mut self, mut done: impl FnMut(&mut Self) -> Option<T>) -> T {
        let end = std::time::Instant::now() + PATIENCE;
        loop {
            self.nic.machine.run();
            let worked = self.interface.poll(Instant::now(), &mut self.nic, &mut self.sockets);
            self.nic.machine.run();
            if let Some(value) = done(self) {
                return value;
            }
            if worked == smoltcp::iface::PollResult::None {
                std::thread::sleep(Duration::from_millis(1));
            }
            let log = self.nic.machine.log.take();
            assert!(log.is_empty() && std::time::Instant::now() < end, "{log:?}");
        }
    }

    /// Asks for an address, and takes what it is given. Returns the DNS servers that it is told of.
    fn ask(&mut self) -> Vec<Ipv4Addr> {
        let handle = self.sockets.add(dhcpv4::Socket::new());
        let (address, router, servers) =
            self.until(|g| match g.sockets.get_mut::<dhcpv4::Socket<'_>>(handle).poll()? {
                dhcpv4::Event::Configured(c) => Some((c.address, c.router, c.dns_servers.to_vec())),
                dhcpv4::Event::Deconfigured => None,
            });
        self.interface.update_ip_addrs(|all| all.push(IpCidr::Ipv4(address)).unwrap());
        self.interface.routes_mut().add_default_ipv4_route(router.unwrap()).unwrap();
        assert_eq!((address.address(), address.prefix_len(), router), (GUEST, 24, Some(ROUTER)));
        servers
    }

    fn tcp(&mut self) -> SocketHandle {
        let buffer = || tcp::SocketBuffer::new(vec![0; 1 << 17]);
        self.sockets.add(tcp::Socket::new(buffer(), buffer()))
    }

    /// Reads from a connection until the other end closes it.
    fn read_all(&mut self, handle: SocketHandle) -> Vec<u8> {
        let mut all = Vec::new();
        self.until(|g| {
            let socket = g.sockets.get_mut::<tcp::Socket<'_>>(handle);
            while socket.can_recv() {
                socket.recv(|data| (data.len(), all.extend_from_slice(data))).unwrap();
            }
            (!socket.may_recv()).then_some(())
        });
        all
    }

    /// Writes all of `data` to a connection, and closes it.
    fn write_all(&mut self, handle: SocketHandle, data: &[u8]) {
        let mut rest = data;
        self.until(|g| {
            let socket = g.sockets.get_mut::<tcp::Socket<'_>>(handle);
            if socket.can_send() {
                let sent = socket.send_slice(rest).unwrap();
                rest = &rest[sent..];
            }
            if rest.is_empty() {
                socket.close();
            }
            rest.is_empty().then_some(())
        });
    }
}

fn content(len: usize) -> Vec<u8> {
    (0..len as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

fn passt(mtu: u16) -> PasstConfig {
    PasstConfig {
        mtu: Some(mtu),
        addresses: vec![GUEST.into()],
        prefix: Some(24),
        gateways: vec![ROUTER.into()],
        dns: vec![SERVER.into()],
        host_loopback: true,
        ..PasstConfig::default()
    }
}

/// A port of the loopback that nobody has.
fn free_port() -> u16 {
    TcpListener::bind((LOCAL, 0)).unwrap().local_addr().unwrap().port()
}

fn fetches_over_http(mtu: u16) {
    let server = TcpListener::bind((LOCAL, 0)).unwrap();
    let port = server.local_addr().unwrap().port();
    let page = content(3 << 20);
    let expected = page.clone();
    let serving = std::thread::spawn(move || {
        let (mut connection, _) = server.accept().unwrap();
        let mut request = String::new();
        let mut reader = BufReader::new(connection.try_clone().unwrap());
        while !request.ends_with("\r\n\r\n") {
            reader.read_line(&mut request).unwrap();
        }
        write!(connection, "HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n", page.len()).unwrap();
        connection.write_all(&page).unwrap();
        request
    });
    let mut guest = Guest::new(&passt(mtu));
    assert_eq!(guest.ask(), [SERVER]);
    let handle = guest.tcp();
    let to = (ROUTER, port);
    let socket = guest.sockets.get_mut::<tcp::Socket<'_>>(handle);
    socket.connect(guest.interface.context(), to, 49_152).unwrap();
    guest.until(|g| g.sockets.get_mut::<tcp::Socket<'_>>(handle).may_send().then_some(()));
    guest
        .sockets
        .get_mut::<tcp::Socket<'_>>(handle)
        .send_slice(b"GET / HTTP/1.0\r\nHost: host\r\n\r\n")
        .unwrap();
    let answer = guest.read_all(handle);
    assert!(serving.join().unwrap().starts_with("GET / HTTP/1.0"));
    assert!(answer.starts_with(b"HTTP/1.0 200 OK\r\n"));
    assert!(answer.ends_with(&expected), "{} bytes", answer.len());
    assert_eq!(guest.nic.machine.status() & 1, 1);
}

#[test]
fn a_guest_asks_for_an_address_and_fetches_a_page_from_the_host() {
    apart(|| {
        fetches_over_http(1500);
        fetches_over_http(Passt::MTU);
    });
}

#[test]
fn ports_of_the_host_lead_to_the_guest() {
    apart(|| {
        let (port, datagrams) = (free_port(), free_port());
        let forwards = [format!("127.0.0.1:{port}:80"), format!("127.0.0.1:{datagrams}:53/udp")];
        let forwards = forwards.iter().map(|f| f.parse().unwrap()).collect();
        let mut guest = Guest::new(&PasstConfig { forwards, ..passt(Passt::MTU) });
        guest.ask();

        let handle = guest.tcp();
        guest.sockets.get_mut::<tcp::Socket<'_>>(handle).listen(80).unwrap();
        let sent = content(1 << 20);
        let expected = sent.clone();
        let client = std::thread::spawn(move || {
            let mut connection = TcpStream::connect((LOCAL, port)).unwrap();
            connection.write_all(&sent).unwrap();
            connection.shutdown(std::net::Shutdown::Write).unwrap();
            let mut back = Vec::new();
            connection.read_to_end(&mut back).unwrap();
            back
        });
        guest.until(|g| g.sockets.get_mut::<tcp::Socket<'_>>(handle).may_send().then_some(()));
        let got = guest.read_all(handle);
        assert!(got == expected, "{} bytes", got.len());
        guest.write_all(handle, &got);
        guest.until(|_| client.is_finished().then_some(()));
        assert!(client.join().unwrap() == expected);

        let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 8], vec![0; 4096]);
        let handle = guest.sockets.add(udp::Socket::new(buffer(), buffer()));
        guest.sockets.get_mut::<udp::Socket<'_>>(handle).bind(53).unwrap();
        let client = UdpSocket::bind((LOCAL, 0)).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.send_to(b"who is it?", (LOCAL, datagrams)).unwrap();
        guest.until(|g| {
            let socket = g.sockets.get_mut::<udp::Socket<'_>>(handle);
            let (question, from) = socket.recv().ok()?;
            assert_eq!(question, b"who is it?");
            socket.send_slice(b"a guest", from).unwrap();
            Some(())
        });
        guest.until(|g| (g.sockets.get_mut::<udp::Socket<'_>>(handle).send_queue() == 0).then_some(()));
        let mut answer = [0; 32];
        assert_eq!(client.recv(&mut answer).unwrap(), 7);
        assert_eq!(&answer[..7], b"a guest");
    });
}

/// Seconds of processor time that this program and every passt has taken.
fn processor_time() -> f64 {
    let seconds = |process: &std::path::Path| -> Option<f64> {
        let stat = std::fs::read_to_string(process.join("stat")).ok()?;
        // After the name: fields 14 and 15 of proc_pid_stat(5), in hundredths.
        let ticks = stat.rsplit_once(") ")?.1.split(' ').skip(11).take(2).map(|n| n.parse().unwrap_or(0.0));
        Some(ticks.sum::<f64>() / 100.0)
    };
    let is_passt = |process: &std::path::Path| {
        std::fs::read_to_string(process.join("comm")).is_ok_and(|name| name.starts_with("passt"))
    };
    let all = std::fs::read_dir("/proc").unwrap().map_while(Result::ok).map(|entry| entry.path());
    let passts: f64 = all.filter(|process| is_passt(process)).filter_map(|process| seconds(&process)).sum();
    passts + seconds("/proc/self".as_ref()).unwrap()
}

#[test]
#[ignore = "measures: cargo test --release -p drystone-net --test by_passt -- --ignored --nocapture what_a"]
fn what_a_mebibyte_costs_with_packets_of_each_size() {
    const BYTES: usize = 128 << 20;
    let cost = |before: f64| (processor_time() - before) / (BYTES >> 20) as f64 * 1000.0;
    apart(move || {
        let mut figures = Vec::new();
        for mtu in [1500, 9000, 32_768, Passt::MTU].into_iter().cycle().take(12) {
            let server = TcpListener::bind((LOCAL, 0)).unwrap();
            let port = server.local_addr().unwrap().port();
            let serving = std::thread::spawn(move || {
                let (mut connection, _) = server.accept().unwrap();
                let page = content(1 << 20);
                (0..BYTES >> 20).for_each(|_| connection.write_all(&page).unwrap());
                connection.shutdown(std::net::Shutdown::Write).unwrap();
                std::io::copy(&mut connection, &mut std::io::sink()).unwrap()
            });
            let mut guest = Guest::new(&passt(mtu));
            guest.ask();
            let handle = guest.tcp();
            let socket = guest.sockets.get_mut::<tcp::Socket<'_>>(handle);
            socket.connect(guest.interface.context(), (ROUTER, port), 49_152).unwrap();
            guest.until(|g| g.sockets.get_mut::<tcp::Socket<'_>>(handle).may_send().then_some(()));
            let before = processor_time();
            assert_eq!(guest.read_all(handle).len(), BYTES);
            let down = cost(before);
            let before = processor_time();
            guest.write_all(handle, &vec![7; BYTES]);
            guest.until(|_| serving.is_finished().then_some(()));
            let up = cost(before);
            assert_eq!(serving.join().unwrap(), BYTES as u64);
            figures.push(format!(
                "mtu {mtu}: {down:.2} ms of processor time a MiB to the guest, {up:.2} from it"
            ));
        }
        println!("{}", figures.join("\n"));
    });
}

/// Waits until whoever has `port` is gone.
fn wait_for(port: u16) {
    let end = std::time::Instant::now() + PATIENCE;
    while TcpListener::bind((LOCAL, port)).is_err() {
        assert!(std::time::Instant::now() < end, "port {port} is still forwarded");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_passt_ends_with_its_port() {
    apart(|| {
        let port = free_port();
        let forwards = vec![format!("127.0.0.1:{port}:80").parse().unwrap()];
        let config = PasstConfig { forwards, ..passt(1500) };
        let (_backend, ports) = Passt::start(&config).unwrap();
        let error = Passt::start(&config).map(drop).unwrap_err().to_string();
        assert!(error.contains(&format!("cannot listen on port {port}")), "{error}");
        let sources: Vec<_> = ports.iter().map(|port| port.source(0)).collect();
        drop(ports);
        wait_for(port);
        drop(sources);
    });
}

/// Says that it runs as a part of another test: the port that its passt is to have.
const HELD: &str = "DRYSTONE_TEST_HELD_PORT";

#[test]
fn a_passt_ends_with_its_vmm_however_that_ends() {
    apart(|| {
        let port = free_port();
        let mut vmm = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "holds_a_passt", "--nocapture"])
            .env(HELD, port.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(vmm.stdout.take().unwrap()).lines();
        assert!(lines.map_while(Result::ok).any(|line| line.contains("it runs")));
        assert!(TcpListener::bind((LOCAL, port)).is_err(), "passt has it");
        vmm.kill().unwrap();
        vmm.wait().unwrap();
        wait_for(port);
    });
}

#[test]
#[ignore = "a part of another test"]
fn holds_a_passt() {
    let Ok(port) = std::env::var(HELD) else { return };
    let forwards = vec![format!("127.0.0.1:{port}:80").parse().unwrap()];
    let _network = Passt::start(&PasstConfig { forwards, ..passt(1500) }).unwrap();
    println!("it runs");
    std::thread::sleep(3 * PATIENCE);
}

#[test]
fn a_host_without_a_network_is_told_of() {
    apart(|| {
        let gone = Command::new("ip").args(["route", "del", "default"]).output();
        if !gone.is_ok_and(|done| done.status.success()) {
            println!("NOT TESTED HERE: a host without a network");
            return;
        }
        let error = Passt::start(&PasstConfig::default()).map(drop).unwrap_err().to_string();
        assert!(error.contains("the host has no default route to be like"), "{error}");
    });
}
