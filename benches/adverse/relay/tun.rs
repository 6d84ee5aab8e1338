//! A bad network between two network namespaces: IP packets, so QUIC and TCP alike.
//!
//! Two TUN devices, of which one stands in each namespace; what the kernel routes into the one comes out
//! of the other when the [`Link`] between them says so. The kernel has cut segments to packets by then.
//! Timers are tokio's, to the millisecond: what is due within one leaves together.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read, Write},
    mem,
    os::{fd::AsRawFd, unix::fs::OpenOptionsExt},
    thread::{self, JoinHandle},
    time::Duration,
};

use tokio::{
    io::unix::AsyncFd,
    runtime, select,
    sync::{mpsc, oneshot},
    time::{Instant, sleep_until},
};

use super::link::{Conditions, Counts, Link};

/// Larger than the devices' MTU of 1,500.
const PACKET_BYTES: usize = 2048;

/// Packets that are read from a device before what is due gets its turn.
const BATCH: usize = 64;

/// What happened each way since the conditions were set.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Passed {
    pub(crate) up: Counts,
    pub(crate) down: Counts,
    /// How much later than it should have a packet left, at most: the machine was busy with other things.
    pub(crate) late: Duration,
}

/// The network, which runs on a thread of its own until this is dropped.
#[derive(Debug)]
pub(crate) struct Network {
    orders: Option<mpsc::Sender<Order>>,
    thread: Option<JoinHandle<()>>,
}

struct Order {
    up: Conditions,
    down: Conditions,
    answer: oneshot::Sender<Passed>,
}

impl Network {
    /// Makes both devices in this namespace; the client's may then be moved to another.
    pub(crate) fn new(client: &str, server: &str) -> io::Result<Self> {
        let (client, server) = (device(client)?, device(server)?);
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let (orders, taken) = mpsc::channel(1);
        let thread = thread::Builder::new().name("network".to_owned()).spawn(move || {
            // An error is that the system has no descriptors left: packets then end here, and every load says so.
            _ = runtime.block_on(relay(client, server, taken));
        })?;
        Ok(Self { orders: Some(orders), thread: Some(thread) })
    }

    /// Sets other conditions, and forgets what is under way. What happened on those before.
    pub(crate) fn set(&self, up: Conditions, down: Conditions) -> Passed {
        let (answer, passed) = oneshot::channel();
        let order = Order { up, down, answer };
        let sent = self.orders.as_ref().is_some_and(|orders| orders.blocking_send(order).is_ok());
        if sent { passed.blocking_recv().unwrap_or_default() } else { Passed::default() }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            // A panic of that thread is on the terminal already.
            _ = thread.join();
        }
    }
}

/// One end: its device, and what is on the way to it.
struct End {
    device: AsyncFd<File>,
    towards: Link<Box<[u8]>>,
}

impl End {
    #[allow(
        deprecated,
        reason = "what is to replace it is unsafe, for descriptors that others may close"
    )]
    fn new(device: File) -> io::Result<Self> {
        let towards = Link::new(Conditions::default());
        Ok(Self { device: AsyncFd::new(device)?, towards })
    }

    /// Hands over what has arrived, and tells how late the first of it is. A device that takes nothing is down,
    /// and loses it.
    fn deliver(&mut self, now: Instant) -> Duration {
        let due = self.towards.next_due().unwrap_or(now);
        while let Some(packet) = self.towards.take(now) {
            _ = self.device.get_ref().write(&packet);
        }
        now.saturating_duration_since(due)
    }
}

async fn relay(client: File, server: File, mut orders: mpsc::Receiver<Order>) -> io::Result<()> {
    let (mut client, mut server) = (End::new(client)?, End::new(server)?);
    let mut late = Duration::ZERO;
    loop {
        let due =
            [client.towards.next_due(), server.towards.next_due()].into_iter().flatten().min();
        // Cancelled branches lose nothing: packets are read after they have been chosen.
        select! {
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
            ready = client.device.readable() => {
                let mut ready = ready?;
                if !offer(ready.get_inner(), &mut server.towards) {
                    ready.clear_ready();
                }
            }
            ready = server.device.readable() => {
                let mut ready = ready?;
                if !offer(ready.get_inner(), &mut client.towards) {
                    ready.clear_ready();
                }
            }
            order = orders.recv() => {
                let Some(Order { up, down, answer }) = order else { return Ok(()) };
                let passed = Passed {
                    up: server.towards.counts(),
                    down: client.towards.counts(),
                    late: mem::take(&mut late),
                };
                server.towards = Link::new(up);
                client.towards = Link::new(down);
                // Nobody waits for it any more: then nobody wants to know.
                _ = answer.send(passed);
            }
        }
        let now = Instant::now();
        late = late.max(client.deliver(now)).max(server.deliver(now));
    }
}

/// Offers what a device has. False when it has nothing more.
fn offer(mut device: &File, link: &mut Link<Box<[u8]>>) -> bool {
    let mut packet = [0; PACKET_BYTES];
    for _ in 0..BATCH {
        let Ok(length) = device.read(&mut packet) else { return false };
        let packet = packet.get(..length).unwrap_or_default();
        // What hosts tell each other over IPv6 by themselves would use up chances.
        if packet.first().is_some_and(|first| first >> 4 == 4) {
            link.offer(Instant::now(), length, packet.into());
        }
    }
    true
}

/// A new TUN device, whose packets have no header in front of them.
fn device(name: &str) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open("/dev/net/tun")?;
    let mut request = libc::ifreq {
        ifr_name: [0; libc::IFNAMSIZ],
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_flags: FLAGS },
    };
    // The last byte stays 0.
    for (to, from) in request.ifr_name[..libc::IFNAMSIZ - 1].iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    #[allow(
        unsafe_code,
        reason = "no crate here makes TUN devices; the structure is the kernel's, and lives"
    )]
    let made = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    if made == 0 { Ok(file) } else { Err(io::Error::last_os_error()) }
}

#[allow(clippy::cast_possible_truncation, reason = "0x1001")]
const FLAGS: libc::c_short = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
