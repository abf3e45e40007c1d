//! Files that belong to one user alone, and what others try with them.
#![cfg(unix)]
#![allow(missing_docs)]

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, ErrorKind};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use oncewire_driver::files::{self, LockError, LockFile};
use rustix::process::{geteuid, umask};

/// A user that is not us.
const NOBODY: u32 = 65534;

/// A folder of the test's own in which every user may make files and only their owners may remove them, as in `/tmp`.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("oncewire-files-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o1777)).unwrap();
        Folder(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

/// A file that would pass for ours but for what the test does with it.
fn private(path: &Path, content: &str) {
    fs::write(path, content).unwrap();
    set_mode(path, 0o600);
}

fn is_root() -> bool {
    if !geteuid().is_root() {
        eprintln!("skipped: only root can act as another user");
    }
    geteuid().is_root()
}

/// Why a lock is refused, having checked that its file was left alone.
fn refused(path: &Path) -> String {
    let before = (fs::read(path).ok(), fs::symlink_metadata(path).unwrap().permissions());
    let error = match LockFile::take(path) {
        Err(LockError::Unusable(error)) => error,
        taken => panic!("{} must be refused: {taken:?}", path.display()),
    };
    let after = (fs::read(path).ok(), fs::symlink_metadata(path).unwrap().permissions());
    assert_eq!(before, after, "it was left alone");
    error.to_string()
}

/// Whether a file that exists is taken for one of ours alone.
fn opened(path: &Path) -> std::io::Result<()> {
    let file = files::open_regular(path)?;
    files::check_private(path, &file)
}

const LOCK_ROLE: &str = "ONCEWIRE_TEST_LOCK";

/// Not a test: takes a lock, says what came of it, and keeps it until its stdin ends.
#[test]
fn takes_a_lock_when_asked_to() {
    let Some(path) = std::env::var_os(LOCK_ROLE) else { return };
    let lock = LockFile::take(Path::new(&path));
    println!("\nlock: {}", format!("{lock:?}").replace('\n', " "));
    std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).unwrap();
}

/// This program once more as another user; what came of its lock. `None` if it cannot be started.
fn lock_as_other_user(path: &Path) -> Option<(Child, String)> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "takes_a_lock_when_asked_to", "--nocapture"])
        .env(LOCK_ROLE, path)
        .uid(NOBODY)
        .gid(NOBODY)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let said = lines.filter_map(|line| line.strip_prefix("lock: ").map(str::to_owned)).next();
    if said.is_none() {
        eprintln!("skipped: another user cannot run this program");
        child.wait().unwrap();
    }
    said.map(|said| (child, said))
}

#[test]
fn c120_files_are_made_for_their_owner_alone_whatever_the_umask() {
    let folder = Folder::new();
    // Other tests of this program make their files with modes of their own.
    let before = umask(rustix::fs::Mode::empty());
    files::create_private(&folder.path("wide")).unwrap();
    drop(LockFile::take(&folder.path("lock")).unwrap());
    umask(before);
    for name in ["wide", "lock"] {
        assert_eq!(mode(&folder.path(name)), 0o600, "{name}");
        opened(&folder.path(name)).unwrap();
    }
    let taken = files::create_private(&folder.path("wide")).unwrap_err();
    assert_eq!(taken.kind(), ErrorKind::AlreadyExists);
}

