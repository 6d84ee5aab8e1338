//! What is measured, and where: a network namespace for servers, one for clients, a bad network between them.
//!
//! No privilege is needed where the system lets users have namespaces of their own: the program starts
//! itself again inside. All of it goes away with the program.

use std::{
    env,
    ffi::OsStr,
    fmt::Display,
    fs,
    io::{self, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::Duration,
};

use serde_json::Value;

use crate::relay::{
    link::Conditions,
    tun::{Network, Passed},
};

/// Set for the program that runs inside.
const INSIDE: &str = "TIDEGATE_ADVERSE_INSIDE";

/// The programs that are measured and that measure.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    gateway: PathBuf,
    load: PathBuf,
}

impl Programs {
    /// Those of a folder, or else those that cargo built with this one.
    pub(crate) fn of(folder: Option<&Path>) -> Self {
        let at =
            |built: &str, name| folder.map_or_else(|| built.into(), |folder| folder.join(name));
        Self {
            gateway: at(env!("CARGO_BIN_EXE_tidegate"), "tidegate"),
            load: at(env!("CARGO_BIN_EXE_tidegate-load"), "tidegate-load"),
        }
    }
}

const SERVER: &str = "10.77.0.1";
const CLIENT: &str = "10.77.0.2";

/// The servers' backends, on their loopback, with the port that nginx has for each.
const BACKENDS: [(&str, u16, u16); 3] =
    [("echo", 7000, 5000), ("source", 7002, 5002), ("sink", 7003, 5003)];
const UDP_ECHO: u16 = 7001;
const ADMIN: u16 = 9090;

/// A listener of the gateway: a port, and what it does otherwise than by default.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Listener {
    pub(crate) port: u16,
    pub(crate) transport: &'static str,
}

/// Congestion control of the kernel, for TCP.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kernel {
    Cubic,
    Bbr,
}

/// Everything that runs.
pub(crate) struct Lab {
    programs: Programs,
    network: Network,
    folder: PathBuf,
    /// Whoever waits in the clients' namespace and so keeps it, then the servers.
    children: Vec<Child>,
    pub(crate) has_nginx: bool,
}

/// Starts the program again in a namespace of its own, if it is not in one. What that came to, then.
pub(crate) fn enter() -> io::Result<Option<i32>> {
    if env::var_os(INSIDE).is_some() {
        return Ok(None);
    }
    let unshare = || {
        let mut unshare = Command::new("unshare");
        unshare.args(["--user", "--map-root-user", "--net", "--"]);
        unshare
    };
    succeeded("this needs namespaces of users", unshare().arg("true").output()?)?;
    let mut again = unshare();
    again.arg(env::current_exe()?).args(env::args_os().skip(1)).env(INSIDE, "1");
    Ok(Some(again.status()?.code().unwrap_or(1)))
}

impl Lab {
    pub(crate) fn new(programs: Programs, listeners: &[Listener]) -> io::Result<Self> {
        let folder = env::temp_dir().join(format!("tidegate-adverse-{}", std::process::id()));
        fs::create_dir_all(&folder)?;
        let network = Network::new("client", "server")?;
        let mut lab = Self { programs, network, folder, children: Vec::new(), has_nginx: false };
        lab.connect()?;
        lab.serve(listeners)?;
        Ok(lab)
    }

    /// Puts one device into each namespace.
    fn connect(&mut self) -> io::Result<()> {
        let outside = fs::read_link("/proc/self/ns/net")?;
        let mut waiting = Command::new("unshare");
        waiting.args(["--net", "cat"]).stdin(Stdio::piped()).stdout(Stdio::null());
        self.children.push(waiting.spawn()?);
        let clients = self.clients();
        soon("the clients' namespace", || fs::read_link(&clients).is_ok_and(|ns| ns != outside))?;
        let pid = self.children[0].id().to_string();
        run("ip", ["link", "set", "client", "netns", &pid])?;
        for (device, local, remote) in [("server", SERVER, CLIENT), ("client", CLIENT, SERVER)] {
            let ip = |args: &[&str]| {
                if device == "client" {
                    self.inside("ip").args(args).output()
                } else {
                    Command::new("ip").args(args).output()
                }
            };
            for line in [
                "link set lo up".to_owned(),
                format!("addr add {local} peer {remote} dev {device}"),
                // No packet is lost but in the network.
                format!("link set {device} txqueuelen 20000 up"),
            ] {
                let words: Vec<&str> = line.split(' ').collect();
                succeeded(&line, ip(&words)?)?;
            }
        }
        Ok(())
    }

