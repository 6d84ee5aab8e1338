//! `tidegate dev`: the main job in one command, with nothing configured.
//!
//! The configuration is written as text and read like any other, so that what is tried out here is
//! what `tidegate run` does.

mod echo;
mod playground;

use std::{
    fmt::Write,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    path::Path,
    process::ExitCode,
    sync::Arc,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use clap::{Args, ValueEnum};
use tidegate::{
    admin::HttpListener,
    config::Config,
    edge::CertificateInfo,
    gateway::{Gateway, Live, Running, StartError},
    lifecycle::Lifecycle,
};
use tracing::warn;

use super::{Failure, LogOptions, announce::Facts, descriptors, logging, serve};

#[derive(Args, Debug)]
pub(crate) struct Dev {
    /// UDP address for WebTransport, may be repeated [default: 127.0.0.1:4433 and [::1]:4433]
    #[arg(long, value_name = "ADDR")]
    listen: Vec<SocketAddr>,
    /// TCP address for metrics and health
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9090")]
    admin: SocketAddr,
    /// TCP address for the playground page
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080")]
    playground: SocketAddr,
    /// TCP backend for streams, HOST:PORT [default: a built-in echo server]
    #[arg(long, value_name = "ADDR", value_parser = host_port)]
    tcp: Option<String>,
    /// UDP backend for datagrams, HOST:PORT [default: a built-in echo server]
    #[arg(long, value_name = "ADDR", value_parser = host_port)]
    udp: Option<String>,
    /// What stdout shows once everything serves
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    print: Print,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Print {
    /// For people: addresses, hashes, a line of JavaScript
    Text,
    /// One JSON object on one line
    Json,
}

/// The routes: path, whether it takes streams, whether it takes datagrams.
const ROUTES: [Route; 3] = [
    Route { path: "/echo", streams: true, datagrams: true, takes: "streams and datagrams" },
    Route { path: "/tcp", streams: true, datagrams: false, takes: "streams alone" },
    Route { path: "/udp", streams: false, datagrams: true, takes: "datagrams alone" },
];

#[derive(Debug, serde::Serialize)]
struct Route {
    path: &'static str,
    streams: bool,
    datagrams: bool,
    #[serde(skip)]
    takes: &'static str,
}

impl Dev {
    pub(crate) async fn execute(mut self, log: &LogOptions) -> Result<ExitCode, Failure> {
        if self.listen.is_empty() {
            self.listen = default_listen();
        }
        let tasks = Lifecycle::new();
        let backends = Backends::of(&self, &tasks).await?;
        // The text is ours and the flags are checked: a problem here is a mistake in this file.
        let config = Config::parse(&self.config(&backends), "tidegate dev", Path::new("."))?;
        let logs = logging::start(log, &config.log)?;
        descriptors::raise();
        let signals = serve::Signals::new()?;

        let page = HttpListener::bind(self.playground).map_err(|source| Failure::Bind {
            flag: "--playground",
            address: self.playground,
            source,
        })?;
        let gateway = Gateway::bind(config).await.map_err(|error| self.name_flag(error))?;
        let running = gateway.with_log(logs.filter()).start()?;
        logs.count_in(running.metrics());

        let mut facts = Facts::of(&running, Some(ROUTES[0].path));
        facts.playground = Some(page_url(page.address()));
        let live = Arc::clone(running.live());
        let page = playground::serve(page, facts.clone(), &ROUTES, move || hashes(&live));
        let announce = |_: &_| match self.print {
            Print::Json => super::print(&facts.json()),
            Print::Text => super::print(&welcome(&facts, &backends)),
        };
        let reload =
            async |_: &Running| warn!("SIGHUP: there is no file that could be read again.");
        let never = async |_: &Running| std::future::pending().await;
        let ended = serve::until_stopped(running, signals, announce, reload, never).await;

        page.stop().await;
        tasks.begin_kill();
        tasks.all_tasks_ended().await;
        ended
    }

    fn config(&self, backends: &Backends) -> String {
        let Self { listen, admin, .. } = self;
        let quic: Vec<String> = listen.iter().map(SocketAddr::to_string).collect();
        let quic = quote_all(&quic);
        let names = quote_all(&self.certificate_names());
        let mut text = format!(
            r#"version = 1

[[listener]]
name = "dev"
quic = {quic}
self_signed = {names}

[admin]
listen = "{admin}"

[limits.per_client] # whoever tries something out does so from one address
connections = "unlimited"
sessions = "unlimited"
session_rate = "unlimited"

[limits.per_connection]
stream_rate = "unlimited"

[drain]
delay = "0s" # no balancer has to look away first
grace = "5s"

[backend.dev]
endpoints = [{{ tcp = "{tcp}", udp = "{udp}" }}]
uni_discard = "1GiB" # an echo answers even those who do not read
"#,
            tcp = backends.tcp.address,
            udp = backends.udp.address,
        );
        for Route { path, streams, datagrams, .. } in &ROUTES {
            let name = path.trim_start_matches('/');
            let (bidi, uni) =
                if *streams { ("per-stream", "backend") } else { ("refuse", "refuse") };
            let datagrams = if *datagrams { "udp" } else { "drop" };
            _ = write!(
                text,
                r#"
[[route]]
name = "{name}"
path = "{path}"
origins = "any"
backend = "dev"
streams = "{bidi}"
uni = "{uni}"
datagrams = "{datagrams}"
limits.stream_rate = "unlimited"
"#
            ); // writing to a string cannot fail
        }
        text
    }

    /// `localhost` and its addresses, and what else a client may have typed to come here.
    fn certificate_names(&self) -> Vec<String> {
        let loopback = [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()];
        let others = self.listen.iter().map(SocketAddr::ip).filter(|ip| !ip.is_unspecified());
        let mut names = vec!["localhost".to_owned()];
        for ip in loopback.into_iter().chain(others).map(|ip| ip.to_string()) {
            if !names.contains(&ip) {
                names.push(ip);
            }
        }
        names
    }

    /// Says which flag leads elsewhere when an address cannot be bound.
    fn name_flag(&self, error: StartError) -> Failure {
        let StartError::Bind { what, address, source } = error else {
            return error.into();
        };
        // The same numbers may stand in both: one is UDP, the other TCP.
        let flag = match (self.listen.contains(&address), self.admin == address) {
            (true, false) => "--listen",
            (false, true) => "--admin",
            (true, true) => "--listen or --admin",
            (false, false) => return StartError::Bind { what, address, source }.into(),
        };
        Failure::Bind { flag, address, source }
    }
}

/// Both loopbacks, since some browsers try `::1` first for `localhost`; where there is no IPv6, one.
fn default_listen() -> Vec<SocketAddr> {
    let has_ipv6 = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_ok();
    let mut addresses = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, DEFAULT_PORT))];
    addresses.extend(has_ipv6.then(|| SocketAddr::from((Ipv6Addr::LOCALHOST, DEFAULT_PORT))));
    addresses
}

