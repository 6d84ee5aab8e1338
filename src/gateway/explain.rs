//! What would become of a session request, decided offline by the code that decides it live.
//!
//! A table of routes, backends and limits are made of the configuration as at a start, names are resolved,
//! and then the session room decides on one request and tells each of its decisions. Nothing is bound,
//! nothing is dialled, no backend is checked: an endpoint that only a health check would find down counts
//! as live, and no other client takes up a limit.

use std::{net::SocketAddr, sync::Arc, time::SystemTime};

use serde::Serialize;

use crate::{
    backend::{BackendOverview, Backends, Pin, Resolve},
    config::{self, Balance, Config},
    credential::Identity,
    lifecycle::Lifecycle,
    limit::{Clients, Memory},
    metrics::Metrics,
    reason::{Refusal, Refused},
    route::{Fit, RouteTable, Step},
    session::{Admitted, Decision, SessionContext, Tables},
    transport::RequestHead,
    webtransport::{OfflineRequest, Unread},
};

/// What would become of one request, and why.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    /// What is asked. The query is not shown: it may hold a credential.
    pub request: Asked,
    /// The decisions, in order, up to the one that refuses.
    pub steps: Vec<ExplainedStep>,
    /// How each route fits host and path; empty where these are not sound.
    pub routes: Vec<RouteFit>,
    /// What the client would hear, where it is refused.
    pub refusal: Option<ExplainedRefusal>,
    /// What would be made of it, where it is not.
    pub session: Option<ExplainedSession>,
}

/// A request.
#[derive(Clone, Debug, Serialize)]
pub struct Asked {
    /// Host and port.
    pub authority: String,
    /// Without the query.
    pub path: String,
    /// The client's address.
    pub client: SocketAddr,
    /// The gateway's.
    pub local: Option<SocketAddr>,
}

/// One decision.
#[derive(Clone, Debug, Serialize)]
pub struct ExplainedStep {
    /// What is decided: `http`, `path`, `host`, `route`, `origin`, `rate`, `credential`, `protocol`, `backend`,
    /// `limits` or `endpoint`.
    pub step: &'static str,
    /// Whether the request goes on.
    pub passed: bool,
    /// In words.
    pub says: String,
}

/// How one route fits.
#[derive(Clone, Debug, Serialize)]
pub struct RouteFit {
    /// Its name.
    pub route: String,
    /// Its path.
    pub path: String,
    /// Its hosts; empty means every host.
    pub hosts: Vec<String>,
    /// How it fits.
    pub fit: Fit,
}

/// A refusal, as the client hears it.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct ExplainedRefusal {
    /// The word, which is also in metrics and logs.
    pub reason: &'static str,
    /// Whose doing it is.
    pub side: &'static str,
    /// `None`: the stream is reset with `H3_MESSAGE_ERROR`, for it is no request at all.
    pub status: Option<u16>,
    /// The `Retry-After` header.
    pub retry_after_seconds: Option<u32>,
    /// The `WWW-Authenticate` header.
    pub challenge: Option<&'static str>,
}

/// A session that would begin.
#[derive(Clone, Debug, Serialize)]
pub struct ExplainedSession {
    /// The name of its route.
    pub route: String,
    /// What the captures of the path stand for.
    pub captures: Vec<(String, String)>,
    /// The application protocol.
    pub protocol: Option<String>,
    /// How the endpoint is chosen.
    pub balance: String,
    /// Whether every session of this client and path goes to the same endpoint.
    pub is_certain: bool,
    /// The endpoint that it would get, or one of those that it might.
    pub endpoint: String,
    /// The backend, with all its endpoints.
    pub backend: BackendOverview,
    /// Every limit that holds for it, by key.
    pub limits: Vec<(String, String)>,
    /// What the backend is told first on each TCP connection, before TLS: the PROXY header, in hex.
    pub proxy_header_hex: String,
    /// The first text on each TCP connection. The id of a real session is another one.
    pub preamble: String,
    /// What stands in front of the first datagram, in hex.
    pub datagram_header_hex: String,
}

