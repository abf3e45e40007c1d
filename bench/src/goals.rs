//! What Oncewire promises of its speed, as bounds on figures of this program.

use crate::case::{Figures, Transport, Workload};
use crate::cells::{Cell, find};
use crate::machine::CoreRow;
use crate::subject::{Host, Kind, Subject};

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
    let beside = |subject| find(cells, cell.workload, cell.cores, subject, cell.transport);
    let to = |subject| beside(subject).map(|other| cell.ratio_to(other));
    let sign = if less_is_better(cell.workload) { 1.0 } else { -1.0 };
    let to_peer = best_peer(cells, cell, |peer| sign * peer.median()).map(|p| cell.ratio_to(p));
    match cell.subject {
        Subject::OncewireBlocking if cell.cores == 1 => {
            let ratio = to(Subject::BareThreads);
            ratio.map(|r| Goal::most("× bare threads", r, 1.15)).into_iter().collect()
        }
        Subject::Oncewire => of_program_by_hand(cells, cell, &to, to_peer),
        subject if subject.kind() == Kind::Oncewire => of_program(cell, &to, to_peer),
        _ => Vec::new(),
    }
}

/// What is promised of Oncewire on an executor made by hand.
fn of_program_by_hand(
    cells: &[Cell],
    cell: &Cell,
    to: &dyn Fn(Subject) -> Option<f64>,
    to_peer: Option<f64>,
) -> Vec<Goal> {
    use Workload::{W1, W2, W3, W4, W5, W6, W7, W8};
    let to_loop = to(Subject::SmolLoop);
    let over_tcp = cell.transport == Transport::Tcp;
    let mut goals = Vec::new();
    if cell.transport == Transport::Pipe {
        let bound = (cell.workload == W1).then_some(to_loop).flatten();
        return bound.map(|ratio| Goal::most("× loop", ratio, 1.1)).into_iter().collect();
    }
    let mut least = |text, ratio: Option<f64>, bound| {
        goals.extend(ratio.map(|ratio| Goal::least(text, ratio, bound)));
    };
    let peer = "× best peer";
    match (cell.workload, cell.cores) {
        (W2, 1) => {
            least("× loop", to_loop, if over_tcp { 0.58 } else { 0.52 });
            least(peer, to_peer, 4.0);
            goals.extend(cpu_and_ledger(cells, cell));
        }
        (W3, _) => least(peer, to_peer, 6.0),
        (W4, 2) => {
            let bare = [Subject::SmolLoop, Subject::BareThreads].into_iter().filter_map(to);
            let bound = if over_tcp { 0.9 } else { 0.74 };
            least("× bare", bare.min_by(f64::total_cmp), bound);
            least(peer, to_peer, 2.0);
        }
        (W5, 1) => least("× loop", to_loop, 0.75),
        (W7, _) => least(peer, to_peer, 1.2),
        (W8, _) => least(peer, to_peer, 3.0),
        (W1, 1) => {
            goals.extend(to_loop.map(|ratio| Goal::most("× loop", ratio, 1.1)));
            goals.extend(to_peer.map(|ratio| Goal::most(peer, ratio, 1.0)));
        }
        (W6, _) => goals.push(Goal::most("bytes", cell.median(), 2048.0)),
        _ => {}
    }
    goals
}

/// What is promised of programs as users write them, and of each way of calling.
fn of_program(cell: &Cell, to: &dyn Fn(Subject) -> Option<f64>, to_peer: Option<f64>) -> Vec<Goal> {
    let mut goals = Vec::new();
    if cell.transport == Transport::Pipe {
        return goals;
    }
    let in_tasks = match cell.subject {
        Subject::OncewireBuffered => Some(Subject::OncewireTasks),
        Subject::OncewireReadmeBuffered => Some(Subject::OncewireReadmeTasks),
        Subject::OncewireSmol4Buffered => Some(Subject::OncewireSmol4),
        Subject::OncewireTokioBuffered => Some(Subject::OncewireTokio),
        Subject::OncewireTokioThreadsBuffered => Some(Subject::OncewireTokioThreads),
        _ => None,
    };
    goals.extend(in_tasks.and_then(to).map(|ratio| Goal::least("× tasks", ratio, 0.75)));
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
    if (cell.workload, cell.cores) == (Workload::W2, 1) {
        match cell.subject.host() {
            Host::Readme { .. } => {
                goals.extend(to_peer.map(|ratio| Goal::least("× best peer", ratio, 4.0)));
            }
            Host::Tokio { .. } => {
                let ratio = to(Subject::Tarpc);
                goals.extend(ratio.map(|ratio| Goal::least("× tarpc", ratio, 3.0)));
            }
            Host::ByHand => {}
        }
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
    let lone_calls = |row: &&CoreRow| !row.setup.window && row.setup.body_len == 32;
    let slots = || rows.iter().filter(lone_calls).filter(|row| row.setup.sessions == 1);
    let sessions =
        || rows.iter().filter(lone_calls).filter(|row| row.setup.slots == lone.setup.slots);
    let mut goals = vec![Goal::most("core, allocations of a call", lone.allocations, 0.0)];
    if let Some(instructions) = lone.instructions {
        goals.push(Goal::most("core, instructions of a lone call", instructions, 2000.0));
        goals.push(Goal::most(
            "core, most instructions with 1 to 65,536 slots, × 1,024 slots",
            worst(slots().filter_map(|row| row.instructions), instructions),
            1.05,
        ));
        goals.push(Goal::most(
            "core, most instructions with 1 to 10,000 sessions, × one session",
            worst(sessions().filter_map(|row| row.instructions), instructions),
            1.05,
        ));
    }
    let window = rows.iter().find(|row| row.setup.window && row.setup.slots == 64);
    if let Some(instructions) = window.and_then(|row| row.instructions) {
        goals.push(Goal::most("core, instructions with 64 in flight", instructions, 1500.0));
    }
    goals.push(Goal::most(
        "core, slowest of 1 to 65,536 slots, × 1,024 slots",
        worst(slots().map(|row| row.ns), lone.ns),
        1.1,
    ));
    goals.push(Goal::most(
        "core, slowest of 1 to 1,000,000 sessions, × one session",
        worst(sessions().map(|row| row.ns), lone.ns),
        1.1,
    ));
    let most = rows.iter().max_by_key(|row| row.setup.sessions);
    if let Some(row) = most.filter(|row| row.setup.sessions >= 1_000_000) {
        let disconnected = row.disconnected_bytes.unwrap_or(f64::NAN);
        goals.push(Goal::most("core, heap of an idle session, no connection", disconnected, 128.0));
    }
    goals
}

/// The greatest of some figures, as a ratio to one of them.
fn worst(figures: impl Iterator<Item = f64>, to: f64) -> f64 {
    figures.map(|figure| figure / to).max_by(f64::total_cmp).unwrap_or(f64::NAN)
}
