//! One direction of a connection: which bytes may pass, by frames.

use oncewire_core::wire;

/// Where something happens.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Mark {
    /// Before the first frame of this kind to come.
    Kind(u8),
    /// When so many bytes of the first frame of this kind to come have passed.
    Inside(u8, usize),
}

/// What happens there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// The connection breaks.
    Cut,
    /// What comes from there on is held back until it is released.
    Hold,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flow {
    Free,
    Held,
    Swallowed,
}

pub(crate) struct HalfLink {
    pub(crate) fault: Option<(Mark, Action)>,
    pub(crate) flow: Flow,
    /// Taken in, and not allowed to pass yet.
    pub(crate) waiting: Vec<u8>,
    /// Allowed to pass.
    pub(crate) ready: Vec<u8>,
    /// Bytes to come of the frame that is passing, and its kind.
    left: usize,
    kind: u8,
    /// Bytes of it that may pass before the fault's action, if it is this frame that the fault is about.
    until_fault: Option<usize>,
    counts: Vec<u64>,
}

/// What [`HalfLink::pass`] did.
pub(crate) struct Passed {
    /// Something passed or was lost.
    pub(crate) any: bool,
    /// The connection must be cut behind what passed.
    pub(crate) cut: bool,
}

/// Bytes by which a frame's kind is known.
const FRONT_LEN: usize = wire::LEN_FIELD_LEN + 1;

impl HalfLink {
    pub(crate) fn new(fault: Option<(Mark, Action)>) -> HalfLink {
        HalfLink {
            fault,
            flow: Flow::Free,
            waiting: Vec::new(),
            ready: Vec::new(),
            left: 0,
            kind: 0,
            until_fault: None,
            counts: vec![0; 256],
        }
    }

    /// Whole frames of a kind that have passed, or were lost.
    pub(crate) fn count_of(&self, kind: u8) -> u64 {
        self.counts[usize::from(kind)]
    }

    /// Whole frames that wait, if the first byte that waits begins one.
    pub(crate) fn whole_frames(&self) -> usize {
        let mut rest = &self.waiting[..];
        let mut frames = 0;
        while let Some(front) = wire::peek(rest).filter(|front| front.len <= rest.len()) {
            rest = &rest[front.len..];
            frames += 1;
        }
        frames
    }

    /// Moves what may pass from `waiting` to `ready`.
    pub(crate) fn pass(&mut self) -> Passed {
        let lost = self.flow == Flow::Swallowed;
        let (len, cut) = if self.flow == Flow::Held { (0, false) } else { self.count_free() };
        let passed = self.waiting.drain(..len);
        if lost {
            drop(passed);
        } else {
            self.ready.extend(passed);
        }
        Passed { any: len > 0, cut }
    }

    /// How many bytes at the front may pass, up to a fault, and whether that is a cut.
    fn count_free(&mut self) -> (usize, bool) {
        let mut len = 0;
        loop {
            if self.left == 0 {
                let rest = &self.waiting[len..];
                let Some(front) = wire::peek(rest) else { return (len, false) };
                let kind = rest[FRONT_LEN - 1];
                self.until_fault = self.fault_in(kind);
                if self.until_fault == Some(0) {
                    return (len, self.act());
                }
                (self.left, self.kind) = (front.len, kind);
            }
            let step = self.left.min(self.waiting.len() - len);
            let step = self.until_fault.map_or(step, |until| step.min(until));
            len += step;
            self.left -= step;
            if self.left == 0 {
                self.counts[usize::from(self.kind)] += 1;
            }
            if let Some(until) = &mut self.until_fault {
                *until -= step;
                if *until == 0 {
                    return (len, self.act());
                }
            }
            if self.left > 0 {
                return (len, false);
            }
        }
    }

    /// The bytes that may pass of a frame that begins, if the fault is about it.
    fn fault_in(&self, kind: u8) -> Option<usize> {
        match self.fault?.0 {
            Mark::Kind(wanted) if wanted == kind => Some(0),
            Mark::Inside(wanted, len) if wanted == kind => Some(len),
            _ => None,
        }
    }

    /// The fault's moment has come; says whether the connection must be cut.
    fn act(&mut self) -> bool {
        self.until_fault = None;
        let Some((_, action)) = self.fault.take() else { return false };
        match action {
            Action::Cut => return true,
            Action::Hold => self.flow = Flow::Held,
        }
        false
    }
}