#[test]
fn c120_a_file_that_others_may_open_is_refused_with_its_mode() {
    let folder = Folder::new();
    let path = folder.path("a");
    for bits in [0o644, 0o640, 0o604, 0o620, 0o602, 0o610] {
        private(&path, "");
        set_mode(&path, bits);
        let error = opened(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        let text = error.to_string();
        assert!(text.contains(&format!("{bits:04o}")) && text.contains("chmod 600"), "{text}");
        assert!(refused(&path).contains("chmod 600"));
    }
    set_mode(&path, 0o400);
    opened(&path).unwrap();
}

#[test]
fn c120_a_file_of_another_user_is_refused_with_its_owner() {
    if !is_root() {
        return;
    }
    let folder = Folder::new();
    let path = folder.path("a");
    private(&path, "");
    chown(&path, Some(NOBODY), None).unwrap();
    // In a folder like this, Linux keeps even root from opening it by a call that could have made it.
    assert!(refused(&path).contains("uid 65534"));
    assert!(opened(&path).unwrap_err().to_string().contains("uid 65534"));
    assert!(files::remove_own(&path).unwrap_err().to_string().contains("uid 65534"));
    assert!(path.exists());
}

#[test]
fn c120_a_user_who_may_not_open_a_file_learns_whose_it_is() {
    if !is_root() {
        return;
    }
    let folder = Folder::new();
    let path = folder.path("a");
    private(&path, "");
    let Some((mut child, said)) = lock_as_other_user(&path) else { return };
    assert!(said.contains("uid 0") && said.contains("uid 65534"), "{said}");
    drop(child.stdin.take());
    child.wait().unwrap();
    // And cannot keep us from taking it.
    LockFile::take(&path).unwrap();
}

#[test]
fn c120_a_file_with_a_second_name_is_refused() {
    let folder = Folder::new();
    let path = folder.path("a");
    private(&folder.path("precious"), "4711\n");
    fs::hard_link(folder.path("precious"), &path).unwrap();
    assert!(refused(&path).contains("2 names"));
    assert!(opened(&path).unwrap_err().to_string().contains("2 names"));
    assert_eq!(fs::read(folder.path("precious")).unwrap(), b"4711\n");
}

#[test]
fn c121_a_lock_with_something_else_in_it_is_left_alone() {
    let folder = Folder::new();
    let path = folder.path("a");
    for content in ["precious", "12\n13\n", "-1\n", "99999999999999\n", "\u{e4}\n"] {
        private(&path, content);
        assert!(refused(&path).contains("something else"), "{content:?}");
    }
    for content in ["", "12\n"] {
        private(&path, content);
        drop(LockFile::take(&path).unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"");
    }
}

#[test]
fn a_lock_that_a_killed_process_has_written_in_part_is_taken() {
    let folder = Folder::new();
    for content in ["1", "12345", "4194304", "\0\0\0\0\0\0"] {
        let path = folder.path("half.lock");
        private(&path, content);
        let lock = LockFile::take(&path).unwrap_or_else(|why| panic!("{content:?}: {why:?}"));
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{}\n", std::process::id()));
        drop(lock);
    }
}

#[test]
fn c121_what_is_no_file_is_left_alone_and_not_waited_for() {
    let folder = Folder::new();
    let path = folder.path("a");
    fs::create_dir(&path).unwrap();
    assert!(refused(&path).contains("a directory"));
    fs::remove_dir(&path).unwrap();

    symlink(folder.path("target"), &path).unwrap();
    assert!(refused(&path).contains("a symbolic link"));
    assert!(!folder.path("target").exists());
    fs::remove_file(&path).unwrap();

    let kind = rustix::fs::FileType::Fifo;
    rustix::fs::mknodat(rustix::fs::CWD, &path, kind, rustix::fs::Mode::RUSR, 0).unwrap();
    assert!(files::open_regular(&path).unwrap_err().to_string().contains("a named pipe"));
    let error = LockFile::take(&path).unwrap_err();
    assert!(format!("{error:?}").contains("a named pipe"), "{error:?}");
}

#[test]
fn links_are_followed_if_we_or_root_made_them_and_lead_somewhere() {
    let folder = Folder::new();
    let (link, target) = (folder.path("link"), folder.path("target"));
    symlink(&target, &link).unwrap();
    assert!(files::exists(&link).unwrap_err().to_string().contains("leads nowhere"));
    assert!(!files::exists(&target).unwrap());
    private(&target, "");
    assert!(files::exists(&link).unwrap());
    opened(&link).unwrap();
    if is_root() {
        lchown(&link, Some(NOBODY), None).unwrap();
        // The system may refuse to follow it itself.
        assert!(files::open_regular(&link).is_err());
    }
}

#[test]
fn c120_a_folder_writable_by_all_without_the_sticky_bit_is_refused() {
    let folder = Folder::new();
    let path = folder.path("a");
    private(&path, "");
    set_mode(&folder.0, 0o777);
    let error = opened(&path).unwrap_err().to_string();
    assert!(error.contains("0777") && error.contains("chmod go-w"), "{error}");
    set_mode(&folder.0, 0o1777);
    opened(&path).unwrap();
}

#[test]
fn c433_a_folder_writable_by_a_group_of_several_users_without_the_sticky_bit_is_refused() {
    let folder = Folder::new();
    let path = folder.path("a");
    private(&path, "");
    let there = fs::metadata(&folder.0).unwrap();
    for bits in [0o770, 0o775, 0o2770] {
        set_mode(&folder.0, bits);
        if there.uid() == there.gid() && there.uid() != 0 {
            opened(&path).unwrap();
            continue;
        }
        let error = opened(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        let (text, group) = (error.to_string(), format!("the group {}", there.gid()));
        assert!(text.contains(&group) && text.contains(&format!("{bits:04o}")), "{text}");
        assert!(text.contains("chmod g-w"), "{text}");
    }
    for bits in [0o1770, 0o755, 0o700] {
        set_mode(&folder.0, bits);
        opened(&path).unwrap();
    }
    // A user's private group has the user's number.
    if is_root() {
        for (owner, group, is_refused) in [(NOBODY, NOBODY, false), (NOBODY, 0, true)] {
            chown(&folder.0, Some(owner), Some(group)).unwrap();
            set_mode(&folder.0, 0o770);
            assert_eq!(opened(&path).is_err(), is_refused, "{owner}:{group}");
        }
    }
}

#[test]
fn of_many_who_take_a_lock_at_once_one_gets_it_and_the_others_learn_of_it() {
    let folder = Folder::new();
    let path = folder.path("a");
    for _ in 0..20 {
        let ends: Vec<_> = std::thread::scope(|scope| {
            let takes: Vec<_> = (0..8).map(|_| scope.spawn(|| LockFile::take(&path))).collect();
            takes.into_iter().map(|take| take.join().unwrap()).collect()
        });
        assert_eq!(ends.iter().filter(|end| end.is_ok()).count(), 1);
        for end in ends.iter().flat_map(|end| end.as_ref().err()) {
            let pid = std::process::id();
            assert!(
                matches!(end, LockError::Held(None))
                    || matches!(end, LockError::Held(Some(p)) if *p == pid)
            );
        }
        drop(ends);
        fs::remove_file(&path).unwrap();
    }
}
