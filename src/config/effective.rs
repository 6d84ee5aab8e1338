//! The effective configuration: valid settings back to text, with every default written out.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use serde::Serialize;

use super::{
    Admin, Backend, BackendTls, CertificateFiles, CertificateSource, Check, ClaimRule,
    ClientCertificates, Config, Credential, CredentialKind, DatagramKey, Destination, Dial,
    Ejection, Endpoint, Health, Jwt, Keepalive, KeySource, Limits, Listed, Listener, Payload,
    PerClientLimits, PerConnectionLimits, Roots, Route, Server, Timeouts, Transport, raw,
    read::{HexBytes, Workers},
    units::{Patience, Period},
};

impl Config {
    /// The configuration as the text of a file that says everything, defaults included.
    ///
    /// Reading it again gives the same configuration, but for the secret, which shows as `"***"`.
    ///
    /// # Panics
    /// Never: what the raw shape holds can be written as TOML.
    pub fn effective(&self) -> String {
        toml::to_string(&self.to_raw())
            .expect("numbers, strings, lists and tables have a TOML form")
    }

    /// Every limit that holds for the sessions of a route: its key, and its value as a file has it.
    pub fn limits_of(&self, route: &str) -> Vec<(String, String)> {
        let mut found = Vec::new();
        note_limits("limits", &limits(&self.limits), &mut found);
        let route = self.routes.iter().find(|known| known.name == route).map(self::route);
        if let Some(own) = route.and_then(|route| route.limits) {
            note_limits("route.limits", &own, &mut found);
        }
        found
    }

    pub(super) fn to_raw(&self) -> raw::File {
        raw::File {
            version: Some(1),
            server: Some(server(&self.server)),
            log: Some(raw::Log {
                format: Some(self.log.format),
                filter: Some(self.log.filter.clone()),
                ..Default::default()
            }),
            listener: Some(self.listeners.iter().map(listener).collect()),
            admin: self.admin.as_ref().map(admin),
            limits: Some(limits(&self.limits)),
            timeouts: Some(timeouts(&self.timeouts)),
            drain: Some(raw::Drain {
                delay: Some(Period(self.drain.delay)),
                grace: Some(Period(self.drain.grace)),
                ..Default::default()
            }),
            reload: Some(raw::Reload {
                end_removed: Some(self.reload.end_removed),
                watch: Some(self.reload.watch),
                interval: Some(Period(self.reload.interval)),
                ..Default::default()
            }),
            route: Some(self.routes.iter().map(route).collect()),
            backend: Some(
                self.backends.iter().map(|(name, b)| (name.clone(), backend(b))).collect(),
            ),
            credential: Some(
                self.credentials.iter().map(|(name, c)| (name.clone(), credential(c))).collect(),
            )
            .filter(|credentials: &BTreeMap<_, _>| !credentials.is_empty()),
            ..Default::default()
        }
    }
}

/// Adds the keys of a section, and of those below it.
fn note_limits(at: &str, section: &impl Serialize, found: &mut Vec<(String, String)>) {
    let Ok(table) = toml::Table::try_from(section) else { return };
    note_values(at, &table, found);
}

fn note_values(at: &str, table: &toml::Table, found: &mut Vec<(String, String)>) {
    for (name, value) in table {
        let key = format!("{at}.{name}");
        match value {
            toml::Value::Table(below) => note_values(&key, below, found),
            toml::Value::String(text) => found.push((key, text.clone())),
            other => found.push((key, other.to_string())),
        }
    }
}

fn server(server: &Server) -> raw::Server {
    raw::Server {
        workers: Some(Workers::Count(server.workers)),
        steering: Some(if server.steering { raw::Steering::Auto } else { raw::Steering::Off }),
        server_id: Some(HexBytes(server.server_id.clone())),
        config_id: Some(server.config_id),
        secret: server.secret.as_ref().map(|_| raw::Hidden::default()),
        previous_secret: server.previous_secret.as_ref().map(|_| raw::Hidden::default()),
        ..Default::default()
    }
}

fn admin(admin: &Admin) -> raw::Admin {
    raw::Admin {
        listen: Some(admin.listen),
        token: admin.token.as_ref().map(|_| raw::Hidden::default()),
        ..Default::default()
    }
}

