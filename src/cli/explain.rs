//! `tidegate explain`: what would become of a session request, and why.

use std::{
    fmt::Write as _,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
};

use clap::Args;
use serde_json::Value;
use tidegate::{
    backend::SystemResolver,
    config::Config,
    gateway::{self, ExplainedRefusal, ExplainedSession, Explanation},
    route::Fit,
    webtransport::{OfflineRequest, offer},
};

use super::Failure;

/// The request would be refused.
const REFUSED: u8 = 1;

#[derive(Args, Debug)]
pub(crate) struct Explain {
    /// Configuration file
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
    /// What the client opens, as `new WebTransport(URL)` has it; taken as it stands, while a browser tidies it up
    /// first
    #[arg(long, value_parser = url)]
    url: Url,
    /// The page's origin; without it the request has none, as those of native clients
    #[arg(long, value_name = "ORIGIN")]
    origin: Option<String>,
    /// A further header; may be repeated
    #[arg(long = "header", value_name = "NAME: VALUE", value_parser = header)]
    headers: Vec<(String, String)>,
    /// An application protocol that the client offers; may be repeated, the preferred one first
    #[arg(long = "protocol", value_name = "PROTOCOL")]
    protocols: Vec<String>,
    /// The client's address, with or without a port
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:50000", value_parser = client)]
    client: SocketAddr,
    /// The gateway's address that the client sends to; by default a listener's of the client's family
    #[arg(long, value_name = "ADDR")]
    local: Option<SocketAddr>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Explain {
    pub(crate) async fn execute(self) -> Result<ExitCode, Failure> {
        let config = Config::read(&self.config)?;
        let request = self.request(&config);
        let explanation = gateway::explain(&config, &request, Arc::new(SystemResolver)).await;
        let text = if self.json { json(&explanation) } else { in_words(&explanation) };
        super::print(&text)?;
        Ok(match explanation.session {
            Some(_) => ExitCode::SUCCESS,
            None => ExitCode::from(REFUSED),
        })
    }

    fn request(&self, config: &Config) -> OfflineRequest {
        let mut headers = self.headers.clone();
        let named = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        headers.extend(self.origin.as_deref().map(|origin| named("origin", origin)));
        if !self.protocols.is_empty() {
            headers.push(named("wt-available-protocols", &offer(&self.protocols)));
        }
        let mut addresses = config.listeners.iter().flat_map(|listener| &listener.quic).copied();
        let of_family = |address: &SocketAddr| address.is_ipv4() == self.client.is_ipv4();
        OfflineRequest {
            authority: self.url.authority.clone(),
            path: self.url.path.clone(),
            headers,
            client: self.client,
            local: self.local.or_else(|| addresses.find(of_family)),
        }
    }
}

#[derive(Clone, Debug, Eq, PartialEq)]
struct Url {
    authority: String,
    /// With the query, without the fragment, which no client sends.
    path: String,
}

fn url(text: &str) -> Result<Url, String> {
    let rest = text.strip_prefix("https://").ok_or("a WebTransport URL begins with https://")?;
    let (rest, _fragment) = rest.split_once('#').unwrap_or((rest, ""));
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    if authority.is_empty() {
        return Err("the URL has no host".to_owned());
    }
    let slash = if path.starts_with('/') { "" } else { "/" };
    Ok(Url { authority: authority.to_owned(), path: format!("{slash}{path}") })
}

/// Names are sent in lower case (RFC 9114 section 4.2).
fn header(text: &str) -> Result<(String, String), &'static str> {
    let (name, value) = text.split_once(':').ok_or("write a header as \"NAME: VALUE\"")?;
    Ok((name.trim().to_ascii_lowercase(), value.trim().to_owned()))
}

fn client(text: &str) -> Result<SocketAddr, String> {
    let ip = || text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 50_000));
    text.parse().or_else(|_no_port| ip()).map_err(|_neither| "write an IP address".to_owned())
}

fn json(explanation: &Explanation) -> String {
    serde_json::to_string(explanation).expect("all of it has a JSON form") + "\n"
}

/// For people.
fn in_words(explanation: &Explanation) -> String {
    let mut text = String::new();
    // Strings take everything.
    _ = write_all(&mut text, explanation);
    text
}

