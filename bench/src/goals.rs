//! What Oncewire promises of its speed, as bounds on figures of this program.

use crate::case::{Figures, Kind, Subject, Transport, Workload};
use crate::cells::{Cell, find};
use crate::machine::CoreRow;

/// One promise and the figure beside it.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct Goal {
    /// What is promised.
    pub(crate) text: String,
    /// The bound's figure, as measured.
    pub(crate) figure: f64,
    pub(crate) met: bool,
}

impl Goal {
    pub(crate) fn most(text: &str, figure: f64, bound: f64) -> Goal {
        Goal { text: format!("{text} ≤ {bound}"), figure, met: figure <= bound }
    }

    pub(crate) fn least(text: &str, figure: f64, bound: f64) -> Goal {
        Goal { text: format!("{text} ≥ {bound}"), figure, met: figure >= bound }
    }

    pub(crate) fn shown(&self) -> String {
        let mark = if self.met { "met" } else { "MISSED" };
        format!("{}: {:.2} {mark}", self.text, self.figure)
    }
}

/// Whether more of the workload's figure is worse.
fn less_is_better(workload: Workload) -> bool {
    matches!(workload, Workload::W1 | Workload::W6)
}

/// The best peer's cell of this cell's workload and stream.
fn best_peer<'a>(cells: &'a [Cell], cell: &Cell, of: impl Fn(&Cell) -> f64) -> Option<&'a Cell> {
    let same = |other: &&Cell| {
        (other.workload, other.cores, other.transport)
            == (cell.workload, cell.cores, cell.transport)
            && other.subject.kind() == Kind::Peer
    };
    cells.iter().filter(same).min_by(|a, b| of(a).total_cmp(&of(b)))
}

/// What is promised of one cell, as far as this run has what it is compared to.
pub(crate) fn of_cell(cells: &[Cell], cell: &Cell) -> Vec<Goal> {
    use Workload::{W1, W2, W3, W4, W5, W6, W7, W8};
    let beside = |subject| find(cells, cell.workload, cell.cores, subject, cell.transport);
    let to = |subject| beside(subject).map(|other| cell.ratio_to(other));
    let sign = if less_is_better(cell.workload) { 1.0 } else { -1.0 };
    let to_peer = best_peer(cells, cell, |peer| sign * peer.median()).map(|p| cell.ratio_to(p));
    let to_loop = to(Subject::SmolLoop);
    let mut goals = Vec::new();
    let mut least = |text, ratio: Option<f64>, bound| {
        goals.extend(ratio.map(|ratio| Goal::least(text, ratio, bound)));
    };
    let peer = "× best peer";
    if cell.subject == Subject::OncewireBlocking && cell.cores == 1 {
        let ratio = to(Subject::BareThreads);
        return ratio.map(|r| Goal::most("× bare threads", r, 1.15)).into_iter().collect();
    }
    if cell.transport == Transport::Pipe {
        return Vec::new();
    }
    if cell.subject != Subject::Oncewire {
        return of_way(cells, cell, to_peer);
    }
    match (cell.workload, cell.cores) {
        (W2, 1) => {
            least("× loop", to_loop, 0.5);
            least(peer, to_peer, 4.0);
            goals.extend(cpu_and_ledger(cells, cell));
        }
        (W3, _) => least(peer, to_peer, 4.0),
        (W4, 2) => {
            let bare = [Subject::SmolLoop, Subject::BareThreads].into_iter().filter_map(to);
            least("× bare", bare.min_by(f64::total_cmp), 0.85);
            least(peer, to_peer, 2.0);
        }
        (W5, _) => least("× loop", to_loop, 0.6),
        (W7 | W8, _) => least(peer, to_peer, 3.0),
        (W1, 1) => {
            goals.extend(to_loop.map(|ratio| Goal::most("× loop", ratio, 1.1)));
            goals.extend(to_peer.map(|ratio| Goal::most(peer, ratio, 1.0)));
        }
        (W6, _) => goals.push(Goal::most("bytes", cell.median(), 8192.0)),
        _ => {}
    }
    goals
}

