//! A worker: one thread, one runtime, one QUIC endpoint per address.
//!
//! A connection is accepted, served and ended on the worker that got its first packet, in one task.
//! Nothing here is shared between workers but atomic counters and what never changes.

#[cfg(test)]
mod tests;

use std::{
    io, mem,
    net::SocketAddr,
    net::UdpSocket,
    sync::{Arc, Mutex, mpsc},
    thread,
    time::Duration,
};

use futures_util::future::join_all;
use quinn::{Endpoint, EndpointConfig, Incoming, Runtime as _, VarInt, ZeroRttAccepted};
use tokio::{
    runtime::{Builder, Runtime},
    sync::oneshot,
    time::{Instant, timeout},
};
use tracing::{debug, error};

use super::{
    Accepted, Listener, Serve,
    admission::{Counts, Refused, Verdict},
    runtime::Unbudgeted,
    sample::{SampledSocket, Sampler},
};
use crate::{
    lane,
    lifecycle::{Latch, Lifecycle},
    limit::{Clients, Memory},
    metrics::ListenerMetrics,
};

/// H3_NO_ERROR (RFC 9114 section 8.1).
const NO_ERROR: VarInt = VarInt::from_u32(0x100);

/// H3_EXCESSIVE_LOAD (RFC 9114 section 8.1).
const EXCESSIVE_LOAD: VarInt = VarInt::from_u32(0x107);

/// How long a stopping worker waits for its last packets, CONNECTION_CLOSE above all, to be sent.
/// Longer than three probe timeouts of a usual path; a client that misses them times out by itself.
const CLOSE_TIME: Duration = Duration::from_secs(1);

/// What a worker is made of. Moved to its thread whole.
pub(super) struct Worker<S> {
    pub(super) index: u8,
    /// Its socket of each address.
    pub(super) sockets: Vec<(Arc<Listener>, UdpSocket)>,
    pub(super) endpoint_config: EndpointConfig,
    pub(super) counts: Arc<Counts>,
    pub(super) clients: Arc<Clients>,
    pub(super) memory: Arc<Memory>,
    pub(super) lifecycle: Lifecycle,
    pub(super) serve: S,
}

/// The running workers. Dropping them without [`Workers::stop`] stops them too, but waits for nothing.
#[derive(Debug)]
pub struct Workers {
    threads: Vec<WorkerThread>,
    sockets: Arc<Mutex<Vec<SampledSocket>>>,
}

#[derive(Debug)]
struct WorkerThread {
    /// Dropping it tells the worker to stop.
    stop: oneshot::Sender<()>,
    /// Resolves, with an error, when the thread drops the other side: at its end.
    ended: oneshot::Receiver<()>,
    handle: thread::JoinHandle<()>,
}

impl Workers {
    /// Starts all, and returns when all endpoints stand. Blocks for that time, some milliseconds.
    ///
    /// # Errors
    /// What one of them is missing. None runs then.
    pub(super) fn start(workers: Vec<Worker<impl Serve>>) -> io::Result<Self> {
        let (ready, started) = mpsc::sync_channel(workers.len());
        let mut threads = Vec::new();
        let begun = workers.into_iter().try_for_each(|worker| {
            threads.push(worker.start(ready.clone())?);
            Ok(())
        });
        drop(ready);
        match begun.and_then(|()| all_sockets(&started, threads.len())) {
            Ok(sockets) => Ok(Self { threads, sockets: Arc::new(Mutex::new(sockets)) }),
            Err(error) => {
                for WorkerThread { stop, handle, .. } in threads {
                    drop(stop);
                    // A panic of its own is what the error tells of.
                    _ = handle.join();
                }
                Err(error)
            }
        }
    }

    /// What brings the sockets' metrics up to date.
    pub fn sampler(&self) -> Sampler {
        Sampler::new(&self.sockets)
    }

    /// Closes all endpoints and ends the threads. To be called when all tasks have ended: what still
    /// runs on a worker is dropped.
    pub async fn stop(self) {
        let mut ending = Vec::new();
        for WorkerThread { stop, ended, handle } in self.threads {
            drop(stop);
            ending.push((ended, handle));
        }
        for (ended, handle) in ending {
            // An error is how the end is told; the thread is over but for its last instructions.
            _ = ended.await;
            if handle.join().is_err() {
                error!("A worker has panicked.");
            }
        }
    }
}

type Started = mpsc::SyncSender<io::Result<Vec<SampledSocket>>>;