/// Explains one request. Must be called on a runtime.
pub async fn explain(
    config: &Config,
    request: &OfflineRequest,
    resolver: Arc<dyn Resolve>,
) -> Explanation {
    let mut explanation = Explanation::of(request);
    let head = match request.read(config.limits.header_bytes.0) {
        Ok(head) => head,
        Err(Unread::Malformed) => {
            explanation.refusal =
                Some(ExplainedRefusal { status: None, ..Refusal::BadRequest.into() });
            explanation.note("http", false, "the request breaks the rules of HTTP".to_owned());
            return explanation;
        }
        Err(Unread::Refused(why)) => {
            explanation.refusal = Some(why.into());
            explanation.note("http", false, because(why).to_owned());
            return explanation;
        }
    };
    let metrics = Metrics::new();
    let backends = Arc::new(Backends::new(&config.backends, &metrics, &resolver, None));
    backends.resolve().await;
    let tables = Tables {
        routes: RouteTable::new(&config.routes, &metrics),
        backends: Arc::clone(&backends),
        end_removed: config.reload.end_removed,
    };
    explanation.fit_routes(&tables.routes, &head);
    let clients = Arc::new(Clients::new(config.limits.per_client.clone(), metrics.clients()));
    let sessions = config.limits.sessions;
    let memory = Arc::new(Memory::new(config.limits.memory, metrics.memory()));
    let lifecycle = Lifecycle::new();
    let context = SessionContext::new(tables, sessions, clients, memory, lifecycle, metrics);

    let decided = context.explain(&head, &mut |decision| explanation.decided(&decision, &head));
    match decided {
        Ok(admitted) => explanation.session = Some(session(config, &admitted)),
        Err(refused) => explanation.refusal = Some(refused.into()),
    }
    explanation
}

impl Explanation {
    fn of(request: &OfflineRequest) -> Self {
        let path = request.path.split(['?', '#']).next().unwrap_or_default();
        let asked = Asked {
            authority: request.authority.clone(),
            path: path.to_owned(),
            client: request.client,
            local: request.local,
        };
        Self { request: asked, steps: Vec::new(), routes: Vec::new(), refusal: None, session: None }
    }

    fn note(&mut self, step: &'static str, passed: bool, says: String) {
        self.steps.push(ExplainedStep { step, passed, says });
    }

    /// How each route fits, where host and path can be compared at all.
    fn fit_routes(&mut self, table: &RouteTable, head: &RequestHead) {
        let mut place = (None, None, None);
        // Its result is in what is watched.
        _ = table.approach(head, &mut |step| match step {
            Step::Path(path) => place.0 = path.ok().map(<[String]>::to_vec),
            Step::Host(host) => place.1 = host.ok().map(str::to_owned),
            Step::Route(route) => place.2 = route.ok().map(|route| route.settings.name.clone()),
            _ => {}
        });
        let (Some(path), Some(host), taken) = place else { return };
        let fits = table.fits(&host, &path, taken.as_deref());
        let routes = table.routes().iter().zip(fits).map(|(route, fit)| RouteFit {
            route: route.settings.name.clone(),
            path: route.settings.path.to_string(),
            hosts: route.settings.hosts.iter().map(ToString::to_string).collect(),
            fit,
        });
        self.routes = routes.collect();
    }

    fn decided(&mut self, decision: &Decision<'_>, head: &RequestHead) {
        let (step, said) = match decision {
            Decision::Route(step) => route_step(*step, head),
            Decision::Rate(rate) => {
                let said = rate.map(|()| "its client does not ask too often".to_owned());
                ("rate", said.map_err(|refused| because(refused.why).to_owned()))
            }
            Decision::Room(room) => {
                let said = room.map(|()| "there is room".to_owned());
                ("limits", said.map_err(|refused| because(refused.why).to_owned()))
            }
            Decision::Endpoint(pin) => {
                let said = pin.map(|pin| pin.endpoint().name().to_owned());
                ("endpoint", said.map_err(|why| because(why).to_owned()))
            }
        };
        let (passed, says) = said.map_or_else(|why| (false, why), |says| (true, says));
        self.note(step, passed, says);
    }
}

