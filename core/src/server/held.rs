//! The calls of a session that are admitted, run, or are kept, in the order of their xids: bounded work for each request
//! and each `Ack`, whatever the order in which they come.
//!
//! Nearly every call has a higher xid than all before it, and goes to the end of a list. A call that comes later than one
//! with a higher xid (idempotent, answered NotSeen, on a lossy link, or restored from a ledger) goes into a tree: in a
//! sorted list, each of 65,536 such calls in descending order was compared with all before it.

use super::Slot;
use super::slot::{Derived, HELD};
use crate::storage::Places;
use crate::storage::list::{Linked, Links, List, NIL};
use crate::storage::tree::{Ordered, Tree};

/// The held calls of a session.
#[derive(Clone, Copy, Debug, Default)]
#[cfg_attr(feature = "_explore", derive(Hash))]
pub(super) struct Held {
    calls: Derived<Order>,
    len: u32,
}

#[derive(Clone, Copy, Debug)]
struct Order {
    /// Calls that came in the order of their xids.
    in_order: List<HELD>,
    /// One of these, by index: all before it are kept. `NIL` if all are.
    running_from: u32,
    /// Calls that came later than one with a higher xid, and are admitted or run.
    late_running: Tree<HELD>,
    /// The same, and are kept.
    late_kept: Tree<HELD>,
}

impl Default for Order {
    fn default() -> Self {
        Order {
            in_order: List::default(),
            running_from: NIL,
            late_running: Tree::default(),
            late_kept: Tree::default(),
        }
    }
}

impl<B> Linked<HELD> for Slot<B> {
    #[inline]
    fn links(&self) -> &Links {
        &self.held_links.0
    }
    #[inline]
    fn links_mut(&mut self) -> &mut Links {
        &mut self.held_links.0
    }
}

impl<B> Ordered<HELD> for Slot<B> {
    fn key(&self) -> u64 {
        self.xid
    }
}

impl Held {
    pub(super) fn len(&self) -> u32 {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Takes in a call that is being admitted, and returns the links of its slot. They are none if it comes late: then
    /// [`insert_late`](Held::insert_late) puts it in, once its slot has its xid.
    #[inline(always)]
    pub(super) fn insert<B>(
        &mut self,
        slots: &mut impl Places<Slot<B>>,
        index: u32,
        xid: u64,
    ) -> Links {
        self.len += 1;
        let order = &mut self.calls.0;
        let links = order.in_order.links_at_end();
        let is_in_order = order.in_order.append(slots, index, |last: &Slot<B>| {
            debug_assert!(last.xid != xid, "no xid is held twice");
            last.xid < xid
        });
        if !is_in_order {
            return Links::default();
        }
        if order.running_from == NIL {
            order.running_from = index;
        }
        links
    }

    /// Puts in a call that comes later than one with a higher xid.
    #[cold]
    pub(super) fn insert_late<B>(&mut self, slots: &mut impl Places<Slot<B>>, index: u32) {
        self.calls.0.late_running.insert(slots, index);
        mark_late(slots, index, true);
    }

    /// A call that came late is finished, and kept.
    #[cold]
    pub(super) fn finish_late<B>(&mut self, slots: &mut impl Places<Slot<B>>, index: u32) {
        let order = &mut self.calls.0;
        order.late_running.remove(slots, index);
        order.late_kept.insert(slots, index);
    }

    /// Lets go of a call that is kept and did not come late. Its links are those that it had.
    #[inline]
    pub(super) fn remove<B>(&mut self, slots: &mut impl Places<Slot<B>>, index: u32, links: Links) {
        debug_assert!(links.is_linked(), "it is held");
        self.len -= 1;
        let order = &mut self.calls.0;
        order.in_order.join(slots, links.prev, links.next);
        if order.running_from == index {
            order.running_from = links.next;
        }
    }

    /// The same for one that came late.
    #[cold]
    pub(super) fn remove_late<B>(&mut self, slots: &mut impl Places<Slot<B>>, index: u32) {
        self.len -= 1;
        self.calls.0.late_kept.remove(slots, index);
        mark_late(slots, index, false);
    }

    /// Whether a call up to this xid is admitted or runs. Each call is passed once, however often this is asked.
    pub(super) fn has_running_up_to<B>(&mut self, slots: &impl Places<Slot<B>>, xid: u64) -> bool {
        let order = &mut self.calls.0;
        while let Some(slot) = slots.at(order.running_from) {
            if slot.xid > xid {
                break;
            }
            if slot.state.is_running() {
                return true;
            }
            order.running_from = order.in_order.next(slots, order.running_from).unwrap_or(NIL);
        }
        let late = order.late_running.first(slots).and_then(|index| slots.at(index));
        late.is_some_and(|slot| slot.xid <= xid)
    }

    /// The first of the calls that came in the order of their xids, or [`NIL`].
    #[inline]
    pub(super) fn first_in_order(&self) -> u32 {
        self.calls.0.in_order.front().unwrap_or(NIL)
    }

    /// Lets go of that call, whose links are gone; `next` is the one behind it, with which the list begins once
    /// [`begin_at`](Held::begin_at) was called.
    #[inline(always)]
    pub(super) fn pass(&mut self, index: u32, next: u32) {
        self.len -= 1;
        let order = &mut self.calls.0;
        if order.running_from == index {
            order.running_from = next;
        }
    }

    /// The calls that came in order begin here: all before it are gone.
    #[inline]
    pub(super) fn begin_at<B>(&mut self, slots: &mut impl Places<Slot<B>>, index: u32) {
        self.calls.0.in_order.join(slots, NIL, index);
    }

    /// A call up to this xid that came late and is kept, if there is one.
    #[inline]
    pub(super) fn late_up_to<B>(&self, slots: &impl Places<Slot<B>>, xid: u64) -> Option<u32> {
        let covered = |index: &u32| slots.at(*index).is_some_and(|slot| slot.xid <= xid);
        self.calls.0.late_kept.first(slots).filter(covered)
    }

    /// The xids, in order.
    pub(super) fn xids<B>(&self, slots: &impl Places<Slot<B>>) -> impl Iterator<Item = u64> {
        let order = &self.calls.0;
        let (mut next, mut last) = (order.in_order.front(), 0);
        core::iter::from_fn(move || {
            let xid_at = |index: u32| slots.at(index).map(|slot| slot.xid);
            let in_order = next.and_then(xid_at);
            let running = order.late_running.first_above(slots, last).and_then(xid_at);
            let kept = order.late_kept.first_above(slots, last).and_then(xid_at);
            last = [in_order, running, kept].into_iter().flatten().min()?;
            if in_order == Some(last) {
                next = next.and_then(|index| order.in_order.next(slots, index));
            }
            Some(last)
        })
    }
}

fn mark_late<B>(slots: &mut impl Places<Slot<B>>, index: u32, is_late: bool) {
    if let Some(slot) = slots.live_mut(index) {
        slot.is_late.0 = is_late;
    }
}
