//! Two network namespaces, one of the server and one of the clients, and a bad link between them.
//!
//! The link delays and loses: by `tc netem` where the kernel has it, else by a narrow bucket (`tc tbf`), which delays
//! and drops what comes too fast, and by `iptables`, which drops by chance. It can be taken down and put up again.

use std::io;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// The server's address in its namespace.
const SERVER: &str = "192.0.2.1";
/// The clients' address in theirs.
const CLIENT: &str = "192.0.2.2";
/// The server's port.
const PORT: u16 = 7411;

/// How the link behaves where the kernel has netem.
const NETEM: &str = "netem delay 2ms 2ms loss 1%";
/// Where it has not: 4 ms for a thousand bytes, and nothing waits longer than 20 ms.
const BUCKET: &str = "tbf rate 2mbit burst 2kb latency 20ms";
/// And this share of packets is lost.
const LOSS: &str = "0.01";

/// Takes the namespaces away when its input ends, however the killer ended.
const JANITOR: &str = "trap '' INT TERM HUP; read _; ip netns del \"$1\"; ip netns del \"$2\"";

/// The namespaces; they end with this value, or with the process.
#[derive(Debug)]
pub(super) struct Netns {
    names: [String; 2],
    janitor: Child,
    /// What the link does.
    pub(super) link: String,
}

/// Which end of the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Server = 0,
    Client = 1,
}

/// Runs a tool to its end; what it complained of is the error.
fn tool(words: &str) -> io::Result<()> {
    let mut words = words.split(' ');
    let program = words.next().unwrap_or_default();
    let output = Command::new(program).args(words).stdin(Stdio::null()).output();
    let output = output.map_err(|error| io::Error::other(format!("{program}: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("{program}: {}", complaint.trim())))
}

impl Netns {
    /// Makes the namespaces and the link.
    ///
    /// # Errors
    /// What the machine does not allow.
    pub(super) fn new(run: u64) -> io::Result<Netns> {
        let pid = std::process::id();
        let names = ["s", "c"].map(|end| format!("oncewire-{pid}-{run}-{end}"));
        let [server, client] = &names;
        tool(&format!("ip netns add {server}"))?;
        // Before anything else can fail.
        let janitor = Command::new("sh")
            .args(["-c", JANITOR, "janitor", server, client])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let janitor = match janitor {
            Ok(janitor) => janitor,
            Err(error) => {
                tool(&format!("ip netns del {server}"))?;
                return Err(error);
            }
        };
        let mut netns = Netns { names, janitor, link: String::new() };
        netns.set_up()?;
        Ok(netns)
    }

    fn set_up(&mut self) -> io::Result<()> {
        let [server, client] = &self.names;
        tool(&format!("ip netns add {client}"))?;
        tool(&format!(
            "ip link add name wire netns {server} type veth peer name wire netns {client}"
        ))?;
        let mut netem = true;
        for (name, address) in [(server, SERVER), (client, CLIENT)] {
            tool(&format!("ip -n {name} addr add {address}/30 dev wire"))?;
            tool(&format!("ip -n {name} link set wire up"))?;
            let root = format!("tc -n {name} qdisc add dev wire root");
            if tool(&format!("{root} {NETEM}")).is_err() {
                netem = false;
                tool(&format!("{root} {BUCKET}"))?;
            }
        }
        self.link = if netem { NETEM.to_owned() } else { self.lose_by_chance() };
        Ok(())
    }

    /// Without netem, packets are lost by chance if there is `iptables`.
    fn lose_by_chance(&self) -> String {
        for name in &self.names {
            let drop = "-m statistic --mode random --probability";
            let rule = format!("iptables -A INPUT {drop} {LOSS} -j DROP");
            if let Err(error) = tool(&format!("ip netns exec {name} {rule}")) {
                return format!("{BUCKET}; no loss by chance: {error}");
            }
        }
        format!("{BUCKET}; loss {LOSS} by chance")
    }

    /// Where the server listens.
    pub(super) fn address(&self) -> String {
        format!("{SERVER}:{PORT}")
    }

    /// A command that runs a program in the namespace of this end, under the process id that it is spawned with.
    pub(super) fn command(&self, end: End, program: &std::path::Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.names[end as usize]]).arg(program);
        command
    }

    /// Takes the link down, or puts it up again.
    pub(super) fn set_link(&self, up: bool) -> io::Result<()> {
        let state = if up { "up" } else { "down" };
        tool(&format!("ip -n {} link set wire {state}", self.names[End::Server as usize]))
    }
}

/// The longest time that a link is down.
pub(super) const DOWN_MAX: Duration = Duration::from_secs(2);

impl Drop for Netns {
    fn drop(&mut self) {
        drop(self.janitor.stdin.take());
        // It has no way to fail that could be mended here.
        let _ = self.janitor.wait();
    }
}