fn write_all(text: &mut String, explanation: &Explanation) -> std::fmt::Result {
    let Explanation { request, steps, routes, refusal, session } = explanation;
    writeln!(
        text,
        "request    https://{}{} from {}",
        request.authority, request.path, request.client
    )?;
    for step in steps {
        let mark = if step.passed { "ok" } else { "NO" };
        writeln!(text, "{mark:<4} {:<10} {}", step.step, step.says)?;
        if step.step == "route" {
            for route in routes.iter().filter(|route| route.fit != Fit::Taken) {
                writeln!(
                    text,
                    "                not {} ({}): {}",
                    route.route,
                    route.path,
                    why_not(route.fit)
                )?;
            }
        }
    }
    match (refusal, session) {
        (Some(refusal), _) => write_refusal(text, refusal),
        (None, Some(session)) => write_session(text, session),
        (None, None) => Ok(()),
    }
}

const fn why_not(fit: Fit) -> &'static str {
    match fit {
        Fit::Taken => "it has the request",
        Fit::LessPreciseHost => "it would take it, but another names the host more precisely",
        Fit::LessPrecisePath => "it would take it, but another has the path more precisely",
        Fit::OtherPath => "its path is another one",
        Fit::OtherHost => "it has the path, but is for other hosts",
        Fit::Neither => "its host and path are other ones",
    }
}

fn write_refusal(text: &mut String, refusal: &ExplainedRefusal) -> std::fmt::Result {
    let ExplainedRefusal { reason, side, status, retry_after_seconds, challenge } = refusal;
    match status {
        Some(status) => write!(text, "\nrefused    {status} {reason} (side: {side})")?,
        None => write!(
            text,
            "\nrefused    the stream is reset with H3_MESSAGE_ERROR; counted as {reason}"
        )?,
    }
    if let Some(seconds) = retry_after_seconds {
        write!(text, ", Retry-After: {seconds}")?;
    }
    match challenge {
        Some(challenge) => writeln!(text, ", WWW-Authenticate: {challenge}"),
        None => writeln!(text),
    }
}

fn write_session(text: &mut String, session: &ExplainedSession) -> std::fmt::Result {
    let how = if session.is_certain { "always this one" } else { "one that it may get" };
    writeln!(text, "\naccepted   by route {}, to endpoint {}", session.route, session.endpoint)?;
    writeln!(text, "chosen     {}: {how}", session.balance)?;
    for (name, value) in &session.captures {
        writeln!(text, "capture    {name} = {value}")?;
    }
    let backend = serde_json::to_value(&session.backend).unwrap_or_default();
    for endpoint in backend["endpoints"].as_array().into_iter().flatten() {
        write!(text, "endpoint   {} (weight {})", word(&endpoint["name"]), endpoint["weight"])?;
        let members = endpoint["members"].as_array().into_iter().flatten();
        let members: Vec<_> = members.map(member).collect();
        match &members[..] {
            [] => writeln!(text, ": its name has no address")?,
            members => writeln!(text, ": {}", members.join("; "))?,
        }
    }
    for (key, value) in &session.limits {
        writeln!(text, "limit      {key} = {value}")?;
    }
    for (what, value) in
        [("PROXY", &session.proxy_header_hex), ("datagram", &session.datagram_header_hex)]
    {
        if !value.is_empty() {
            writeln!(text, "{what:<10} {value}")?;
        }
    }
    if !session.preamble.is_empty() {
        writeln!(text, "preamble   {:?}", session.preamble)?;
    }
    Ok(())
}

fn member(member: &Value) -> String {
    let list = |name: &str| {
        let all = member[name].as_array().into_iter().flatten();
        all.map(|address| format!("{name} {}", word(address))).collect::<Vec<_>>()
    };
    [list("tcp"), list("udp"), vec![word(&member["state"]).to_owned()]].concat().join(", ")
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_taken_as_it_stands() {
        for (text, authority, path) in [
            ("https://a.test", "a.test", "/"),
            ("https://a.test:4433/game/../x?q=1#here", "a.test:4433", "/game/../x?q=1"),
            ("https://a.test?q", "a.test", "/?q"),
            ("https://[::1]:4433//x", "[::1]:4433", "//x"),
        ] {
            let (authority, path) = (authority.to_owned(), path.to_owned());
            assert_eq!(url(text), Ok(Url { authority, path }), "{text}");
        }
        for text in ["", "a.test", "http://a.test", "https:///x"] {
            assert!(url(text).is_err(), "{text}");
        }
    }

    #[test]
    fn headers_and_addresses_are_read() {
        assert_eq!(header("Origin:  null ").unwrap(), ("origin".to_owned(), "null".to_owned()));
        assert!(header("origin").is_err());
        assert_eq!(client("192.0.2.1"), Ok("192.0.2.1:50000".parse().unwrap()));
        assert_eq!(client("[::1]:5"), Ok("[::1]:5".parse().unwrap()));
        assert!(client("localhost").is_err());
    }
}
