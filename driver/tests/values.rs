//! What a peer's bytes may unfold to, when they are decoded.
#![allow(missing_docs)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};

use oncewire_driver::Method;
use serde::{Deserialize, Serialize};

/// Counts what each thread holds, and the most it ever held.
struct Counting;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static MOST: Cell<isize> = const { Cell::new(0) };
}

fn count(change: isize) {
    let _gone = HELD.try_with(|held| {
        held.set(held.get() + change);
        MOST.with(|most| most.set(most.get().max(held.get())));
    });
}

#[allow(unsafe_code)]
// SAFETY: the system's allocator does it all.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What `f` allocated at most, at once.
fn most<T>(f: impl FnOnce() -> T) -> (T, usize) {
    let before = HELD.get();
    MOST.set(before);
    let result = f();
    (result, (MOST.get() - before) as usize)
}

fn bytes<T: Serialize>(value: &T) -> Vec<u8> {
    postcard::to_allocvec(value).unwrap()
}

/// On a thread with the stack that threads have by default.
fn on_a_thread<T: Send + 'static>(f: impl FnOnce() -> T + Send + 'static) -> T {
    std::thread::Builder::new().stack_size(2 << 20).spawn(f).unwrap().join().unwrap()
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
enum Tree {
    Leaf,
    Node(Vec<Tree>),
    Both { left: Box<Tree>, right: Option<Box<Tree>> },
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Chain {
    head: u64,
    body: (u32, [u64; 12]),
    tail: Option<Box<Chain>>,
}

const TREE: Method<Tree, Tree> = Method::new("test/tree");
const CHAIN: Method<Chain, ()> = Method::new("test/chain");

/// `Node` of one, again and again, and a leaf.
fn nested(levels: usize) -> Vec<u8> {
    let mut bytes = [1, 1].repeat(levels);
    bytes.push(0);
    bytes
}

#[test]
fn c111_nesting_beyond_the_limit_is_an_error_and_no_overflow() {
    on_a_thread(|| {
        for levels in [65, 10_000, 1_000_000] {
            assert_eq!(TREE.decode_arguments(&nested(levels)), None);
            assert_eq!(TREE.decode_reply(&nested(levels)), None);
        }
        // Box after box, each in an enum: no sequence among them.
        assert_eq!(TREE.decode_arguments(&vec![2; 100_000]), None);
        let chain = [&[0; 14][..], &[1]].concat().repeat(10_000);
        assert!(CHAIN.decode_arguments(&chain).is_none());
    });
}

#[test]
fn nesting_within_the_limit_fits_the_stack_of_a_thread() {
    on_a_thread(|| {
        // A level for the enum, and one for the sequence in it.
        let mut tree = TREE.decode_arguments(&nested(63)).unwrap();
        for _ in 0..63 {
            let Tree::Node(mut of) = tree else { panic!("{tree:?}") };
            tree = of.pop().unwrap();
        }
        assert_eq!(tree, Tree::Leaf);
        let deepest = (0..40).rev().find_map(|links| {
            let link = [&[0; 14][..], &[1]].concat();
            CHAIN.decode_arguments(&[link.repeat(links), vec![0; 15]].concat()).map(|_| links)
        });
        assert!(deepest > Some(30), "{deepest:?}");
    });
}

#[test]
fn the_depth_of_a_method_can_be_raised_and_lowered() {
    let deep = TREE.depth_max(1_000);
    on_a_thread(move || assert!(deep.decode_arguments(&nested(200)).is_some()));
    assert!(TREE.depth_max(3).decode_arguments(&nested(1)).is_some());
    assert!(TREE.depth_max(2).decode_arguments(&nested(1)).is_none());
    assert!(Method::<u64, ()>::new("test/flat").depth_max(0).decode_arguments(&[7]).is_some());
}

#[test]
fn c112_elements_of_no_size_are_bounded_before_they_are_decoded() {
    let many = bytes(&(1u64 << 63));
    assert_eq!(many.len(), 10);
    let units: Method<Vec<()>, ()> = Method::new("test/units");
    let pairs: Method<Vec<[(); 32]>, ()> = Method::new("test/pairs");
    let maps: Method<HashMap<(), ()>, ()> = Method::new("test/maps");
    let (_, most) = most(|| {
        assert!(units.decode_arguments(&many).is_none());
        assert!(pairs.decode_arguments(&many).is_none());
        assert!(maps.decode_arguments(&many).is_none());
    });
    assert!(most < 4096, "{most}");
    assert_eq!(units.decode_arguments(&bytes(&1000u32)).unwrap().len(), 1000);
    let more = units.memory_max(1 << 21);
    assert_eq!(more.decode_arguments(&bytes(&1_000_000u32)).unwrap().len(), 1_000_000);
}

#[test]
fn c113_bytes_behind_a_value_are_an_error() {
    let method: Method<(u64, String), Option<u8>> = Method::new("test/trailing");
    let mut arguments = bytes(&(7u64, "seven"));
    assert_eq!(method.decode_arguments(&arguments), Some((7, "seven".to_owned())));
    arguments.push(0);
    assert_eq!(method.decode_arguments(&arguments), None);
    assert_eq!(method.decode_reply(&[0]), Some(None));
    assert_eq!(method.decode_reply(&[0, 0]), None);
    assert_eq!(Method::<(), ()>::new("test/nothing").decode_arguments(&[0]), None);
}

/// A row of which nothing is there takes 16 bytes on the wire, and 384 in memory.
type Row = [Option<String>; 16];
type Wide = (Option<[u64; 16]>, Option<[u64; 16]>);

#[test]
fn c112_memory_of_a_value_is_bounded_by_its_bytes() {
    const LEN: usize = 500_000;
    /// What a sequence of so many elements of no content takes, or why not.
    fn decoded<T: for<'d> Deserialize<'d> + Send + 'static>(element: usize) -> (bool, usize) {
        let len = LEN / element;
        let method: Method<Vec<T>, ()> = Method::new("test/rows");
        let body = [bytes(&(len as u64)), vec![0; len * element]].concat();
        most(|| method.decode_arguments(&body).is_some())
    }
    // What grows is there twice while it is moved, and half as large again as it needs to be.
    let bound = 3 * 32 * LEN;
    for (decoded, memory) in [
        decoded::<Row>(16),
        decoded::<Wide>(2),
        decoded::<Option<[u64; 32]>>(1),
        decoded::<Vec<Row>>(1),
        decoded::<String>(1),
        decoded::<BTreeMap<u8, u8>>(1),
        decoded::<Option<Box<Chain>>>(1),
    ] {
        assert!(memory < bound, "{decoded} {memory}");
    }
    let (decoded, most) = decoded::<Wide>(2);
    assert!(!decoded && most < 2 << 20, "refused before the first is decoded: {most}");
    let raised: Method<Vec<Wide>, ()> = Method::new("test/rows").memory_max(1 << 30);
    let body = [bytes(&(LEN as u64 / 2)), vec![0; LEN]].concat();
    assert_eq!(raised.decode_arguments(&body).unwrap().len(), LEN / 2);
}

#[test]
fn what_is_boxed_or_mapped_counts_too() {
    // A million boxes of 128 bytes each would take one byte of the wire each for their tag, and one for their content.
    #[derive(Serialize, Deserialize)]
    struct Big {
        parts: [Option<u64>; 16],
    }
    let boxes: Method<Vec<Option<Box<Big>>>, ()> = Method::new("test/boxes").memory_max(64 << 10);
    let few = [bytes(&100u64), [&[1][..], &[0; 16]].concat().repeat(100)].concat();
    let many = [bytes(&300u64), [&[1][..], &[0; 16]].concat().repeat(300)].concat();
    assert!(boxes.decode_arguments(&few).is_some());
    assert!(boxes.decode_arguments(&many).is_none());
    let maps: Method<HashMap<u64, [Option<u64>; 16]>, ()> =
        Method::new("test/maps").memory_max(64 << 10);
    let map = |len: u64| (0..len).map(|key| (key, [None::<u64>; 16])).collect::<HashMap<_, _>>();
    assert!(maps.decode_arguments(&bytes(&map(100))).is_some());
    assert!(maps.decode_arguments(&bytes(&map(200))).is_none());
    let (decoded, most) = most(|| maps.decode_arguments(&bytes(&map(100))).is_some());
    assert!(decoded && most < 2 * (64 << 10), "{most}");
}

#[test]
fn preallocation_of_nested_sequences_does_not_add_up() {
    #[derive(Debug, Serialize, Deserialize)]
    struct Fat {
        weight: [u64; 12],
        more: Vec<Fat>,
    }
    // Each level announces as many elements as there are bytes.
    let body = [&[0; 12][..], &bytes(&15_000u64)].concat().repeat(1_200);
    let method: Method<Fat, ()> = Method::new("test/fat").depth_max(10_000);
    let (decoded, most) = most(|| method.decode_arguments(&body).is_some());
    assert!(!decoded && most < 32 * body.len() + (2 << 20), "{most}");
}

#[test]
fn text_and_bytes_are_taken_whole() {
    let method: Method<(String, Vec<u8>), ()> = Method::new("test/text");
    let long = ("ä".repeat(1 << 20), vec![7; 1 << 20]);
    assert_eq!(method.decode_arguments(&bytes(&long)), Some(long));
    let method: Method<Option<char>, ()> = Method::new("test/char");
    assert_eq!(method.decode_arguments(&bytes(&Some('ö'))), Some(Some('ö')));
}
