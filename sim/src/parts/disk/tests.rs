//! What the disk does to what is written, without a ledger above it.

use super::*;

fn disk() -> (Disk, Handle) {
    let disk = Disk::new(1, 0);
    let handle = disk.handle();
    handle.set_len(100).unwrap();
    handle.sync_data().unwrap();
    (disk, handle)
}

fn first(disk: &Disk) -> u8 {
    let mut byte = [0];
    disk.handle().read(0, &mut byte).unwrap();
    byte[0]
}

#[test]
fn what_was_synced_survives_and_what_was_not_may_be_torn() {
    for seed in 0..50 {
        let (disk, handle) = disk();
        handle.write(0, &[1; 50]).unwrap();
        handle.sync_data().unwrap();
        handle.write(50, &[2; 50]).unwrap();
        lock(&disk.0).rng = Rng::new(seed);
        disk.end_life(Death::PowerCut, true);
        assert!(handle.read(0, &mut [0]).is_err(), "a process of before");
        let mut bytes = [0; 100];
        disk.handle().read(0, &mut bytes).unwrap();
        assert_eq!(bytes[..50], [1; 50]);
        assert!(bytes[50..].iter().all(|byte| [0, 2].contains(byte)));
    }
}

#[test]
fn a_killed_process_leaves_the_cache_and_a_lying_sync_nothing() {
    let (disk, handle) = disk();
    disk.set_lies(true);
    handle.write(0, &[7]).unwrap();
    handle.sync_data().unwrap();
    assert_eq!(disk.unsynced(), 1);
    disk.end_life(Death::Kill, true);
    assert_eq!(first(&disk), 7);
    disk.set_lies(false);
    disk.handle().sync_data().unwrap();
    disk.end_life(Death::PowerCut, true);
    assert_eq!(first(&disk), 7, "it does not lie any more");
}

#[test]
fn what_a_failed_sync_forgot_stays_visible_unless_it_is_evicted() {
    let seen = |evicts: bool| {
        (0..100).any(|seed| {
            let (disk, handle) = disk();
            lock(&disk.0).rng = Rng::new(seed);
            disk.set_faults(Faults { sync_in: 1, ..Faults::default() });
            handle.write(0, &[7]).unwrap();
            handle.sync_data().unwrap_err();
            disk.set_faults(Faults::default());
            disk.end_life(Death::Kill, evicts);
            let before = first(&disk);
            disk.handle().sync_data().unwrap();
            disk.end_life(Death::PowerCut, true);
            before == 7 && first(&disk) == 0
        })
    };
    assert_eq!((seen(false), seen(true)), (true, false));
}

#[test]
fn a_full_disk_takes_a_part_and_a_fuse_ends_a_process_anywhere() {
    let (disk, handle) = disk();
    disk.set_faults(Faults { room: Some(3), ..Faults::default() });
    let error = handle.write(0, &[9; 10]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    let mut bytes = [0; 4];
    handle.read(0, &mut bytes).unwrap();
    assert_eq!(bytes, [9, 9, 9, 0]);
    disk.set_faults(Faults::default());
    disk.light_fuse(1, Death::Kill);
    handle.write(0, &[1]).unwrap();
    assert!(handle.write(0, &[2]).is_err() && handle.sync_data().is_err());
    assert_eq!(disk.blown(), Some(Death::Kill));
    disk.end_life(Death::Kill, true);
    assert!([1, 2].contains(&first(&disk)));
}
