//! Processes: where they run, when they are ready, and that they end.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::Path,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::Failure;

/// How long a server may take to begin.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long it may take to end before it is killed.
const FAREWELL: Duration = Duration::from_secs(2);

/// A command that runs on these processors alone, and those that it starts with it.
pub(crate) fn pinned(cpus: &str, program: &Path) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", cpus]).arg(program).stdin(Stdio::null());
    command
}

/// Tells a process what control-C tells it.
pub(crate) fn interrupt(process: &Child) -> Result<(), Failure> {
    Ok(kill(Pid::from_raw(i32::try_from(process.id())?), Signal::SIGINT)?)
}

/// A process that ends with this value.
#[derive(Debug)]
pub(crate) struct Process(Child);

impl Process {
    pub(crate) fn start(command: &mut Command) -> Result<Self, Failure> {
        let child = command.spawn();
        Ok(Self(child.map_err(|why| format!("{}: {why}", command.get_program().display()))?))
    }

    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    /// It and those that it has started.
    pub(crate) fn family(&self) -> Result<Vec<u32>, Failure> {
        let pid = self.id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
        let children =
            children.split_whitespace().map(str::parse).collect::<Result<Vec<_>, _>>()?;
        Ok([vec![pid], children].concat())
    }

    /// Waits until it does what is asked of it.
    pub(crate) fn ready_when(
        &mut self,
        mut is_ready: impl FnMut(&Self) -> Result<bool, Failure>,
    ) -> Result<(), Failure> {
        let begun = Instant::now();
        while !is_ready(self)? {
            if let Some(end) = self.0.try_wait()? {
                return Err(format!("it has ended: {end}").into());
            }
            if begun.elapsed() > PATIENCE {
                return Err("it is not ready in time".into());
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// Waits for a line of its output that begins so, and yields the address behind that.
    pub(crate) fn says(&mut self, words: &str) -> Result<SocketAddr, Failure> {
        let out = self.0.stdout.as_mut().ok_or("its output is not ours")?;
        let mut line = String::new();
        // A byte at a time, so that nothing of the next line is taken.
        for byte in BufReader::with_capacity(1, out).bytes() {
            match byte? {
                b'\n' => break,
                byte => line.push(byte.into()),
            }
        }
        let address = line.strip_prefix(words).ok_or_else(|| format!("it says {line:?}"))?;
        Ok(address.trim().parse()?)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // All that can fail here is that it is gone already.
        if let Ok(pid) = i32::try_from(self.0.id()) {
            _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let begun = Instant::now();
        while begun.elapsed() < FAREWELL {
            if !matches!(self.0.try_wait(), Ok(None)) {
                return;
            }
            thread::sleep(Duration::from_millis(5));
        }
        _ = self.0.kill();
        _ = self.0.wait();
    }
}

/// Whether a server says 200 to a request.
pub(crate) fn answers(server: SocketAddr, path: &str) -> Result<bool, Failure> {
    let Ok(mut stream) = TcpStream::connect(server) else { return Ok(false) };
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n")?;
    let mut status = String::new();
    BufReader::new(stream).read_line(&mut status)?;
    Ok(status.contains(" 200 "))
}

/// A port that nobody has at the moment.
pub(crate) fn free_tcp() -> Result<SocketAddr, Failure> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

pub(crate) fn free_udp() -> Result<SocketAddr, Failure> {
    Ok(UdpSocket::bind("127.0.0.1:0")?.local_addr()?)
}