/// What is promised of the other ways of calling, and of programs as in the README: that they come near.
fn of_way(cells: &[Cell], cell: &Cell, to_peer: Option<f64>) -> Vec<Goal> {
    let to = |subject| {
        let other = find(cells, cell.workload, cell.cores, subject, cell.transport);
        other.map(|other| cell.ratio_to(other))
    };
    let mut goals = Vec::new();
    let tasks = match cell.subject {
        Subject::OncewireBuffered => to(Subject::OncewireTasks),
        Subject::OncewireReadmeBuffered => to(Subject::OncewireReadmeTasks),
        _ => None,
    };
    goals.extend(tasks.map(|ratio| Goal::least("× tasks", ratio, 0.75)));
    let by_hand = match cell.subject {
        Subject::OncewireReadme => to(Subject::Oncewire),
        Subject::OncewireReadmeTasks => to(Subject::OncewireTasks),
        Subject::OncewireReadmeBuffered => to(Subject::OncewireBuffered),
        _ => None,
    };
    goals.extend(by_hand.and_then(|ratio| match cell.workload {
        Workload::W1 => Some(Goal::most("× by hand", ratio, 1.05)),
        Workload::W2 | Workload::W3 => Some(Goal::least("× by hand", ratio, 0.95)),
        _ => None,
    }));
    if by_hand.is_some() && (cell.workload, cell.cores) == (Workload::W2, 1) {
        goals.extend(to_peer.map(|ratio| Goal::least("× best peer", ratio, 4.0)));
    }
    goals
}

/// The same, each with its cell's name.
pub(crate) fn named(cells: &[Cell], cell: &Cell) -> Vec<Goal> {
    let Cell { workload, cores, .. } = cell;
    let name = format!("{workload:?}/{cores} {} {}", cell.subject.name(), cell.transport.name());
    let mut goals = of_cell(cells, cell);
    goals.iter_mut().for_each(|goal| goal.text = format!("{name} {}", goal.text));
    goals
}

/// W2: processor time, and what at-most-once costs over idempotent.
fn cpu_and_ledger(cells: &[Cell], cell: &Cell) -> Vec<Goal> {
    let cpu = |cell: &Cell| cell.median_of(Figures::cpu_us);
    let mut goals = vec![Goal::most("cpu µs", cpu(cell), 0.5)];
    if let Some(peer) = best_peer(cells, cell, cpu) {
        goals.push(Goal::most("cpu × best peer", cpu(cell) / cpu(peer), 0.25));
    }
    let subject = Subject::OncewireIdempotent;
    if let Some(idempotent) = find(cells, cell.workload, cell.cores, subject, cell.transport) {
        goals.push(Goal::least("× idempotent", cell.ratio_to(idempotent), 0.97));
    }
    goals
}

/// What is promised of the core in memory.
pub(crate) fn of_core(rows: &[CoreRow]) -> Vec<Goal> {
    let Some(lone) = rows.first() else { return Vec::new() };
    let worst = |wanted: &dyn Fn(&CoreRow) -> bool| {
        let ratios = rows.iter().filter(|row| wanted(row)).map(|row| row.ns / lone.ns);
        ratios.max_by(f64::total_cmp).unwrap_or(f64::NAN)
    };
    let lone_calls = |row: &CoreRow| !row.setup.window && row.setup.body_len == 32;
    let mut goals = vec![
        Goal::most("core, a whole call of 32 bytes, ns", lone.ns, 100.0),
        Goal::most("core, allocations of it", lone.allocations, 0.0),
        Goal::most(
            "core, slowest of 1 to 4,096 slots, × 1,024 slots",
            worst(&|row| lone_calls(row) && row.setup.slots <= 4096 && row.setup.sessions == 1),
            1.1,
        ),
        Goal::most(
            "core, slowest of 1 to 1,000,000 sessions, × one session",
            worst(&|row| lone_calls(row) && row.setup.slots == lone.setup.slots),
            1.1,
        ),
    ];
    let most = rows.iter().max_by_key(|row| row.setup.sessions);
    if let Some(row) = most.filter(|row| row.setup.sessions >= 1_000_000) {
        let disconnected = row.disconnected_bytes.unwrap_or(f64::NAN);
        goals.push(Goal::most("core, heap of an idle session, no connection", disconnected, 150.0));
    }
    goals
}
