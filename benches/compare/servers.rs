//! The servers that are compared, and the backends behind them, as processes of their own.

use std::{
    collections::HashMap,
    env, fmt, fs,
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::Stdio,
    str::FromStr,
};

use super::{
    Failure,
    process::{Process, answers, free_tcp, free_udp, pinned},
    programs::Programs,
    scenarios::Backend,
};

/// Where servers run, for `taskset`.
pub(crate) const SERVER_CPUS: &str = "0";

/// Where the load and the backends run.
pub(crate) const LOAD_CPUS: &str = "1";

/// Where everything runs when workers are compared.
pub(crate) const ALL_CPUS: &str = "0,1";

/// Bidirectional streams that clients may have open, where a scenario does not say.
pub(crate) const CREDIT: u32 = 128;

/// Where Debian's package of nginx has the module that reads streams; elsewhere it is compiled in.
const NGINX_STREAM: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

/// A kind of server.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum Kind {
    /// The bridge on bare quinn: what all others are given as ratios to.
    Limit,
    Tidegate,
    H3Webtransport,
    Wtransport,
    Nginx,
    Haproxy,
    /// The gateway, free to use all processors.
    OneWorker,
    TwoWorkers,
}

/// What a server speaks to clients.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Speaks {
    Quic,
    WebTransport,
    Tls,
}

impl Kind {
    /// Those in the columns of the tables.
    pub(crate) const ALL: [Self; 6] = [
        Self::Limit,
        Self::Tidegate,
        Self::H3Webtransport,
        Self::Wtransport,
        Self::Nginx,
        Self::Haproxy,
    ];

    /// Those that show what a second worker does.
    pub(crate) const WORKERS: [Self; 2] = [Self::OneWorker, Self::TwoWorkers];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Limit => "limit",
            Self::Tidegate => "tidegate",
            Self::H3Webtransport => "h3-webtransport",
            Self::Wtransport => "wtransport",
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::OneWorker => "1 worker",
            Self::TwoWorkers => "2 workers",
        }
    }

    const fn speaks(self) -> Speaks {
        match self {
            Self::Limit => Speaks::Quic,
            Self::Nginx | Self::Haproxy => Speaks::Tls,
            Self::Tidegate
            | Self::H3Webtransport
            | Self::Wtransport
            | Self::OneWorker
            | Self::TwoWorkers => Speaks::WebTransport,
        }
    }

    pub(crate) fn has_datagrams(self) -> bool {
        self.speaks() != Speaks::Tls
    }

    /// Whether it can be started here: what is ours always can.
    pub(crate) fn is_there(self) -> bool {
        match self {
            Self::Nginx | Self::Haproxy => installed(self.name()).is_some(),
            _ => true,
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::ALL.map(Self::name).join(", ");
        let kind = Self::ALL.into_iter().find(|kind| kind.name() == text);
        kind.ok_or_else(|| format!("no such server: there are {known}"))
    }
}

/// A program of the system: on the path, or where systems have those that only root needs.
pub(crate) fn installed(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    folders.map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// What all servers share: the programs, the certificate, the backends, and a folder for what they write.
#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) programs: Programs,
    folder: PathBuf,
    backends: Backends,
}

#[derive(Debug)]
struct Backends {
    tcp: HashMap<Backend, SocketAddr>,
    udp: SocketAddr,
    _process: Process,
}

/// A server that stands. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) kind: Kind,
    doors: HashMap<Backend, Door>,
    _processes: Vec<Process>,
}

/// A way in.
#[derive(Clone, Debug)]
pub(crate) struct Door {
    /// Of the load tool.
    pub(crate) target: Vec<String>,
    /// The processes that work for it.
    pub(crate) pids: Vec<u32>,
}

impl Server {
    pub(crate) fn door(&self, backend: Backend) -> &Door {
        &self.doors[&backend]
    }
}