const DEFAULT_PORT: u16 = 4433;

/// Takes what can stand in a configuration's `tcp` and `udp`, so that a slip is a bad command line.
fn host_port(text: &str) -> Result<String, String> {
    let wanted = || "expected HOST:PORT, such as 127.0.0.1:7777".to_owned();
    if text.parse::<SocketAddr>().is_ok() {
        return Ok(text.to_owned());
    }
    let (host, port) = text.rsplit_once(':').ok_or_else(wanted)?;
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    let good = !host.is_empty() && host.chars().all(is_name) && port.parse::<u16>().is_ok();
    if good { Ok(text.to_owned()) } else { Err(wanted()) }
}

/// A TOML list of strings that need no escapes: addresses and names.
fn quote_all(values: &[String]) -> String {
    format!("[\"{}\"]", values.join("\", \""))
}

/// What stands behind the gateway.
#[derive(Debug)]
struct Backends {
    tcp: Backend,
    udp: Backend,
}

#[derive(Debug)]
struct Backend {
    address: String,
    kind: &'static str,
}

impl Backends {
    /// The backends that the flags name, or echo servers on `tasks`.
    async fn of(dev: &Dev, tasks: &Lifecycle) -> Result<Self, Failure> {
        let failed = |source| Failure::System { what: "start an echo backend", source };
        let given = |address: &String| Backend { address: address.clone(), kind: "yours" };
        let echo = |address: SocketAddr| Backend { address: address.to_string(), kind: "echo" };
        let tcp = match &dev.tcp {
            Some(address) => given(address),
            None => echo(echo::tcp(tasks).await.map_err(failed)?),
        };
        let udp = match &dev.udp {
            Some(address) => given(address),
            None => echo(echo::udp(tasks).await.map_err(failed)?),
        };
        Ok(Self { tcp, udp })
    }
}

