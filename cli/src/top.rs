//! What a server holds and does, again and again.

use std::collections::HashMap;
use std::fmt::Write;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use oncewire::Status;

use crate::args::TopArgs;
use crate::connect::{Target, connect, now, pause};
use crate::exit::Failure;
use crate::{plain, say};

/// Clears the screen, and goes to its first line.
const CLEAR: &str = "\x1b[2J\x1b[H";
/// Sessions that are shown.
const SESSIONS_MAX: usize = 20;

/// Looks again and again.
pub(crate) async fn run(args: TopArgs) -> Result<(), Failure> {
    let target = Target::new(args.address, &args.identity)?;
    let session = connect(&target, args.timeout).await?;
    let clear = if std::io::stdout().is_terminal() { CLEAR } else { "" };
    let mut last: Option<(Instant, Status)> = None;
    let mut looks = 0;
    loop {
        let status = session.client.status_of_server().timeout(args.timeout).await.ok();
        let status =
            status.map_err(|failure| Failure::of_builtin(failure, "ServerBuilder::status"))?;
        let Some(status) = status else { return Ok(()) };
        let at = now();
        let before = last.as_ref().map(|(before, status)| (at - *before, status));
        say(&format!("{clear}{}", page(&status, before)))?;
        last = Some((at, status));
        looks += 1;
        if args.count.is_some_and(|count| looks >= count) {
            session.client.close().await;
            return Ok(());
        }
        pause(args.interval).await;
    }
}

/// What is shown at once. Counters that grow are shown with what they grow by in a second.
fn page(status: &Status, before: Option<(Duration, &Status)>) -> String {
    let Status { pid, health, .. } = status;
    let texts = [&status.service, &status.server, &status.instance, &status.host, &status.version];
    let [service, server, instance, host, version] = texts.map(|text| plain(text));
    let mut page = format!(
        "{service}: {health}, instance {instance}\nserver {server}, host {host}, pid {pid}, version {version}, up {:?}\n",
        Duration::from_millis(status.uptime_ms)
    );
    let earlier: HashMap<&str, u64> = before
        .into_iter()
        .flat_map(|(_, status)| status.counters.iter().map(|(name, n)| (&**name, *n)))
        .collect();
    for (name, number) in &status.counters {
        let _ = write!(page, "{:>20} {number:>12}", plain(name));
        if let (Some((time, _)), Some(earlier)) = (before, earlier.get(&**name)) {
            let rate = number.saturating_sub(*earlier) as f64 / time.as_secs_f64().max(0.001);
            if rate > 0.0 {
                let _ = write!(page, " {rate:>10.0}/s");
            }
        }
        page.push('\n');
    }
    for session in status.sessions.iter().take(SESSIONS_MAX) {
        let connection = if session.connected { "connected" } else { "away" };
        let _ = writeln!(
            page,
            "session {} of {}: {connection}, {} running, {} bytes kept",
            plain(&session.session),
            plain(&session.caller),
            session.running,
            session.kept_bytes
        );
    }
    let more = status.sessions.len().saturating_sub(SESSIONS_MAX);
    if more > 0 {
        let _ = writeln!(page, "and {more} sessions more");
    }
    page.truncate(page.trim_end().len());
    page
}