impl Bench {
    /// Writes the certificate and starts the backends.
    pub(crate) fn new(programs: Programs) -> Result<Self, Failure> {
        let folder = env::temp_dir().join(format!("tidegate-compare-{}", std::process::id()));
        fs::create_dir_all(&folder)?;
        let made =
            rcgen::generate_simple_self_signed(["localhost".to_owned(), "127.0.0.1".to_owned()])?;
        let (cert, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        fs::write(folder.join("cert.pem"), &cert)?;
        fs::write(folder.join("key.pem"), &key)?;
        // HAProxy reads both from one file.
        fs::write(folder.join("both.pem"), format!("{cert}{key}"))?;
        let backends = Backends::start(&programs.load)?;
        Ok(Self { programs, folder, backends })
    }

    /// Starts a server and waits until it can be used.
    pub(crate) fn start(&self, kind: Kind, credit: u32) -> Result<Server, Failure> {
        let started = match kind {
            Kind::Limit => self.bridges(kind, "bare_quinn", credit),
            Kind::H3Webtransport => self.bridges(kind, "h3_webtransport", credit),
            Kind::Wtransport => self.bridges(kind, "wtransport", credit),
            Kind::Tidegate => self.gateway(kind, credit, 1, SERVER_CPUS),
            Kind::OneWorker => self.gateway(kind, credit, 1, ALL_CPUS),
            Kind::TwoWorkers => self.gateway(kind, credit, 2, ALL_CPUS),
            Kind::Nginx => self.nginx(),
            Kind::Haproxy => self.haproxy(),
        };
        started.map_err(|why| {
            let log = fs::read_to_string(self.log(kind)).unwrap_or_default();
            format!("cannot start {kind}: {why}\n{log}").into()
        })
    }

    /// Where those that write one write their log.
    fn log(&self, kind: Kind) -> PathBuf {
        self.folder.join(format!("{}.log", kind.name().replace(' ', "-")))
    }

    /// One for each backend, since a bridge has one.
    fn bridges(&self, kind: Kind, program: &str, credit: u32) -> Result<Server, Failure> {
        let (mut doors, mut processes) = (HashMap::new(), Vec::new());
        for (backend, tcp) in &self.backends.tcp {
            let mut command = pinned(SERVER_CPUS, self.programs.bridge(program)?);
            command.args(["--listen", "127.0.0.1:0"]).args(["--tcp", &tcp.to_string()]);
            command.args(["--udp", &self.backends.udp.to_string()]);
            command.arg("--cert").arg(self.folder.join("cert.pem"));
            command.arg("--key").arg(self.folder.join("key.pem"));
            command.args(["--max-bidi", &credit.to_string()]).stdout(Stdio::piped());
            let mut process = Process::start(&mut command)?;
            let address = process.says("listening on")?;
            let door = Door { target: target(kind, address, *backend), pids: vec![process.id()] };
            doors.insert(*backend, door);
            processes.push(process);
        }
        Ok(Server { kind, doors, _processes: processes })
    }

    /// As its users start it, with limits that one address with this much load does not reach.
    fn gateway(
        &self,
        kind: Kind,
        credit: u32,
        workers: u32,
        cpus: &str,
    ) -> Result<Server, Failure> {
        let (quic, admin) = (free_udp()?, free_tcp()?);
        let udp = self.backends.udp;
        let mut text = format!(
            r#"version = 1
[server]
workers = {workers}
[[listener]]
quic = ["{quic}"]
certificates = [{{ chain = "cert.pem", key = "key.pem" }}]
[listener.transport]
initial_bidi_streams = {credit}
[admin]
listen = "{admin}"
[limits.per_client]
connections = 100000
sessions = 100000
session_rate = "100000/s"
[limits.per_connection]
stream_rate = "100000/s"
[drain]
delay = "0s"
grace = "0s"
"#
        );
        for (backend, tcp) in &self.backends.tcp {
            let name = path(*backend);
            let route = format!(
                r#"
[[route]]
path = "/{name}"
origins = "any"
backend = "{name}"
[route.limits]
sessions = 100000
stream_rate = "100000/s"
[backend.{name}]
endpoints = [{{ tcp = "{tcp}", udp = "{udp}" }}]
"#
            );
            text.push_str(&route);
        }
        let config = self.folder.join(format!("{}-{credit}.toml", kind.name().replace(' ', "-")));
        fs::write(&config, text)?;
        let log = fs::File::create(self.log(kind))?;
        let mut command = pinned(cpus, &self.programs.gateway);
        let mut process = Process::start(command.args(["run", "-c"]).arg(&config).stderr(log))?;
        process.ready_when(|_| answers(admin, "/readyz"))?;
        let doors = self.backends.tcp.keys().map(|backend| {
            let door = Door { target: target(kind, quic, *backend), pids: vec![process.id()] };
            (*backend, door)
        });
        Ok(Server { kind, doors: doors.collect(), _processes: vec![process] })
    }

    fn nginx(&self) -> Result<Server, Failure> {
        let folder = self.folder.display();
        let load = if Path::new(NGINX_STREAM).is_file() {
            format!("load_module {NGINX_STREAM};\n")
        } else {
            String::new()
        };
        let (_soft, files) = rlimit::Resource::NOFILE.get()?;
        let mut text = format!(
            "{load}daemon off;\nworker_processes 1;\nworker_rlimit_nofile {files};\n\
             pid {folder}/nginx.pid;\nerror_log {folder}/nginx.log;\n\
             events {{ worker_connections {files}; }}\nstream {{\n\
             ssl_certificate {folder}/cert.pem;\nssl_certificate_key {folder}/key.pem;\n\
             ssl_protocols TLSv1.3;\nssl_ecdh_curve X25519;\n\
             ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256;\nproxy_half_close on;\n"
        );
        let mut doors = HashMap::new();
        for (backend, tcp) in &self.backends.tcp {
            let listen = free_tcp()?;
            text.push_str(&format!("server {{ listen {listen} ssl; proxy_pass {tcp}; }}\n"));
            let target = target(Kind::Nginx, listen, *backend);
            doors.insert(*backend, (listen, target));
        }
        text.push_str("}\n");
        let config = self.folder.join("nginx.conf");
        fs::write(&config, text)?;
        let mut command = pinned(SERVER_CPUS, &installed("nginx").ok_or("it is not installed")?);
        command.arg("-p").arg(&self.folder).arg("-c").arg(&config);
        let mut process = Process::start(command.arg("-e").arg(self.folder.join("nginx.log")))?;
        // One works, the other one watches over it.
        process.ready_when(|process| Ok(process.family()?.len() == 2))?;
        for (listen, _target) in doors.values() {
            process.ready_when(|_| Ok(TcpStream::connect(listen).is_ok()))?;
        }
        let pids = process.family()?;
        let doors = doors
            .into_iter()
            .map(|(backend, (_listen, target))| (backend, Door { target, pids: pids.clone() }));
        Ok(Server { kind: Kind::Nginx, doors: doors.collect(), _processes: vec![process] })
    }

    fn haproxy(&self) -> Result<Server, Failure> {
        let folder = self.folder.display();
        let mut text = "global\n nbthread 1\ndefaults\n mode tcp\n \
                        timeout connect 5s\n timeout client 1h\n timeout server 1h\n"
            .to_owned();
        let mut listens = HashMap::new();
        for (backend, tcp) in &self.backends.tcp {
            let (listen, name) = (free_tcp()?, path(*backend));
            text.push_str(&format!(
                "listen {name}\n bind {listen} ssl crt {folder}/both.pem ssl-min-ver TLSv1.3 curves X25519 \
                 ciphersuites TLS_AES_128_GCM_SHA256\n server {name} {tcp}\n"
            ));
            listens.insert(*backend, listen);
        }
        let config = self.folder.join("haproxy.cfg");
        fs::write(&config, text)?;
        let log = fs::File::create(self.log(Kind::Haproxy))?;
        let mut command = pinned(SERVER_CPUS, &installed("haproxy").ok_or("it is not installed")?);
        let mut process = Process::start(command.args(["-db", "-f"]).arg(&config).stderr(log))?;
        for listen in listens.values() {
            process.ready_when(|_| Ok(TcpStream::connect(listen).is_ok()))?;
        }
        let doors = listens.into_iter().map(|(backend, listen)| {
            let target = target(Kind::Haproxy, listen, backend);
            (backend, Door { target, pids: vec![process.id()] })
        });
        Ok(Server { kind: Kind::Haproxy, doors: doors.collect(), _processes: vec![process] })
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // What cannot be removed lies in the system's folder for such things.
        _ = fs::remove_dir_all(&self.folder);
    }
}

impl Backends {
    fn start(load: &Path) -> Result<Self, Failure> {
        const ANY: &str = "127.0.0.1:0";
        let mut command = pinned(LOAD_CPUS, load);
        command.args(["serve", "--echo", ANY, "--source", ANY, "--sink", ANY, "--udp-echo", ANY]);
        let mut process = Process::start(command.stdout(Stdio::piped()))?;
        let mut tcp = HashMap::new();
        for (backend, name) in
            [(Backend::Echo, "echo"), (Backend::Source, "source"), (Backend::Sink, "sink")]
        {
            tcp.insert(backend, process.says(&format!("{name} listening on"))?);
        }
        let udp = process.says("udp-echo listening on")?;
        Ok(Self { tcp, udp, _process: process })
    }
}

/// The route of the gateway, and the name of what stands for it elsewhere.
const fn path(backend: Backend) -> &'static str {
    match backend {
        Backend::Echo => "echo",
        Backend::Source => "source",
        Backend::Sink => "sink",
    }
}

/// What the load tool is told of whom to drive.
fn target(kind: Kind, address: SocketAddr, backend: Backend) -> Vec<String> {
    let url = match kind.speaks() {
        Speaks::Quic => ["--direct".to_owned(), format!("quic://{address}")],
        Speaks::Tls => ["--direct".to_owned(), format!("tls://{address}")],
        Speaks::WebTransport => {
            ["--url".to_owned(), format!("https://{address}/{}", path(backend))]
        }
    };
    let mut target = url.to_vec();
    // The same handshake and encryption for all, and each handshake whole.
    let tls = ["--tls-group", "x25519", "--tls-suite", "TLS_AES_128_GCM_SHA256", "--no-resumption"];
    target.extend(["--insecure"].into_iter().chain(tls).map(str::to_owned));
    target
}