    fn clients(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.children[0].id()).into()
    }

    /// A program in the clients' namespace.
    fn inside(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.clients().display())).arg(program);
        command
    }

    fn serve(&mut self, listeners: &[Listener]) -> io::Result<()> {
        let folder = self.folder.clone();
        let out = folder.to_string_lossy();
        run(&self.programs.gateway, ["cert", "new", "--name", SERVER, "--out", &out])?;

        let mut backends = Command::new(&self.programs.load);
        backends.args(["serve", "--udp-echo", &format!("127.0.0.1:{UDP_ECHO}")]);
        for (name, port, _) in BACKENDS {
            backends.args([format!("--{name}"), format!("127.0.0.1:{port}")]);
        }
        self.start(&mut backends, "backends", BACKENDS[0].1)?;

        let file = folder.join("tidegate.toml");
        fs::write(&file, configuration(&folder, listeners))?;
        let mut gateway = Command::new(&self.programs.gateway);
        self.start(gateway.args(["run", "-c"]).arg(file), "gateway", ADMIN)?;

        let file = folder.join("nginx.conf");
        fs::write(&file, nginx(&folder))?;
        let mut nginx = Command::new("nginx");
        match self.start(nginx.arg("-p").arg(&folder).arg("-c").arg(file), "nginx", BACKENDS[0].2) {
            Ok(()) => self.has_nginx = true,
            Err(e) => say(&format!("no TLS over TCP is measured: {e}")),
        }
        Ok(())
    }

    /// Starts a server and waits until it listens.
    fn start(&mut self, command: &mut Command, name: &str, port: u16) -> io::Result<()> {
        let log = fs::File::create(self.folder.join(format!("{name}.log")))?;
        let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn();
        self.children.push(child.map_err(|e| io::Error::other(format!("{name}: {e}")))?);
        let at = SocketAddr::from(([127, 0, 0, 1], port));
        let elsewhere: SocketAddr = SocketAddr::from(([10, 77, 0, 1], port));
        let up = || TcpStream::connect(at).or_else(|_| TcpStream::connect(elsewhere)).is_ok();
        soon(name, up).map_err(|e| {
            let log = fs::read_to_string(self.folder.join(format!("{name}.log")));
            io::Error::other(format!("{e}: {}", log.unwrap_or_default()))
        })
    }

    /// Sets what the network does from now on, each way. What it did before.
    pub(crate) fn set(&self, conditions: Conditions) -> Passed {
        self.network.set(conditions, conditions.reseeded(1))
    }

    /// Sets what TCP does, at both ends: by the route, which needs no right to change the system's default.
    pub(crate) fn set_kernel(&self, kernel: Kernel) -> io::Result<()> {
        let word = match kernel {
            Kernel::Cubic => "cubic",
            Kernel::Bbr => "bbr",
        };
        let args = |to, device| ["route", "replace", to, "dev", device, "congctl", word];
        run("ip", args(CLIENT, "server"))?;
        succeeded("ip route", self.inside("ip").args(args(SERVER, "client")).output()?)
    }

    /// Runs `tidegate-load` as a client, and reads its report.
    pub(crate) fn load(&self, arguments: &str) -> io::Result<Value> {
        let words = arguments.split_ascii_whitespace();
        let mut load = self.inside(&self.programs.load);
        load.args(words).args(["--insecure", "--json", "--quiet"]);
        report(load.output()?)
    }

    /// Runs this program as a client.
    pub(crate) fn this(&self, arguments: &str) -> io::Result<Value> {
        let mut this = self.inside(env::current_exe()?);
        report(this.args(arguments.split_ascii_whitespace()).output()?)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // The one that keeps the namespace last.
        for child in self.children.iter_mut().rev() {
            // One that has ended by itself has said so in its log.
            _ = child.kill();
            _ = child.wait();
        }
        _ = fs::remove_dir_all(&self.folder);
    }
}

