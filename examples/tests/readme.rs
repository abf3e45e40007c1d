//! What the README says is short, is.
#![allow(missing_docs)]

#[test]
fn a_service_and_its_client_take_less_than_forty_lines_and_on_a_ledger_ten_more() {
    let readme = include_str!("../../README.md");
    let blocks = readme.split("```rust\n").skip(1).filter_map(|rest| rest.split("```").next());
    let lens: Vec<usize> = blocks.map(|block| block.lines().count()).collect();
    let [program, on_ledger, ..] = lens[..] else { panic!("the README has lost its programs") };
    assert!(program < 40, "{program} lines");
    assert!(on_ledger <= program + 10, "{on_ledger} lines");
}
