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
    /// Whether it answers with the session's id, the route and the path too.
    pub(crate) reads_tlvs: bool,
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
        return "$proxy_protocol_addr $proxy_protocol_port $proxy_protocol_server_addr $proxy_protocol_server_portTLVS";
    }
}
"#;

/// What nginx knows from 1.23.2 on; Debian 12 has 1.22.
const NGINX_TLVS: &str =
    " $proxy_protocol_tlv_unique_id $proxy_protocol_tlv_0xe0 $proxy_protocol_tlv_0xe1";

/// Where Debian's package has the module that reads streams.
const NGINX_STREAM: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

impl Receiver {
    /// HAProxy; `None` where it is missing and that is allowed.
    pub(crate) fn haproxy(test: &str) -> Option<Self> {
        let program = or_skip("haproxy", "haproxy", program("haproxy"))?;
        // Debian 12 has 2.6, which knows the id and the authority alone.
        Some(Self::start(test, &program, "-db -f FOLDER/config", HAPROXY, false))
    }

    /// nginx; `None` where it or its module is missing and that is allowed.
    pub(crate) fn nginx(test: &str) -> Option<Self> {
        let found = program("nginx").and_then(|program| Some((nginx_build(&program)?, program)));
        let (build, program) = or_skip("nginx", "nginx libnginx-mod-stream", found)?;
        let config = NGINX.replace("TLVS", if build.reads_tlvs { NGINX_TLVS } else { "" });
        let config = format!("{}{config}", build.load_module);
        let arguments = "-p FOLDER -c FOLDER/config -e stderr";
        Some(Self::start(test, &program, arguments, &config, build.reads_tlvs))
    }

    /// The socket is made here and inherited, so that the port is known, and connections may come before
    /// the server is ready.
    fn start(test: &str, program: &Path, arguments: &str, config: &str, reads_tlvs: bool) -> Self {
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
        Self { process, address, folder, reads_tlvs }
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

/// What differs between builds of nginx.
struct NginxBuild {
    load_module: String,
    reads_tlvs: bool,
}

/// `None` where it cannot read streams.
fn nginx_build(program: &Path) -> Option<NginxBuild> {
    let said = Command::new(program).arg("-V").output().ok()?.stderr;
    let said = String::from_utf8_lossy(&said);
    let (_, version) = said.split_once("nginx/")?;
    let number = |part: &str| part.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok();
    let version: Vec<u32> = version.split('.').take(3).filter_map(number).collect();
    let load_module = if said.contains("--with-stream=dynamic") {
        Path::new(NGINX_STREAM).is_file().then(|| format!("load_module {NGINX_STREAM};\n"))
    } else {
        said.contains("--with-stream").then(String::new)
    };
    Some(NginxBuild { load_module: load_module?, reads_tlvs: version[..] >= [1, 23, 2][..] })
}

/// At the desk a program may be missing, with a line that says so. With `TIDEGATE_REQUIRE_RECEIVERS=1`,
/// as in CI, it is an error.
fn or_skip<T>(name: &str, packages: &str, found: Option<T>) -> Option<T> {
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
