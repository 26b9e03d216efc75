//! The end of the process at any moment: this test's program starts itself again, kills that
//! process while it reserves, and looks at what it left.

use std::io::{self, BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use super::*;

const ESTIMATE: u64 = 7;
const SAID_AFTER_EACH: &str = "one more is reserved";
/// Far above what the processes need, so that it only ends a test that hangs.
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn killed_process_leaves_every_reservation_it_had() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ledger.db");
    let mut num_before = 0;
    // Each process finds the file as the one before it left it.
    for num_awaited in [1, 7, 30] {
        let num_said = kill_after(num_awaited, &path);
        assert!(num_said >= num_awaited);

        let ledger = open(&path, NO_LIMIT, &TestClock::at(NOON)).unwrap();
        let Spent { day, month } = ledger.spent().await.unwrap();
        let num_charged = day.as_picos() / ESTIMATE;
        let num_new = num_charged - num_before;
        // The last one may have been recorded without there being time to say so.
        assert!((num_said..=num_said + 1).contains(&num_new), "{num_new}, {num_said} said");
        assert_eq!(day, cost(num_charged * ESTIMATE));
        assert_eq!(month, day);
        assert_eq!(ledger.spent_by("alice").await.unwrap(), Spent { day, month });
        assert_eq!(charges(&path).len() as u64, num_charged);
        num_before = num_charged;
    }
}

/// Starts a process that reserves, kills it when it has said so `num_awaited` times, and returns
/// how often it did.
fn kill_after(num_awaited: u64, path: &Path) -> u64 {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture", "--test-threads=1"])
        .arg(module_path!().split_once("::").unwrap().1.to_owned() + "::reserves_until_killed")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    writeln!(child.stdin.take().unwrap(), "{}", path.to_str().unwrap()).unwrap();
    let said = lines(&mut child);
    let in_time = (0..num_awaited).all(|_| said.recv_timeout(PATIENCE).is_ok());
    // SIGKILL: nothing of the process runs after it.
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(in_time, "the process did not reserve");
    num_awaited + said.iter().count() as u64
}

/// One message for each time the process has said it, until it ends.
fn lines(child: &mut Child) -> Receiver<()> {
    let output = BufReader::new(child.stdout.take().unwrap());
    let (sender, receiver) = sync_channel(NUM_RESERVED);
    std::thread::spawn(move || {
        for line in output.lines().map_while(Result::ok) {
            if line.ends_with(SAID_AFTER_EACH) {
                sender.send(()).unwrap();
            }
        }
    });
    receiver
}

/// More than any test waits for.
const NUM_RESERVED: usize = 100_000;

/// Not a test but the process that is killed. It reads the path of the ledger from its input, so
/// that it ends at once when somebody runs all ignored tests.
#[tokio::test]
#[ignore = "run by killed_process_leaves_every_reservation_it_had"]
async fn reserves_until_killed() {
    let mut path = String::new();
    io::stdin().read_line(&mut path).unwrap();
    let Some(path) = path.strip_suffix('\n') else { return };
    let ledger = open(Path::new(path), NO_LIMIT, &TestClock::at(NOON)).unwrap();
    for _ in 0..NUM_RESERVED {
        drop(ledger.reserve("alice", "model", cost(ESTIMATE)).await.unwrap());
        // Not by println, which the test harness may keep to itself.
        writeln!(io::stdout(), "{SAID_AFTER_EACH}").unwrap();
    }
}