fn listener(listener: &Listener) -> raw::Listener {
    let (certificates, self_signed) = match &listener.certificate {
        CertificateSource::Files(files) => (Some(files.iter().map(certificate).collect()), None),
        CertificateSource::SelfSigned(names) => (None, Some(names.clone())),
    };
    raw::Listener {
        name: Some(listener.name.clone()),
        quic: Some(listener.quic.clone()),
        certificates,
        self_signed,
        client_certificates: listener.client_certificates.as_ref().map(client_certificates),
        retry: Some(listener.retry),
        transport: Some(transport(&listener.transport)),
        ..Default::default()
    }
}

fn client_certificates(settings: &ClientCertificates) -> raw::ClientCertificates {
    let ClientCertificates { roots, required, .. } = settings;
    raw::ClientCertificates {
        roots: Some(text(roots)),
        required: Some(*required),
        ..Default::default()
    }
}

fn certificate(files: &CertificateFiles) -> raw::Certificate {
    let (chain, key) = (Some(text(&files.chain)), Some(text(&files.key)));
    raw::Certificate { chain, key, ..Default::default() }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn transport(transport: &Transport) -> raw::Transport {
    raw::Transport {
        idle_timeout: Some(Period(transport.idle_timeout)),
        ping_interval: Some(Period(transport.ping_interval)),
        stream_window: Some(transport.stream_window),
        connection_window: Some(transport.connection_window),
        send_window: Some(transport.send_window),
        initial_bidi_streams: Some(transport.initial_bidi_streams),
        initial_uni_streams: Some(transport.initial_uni_streams),
        datagram_send_buffer: Some(transport.datagram_send_buffer),
        datagram_receive_buffer: Some(transport.datagram_receive_buffer),
        initial_mtu: Some(transport.initial_mtu),
        max_mtu: Some(transport.max_mtu),
        congestion: Some(transport.congestion),
        initial_window: Some(transport.initial_window),
        initial_rtt: Some(Period(transport.initial_rtt)),
        packet_threshold: Some(transport.packet_threshold),
        webtransport_profile: Some(transport.webtransport_profile),
        receive_buffer: Some(transport.receive_buffer),
        send_buffer: Some(transport.send_buffer),
        ..Default::default()
    }
}

fn limits(limits: &Limits) -> raw::Limits {
    raw::Limits {
        connections: Some(limits.connections),
        handshakes: Some(limits.handshakes),
        retry_above_handshakes: Some(limits.retry_above_handshakes),
        sessions: Some(limits.sessions),
        memory: Some(limits.memory),
        header_bytes: Some(limits.header_bytes),
        early_streams: Some(limits.early_streams),
        early_datagrams: Some(limits.early_datagrams),
        per_client: Some(per_client(&limits.per_client)),
        per_connection: Some(per_connection(&limits.per_connection)),
        ..Default::default()
    }
}

fn per_client(limits: &PerClientLimits) -> raw::PerClientLimits {
    raw::PerClientLimits {
        connections: Some(limits.connections),
        sessions: Some(limits.sessions),
        session_rate: Some(limits.session_rate),
        ..Default::default()
    }
}

fn per_connection(limits: &PerConnectionLimits) -> raw::PerConnectionLimits {
    raw::PerConnectionLimits { stream_rate: Some(limits.stream_rate), ..Default::default() }
}

fn timeouts(timeouts: &Timeouts) -> raw::Timeouts {
    raw::Timeouts {
        handshake: Some(Period(timeouts.handshake)),
        request: Some(Period(timeouts.request)),
        idle_connection: Some(Period(timeouts.idle_connection)),
        early: Some(Period(timeouts.early)),
        linger: Some(Period(timeouts.linger)),
        ..Default::default()
    }
}

fn route(route: &Route) -> raw::Route {
    let destination = DestinationKeys::of(&route.destination);
    raw::Route {
        name: Some(route.name.clone()),
        // As with `protocols`: an empty list has no form.
        hosts: Some(route.hosts.clone()).filter(|hosts| !hosts.is_empty()),
        path: Some(route.path.clone()),
        origins: Some(route.origins.clone()),
        allow_missing_origin: Some(route.allow_missing_origin),
        credentials: Some(route.credentials.iter().map(|c| c.name.clone()).collect())
            .filter(|credentials: &Vec<_>| !credentials.is_empty()),
        // An empty list has no form: the key is left out.
        protocols: Some(route.protocols.clone()).filter(|protocols| !protocols.is_empty()),
        require_protocol: Some(route.require_protocol),
        backend: destination.otherwise,
        backend_from: destination.from,
        backends: destination.listed,
        streams: Some(route.streams),
        uni: Some(route.uni),
        datagrams: Some(route.datagrams),
        udp_open: Some(route.udp_open),
        half_close_timeout: Some(Patience(route.half_close_timeout)),
        datagram_queue: Some(route.datagram_queue),
        datagram_ttl: Some(Period(route.datagram_ttl)),
        opens: Some(route.opens),
        push: Some(route.push),
        datagram_latest_per_key: route.datagram_key.map(datagram_key),
        oversize: Some(route.oversize),
        oversize_queue: Some(route.oversize_queue),
        oversize_streams: Some(route.oversize_streams),
        limits: Some(raw::RouteLimits {
            sessions: Some(route.max_sessions),
            streams_per_session: Some(route.max_streams_per_session),
            stream_rate: Some(route.stream_rate),
            byte_rate_up: Some(route.byte_rate_up),
            byte_rate_down: Some(route.byte_rate_down),
            datagram_rate_up: Some(route.datagram_rate_up),
            datagram_rate_down: Some(route.datagram_rate_down),
            session_lifetime: Some(Patience(route.session_lifetime)),
            session_idle: Some(Patience(route.session_idle)),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// The keys that say where a route's sessions go.
#[derive(Default)]
struct DestinationKeys {
    otherwise: Option<String>,
    from: Option<String>,
    listed: Option<BTreeMap<String, String>>,
}

impl DestinationKeys {
    fn of(destination: &Destination) -> Self {
        let name = |backend: &Arc<Backend>| backend.name.clone();
        match destination {
            Destination::Always(backend) => {
                Self { otherwise: Some(name(backend)), ..Self::default() }
            }
            Destination::Listed(Listed { capture, backends, otherwise }) => Self {
                otherwise: otherwise.as_ref().map(name),
                from: Some(capture.clone()),
                listed: Some(backends.iter().map(|(v, b)| (v.clone(), name(b))).collect()),
            },
        }
    }
}

fn credential(credential: &Credential) -> raw::Credential {
    let (jwt, tokens, certificates) = match &credential.kind {
        CredentialKind::Jwt(rules) => (Some(jwt(rules)), None, None),
        CredentialKind::Tokens(tokens) => (None, Some(text(&tokens.file)), None),
        CredentialKind::Certificates(names) => (None, None, Some(names.clone())),
    };
    let rule = |rule: &ClaimRule| (rule.claim.clone(), rule.wanted.clone());
    raw::Credential {
        jwt,
        tokens,
        certificates,
        query: credential.query.clone(),
        claims: Some(credential.claims.iter().map(rule).collect())
            .filter(|claims: &BTreeMap<_, _>| !claims.is_empty()),
        ..Default::default()
    }
}

fn jwt(jwt: &Jwt) -> raw::Jwt {
    // An empty list has no form: the key is left out.
    let list = |list: &Vec<String>| Some(list.clone()).filter(|list| !list.is_empty());
    raw::Jwt {
        keys: Some(jwt.sources.iter().map(jwt_key).collect()),
        audience: list(&jwt.audience),
        issuer: list(&jwt.issuer),
        leeway: Some(Period(jwt.leeway)),
        require_expiry: Some(jwt.require_expiry),
        ..Default::default()
    }
}

fn jwt_key(source: &KeySource) -> raw::JwtKey {
    let none = raw::JwtKey::default();
    match source {
        KeySource::PublicKey { file, kid } => {
            raw::JwtKey { public_key: Some(text(file)), kid: kid.clone(), ..none }
        }
        KeySource::Jwks { file } => raw::JwtKey { jwks: Some(text(file)), ..none },
        KeySource::Secret { kid } => {
            raw::JwtKey { secret: Some(raw::Hidden::default()), kid: kid.clone(), ..none }
        }
    }
}

fn datagram_key(key: DatagramKey) -> raw::DatagramKey {
    raw::DatagramKey {
        offset: Some(key.offset.into()),
        bytes: Some(key.bytes.into()),
        ..Default::default()
    }
}

fn backend(backend: &Backend) -> raw::Backend {
    raw::Backend {
        balance: Some(backend.balance),
        hash_on: Some(backend.hash_on.clone()),
        health: Some(health(&backend.health)),
        ejection: Some(ejection(&backend.ejection)),
        proxy_protocol: Some(backend.proxy_protocol),
        // An empty list has no form: the key is left out.
        proxy_tlvs: Some(backend.introduction.tlvs.clone()).filter(|tlvs| !tlvs.is_empty()),
        udp_proxy: Some(backend.introduction.udp),
        preamble: backend.introduction.preamble.clone(),
        connect_timeout: Some(Period(backend.connect_timeout)),
        nodelay: Some(backend.nodelay),
        user_timeout: Some(Period(backend.user_timeout)),
        uni_discard: Some(backend.uni_discard),
        resolve_interval: Some(Period(backend.resolve_interval)),
        // An empty list has no form: the key is left out.
        source: Some(backend.source.clone()).filter(|source| !source.is_empty()),
        dial: Some(dial(&backend.dial)),
        tls: backend.tls.as_deref().map(tls),
        keepalive: Some(keepalive(&backend.keepalive)),
        endpoints: Some(backend.endpoints.iter().map(endpoint).collect()),
        ..Default::default()
    }
}

fn dial(dial: &Dial) -> raw::Dial {
    raw::Dial {
        concurrent: Some(dial.concurrent),
        queue: Some(dial.queue),
        queue_timeout: Some(Period(dial.queue_timeout)),
        ..Default::default()
    }
}

fn tls(tls: &BackendTls) -> raw::BackendTls {
    raw::BackendTls {
        roots: match &tls.roots {
            Roots::System => Some("system".to_owned()),
            Roots::File(file) => Some(text(file)),
            Roots::DangerAcceptAny => None,
        },
        server_name: tls.server_name.clone(),
        // An empty list has no form: the key is left out.
        alpn: Some(tls.alpn.clone()).filter(|alpn| !alpn.is_empty()),
        certificate: tls.certificate.as_ref().map(|files| text(&files.chain)),
        key: tls.certificate.as_ref().map(|files| text(&files.key)),
        danger_accept_any: Some(tls.roots == Roots::DangerAcceptAny),
        ..Default::default()
    }
}

fn health(health: &Health) -> raw::Health {
    // An empty payload has no form: the key is left out.
    let payload = |payload: &Payload| Some(payload.clone()).filter(|p| !p.0.is_empty());
    let common = raw::Health {
        interval: Some(Period(health.interval)),
        timeout: Some(Period(health.timeout)),
        rise: Some(health.rise),
        fall: Some(health.fall),
        port: health.port,
        ..Default::default()
    };
    match &health.check {
        Check::Off => raw::Health { check: Some(raw::CheckKind::Off), ..common },
        Check::Tcp { send, expect } => raw::Health {
            check: Some(raw::CheckKind::Tcp),
            send: payload(send),
            expect: payload(expect),
            ..common
        },
        Check::Udp { send, expect } => raw::Health {
            check: Some(raw::CheckKind::Udp),
            send: payload(send),
            expect: payload(expect),
            ..common
        },
        Check::Http { path, host, status } => raw::Health {
            check: Some(raw::CheckKind::Http),
            path: Some(path.clone()),
            host: host.clone(),
            status: Some(*status),
            ..common
        },
    }
}

fn ejection(ejection: &Ejection) -> raw::Ejection {
    raw::Ejection {
        consecutive_failures: Some(ejection.consecutive_failures),
        base_time: Some(Period(ejection.base_time)),
        max_time: Some(Period(ejection.max_time)),
        max_ejected_percent: Some(ejection.max_ejected_percent),
        ..Default::default()
    }
}

fn keepalive(keepalive: &Keepalive) -> raw::Keepalive {
    raw::Keepalive {
        idle: Some(Period(keepalive.idle)),
        interval: Some(Period(keepalive.interval)),
        probes: Some(keepalive.probes),
        ..Default::default()
    }
}

fn endpoint(endpoint: &Endpoint) -> raw::Endpoint {
    raw::Endpoint {
        name: Some(endpoint.name.clone()),
        tcp: endpoint.tcp.clone(),
        unix: endpoint.unix.as_deref().map(text),
        udp: endpoint.udp.clone(),
        weight: Some(endpoint.weight),
        draining: Some(endpoint.draining),
        ..Default::default()
    }
}
