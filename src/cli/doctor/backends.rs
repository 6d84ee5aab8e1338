//! Backends: whether their names resolve and whether somebody listens.

use std::{net::SocketAddr, path::Path, time::Duration};

use futures_util::future::join_all;
use tidegate::{
    backend::{Resolve, SystemResolver},
    config::{Backend, Config, Endpoint, HostPort},
};
use tokio::{
    net::{TcpStream, UnixStream},
    time::timeout,
};

use super::finding::Finding;

const CHECK: &str = "backend";

/// As long as a dial may take by default.
const PATIENCE: Duration = Duration::from_secs(3);

/// All endpoints, side by side.
pub(super) async fn findings(config: &Config) -> Vec<Finding> {
    let backends = config.backends.values();
    let endpoints =
        backends.flat_map(|backend| backend.endpoints.iter().map(move |e| (&**backend, e)));
    let found = join_all(endpoints.map(|(backend, endpoint)| of_endpoint(backend, endpoint))).await;
    found.into_iter().flatten().collect()
}

async fn of_endpoint(backend: &Backend, endpoint: &Endpoint) -> Vec<Finding> {
    let what = format!("endpoint {} of {:?}", endpoint.name, backend.name);
    let mut findings = Vec::new();
    if let Some(tcp) = &endpoint.tcp {
        findings.push(match resolved(tcp).await {
            Ok(addresses) => tcp_finding(&what, &addresses).await,
            Err(error) => unresolved(&what, tcp, &error),
        });
    }
    if let Some(path) = &endpoint.unix {
        findings.push(unix_finding(&what, path).await);
    }
    if let Some(udp) = &endpoint.udp {
        findings.push(match resolved(udp).await {
            Ok(_) => Finding::ok(
                CHECK,
                format!("{what}: UDP {udp}; whether anybody listens cannot be known"),
            ),
            Err(error) => unresolved(&what, udp, &error),
        });
    }
    findings
}

async fn resolved(host: &HostPort) -> Result<Vec<SocketAddr>, String> {
    match host {
        HostPort::Address(address) => Ok(vec![*address]),
        HostPort::Name(name, port) => {
            let mut addresses = SystemResolver.look_up(name).await?;
            addresses.iter_mut().for_each(|address| address.set_port(*port));
            if addresses.is_empty() { Err("it has no address".to_owned()) } else { Ok(addresses) }
        }
    }
}

fn unresolved(what: &str, host: &HostPort, error: &str) -> Finding {
    Finding::fail(
        CHECK,
        format!("{what}: {host} does not resolve: {error}"),
        "getent ahosts NAME shows what the system knows; look at /etc/resolv.conf and /etc/hosts",
    )
}

/// A connection to one of its addresses is enough: the gateway tries them side by side.
async fn tcp_finding(what: &str, addresses: &[SocketAddr]) -> Finding {
    let mut last = None;
    for address in addresses {
        match timeout(PATIENCE, TcpStream::connect(address)).await {
            Ok(Ok(_)) => return Finding::ok(CHECK, format!("{what}: TCP {address} answers")),
            Ok(Err(error)) => last = Some(format!("TCP {address}: {error}")),
            Err(_elapsed) => last = Some(format!("TCP {address}: no answer in {PATIENCE:?}")),
        }
    }
    let said = last.unwrap_or_else(|| "it has no address".to_owned());
    dead(what, &said)
}

async fn unix_finding(what: &str, path: &Path) -> Finding {
    match timeout(PATIENCE, UnixStream::connect(path)).await {
        Ok(Ok(_)) => Finding::ok(CHECK, format!("{what}: {} answers", path.display())),
        Ok(Err(error)) => dead(what, &format!("{}: {error}", path.display())),
        Err(_elapsed) => dead(what, &format!("{}: no answer", path.display())),
    }
}

/// The gateway starts all the same, and finds it when it is there.
fn dead(what: &str, said: &str) -> Finding {
    Finding::warn(
        CHECK,
        format!("{what} does not answer: {said}"),
        "Start it, or look at its address and at the firewall between; until then sessions go elsewhere or end.",
    )
}

#[cfg(test)]
mod tests {
    use super::{
        super::finding::State::{Fail, Ok as Fine, Warn},
        *,
    };

    #[tokio::test]
    async fn endpoints_answer_or_not() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let alive = listener.local_addr().unwrap();
        let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dead = closed.local_addr().unwrap();
        drop(closed);
        let text = format!(
            "version = 1\n[[listener]]\nquic = [\"127.0.0.1:0\"]\nself_signed = [\"localhost\"]\n\
             [[route]]\npath = \"/a\"\norigins = \"any\"\nbackend = \"b\"\n\
             [backend.b]\nendpoints = [{{ tcp = \"{alive}\", udp = \"{alive}\" }}, {{ tcp = \"{dead}\" }}, \
             {{ tcp = \"nobody.invalid:1\" }}, {{ unix = \"/no/such/socket\" }}]\n"
        );
        let config = Config::parse(&text, "t.toml", Path::new("")).unwrap();
        let found: Vec<_> = findings(&config).await.into_iter().map(|f| f.state).collect();
        assert_eq!(found, [Fine, Fine, Warn, Fail, Warn]);
    }
}