/// A decision about the route, in words.
fn route_step(step: Step<'_>, head: &RequestHead) -> (&'static str, Result<String, String>) {
    let refused = |why: Refusal| because(why).to_owned();
    match step {
        Step::Path(path) => (
            "path",
            path.map(|segments| format!("/{}", segments.join("/")))
                .map_err(|unfit| unfit.to_string()),
        ),
        Step::Host(host) => {
            let wrong = "the authority is no plain host with or without a port".to_owned();
            ("host", host.map(str::to_owned).map_err(|_why| wrong))
        }
        Step::Route(route) => {
            ("route", route.map(|route| route.settings.name.clone()).map_err(refused))
        }
        Step::Origin(origin) => {
            let said = match &head.origin {
                Some(origin) => format!("{origin} may use the route"),
                None => "the route lets requests without an origin in".to_owned(),
            };
            ("origin", origin.map(|()| said).map_err(refused))
        }
        Step::Credential(identity) => ("credential", identity.map(who).map_err(refused)),
        Step::Protocol(protocol) => {
            let said = |protocol: Option<&str>| protocol.unwrap_or("none").to_owned();
            ("protocol", protocol.map(said).map_err(refused))
        }
        Step::Backend(backend) => {
            ("backend", backend.map(|backend| backend.name.clone()).map_err(refused))
        }
    }
}

/// Who was let in, without what was shown for it.
fn who(identity: Option<&Identity>) -> String {
    match identity {
        None => "the route asks for none".to_owned(),
        Some(Identity { credential, subject, ends, .. }) => {
            let subject = subject.as_deref().unwrap_or("it");
            format!("{credential} lets {subject} in{}", ends.map(time_left).unwrap_or_default())
        }
    }
}

/// How long a credential goes on.
fn time_left(ends: SystemTime) -> String {
    let left = ends.duration_since(SystemTime::now()).unwrap_or_default();
    format!(", for {} seconds more", left.as_secs())
}

fn session(config: &Config, admitted: &Admitted) -> ExplainedSession {
    let Admitted { route, client, pin } = admitted;
    let told = pin.told(client);
    let backend = pin.backend();
    ExplainedSession {
        route: route.settings.name.clone(),
        captures: client.captures.clone(),
        protocol: client.protocol.clone(),
        balance: balance(backend.settings()),
        is_certain: is_certain(pin),
        endpoint: pin.endpoint().name().to_owned(),
        backend: backend.overview(),
        limits: config.limits_of(&route.settings.name),
        proxy_header_hex: hex(&told.proxy_header),
        preamble: told.preamble,
        datagram_header_hex: hex(&told.datagram_header),
    }
}

/// Whether the endpoint depends on nothing but the request.
fn is_certain(pin: &Pin) -> bool {
    let settings = pin.backend().settings();
    settings.balance == Balance::Hash || settings.endpoints.len() == 1
}

