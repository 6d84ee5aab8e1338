//! What a server's own counters have counted meanwhile: its Prometheus metrics (`--metrics`), read before and after.
//!
//! Only what rises is a difference that says something: counters, and the counts and sums of histograms and
//! summaries. Buckets are left out.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Read, Write},
    net::TcpStream,
    str::FromStr,
    time::Duration,
};

/// Longest answer that is read.
const MAX_BYTES: u64 = 64 << 20;

/// How long the server may take to go on.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where metrics are: `http://host:port/metrics`.
#[derive(Clone, Debug)]
pub(crate) struct MetricsUrl {
    text: String,
    authority: String,
    address: String,
    path: String,
}

impl FromStr for MetricsUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let uri: http::Uri = text.parse().map_err(|e| format!("not a URL: {e}"))?;
        if uri.scheme_str() != Some("http") {
            return Err("metrics are read from http://host:port/path".to_owned());
        }
        let host = uri.host().filter(|host| !host.is_empty()).ok_or("the URL names no host")?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        Ok(Self {
            text: text.to_owned(),
            authority: uri.authority().map_or(host, |authority| authority.as_str()).to_owned(),
            address: format!("{host}:{}", uri.port_u16().unwrap_or(80)),
            path: path.to_owned(),
        })
    }
}

/// The value of every series that only rises, by its name and labels.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Counted(BTreeMap<String, f64>);

impl MetricsUrl {
    /// Reads them, which may take a while.
    ///
    /// # Errors
    /// In words, with the URL.
    pub(crate) fn read(&self) -> Result<Counted, String> {
        let answer = self.fetch().map_err(|e| format!("cannot read {}: {e}", self.text))?;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let status = head.lines().next().unwrap_or_default();
        match status.split(' ').nth(1) {
            Some("200") => Ok(Counted::parse(body)),
            _ => Err(format!("cannot read {}: it answered {status:?}", self.text)),
        }
    }

    /// In HTTP/1.0, so that the answer is all that comes, as it is.
    fn fetch(&self) -> io::Result<String> {
        let mut stream = TcpStream::connect(&self.address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let Self { authority, path, .. } = self;
        let request =
            format!("GET {path} HTTP/1.0\r\nHost: {authority}\r\nAccept: text/plain\r\n\r\n");
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.take(MAX_BYTES).read_to_string(&mut answer)?;
        Ok(answer)
    }
}

impl Counted {
    /// Reads Prometheus' text format. What is not understood is left out.
    fn parse(text: &str) -> Self {
        let mut rising: BTreeSet<String> = BTreeSet::new();
        let mut counted = BTreeMap::new();
        for line in text.lines() {
            if let Some(kind) = line.strip_prefix("# TYPE ") {
                match kind.split_once(' ') {
                    Some((name, "counter")) => _ = rising.insert(name.to_owned()),
                    Some((name, "histogram" | "summary")) => {
                        rising.extend(["_count", "_sum"].map(|end| format!("{name}{end}")));
                    }
                    _ => {}
                }
                continue;
            }
            let Some((series, value)) = sample(line) else { continue };
            let name = series.split('{').next().unwrap_or_default();
            if rising.contains(name) {
                counted.insert(series.to_owned(), value);
            }
        }
        Self(counted)
    }

    /// What has been added since; a series that is new began with nothing. Without those that stayed.
    pub(crate) fn since(&self, before: &Self) -> BTreeMap<String, f64> {
        let differences = self.0.iter().map(|(series, now)| {
            let then = before.0.get(series).copied().unwrap_or(0.0);
            (series.clone(), now - then)
        });
        differences.filter(|(_, more)| *more != 0.0).collect()
    }
}

/// `name{label="value"} 5`; what labels say may hold anything, and a time may follow.
fn sample(line: &str) -> Option<(&str, f64)> {
    let end = match line.rfind('}') {
        Some(end) => end + 1,
        None => line.find(' ')?,
    };
    let (series, rest) = line.split_at_checked(end)?;
    Some((series, rest.split_whitespace().next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: &str = "\
# HELP a_total What a is.
# TYPE a_total counter
a_total{to=\"x y}\",n=\"1\"} 5
a_total{to=\"z\",n=\"2\"} 7
# TYPE open gauge
open 3
# TYPE took_seconds histogram
took_seconds_bucket{le=\"1\"} 1
took_seconds_sum 0.5
took_seconds_count 1
# TYPE bare_total counter
bare_total 1 1700000000000
";

    #[test]
    fn the_difference_is_of_what_rises_and_has_risen() {
        let before = Counted::parse(BEFORE);
        let after = BEFORE
            .replace("n=\"1\"} 5", "n=\"1\"} 9")
            .replace("open 3", "open 8")
            .replace("le=\"1\"} 1", "le=\"1\"} 2")
            .replace("_sum 0.5", "_sum 0.75")
            .replace("_count 1", "_count 2")
            .replace("bare_total 1 1", "bare_total 3 1");
        let after =
            format!("{after}# TYPE new_total counter\nnew_total 4\nnonsense\nbare_total x\n");
        let expected = [
            ("a_total{to=\"x y}\",n=\"1\"}", 4.0),
            ("bare_total", 2.0),
            ("new_total", 4.0),
            ("took_seconds_count", 1.0),
            ("took_seconds_sum", 0.25),
        ];
        let expected = expected.map(|(series, more)| (series.to_owned(), more));
        assert_eq!(Counted::parse(&after).since(&before), BTreeMap::from(expected));
        assert_eq!(before.since(&before), BTreeMap::new());
    }

    #[test]
    fn a_url_of_metrics_is_http() {
        let parse = |text: &str| text.parse::<MetricsUrl>().ok().map(|u| (u.address, u.path));
        let read = |address: &str, path: &str| Some((address.to_owned(), path.to_owned()));
        assert_eq!(parse("http://127.0.0.1:9090/metrics"), read("127.0.0.1:9090", "/metrics"));
        assert_eq!(parse("http://[::1]:9090/m?x=1"), read("[::1]:9090", "/m?x=1"));
        assert_eq!(parse("http://localhost"), read("localhost:80", "/"));
        assert_eq!(parse("https://localhost/metrics"), None);
        assert_eq!(parse("localhost:9090"), None);
    }
}
