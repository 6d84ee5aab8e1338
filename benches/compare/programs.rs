//! The programs that are run, built as this one is.

use std::{
    collections::HashMap,
    env,
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::Failure;

/// The bench targets that are servers.
const BRIDGES: [&str; 3] = ["bare_quinn", "h3_webtransport", "wtransport"];

/// Where the programs are.
#[derive(Debug)]
pub(crate) struct Programs {
    pub(crate) gateway: PathBuf,
    pub(crate) load: PathBuf,
    bridges: HashMap<String, PathBuf>,
    /// Of the build, as cargo names it.
    pub(crate) profile: String,
}

impl Programs {
    /// Builds what is not given.
    ///
    /// The gateway is built by itself, as its users do: together with the bench targets its libraries would have
    /// what only tests need.
    pub(crate) fn build(gateway: Option<&Path>, load: Option<&Path>) -> Result<Self, Failure> {
        let profile = profile()?;
        let mut own = cargo(&profile, &["--bin", "tidegate", "--bin", "tidegate-load"])?;
        let targets: Vec<&str> = BRIDGES.iter().flat_map(|bridge| ["--bench", *bridge]).collect();
        let bridges = cargo(&profile, &targets)?;
        let mut program = |name: &str, given: Option<&Path>| -> Result<PathBuf, Failure> {
            let built = given.map(Path::to_path_buf).or_else(|| own.remove(name));
            built.ok_or_else(|| format!("cargo has not built {name}").into())
        };
        let (gateway, load) = (program("tidegate", gateway)?, program("tidegate-load", load)?);
        Ok(Self { gateway, load, bridges, profile })
    }

    pub(crate) fn bridge(&self, name: &str) -> Result<&Path, Failure> {
        let built = self.bridges.get(name).map(PathBuf::as_path);
        built.ok_or_else(|| format!("cargo has not built {name}").into())
    }
}

/// The profile that this program was built with: the name of the folder that cargo put it in.
fn profile() -> Result<String, Failure> {
    let program = env::current_exe()?;
    let folder = program.parent().and_then(Path::parent).and_then(Path::file_name);
    let name = folder.and_then(OsStr::to_str).ok_or("this is not where cargo puts programs")?;
    Ok(if name == "debug" { "dev" } else { name }.to_owned())
}

/// Builds some targets. Yields the program of each, by its name.
fn cargo(profile: &str, targets: &[&str]) -> Result<HashMap<String, PathBuf>, Failure> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let done = Command::new(cargo)
        .args(["build", "--locked", "--profile", profile])
        .arg("--message-format=json-render-diagnostics")
        .args(targets)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stderr(Stdio::inherit())
        .output()?;
    if !done.status.success() {
        return Err("cargo could not build what is to be compared".into());
    }
    let text = String::from_utf8(done.stdout)?;
    let mut programs = HashMap::new();
    for line in text.lines() {
        let message: serde_json::Value = serde_json::from_str(line)?;
        let (name, path) = (&message["target"]["name"], &message["executable"]);
        if let (Some(name), Some(path)) = (name.as_str(), path.as_str()) {
            programs.insert(name.to_owned(), path.into());
        }
    }
    Ok(programs)
}
