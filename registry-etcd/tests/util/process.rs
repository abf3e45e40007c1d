//! Programs that register or campaign, in processes of their own: the test's program again, with another task.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

/// What the process is to do: the name of the test that does it.
const TASK: &str = "ONCEWIRE_TEST_TASK";
const ENDPOINT: &str = "ONCEWIRE_TEST_ENDPOINT";

pub struct Process {
    child: Child,
    said: BufReader<ChildStdout>,
}

/// Where etcd is, if this process was started for the task.
pub fn endpoint_of_task(task: &str) -> Option<String> {
    if std::env::var(TASK).ok()? != task {
        return None;
    }
    // It ends with the test, however that ends.
    std::thread::spawn(|| {
        let _end = std::io::stdin().read(&mut [0]);
        std::process::exit(0);
    });
    std::env::var(ENDPOINT).ok()
}

impl Process {
    pub fn start(task: &str, endpoint: &str) -> Process {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", task, "--nocapture"]).env(TASK, task).env(ENDPOINT, endpoint);
        // A backtrace takes seconds to print, longer than some leases.
        command.env_remove("RUST_BACKTRACE");
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let said = BufReader::new(child.stdout.take().unwrap());
        Process { child, said }
    }

    /// What it says behind this word, in the next line that has it.
    pub fn until_it_says(&mut self, word: &str) -> String {
        let mut line = String::new();
        loop {
            line.clear();
            assert!(self.said.read_line(&mut line).unwrap() > 0, "it has ended");
            if let Some((_, rest)) = line.split_once(word) {
                return rest.trim().to_owned();
            }
        }
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _status = self.child.wait();
    }
}
