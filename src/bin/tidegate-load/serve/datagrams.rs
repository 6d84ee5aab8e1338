//! The UDP echo: datagrams that come together go back together, where the kernel can do that (GRO, GSO), so that it
//! costs less than what is measured through it.

use std::io::{self, IoSliceMut};

use quinn_udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSocketState};
use socket2::SockRef;
use tokio::{io::Interest, net::UdpSocket};

/// Room for any datagram, or for as many as the kernel hands over as one.
const BUFFER_BYTES: usize = 64 * 1024;

/// Bytes that the kernel is asked to hold, each way.
const SOCKET_BUFFER: usize = 7 * 1024 * 1024;

pub(super) struct Echo {
    socket: UdpSocket,
    state: UdpSocketState,
}

impl Echo {
    pub(super) fn new(socket: UdpSocket) -> io::Result<Self> {
        let options = SockRef::from(&socket);
        options.set_recv_buffer_size(SOCKET_BUFFER)?;
        options.set_send_buffer_size(SOCKET_BUFFER)?;
        let state = UdpSocketState::new((&socket).into())?;
        Ok(Self { socket, state })
    }

    pub(super) async fn run(self) {
        let mut buffers = vec![vec![0; BUFFER_BYTES]; BATCH_SIZE];
        loop {
            let received = self.receive(&mut buffers).await;
            // An error is of a datagram sent before, which its client has not taken.
            let Ok((metas, count)) = received else { continue };
            for (meta, buffer) in metas.iter().zip(&buffers).take(count) {
                self.send_back(meta, buffer.get(..meta.len).unwrap_or_default()).await;
            }
        }
    }

    /// Waits for what comes: one or more datagrams of equal size in each buffer.
    async fn receive(
        &self,
        buffers: &mut [Vec<u8>],
    ) -> io::Result<([RecvMeta; BATCH_SIZE], usize)> {
        let mut metas = [RecvMeta::default(); BATCH_SIZE];
        let mut slices: Vec<_> = buffers.iter_mut().map(|b| IoSliceMut::new(b)).collect();
        loop {
            self.socket.readable().await?;
            let read = || self.state.recv((&self.socket).into(), &mut slices, &mut metas);
            match self.socket.try_io(Interest::READABLE, read) {
                Ok(count) => return Ok((metas, count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }

    async fn send_back(&self, meta: &RecvMeta, contents: &[u8]) {
        // Empty datagrams go back too.
        let stride = meta.stride.max(1);
        let most = stride * self.state.max_gso_segments();
        let mut parts = contents.chunks(most).peekable();
        let one_empty = parts.peek().is_none().then_some(contents);
        for part in parts.chain(one_empty) {
            let transmit = Transmit {
                destination: meta.addr,
                ecn: None,
                contents: part,
                segment_size: (part.len() > stride).then_some(stride),
                src_ip: meta.dst_ip,
            };
            loop {
                let write = || self.state.try_send((&self.socket).into(), &transmit);
                match self.socket.try_io(Interest::WRITABLE, write) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        // An error is told by the next attempt.
                        _ = self.socket.writable().await;
                    }
                    // An error is the loss of a datagram, as it may happen to any.
                    _ => break,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, net::Ipv4Addr};

    use super::*;

    /// Equal ones and others, one of them empty, in one go.
    #[tokio::test]
    async fn every_datagram_comes_back_as_it_was() {
        let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        client.connect(server.local_addr().unwrap()).await.unwrap();
        let sent: BTreeSet<Vec<u8>> = (0..=60_u8)
            .map(|n| vec![n; if n < 40 { 100 } else { usize::from(n) * 20 }])
            .chain([Vec::new()])
            .collect();
        for payload in &sent {
            client.send(payload).await.unwrap();
        }
        let back = async {
            let (mut back, mut buffer) = (BTreeSet::new(), [0; 2048]);
            while back.len() < sent.len() {
                let length = client.recv(&mut buffer).await.unwrap();
                back.insert(buffer[..length].to_vec());
            }
            back
        };
        let echo = Echo::new(server).unwrap();
        let back = tokio::select! {
            back = back => back,
            () = echo.run() => unreachable!("it never ends"),
        };
        assert_eq!(back, sent);
    }
}
