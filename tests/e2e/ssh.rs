//! A server that is not ours and speaks first: OpenSSH's sshd, asked for its key by OpenSSH's ssh-keyscan
//! through each shape of session. A key exchange does not survive a changed, lost or added byte.

use std::{
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Stdio,
};

use tidegate::client::{RecvStream, RequestOptions, SendStream};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    process::Command,
};

use crate::harness::{Setup, TcpBackend, soon};

const SSHD: &str = "/usr/sbin/sshd";

/// A host key, in a folder that goes with the test.
struct HostKey(PathBuf);

impl HostKey {
    async fn make() -> Self {
        let folder = std::env::temp_dir().join(format!("tidegate-ssh-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let key = Self(folder);
        let mut keygen = Command::new("ssh-keygen");
        keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(key.path());
        assert!(keygen.status().await.unwrap().success());
        // For whoever sshd runs as.
        let readable = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        std::fs::set_permissions(key.path(), readable).unwrap();
        key
    }

    fn path(&self) -> PathBuf {
        self.0.join("key")
    }

    /// The key itself, as it stands in `known_hosts`.
    fn public(&self) -> String {
        let line = std::fs::read_to_string(self.0.join("key.pub")).unwrap();
        line.split_whitespace().nth(1).unwrap().to_owned()
    }
}

impl Drop for HostKey {
    fn drop(&mut self) {
        // An error says that it is gone already.
        _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Lets an sshd serve one connection.
fn serve(stream: TcpStream, key: &HostKey) -> tokio::process::Child {
    let stream = stream.into_std().unwrap();
    stream.set_nonblocking(false).unwrap();
    let (input, output) = (stream.try_clone().unwrap(), stream);
    let mut sshd = Command::new(SSHD);
    sshd.args(["-i", "-f", "/dev/null", "-h"]).arg(key.path()).kill_on_drop(true);
    if std::fs::metadata("/proc/self").unwrap().uid() == 0 {
        // As root it would want folders of the system's that only an installation makes.
        sshd.uid(65_534);
    }
    let (input, output) = (std::os::fd::OwnedFd::from(input), std::os::fd::OwnedFd::from(output));
    sshd.stdin(input).stdout(output).stderr(Stdio::null()).spawn().unwrap()
}

/// Carries a TCP connection over a stream, to the end of both.
async fn carry(mut tcp: TcpStream, mut send: SendStream, mut recv: RecvStream) {
    let (mut rx, mut tx) = tcp.split();
    let up = async {
        let mut buffer = vec![0; 16_384];
        while let Ok(n @ 1..) = rx.read(&mut buffer).await {
            send.write(&buffer[..n]).await.unwrap();
        }
        send.finish();
    };
    let down = async {
        while let Ok(Some(chunk)) = recv.read().await {
            tx.write_all(&chunk).await.unwrap();
        }
    };
    // Who asks has all that it wants before the server ends.
    tokio::select! {
        () = up => {}
        () = down => {}
    }
}

#[tokio::test]
async fn openssh_exchanges_keys_through_each_shape_of_session() {
    if !Path::new(SSHD).exists() {
        eprintln!("SKIPPED: no {SSHD} here (apt-get install openssh-server openssh-client)");
        return;
    }
    let key = HostKey::make().await;
    let gateway_opens = "streams = \"per-session\"\nopens = \"gateway\"";
    for keys in ["", "streams = \"per-session\"", gateway_opens, "push = \"bidi\""] {
        let backend = TcpBackend::bind().await;
        let setup = Setup::new().route_with("/ssh", Some(backend.address()), None, keys);
        let gateway = setup.start().await;
        let local = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = local.local_addr().unwrap().port().to_string();
        let mut keyscan = Command::new("ssh-keyscan");
        keyscan.args(["-t", "ed25519", "-p", &port, "127.0.0.1"]).kill_on_drop(true);
        let scanned = tokio::spawn(async move { keyscan.output().await.unwrap() });
        let (tcp, _) = soon(local.accept()).await.unwrap();

        let connection = gateway.connect().await;
        let (url, options) = (gateway.url("/ssh"), RequestOptions::default());
        let session = soon(connection.open_session(&url, &options)).await.unwrap();
        let (send, recv) = if keys == gateway_opens || keys.contains("push") {
            soon(session.accept_bidi()).await.unwrap()
        } else {
            session.open_bidi().await.unwrap()
        };
        let mut sshd = serve(backend.accept().await, &key);
        soon(carry(tcp, send, recv)).await;
        let scanned = soon(scanned).await.unwrap();
        let said = String::from_utf8_lossy(&scanned.stdout).into_owned();
        assert!(said.contains(&key.public()), "{keys}: {said}");
        session.close(0, "").await;
        soon(sshd.wait()).await.unwrap();
        gateway.is_empty().await;
        gateway.shut_down().await;
    }
}