/// Waits until so many workers have started.
fn all_sockets(
    started: &mpsc::Receiver<io::Result<Vec<SampledSocket>>>,
    workers: usize,
) -> io::Result<Vec<SampledSocket>> {
    let mut sockets = Vec::new();
    for _ in 0..workers {
        // All others have said their word, and one has ended without any.
        let word = started.recv().map_err(|_ended| io::Error::other("a worker has panicked"))?;
        sockets.extend(word?);
    }
    Ok(sockets)
}

impl<S: Serve> Worker<S> {
    fn start(self, started: Started) -> io::Result<WorkerThread> {
        let (stop, stopped) = oneshot::channel();
        let (end, ended) = oneshot::channel();
        let latch = self.lifecycle.latch();
        let name = format!("tidegate-w{}", self.index);
        let handle = thread::Builder::new().name(name).spawn(move || {
            lane::join(self.index);
            // Dropped when the runtime is gone, and when this thread panics.
            let _end: oneshot::Sender<()> = end;
            self.run(started, latch, stopped);
        })?;
        Ok(WorkerThread { stop, ended, handle })
    }

    fn run(mut self, started: Started, latch: Latch, stopped: oneshot::Receiver<()>) {
        // Here and below nobody listens only if the start of another worker has failed already.
        let (runtime, doors) = match self.begin() {
            Ok((runtime, doors, sampled)) => {
                _ = started.send(Ok(sampled));
                (runtime, doors)
            }
            Err(error) => {
                let told = format!("worker {}: {error}", self.index);
                _ = started.send(Err(io::Error::new(error.kind(), told)));
                return;
            }
        };
        // That one has panicked shows when nobody else can say anything any more.
        drop(started);
        drop(latch);
        runtime.block_on(async {
            let accepting = join_all(doors.iter().map(|door| self.accept_all(door)));
            tokio::select! {
                // Nothing is lost here: an attempt between two awaits is handled to its end.
                _ = accepting => error!(worker = self.index, "All endpoints have failed."),
                _ = stopped => {}
            }
            join_all(doors.iter().map(|door| close(&door.endpoint))).await;
        });
    }

    /// Makes everything that may be refused.
    fn begin(&mut self) -> io::Result<(Runtime, Vec<Door>, Vec<SampledSocket>)> {
        // No signals and no children of the process: both would be looked after in each turn.
        let runtime = Builder::new_current_thread().enable_io().enable_time().build()?;
        let sockets = mem::take(&mut self.sockets);
        let entered = runtime.enter();
        let (doors, sampled) = self.open(sockets)?;
        drop(entered);
        Ok((runtime, doors, sampled))
    }

    /// Makes the endpoints. Needs the worker's runtime around it.
    fn open(
        &self,
        sockets: Vec<(Arc<Listener>, UdpSocket)>,
    ) -> io::Result<(Vec<Door>, Vec<SampledSocket>)> {
        let (mut doors, mut sampled) = (Vec::new(), Vec::new());
        for (listener, udp) in sockets {
            let same = udp.try_clone()?;
            let quic = Unbudgeted.wrap_udp_socket(udp)?;
            let endpoint = Endpoint::new_with_abstract_socket(
                self.endpoint_config.clone(),
                Some((*listener.live.load().server_config).clone()),
                Arc::clone(&quic),
                Arc::new(Unbudgeted),
            )?;
            let address = endpoint.local_addr()?;
            sampled.push(SampledSocket::new(Arc::clone(&listener), quic, same));
            doors.push(Door { listener, address, endpoint });
        }
        Ok((doors, sampled))
    }

    async fn accept_all(&self, door: &Door) {
        while let Some(incoming) = door.endpoint.accept().await {
            self.receive(incoming, door);
        }
        error!(listener = %door.listener.name, worker = self.index, "An endpoint has failed.");
    }

    /// Obeys the verdict on one attempt.
    fn receive(&self, incoming: Incoming, door: &Door) {
        let listener = &door.listener;
        let client_is_full = self.clients.is_full(incoming.remote_address().ip());
        let load =
            self.counts.load(client_is_full, self.memory.is_short(), self.lifecycle.is_draining());
        let metrics = &listener.metrics;
        let verdict =
            listener.live.load().admission.admit(load, incoming.remote_address_validated());
        match verdict {
            Verdict::Accept => self.accept(incoming, door),
            Verdict::Retry => match incoming.retry() {
                Ok(()) => metrics.retries.inc(),
                // quinn allows Retry for every address that is not validated. Dropping refuses.
                Err(error) => error!(%error, "An attempt could not be retried and is refused."),
            },
            Verdict::Refuse(why) => refuse(incoming, why, metrics),
        }
    }