/// The hashes, in base64, of the certificate that is shown now and of the one after it.
fn hashes(live: &Live) -> Vec<String> {
    let of_each = |used: CertificateInfo| [Some(used.sha256), used.next.map(|next| next.sha256)];
    live.certificates()
        .into_iter()
        .flat_map(of_each)
        .flatten()
        .map(|h| STANDARD.encode(h))
        .collect()
}

/// `localhost` where it leads there: to browsers that is a secure context without a certificate, like
/// 127.0.0.1, and is what people type.
fn page_url(bound: SocketAddr) -> String {
    if bound.ip().is_loopback() || bound.ip().is_unspecified() {
        format!("http://localhost:{}", bound.port())
    } else {
        format!("http://{bound}")
    }
}

/// What a person wants to know, and lines to copy.
fn welcome(facts: &Facts, backends: &Backends) -> String {
    let missing = || "none".to_owned();
    let url = &facts.url;
    let base = url.strip_suffix(ROUTES[0].path).unwrap_or(url);
    let mut routes = String::new();
    for (index, Route { path, takes, .. }) in ROUTES.iter().enumerate() {
        let label = if index == 0 { "WebTransport" } else { "" };
        // Writing to a string cannot fail.
        _ = writeln!(routes, "  {label:<14}{:<34}{takes}", format!("{base}{path}"));
    }
    format!(
        r#"tidegate {version}: a gateway for trying things out. It is open to every origin; keep it on this machine.

{routes}  Backends      TCP {tcp} ({tcp_kind}), UDP {udp} ({udp_kind})
  Certificate   SHA-256, hex     {hex}
                SHA-256, base64  {base64}
  Playground    {playground}
  Metrics       {admin}/metrics

In the console of any page from https or localhost:

  const wt = new WebTransport("{url}", {{serverCertificateHashes: [{{algorithm: "sha-256", value: Uint8Array.from(atob("{base64}"), c => c.charCodeAt(0))}}]}}); await wt.ready;

Under load:

  tidegate-load echo --url {url} --cert-hash {hex} --sessions 100 --streams 10 --datagrams 100 --bytes 1024

Ctrl-C drains and stops; a second one stops at once.
"#,
        version = env!("CARGO_PKG_VERSION"),
        tcp = backends.tcp.address,
        tcp_kind = backends.tcp.kind,
        udp = backends.udp.address,
        udp_kind = backends.udp.kind,
        hex = facts.cert_hash_hex.clone().unwrap_or_else(missing),
        base64 = facts.cert_hash_base64.clone().unwrap_or_else(missing),
        playground = facts.playground.clone().unwrap_or_else(missing),
        admin = facts.admin.clone().unwrap_or_else(missing),
    )
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        time::{Duration, SystemTime},
    };

    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        dev: Dev,
    }

    fn dev(flags: &[&str]) -> Dev {
        Line::try_parse_from(std::iter::once(&"dev").chain(flags)).unwrap().dev
    }

    fn backends() -> Backends {
        let backend = |address: &str| Backend { address: address.into(), kind: "echo" };
        Backends { tcp: backend("127.0.0.1:7"), udp: backend("game.internal:7") }
    }

    #[test]
    fn the_configuration_is_valid_and_as_asked_for() {
        let dev =
            dev(&["--listen", "127.0.0.1:0", "--listen", "[::1]:0", "--admin", "127.0.0.1:0"]);
        let config = Config::parse(&dev.config(&backends()), "dev", Path::new(".")).unwrap();
        assert_eq!(config.listeners[0].quic, dev.listen);
        assert_eq!(config.admin.unwrap().listen, dev.admin);
        let routes: Vec<&str> = config.routes.iter().map(|r| r.name.as_str()).collect();
        assert_eq!(routes, ["echo", "tcp", "udp"]);
        assert!(config.drain.delay.is_zero());
    }

    #[test]
    fn the_certificate_is_for_localhost_and_the_addresses_listened_on() {
        let names = dev(&["--listen", "0.0.0.0:1", "--listen", "192.0.2.7:1"]).certificate_names();
        assert_eq!(names, ["localhost", "127.0.0.1", "::1", "192.0.2.7"]);
    }

    /// A page that was loaded before a certificate was renewed gets in, and one that is loaded then knows more.
    #[tokio::test]
    async fn the_playground_knows_the_next_certificate_before_it_is_shown() {
        let dev = dev(&["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
        let echo = || Backend { address: "127.0.0.1:7".into(), kind: "echo" };
        let text = dev.config(&Backends { tcp: echo(), udp: echo() });
        let config = Config::parse(&text, "dev", Path::new(".")).unwrap();
        let running = Gateway::bind(config).await.unwrap().start().unwrap();
        let live = running.live();
        let before = hashes(live);
        assert_eq!(before.len(), 2);
        assert_eq!(Some(&before[0]), Facts::of(&running, None).cert_hash_base64.as_ref());

        let twelve_days = Duration::from_secs(12 * 24 * 60 * 60);
        live.renew_certificates(SystemTime::now() + twelve_days);

        let after = hashes(live);
        assert_eq!(after[0], before[1]);
        assert!(after.len() == 2 && !before.contains(&after[1]), "{before:?}, then {after:?}");
        running.shut_down(std::future::ready(())).await;
    }

    #[test]
    fn a_backend_is_an_address_or_a_name_with_a_port() {
        for good in ["127.0.0.1:7777", "[::1]:7777", "game.internal:7777"] {
            assert_eq!(host_port(good).as_deref(), Ok(good));
        }
        for bad in ["7777", ":7777", "game", "game:port", "game:70000", "ga\"me:1", "::1:7777"] {
            assert!(host_port(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_taken_address_names_the_flag_to_change() {
        let dev =
            dev(&["--listen", "127.0.0.1:1", "--listen", "127.0.0.1:2", "--admin", "127.0.0.1:2"]);
        for (address, flag) in [
            ("127.0.0.1:1", "with --listen,"),
            ("127.0.0.1:2", "with --listen or --admin,"),
            ("127.0.0.1:3", "cannot start"),
        ] {
            let error = StartError::Bind {
                what: "listener".into(),
                address: address.parse().unwrap(),
                source: io::ErrorKind::AddrInUse.into(),
            };
            let failure = dev.name_flag(error);
            assert_eq!(failure.exit_code(), 71);
            assert!(failure.to_string().contains(flag), "{failure}");
        }
    }

    #[test]
    fn the_welcome_has_all_that_is_to_be_copied() {
        let facts = Facts {
            url: "https://127.0.0.1:4433/echo".into(),
            cert_hash_hex: Some("00ff".into()),
            cert_hash_base64: Some("AP8=".into()),
            admin: Some("http://127.0.0.1:9090".into()),
            playground: Some("http://localhost:8080".into()),
            pid: 7,
        };
        let text = welcome(&facts, &backends());
        for wanted in [
            r#"  const wt = new WebTransport("https://127.0.0.1:4433/echo", {serverCertificateHashes: [{algorithm: "sha-256", value: Uint8Array.from(atob("AP8="), c => c.charCodeAt(0))}]}); await wt.ready;"#,
            "https://127.0.0.1:4433/udp ",
            "http://localhost:8080\n",
            "http://127.0.0.1:9090/metrics\n",
            "--url https://127.0.0.1:4433/echo --cert-hash 00ff ",
        ] {
            assert!(text.contains(wanted), "{wanted} is missing in\n{text}");
        }
    }
}
