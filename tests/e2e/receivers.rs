//! Servers that are not ours and that read PROXY headers: HAProxy and nginx, each with one listener.

use std::{
    env, fs,
    net::{SocketAddr, TcpListener},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::{Child, Command},
};

use crate::log::waited_for;

/// A server that runs. Dropping it stops it and removes what it wrote.
pub(crate) struct Receiver {
    process: Child,
    address: SocketAddr,
    folder: PathBuf,
}

/// Answers each request with what it believes of the connection, and logs the same.
const HAPROXY: &str = r#"
global
    log stdout format raw daemon
defaults
    mode http
    log global
    timeout client 30s
    timeout server 30s
    timeout connect 30s
    log-format "logged %ci %cp"
frontend receiver
    bind fd@0 accept-proxy
    http-request return status 200 content-type text/plain lf-string "%[src] %[src_port] %[dst] %[dst_port] %[fc_pp_unique_id] %[fc_pp_authority]"
"#;

/// The same, as soon as the header is there. Without `daemon off` its parent would leave.
const NGINX: &str = r#"
daemon off;
worker_processes 1;
error_log stderr;
pid FOLDER/pid;
events {}
stream {
    log_format believed 'logged $proxy_protocol_addr $proxy_protocol_port';
    access_log FOLDER/log believed;
    server {
        listen ADDRESS proxy_protocol;
        return "$proxy_protocol_addr $proxy_protocol_port $proxy_protocol_server_addr $proxy_protocol_server_port";
    }
}
"#;

/// Where Debian's package has the module that reads streams.
const NGINX_STREAM: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

impl Receiver {
    /// HAProxy; `None` where it is missing and that is allowed.
    pub(crate) fn haproxy(test: &str) -> Option<Self> {
        let program = or_skip("haproxy", "haproxy", program("haproxy"))?;
        Some(Self::start(test, &program, "-db -f FOLDER/config", HAPROXY))
    }

    /// nginx; `None` where it or its module is missing and that is allowed.
    pub(crate) fn nginx(test: &str) -> Option<Self> {
        let program = program("nginx").filter(|_| Path::new(NGINX_STREAM).is_file());
        let program = or_skip("nginx", "nginx libnginx-mod-stream", program)?;
        let config = format!("load_module {NGINX_STREAM};\n{NGINX}");
        let arguments = "-p FOLDER -c FOLDER/config -e stderr";
        Some(Self::start(test, &program, arguments, &config))
    }

    /// The socket is made here and inherited, so that the port is known, and connections may come before
    /// the server is ready.
    fn start(test: &str, program: &Path, arguments: &str, config: &str) -> Self {
        let name = format!("receiver-{}-{test}", std::process::id());
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&folder).unwrap();
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let filled = |text: &str| {
            let folder = folder.to_str().unwrap();
            text.replace("FOLDER", folder).replace("ADDRESS", &address.to_string())
        };
        fs::write(folder.join("config"), filled(config)).unwrap();
        let file = |name| fs::File::create(folder.join(name)).unwrap();
        let process = Command::new(program)
            .args(filled(arguments).split(' '))
            // What nginx calls the sockets that it inherits.
            .env("NGINX", "0;")
            .stdin(OwnedFd::from(socket))
            .stdout(file("log"))
            .stderr(file("errors"))
            .spawn()
            .unwrap();
        Self { process, address, folder }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits for a line of its log.
    pub(crate) async fn logs(&self, line: &str) {
        let read = |name| fs::read_to_string(self.folder.join(name)).unwrap();
        let log = || read("log");
        let found = waited_for(|| log().lines().any(|logged| logged == line).then_some(())).await;
        found.unwrap_or_else(|| panic!("{line:?} was not logged:\n{}{}", log(), read("errors")));
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        // Not killed: nginx's worker would live on.
        let stop = format!("kill -TERM {}", self.process.id());
        _ = Command::new("sh").args(["-c", &stop]).status();
        _ = self.process.wait();
        _ = fs::remove_dir_all(&self.folder);
    }
}

/// At the desk a program may be missing, with a line that says so. With `TIDEGATE_REQUIRE_RECEIVERS=1`,
/// as in CI, it is an error.
fn or_skip(name: &str, packages: &str, found: Option<PathBuf>) -> Option<PathBuf> {
    if found.is_none() {
        let required = env::var("TIDEGATE_REQUIRE_RECEIVERS").is_ok_and(|value| value == "1");
        assert!(!required, "no {name}, and TIDEGATE_REQUIRE_RECEIVERS=1");
        eprintln!("SKIPPED: no {name} here (apt-get install {packages})");
    }
    found
}

/// Servers are where users seldom look.
fn program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    let folders = env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    folders.map(|folder| folder.join(name)).find(|file| file.is_file())
}
