//! Where the gateway is, and what it is shown.

use std::{fs, path::PathBuf, str::FromStr};

use clap::Args;
use serde_json::Value;
use tidegate::{
    admin::client::{self, Question, Reply},
    config::Config,
};

use super::CtlError;
use crate::cli::{Failure, announce::reachable};

/// Which gateway to ask.
#[derive(Args, Debug)]
pub(super) struct Target {
    /// The gateway's admin listener: HOST:PORT, or a URL [default: of the configuration file, else
    /// 127.0.0.1:9090]
    #[arg(long, global = true, value_name = "ADDR")]
    admin: Option<Address>,
    /// The gateway's configuration file: says where the admin listener is, and its token
    #[arg(short, long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// File with the token (`admin.token`) [default: of the configuration file, else none is shown]
    #[arg(long, global = true, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

/// Host and port.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Address(String);

impl FromStr for Address {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.starts_with("https://") {
            return Err("the admin listener speaks plain HTTP");
        }
        let is_url = text.starts_with("http://");
        let address = text.trim_start_matches("http://").trim_end_matches('/');
        if address.contains(['/', '?', '#', '@', ' ']) || address.is_empty() {
            return Err("write HOST:PORT");
        }
        match address.rsplit_once(':') {
            Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => {
                Ok(Self(address.to_owned()))
            }
            None if is_url => Ok(Self(format!("{address}:80"))),
            _ => Err("write HOST:PORT"),
        }
    }
}

/// Where `tidegate dev` and the example file have it.
const DEFAULT: &str = "127.0.0.1:9090";

/// A gateway that can be asked.
pub(super) struct Connection {
    address: String,
    token: Option<Vec<u8>>,
}

impl Target {
    pub(super) fn connection(self) -> Result<Connection, Failure> {
        let configured = self.config.as_deref().map(Config::read).transpose()?;
        let configured =
            configured.map(|config| config.admin.ok_or(CtlError::NoAdmin)).transpose()?;
        let address = match (self.admin, &configured) {
            (Some(Address(address)), _) => address,
            (None, Some(admin)) if admin.listen.port() == 0 => return Err(CtlError::AnyPort.into()),
            (None, Some(admin)) => reachable(admin.listen).to_string(),
            (None, None) => DEFAULT.to_owned(),
        };
        let token = match self.token_file {
            Some(file) => {
                let read = fs::read(&file).map_err(|source| CtlError::Token { file, source })?;
                Some(read.trim_ascii_end().to_vec())
            }
            None => configured.and_then(|admin| admin.token).map(|token| token.expose().to_vec()),
        };
        Ok(Connection { address, token })
    }
}

impl Connection {
    pub(super) async fn get(&self, target: impl Into<String>) -> Result<Vec<u8>, CtlError> {
        self.ask("GET", target, "").await
    }

    pub(super) async fn post(&self, target: impl Into<String>) -> Result<Vec<u8>, CtlError> {
        self.ask("POST", target, "").await
    }

    pub(super) async fn put(
        &self,
        target: impl Into<String>,
        body: &str,
    ) -> Result<Vec<u8>, CtlError> {
        self.ask("PUT", target, body).await
    }

    /// Asks, and yields what a gateway that agrees has to say.
    async fn ask(
        &self,
        method: &'static str,
        target: impl Into<String>,
        body: &str,
    ) -> Result<Vec<u8>, CtlError> {
        let question = Question { method, target: target.into(), body: body.to_owned() };
        let Reply { status, body } =
            client::ask(&self.address, self.token.as_deref(), question).await?;
        match status {
            200 => Ok(body),
            _ => {
                let said = String::from_utf8_lossy(&body);
                let lines = said.trim().lines();
                let said: Vec<_> =
                    lines.map(|line| super::table::plain(&Value::from(line))).collect();
                Err(CtlError::Refused { status, said: said.join("\n") })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_host_and_a_port() {
        for (text, address) in [
            ("127.0.0.1:9090", Some("127.0.0.1:9090")),
            ("[::1]:9090", Some("[::1]:9090")),
            ("gate.internal:9090", Some("gate.internal:9090")),
            ("http://127.0.0.1:9090/", Some("127.0.0.1:9090")),
            ("http://gate.internal", Some("gate.internal:80")),
            ("https://gate.internal", None),
            ("gate.internal", None),
            (":9090", None),
            ("gate:port", None),
            ("http://gate/metrics", None),
            ("", None),
        ] {
            let found = text.parse::<Address>().ok().map(|address| address.0);
            assert_eq!(found.as_deref(), address, "{text}");
        }
    }
}
