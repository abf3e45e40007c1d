//! Every schedule of small worlds, with the production machines of `core` as the model.
//!
//! A [`Scene`] says which calls clients make and how much may go wrong. [`explore`] then tries everything that can happen,
//! in every order: calls, dials, each frame on each connection, each step of each handler, every end of every connection
//! at either side, and each fault at each moment. States are whole worlds: the machines themselves, frames on their way,
//! the ledger, and the reference [`model`](crate::world::model) of the simulated world, which judges after every step. A
//! state seen before is not tried again.
//!
//! In a state where nothing goes on by itself, every call must have had its outcome; then faults stop, clients close,
//! leases pass, and everything must be released.
//!
//! # What is left out, and why nothing is lost
//!
//! - What a machine has to send goes on the wire at once, a frame at a time. A frame may wait there as long as it could
//!   have waited inside, so only schedules are left out in which a call's number is given later than it could be.
//! - A frame arrives whole. Of half a frame a machine sees nothing but that it is incomplete, and the end of its
//!   connection drops it. (Halves are the simulated world's and the fuzz targets' matter.)
//! - A client's events and outcomes are read as soon as they are there.
//! - Of a connection that neither end will read again nothing is remembered, nor frames for an end that has let go.
//! - Two clients with the same calls are the same, so the first one begins.
//! - States are compared by 128 bits of their hash. Counters of the past are not hashed: nothing depends on them.
//! - Clocks stand still but for the steps that a scene grants; keepalives and handshakes never time out.

mod action;
mod apply;
mod broken;
mod digest;
mod host;
mod journal;
mod peer;
pub mod scene;
mod scenes;
mod settle;
mod sharing;
mod world;

pub use action::Action;
pub use broken::BROKEN;
pub use scene::{Broken, Scene};
pub use scenes::SCENES;

use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use crate::world::trace::Violation;
use digest::{Low, digest};
use world::World;

/// Where to stop.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Most things that happen in one schedule.
    pub depth: usize,
    /// Most states.
    pub states: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { depth: 400, states: 400_000_000 }
    }
}

/// What an exploration came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Different states.
    pub states: usize,
    /// Things that happened, each in its state.
    pub transitions: u64,
    /// States in which nothing goes on by itself.
    pub rests: u64,
    /// The longest schedule.
    pub depth: usize,
    /// Whether every schedule was tried: no limit was met.
    pub exhausted: bool,
}

/// A schedule that breaks a promise.
#[derive(Clone, Debug)]
pub struct Found {
    /// What happened, in order.
    pub schedule: Vec<Action>,
    /// The promise.
    pub violation: Violation,
}

struct Node {
    world: World,
    actions: Vec<Action>,
    next: usize,
}

struct Search {
    limits: Limits,
    /// By a state's digest, the depth at which it was last tried.
    seen: HashMap<u128, u32, BuildHasherDefault<Low>>,
    report: Report,
    scratch: Vec<Action>,
}

impl Scene {
    /// The world of this name, broken ones too.
    pub fn named(name: &str) -> Option<&'static Scene> {
        SCENES.iter().chain(BROKEN).find(|scene| scene.name == name)
    }
}

/// Tries every schedule of a world.
///
/// # Errors
/// A schedule that breaks a promise, not the shortest.
pub fn explore(scene: &'static Scene, limits: Limits) -> Result<Report, Box<Found>> {
    let mut search = Search {
        limits,
        seen: HashMap::default(),
        report: Report { exhausted: true, ..Report::default() },
        scratch: Vec::new(),
    };
    search.run(World::new(scene))?;
    search.report.states = search.seen.len();
    Ok(search.report)
}

/// The shortest schedule that breaks a promise, if there is one within the limits.
pub fn shortest(scene: &'static Scene, limits: Limits) -> Option<Box<Found>> {
    let longest = explore(scene, limits).err()?.schedule.len();
    // Deeper and deeper: the first one found is among the shortest.
    (1..=longest).find_map(|depth| explore(scene, Limits { depth, ..limits }).err())
}

/// What happens in a schedule, in words.
pub fn narrate(scene: &'static Scene, schedule: &[Action]) -> Vec<String> {
    let mut world = World::new(scene);
    world.story = Some(Vec::new());
    for action in schedule {
        if let Err(violation) = world.apply(*action) {
            world.tell(|_| format!("=> {}", violation.0));
        }
    }
    world.story.unwrap_or_default()
}

/// Makes this happen in this order, as a test does that keeps a schedule, and checks what must be true of it.
///
/// # Errors
/// The first promise that was broken.
pub fn replay(scene: &'static Scene, schedule: &[Action]) -> Result<(), Violation> {
    let mut world = World::new(scene);
    schedule.iter().try_for_each(|action| world.apply(*action))
}

impl Search {
    fn run(&mut self, world: World) -> Result<(), Box<Found>> {
        let mut stack = Vec::new();
        self.enter(world, &mut stack)?;
        while let Some(node) = stack.last_mut() {
            let Some(action) = node.actions.get(node.next).copied() else {
                stack.pop();
                continue;
            };
            node.next += 1;
            let mut world = node.world.clone();
            self.report.transitions += 1;
            if let Err(violation) = world.apply(action) {
                return Err(self.found(&stack, violation));
            }
            self.enter(world, &mut stack)?;
        }
        Ok(())
    }

    /// Looks at a state: pushes it, unless it was tried before.
    fn enter(&mut self, world: World, stack: &mut Vec<Node>) -> Result<(), Box<Found>> {
        let depth = stack.len();
        let digest = digest(&world);
        // Under a limit of depth, a state that is met earlier than before may lead further.
        if self.seen.get(&digest).is_some_and(|before| *before as usize <= depth)
            || self.seen.len() >= self.limits.states
        {
            self.report.exhausted &= self.seen.contains_key(&digest);
            return Ok(());
        }
        if self.limits.depth >= Limits::default().depth && self.seen.contains_key(&digest) {
            return Ok(());
        }
        self.seen.insert(digest, depth as u32);
        self.report.depth = self.report.depth.max(depth);
        let mut actions = Vec::new();
        world.progress(&mut actions);
        if actions.is_empty() {
            self.report.rests += 1;
            if let Err(violation) = world.clone().settle(&mut self.scratch) {
                return Err(self.found(stack, violation));
            }
        }
        world.faults(&mut actions);
        if depth == 0 && world.is_symmetric() {
            actions.retain(|action| matches!(action, Action::Call(0) | Action::Dial(0, _)));
        }
        if depth >= self.limits.depth {
            self.report.exhausted &= actions.is_empty();
            actions.clear();
        }
        stack.push(Node { world, actions, next: 0 });
        Ok(())
    }

    fn found(&self, stack: &[Node], violation: Violation) -> Box<Found> {
        let taken = stack.iter().map(|node| node.actions[node.next - 1]);
        Box::new(Found { schedule: taken.collect(), violation })
    }
}