    fn accept(&self, incoming: Incoming, door: &Door) {
        let listener = &door.listener;
        let client = incoming.remote_address();
        // An address that is not proved yet may be forged: its owner's place is taken when the handshake
        // has proved it.
        let mut place = None;
        if incoming.remote_address_validated() {
            place = self.clients.connection(client.ip());
            if place.is_none() {
                return refuse(incoming, Refused::ClientConnections, &listener.metrics);
            }
        }
        let live = listener.live.load();
        let connecting = match incoming.accept_with(Arc::clone(&live.server_config)) {
            Ok(connecting) => connecting,
            Err(error) => {
                listener.metrics.handshake_failed.inc();
                debug!(%client, %error, "A first packet was no beginning.");
                return;
            }
        };

        // What a server says before quinn has sent anything goes with its part of the handshake, as 0.5-RTT data
        // (RFC 8446 section 2); each server may do so. Where a certificate decides who may connect, it comes first.
        let Ok((connection, over)) = connecting.into_0rtt() else { return };
        let name = Arc::clone(&listener.name);
        let accepted =
            Accepted { connection, listener: name, address: door.address, worker: self.index };
        let early = listener.clients.is_none().then(|| self.serve.greet(&accepted));

        // Counted here and not in the task, so that a burst cannot pass a limit.
        let counted = (self.counts.connection(), listener.metrics.connection_opened());
        let handshake = self.counts.handshake();
        let (listener, deadline) = (Arc::clone(listener), live.handshake_timeout);
        let (serve, clients) = (self.serve.clone(), Arc::clone(&self.clients));
        self.lifecycle.spawn(async move {
            let _counted = counted;
            let is_established = shake_hands(&accepted, over, deadline, &listener.metrics).await;
            drop(handshake);
            if !is_established {
                return;
            }
            let Some(_place) = place.or_else(|| clients.connection(client.ip())) else {
                // Several attempts at once passed the first look.
                listener.metrics.refused_client_connections.inc();
                return accepted.connection.close(EXCESSIVE_LOAD, b"client_connections");
            };
            let greeted = early.unwrap_or_else(|| serve.greet(&accepted));
            serve.serve(accepted, greeted).await;
        });
    }
}

fn refuse(incoming: Incoming, why: Refused, metrics: &ListenerMetrics) {
    match why {
        Refused::MemoryShed => metrics.refused_memory.inc(),
        Refused::Draining => metrics.refused_draining.inc(),
        Refused::TooManyConnections => metrics.refused_connections.inc(),
        Refused::ClientConnections => metrics.refused_client_connections.inc(),
        Refused::TooManyHandshakes => metrics.refused_handshakes.inc(),
    }
    incoming.refuse();
}

/// One address of a worker.
struct Door {
    listener: Arc<Listener>,
    address: SocketAddr,
    endpoint: Endpoint,
}

/// Waits for the end of the handshake; false if it did not come to one. Dropping the connection then closes it.
async fn shake_hands(
    Accepted { connection, listener, .. }: &Accepted,
    over: ZeroRttAccepted,
    deadline: Duration,
    metrics: &ListenerMetrics,
) -> bool {
    let client = connection.remote_address();
    let begun = Instant::now();
    // What it says is whether there were 0-RTT data, and there never are.
    if timeout(deadline, over).await.is_err() {
        metrics.handshake_timeout.inc();
        debug!(%client, %listener, ?deadline, "A handshake took too long.");
        return false;
    }
    if let Some(error) = connection.close_reason()
        && !is_established(connection)
    {
        metrics.handshake_failed.inc();
        debug!(%client, %listener, %error, "A handshake failed.");
        return false;
    }
    metrics.established.inc();
    metrics.handshake_took(begun.elapsed());
    true
}

/// Whether a connection that is closed by now had been established: only then does TLS part with such keys
/// (RFC 8446 section 7.5).
fn is_established(connection: &quinn::Connection) -> bool {
    connection.export_keying_material(&mut [0; 1], b"EXPORTER-tidegate", b"").is_ok()
}

async fn close(endpoint: &Endpoint) {
    endpoint.close(NO_ERROR, b"");
    if timeout(CLOSE_TIME, endpoint.wait_idle()).await.is_err() {
        debug!("Some clients did not hear of the end.");
    }
}