fn balance(settings: &config::Backend) -> String {
    match settings.balance {
        Balance::RoundRobin => "one after the other".to_owned(),
        Balance::LeastSessions => "the one with the fewest sessions".to_owned(),
        Balance::RandomTwo => "the emptier of two drawn at random".to_owned(),
        Balance::Hash => format!("by a hash of {}", settings.hash_on),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

impl From<Refused> for ExplainedRefusal {
    fn from(Refused { why, retry_after_seconds }: Refused) -> Self {
        let (reason, side, status) = (why.word(), why.side().word(), Some(why.status()));
        Self { reason, side, status, retry_after_seconds, challenge: why.challenge() }
    }
}

impl From<Refusal> for ExplainedRefusal {
    fn from(why: Refusal) -> Self {
        Refused::from(why).into()
    }
}

/// A refusal in words, and where to look.
fn because(why: Refusal) -> &'static str {
    match why {
        Refusal::BadRequest => "the request could be read in two ways",
        Refusal::HeadersTooLarge => "the headers are larger than limits.header_bytes",
        Refusal::NoRoute => "no route has this path",
        Refusal::WrongHost => "the path or the host belongs to routes of other hosts (hosts)",
        Refusal::NotWebTransport => "this is the gateway's page, and no route has its path",
        Refusal::OriginNotAllowed => "the route does not list this origin (origins)",
        Refusal::OriginMissing => {
            "there is no Origin header, and the route wants one (allow_missing_origin)"
        }
        Refusal::CredentialMissing => "the route asks for a credential, and there is none",
        Refusal::CredentialInvalid => "the credential is not one that the route takes",
        Refusal::CredentialExpired => "the credential has expired",
        Refusal::CredentialForbidden => "the credential is good, but not for this path (claims)",
        Refusal::NoCommonProtocol => {
            "the client offers no protocol that the route has (protocols, require_protocol)"
        }
        Refusal::BackendNotListed => "what the path says has no backend (backends)",
        Refusal::BackendUnavailable => {
            "the backend has no endpoint that could take it: do its names resolve?"
        }
        other => other.word(),
    }
}

#[cfg(test)]
mod tests {
    use std::{path::Path, sync::LazyLock};

    use proptest::prelude::*;

    use super::*;
    use crate::{backend::tests::no_resolver, webtransport::offer};

    const TEXT: &str = r#"version = 1
[[listener]]
quic = ["127.0.0.1:0"]
self_signed = ["localhost"]
[[route]]
name = "every"
path = "/{all...}"
origins = "any"
backend = "a"
[[route]]
name = "room"
path = "/game/{room}"
origins = ["https://*.example.com", "null"]
backend_from = "room"
backends = { lobby = "a", arena = "b" }
[[route]]
name = "lobby"
path = "/game/lobby"
hosts = ["play.test"]
origins = ["https://play.example.com"]
allow_missing_origin = true
protocols = ["chat"]
require_protocol = true
backend = "b"
limits = { sessions = 7 }
[[route]]
name = "wild"
path = "/game/{any}"
hosts = ["*.test"]
origins = "any"
protocols = ["chat"]
backend = "unknown"
[backend.a]
endpoints = [{ name = "one", tcp = "127.0.0.1:1" }, { name = "two", tcp = "127.0.0.1:2" }]
balance = "hash"
proxy_protocol = "v2"
[backend.b]
preamble = "JOIN {path} {client_ip}\n"
proxy_protocol = "v1"
udp_proxy = "spp"
endpoints = [{ name = "only", tcp = "127.0.0.1:1", udp = "127.0.0.1:1" }]
[backend.unknown]
endpoints = [{ tcp = "nobody.test:1" }]
"#;

    static CONFIG: LazyLock<Config> =
        LazyLock::new(|| Config::parse(TEXT, "t.toml", Path::new("")).unwrap());

    fn asks(authority: &str, path: &str, headers: &[(&str, &str)]) -> OfflineRequest {
        let headers = headers.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        OfflineRequest {
            authority: authority.to_owned(),
            path: path.to_owned(),
            headers,
            client: "192.0.2.1:5".parse().unwrap(),
            local: "203.0.113.9:443".parse().ok(),
        }
    }

    fn explained(request: &OfflineRequest) -> Explanation {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(explain(&CONFIG, request, no_resolver()))
    }

    #[test]
    fn a_session_is_told_with_all_that_becomes_of_it() {
        let request = asks("other.org", "/game/aren%61", &[("origin", "https://a.example.com")]);
        let explanation = explained(&request);
        assert_eq!(explanation.refusal, None);
        let steps: Vec<_> = explanation.steps.iter().map(|s| (s.step, s.says.as_str())).collect();
        assert_eq!(
            steps,
            [
                ("path", "/game/arena"),
                ("host", "other.org"),
                ("route", "room"),
                ("origin", "https://a.example.com may use the route"),
                ("rate", "its client does not ask too often"),
                ("credential", "the route asks for none"),
                ("protocol", "none"),
                ("backend", "b"),
                ("limits", "there is room"),
                ("endpoint", "only"),
            ]
        );
        let fits: Vec<_> = explanation.routes.iter().map(|r| r.fit).collect();
        assert_eq!(fits, [Fit::LessPrecisePath, Fit::Taken, Fit::Neither, Fit::OtherHost]);
        let session = explanation.session.unwrap();
        assert_eq!((session.endpoint.as_str(), session.is_certain), ("only", true));
        assert_eq!(session.captures, [("room".to_owned(), "arena".to_owned())]);
        assert_eq!(session.preamble, "JOIN /game/aren%61 192.0.2.1\n");
        assert_eq!(session.proxy_header_hex, hex(b"PROXY TCP4 192.0.2.1 203.0.113.9 5 443\r\n"));
        assert_eq!(session.datagram_header_hex.len(), 2 * 38, "the Simple Proxy Protocol's");
        let limit = |key: &str| {
            let found = session.limits.iter().find(|(known, _)| known == key);
            found.map(|(_, value)| value.as_str())
        };
        assert_eq!(limit("limits.per_client.session_rate"), Some("100/s"));
        assert_eq!(limit("limits.sessions"), Some("100000"));
        assert_eq!(limit("route.limits.sessions"), Some("10000"));
    }

    #[test]
    fn a_refusal_is_told_as_the_client_hears_it() {
        let chat = offer(&["chat".to_owned()]);
        for (request, step, reason, status, retry) in [
            (
                asks("a.org", "/game/x", &[("origin", "null")]),
                "backend",
                "backend_not_listed",
                404,
                None,
            ),
            (asks("a.org", "/game/x", &[]), "origin", "origin_missing", 403, None),
            (asks("play.test", "/game/lobby", &[]), "protocol", "no_common_protocol", 400, None),
            (
                asks("a.test", "/game/x", &[("wt-available-protocols", &chat)]),
                "endpoint",
                "backend_unavailable",
                503,
                Some(5),
            ),
            (asks("a..org", "/game/x", &[]), "host", "bad_request", 400, None),
            (asks("a.org", "/a//b", &[]), "path", "bad_request", 400, None),
            (asks("a.org", "/", &[]), "route", "not_webtransport", 405, None),
        ] {
            let explanation = explained(&request);
            assert!(explanation.session.is_none());
            let refusal = explanation.refusal.unwrap();
            assert_eq!((refusal.reason, refusal.status), (reason, Some(status)), "{request:?}");
            assert_eq!(refusal.retry_after_seconds, retry);
            let (last, before) = explanation.steps.split_last().unwrap();
            assert_eq!((last.step, last.passed), (step, false));
            assert!(before.iter().all(|step| step.passed));
        }
        let malformed = explained(&asks("a.org", "/x y", &[]));
        assert_eq!(malformed.refusal.unwrap().status, None);
    }

    #[test]
    fn what_the_query_says_is_not_shown() {
        let request =
            asks("a.org", "/game/lobby?token=sesame", &[("authorization", "Bearer sesame")]);
        let explanation = explained(&request);
        assert!(!format!("{explanation:?}").contains("sesame"), "{explanation:?}");
        let json = serde_json::to_string(&explanation).unwrap();
        assert!(!json.contains("sesame"), "{json}");
    }

    /// A route that asks for a token, which is in the header or in the query.
    #[test]
    fn a_credential_is_judged_and_never_shown() {
        let folder = std::env::temp_dir().join(format!("tidegate-explain-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let line = format!("alice:sha256={}\n", hex(&crate::credential::token_hash("sesame")));
        std::fs::write(folder.join("t.tokens"), line).unwrap();
        let text = TEXT.replace(
            "name = \"room\"\n",
            "name = \"room\"\ncredentials = [\"robots\"]\nallow_missing_origin = true\n",
        ) + "[credential.robots]\ntokens = \"t.tokens\"\nquery = \"token\"\n";
        let text = text.replace("JOIN {path}", "JOIN {query} {subject} {path}");
        let config = Config::parse(&text, "t.toml", &folder).unwrap_or_else(|p| panic!("{p}"));
        std::fs::remove_dir_all(&folder).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        for (query, header, status) in [
            ("?token=sesame&a=1", None, None),
            ("", Some("Bearer sesame"), None),
            ("", None, Some(401)),
            ("?token=sesamex", None, Some(401)),
        ] {
            let header = header.map(|value| ("authorization", value));
            let request = asks("a.org", &format!("/game/arena{query}"), header.as_slice());
            let said = runtime.block_on(explain(&config, &request, no_resolver()));
            assert_eq!(said.refusal.as_ref().map(|r| r.status), status.map(Some), "{query}");
            assert_eq!(
                said.refusal.as_ref().is_some(),
                said.steps[5].step == "credential" && !said.steps[5].passed
            );
            let shown = format!("{said:?}{}", serde_json::to_string(&said).unwrap());
            assert!(!shown.contains("sesame"), "{shown}");
            if let Some(session) = said.session {
                assert_eq!(said.steps[5].says, "robots lets alice in");
                assert!(session.preamble.contains(" alice /game/arena "), "{}", session.preamble);
            }
        }
    }

    /// Smaller is more precise: the host first, then the path from left to right.
    fn precision(route: &config::Route, host: &str) -> (u8, Vec<u8>) {
        let of_host = match (&route.hosts[..], host) {
            ([], _) => 2,
            (hosts, host) => u8::from(!hosts.iter().any(|own| own.to_string() == host)),
        };
        let of_path = route.path.segments.iter().map(|segment| match segment {
            config::Segment::Literal(_) => 0,
            config::Segment::Capture(_) => 1,
            config::Segment::Rest(_) => 2,
        });
        (of_host, of_path.collect())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        /// The explanation ends as the lookup does on the same request, and the routes that it says
        /// would fit are those among which the most precise one won.
        #[test]
        fn an_explanation_is_the_decision(
            authority in "(play|a|b\\.a)\\.(test|org)(:[0-9]{1,3})?|\\PC{0,6}",
            path in "/(game|x|ga%6De)?/?(lobby|arena|%61rena|[a-z%/.]{0,4})?(\\?x=1)?",
            origin in proptest::option::of("https://(play|evil)?\\.?example\\.com(:[0-9]{2,3})?|null|any"),
            protocol in proptest::option::of("chat|other"),
        ) {
            let offered = protocol.map(|protocol| offer(&[protocol]));
            let mut headers = Vec::new();
            headers.extend(origin.as_deref().map(|origin| ("origin", origin)));
            headers.extend(offered.as_deref().map(|offered| ("wt-available-protocols", offered)));
            let request = asks(&authority, &path, &headers);
            let explanation = explained(&request);

            let Ok(head) = request.read(16_384) else {
                prop_assert!(explanation.refusal.is_some() && explanation.session.is_none());
                return Ok(());
            };
            let table = RouteTable::new(&CONFIG.routes, &Metrics::new());
            match (table.lookup(&head), &explanation.session) {
                (Ok(found), Some(session)) => {
                    prop_assert_eq!(&found.route.settings.name, &session.route);
                    prop_assert_eq!(&found.protocol, &session.protocol);
                    prop_assert_eq!(&found.captures, &session.captures);
                    prop_assert_eq!(&explanation.steps[7].says, &found.backend.name);
                }
                // The one backend whose name nobody knows.
                (Ok(found), None) => {
                    prop_assert_eq!(&found.backend.name, "unknown");
                    let refusal = explanation.refusal.as_ref().unwrap();
                    prop_assert_eq!(refusal, &Refusal::BackendUnavailable.into());
                }
                (Err((_, why)), None) => {
                    prop_assert_eq!(explanation.refusal.as_ref().unwrap(), &why.into());
                }
                (Err(why), Some(_)) => prop_assert!(false, "refused: {why:?}"),
            }
            let would_take = explanation.routes.iter().zip(&CONFIG.routes).filter(|(said, _)| {
                matches!(said.fit, Fit::Taken | Fit::LessPreciseHost | Fit::LessPrecisePath)
            });
            let host = config::request_host(&head.authority).unwrap_or_default();
            let best = would_take.min_by_key(|(_, route)| precision(route, &host));
            let is_taken = best.is_none_or(|(said, _)| said.fit == Fit::Taken);
            prop_assert!(is_taken, "{:?}", explanation.routes);
        }
    }
}