/// The URL of a route of a listener's.
pub(crate) fn url(listener: Listener, route: &str) -> String {
    format!("--url https://{SERVER}:{}/{route}", listener.port)
}

/// The same backend behind nginx.
pub(crate) fn direct(route: &str) -> String {
    let port = BACKENDS.iter().find(|(name, ..)| *name == route).map_or(0, |(.., port)| *port);
    format!("--direct tls://{SERVER}:{port}")
}

fn configuration(folder: &Path, listeners: &[Listener]) -> String {
    let mut text = format!(
        "version = 1\n[server]\nworkers = 1\n[admin]\nlisten = \"127.0.0.1:{ADMIN}\"\n[limits.per_client]\n\
         session_rate = \"unlimited\"\n"
    );
    let shown = folder.display();
    for Listener { port, transport } in listeners {
        text += &format!(
            "[[listener]]\nname = \"l{port}\"\nquic = [\"{SERVER}:{port}\"]\ncertificates = [{{ chain = \
             \"{shown}/fullchain.pem\", key = \"{shown}/privkey.pem\" }}]\n[listener.transport]\n{transport}\n"
        );
    }
    for (name, port, _) in BACKENDS {
        let (datagrams, udp) = if name == "echo" {
            ("udp", format!(", udp = \"127.0.0.1:{UDP_ECHO}\""))
        } else {
            ("drop", String::new())
        };
        text += &format!(
            "[[route]]\nname = \"{name}\"\npath = \"/{name}\"\norigins = \"any\"\nbackend = \"{name}\"\n\
             datagrams = \"{datagrams}\"\n[backend.{name}]\nendpoints = [{{ tcp = \"127.0.0.1:{port}\"{udp} }}]\n"
        );
    }
    text
}

/// As Debian's package comes, without the rights that it usually has.
fn nginx(folder: &Path) -> String {
    let shown = folder.display();
    let modules = Path::new("/usr/lib/nginx/modules/ngx_stream_module.so");
    let module = if modules.exists() {
        format!("load_module {};\n", modules.display())
    } else {
        String::new()
    };
    let mut text = format!(
        "{module}daemon off;\nmaster_process off;\npid {shown}/nginx.pid;\nerror_log stderr warn;\nevents {{}}\n\
         stream {{\nssl_certificate {shown}/fullchain.pem;\nssl_certificate_key {shown}/privkey.pem;\n\
         ssl_protocols TLSv1.3;\ntcp_nodelay on;\nproxy_buffer_size 64k;\n"
    );
    for (_, backend, port) in BACKENDS {
        text +=
            &format!("server {{ listen {SERVER}:{port} ssl; proxy_pass 127.0.0.1:{backend}; }}\n");
    }
    text + "}\n"
}

/// Waits for something to be so.
fn soon(what: &str, is_so: impl Fn() -> bool) -> io::Result<()> {
    for _ in 0..200 {
        if is_so() {
            return Ok(());
        }
        // Nothing tells when another process is ready.
        thread::sleep(Duration::from_millis(50));
    }
    Err(io::Error::other(format!("{what} did not come up")))
}

fn run<const N: usize>(program: impl AsRef<Path>, args: [&str; N]) -> io::Result<()> {
    let program = program.as_ref();
    succeeded(program.display(), Command::new(program).args(args).output()?)
}

fn succeeded(what: impl Display, output: Output) -> io::Result<()> {
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(io::Error::other(format!("{what}: {said}")))
}

/// A report is printed whether or not all went well; the exit code is in it.
fn report(output: Output) -> io::Result<Value> {
    serde_json::from_slice(&output.stdout).map_err(|_no_report| {
        io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned())
    })
}

/// Tells how far it has come.
pub(crate) fn say(line: &str) {
    // Nothing can be done if nobody listens.
    _ = writeln!(io::stderr(), "{line}");
}
