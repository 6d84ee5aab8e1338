//! The playground: one page that opens a session, sends, listens and draws round-trip times.
//!
//! The page is a single file and asks for `config.json` when it is loaded and whenever it cannot connect. It is
//! told the certificate's hash and the next one's, so that it stays good when the gateway renews its
//! certificate, and finds its way again when the gateway was started anew.

use serde::Serialize;
use tidegate::admin::{Answer, Get, HttpListener, HttpServer};
use ulid::Ulid;

use super::{Facts, Route};

/// What the page is told.
#[derive(Clone, Debug, Serialize)]
struct Settings<'a> {
    version: &'static str,
    /// Scheme, host and port; a route's path follows.
    base_url: &'a str,
    /// Each that the gateway shows now or will show next.
    cert_hashes_base64: Vec<String>,
    metrics_url: Option<String>,
    routes: &'a [Route],
}

impl<'a> Settings<'a> {
    fn new(facts: &'a Facts, routes: &'a [Route], hashes: Vec<String>) -> Self {
        let path = routes.first().map_or("", |route| route.path);
        Self {
            version: env!("CARGO_PKG_VERSION"),
            base_url: facts.url.strip_suffix(path).unwrap_or(&facts.url),
            cert_hashes_base64: hashes,
            metrics_url: facts.admin.as_ref().map(|admin| format!("{admin}/metrics")),
            routes,
        }
    }
}

/// Serves the page and its settings until the returned server is stopped. `hashes` are asked for each time, since
/// certificates are renewed.
pub(super) fn serve(
    listener: HttpListener,
    facts: Facts,
    routes: &'static [Route],
    hashes: impl Fn() -> Vec<String> + Send + Sync + 'static,
) -> HttpServer {
    listener.serve(move |get: &Get<'_>| match get.path {
        "/" => page(),
        "/config.json" => Answer::json(&Settings::new(&facts, routes, hashes())),
        _ => Answer::not_found(),
    })
}

const PAGE: &str = include_str!("playground.html");

/// The page runs its own script and style and nothing else; it may talk to its server and to any
/// WebTransport URL.
fn page() -> Answer {
    let nonce = Ulid::generate().to_string();
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; \
         connect-src 'self' https:; img-src data:; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'"
    );
    Answer::ok("text/html; charset=utf-8", PAGE.replace("{{nonce}}", &nonce))
        .with_content_policy(&policy)
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
    };

    use super::*;

    async fn get(server: &HttpServer, path: &str) -> String {
        let mut stream = TcpStream::connect(server.address()).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    fn playground() -> HttpServer {
        let facts = Facts {
            url: "https://127.0.0.1:4433/echo".into(),
            cert_hash_hex: None,
            cert_hash_base64: Some("older".into()),
            admin: Some("http://127.0.0.1:9090".into()),
            playground: None,
            pid: 7,
        };
        let listener = HttpListener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        serve(listener, facts, &super::super::ROUTES, || vec!["AP8=".into(), "/wA=".into()])
    }

    #[tokio::test]
    async fn the_page_may_run_only_what_is_its_own() {
        let page = get(&playground(), "/").await;
        let (_, policy) = page.split_once("content-security-policy: ").unwrap();
        let (_, nonce) = policy.split_once("script-src 'nonce-").unwrap();
        let (nonce, _) = nonce.split_once('\'').unwrap();
        assert!(policy.starts_with("default-src 'none'; "), "{policy}");
        assert!(page.contains("cache-control: no-store\r\n"));
        assert!(page.contains(&format!("<script type=\"module\" nonce=\"{nonce}\">")));
        assert!(page.contains(&format!("<style nonce=\"{nonce}\">")));
        assert!(!page.contains("{{nonce}}"));
        assert!(!page.contains("src=\"http") && !page.contains("url(http"), "all is in the file");
    }

    #[tokio::test]
    async fn the_page_learns_where_to_connect_and_which_certificate_to_expect() {
        let answer = get(&playground(), "/config.json").await;
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        let settings: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(settings["base_url"], "https://127.0.0.1:4433");
        assert_eq!(settings["cert_hashes_base64"], serde_json::json!(["AP8=", "/wA="]));
        assert_eq!(settings["metrics_url"], "http://127.0.0.1:9090/metrics");
        assert_eq!(settings["routes"][2]["path"], "/udp");
        assert_eq!(settings["routes"][2]["streams"], false);
    }
}
