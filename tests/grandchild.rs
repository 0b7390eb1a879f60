//! Processes that children start and leave running.

use offspring::{CallError, ErrorKind, Plain, Process, Stdio};
use std::thread::sleep;
use std::time::Duration;

/// The pipe is never closed, and always contains more than has been read.
#[test]
fn endless_standard_error_of_a_grandchild_does_not_hide_the_childs_death() {
    let shell = r#"line=$(printf %01000d 0)
        yes "$line" >&2 &
        yes "$line" | head -c 200000 >&2
        exit 3"#;
    let rpc = Process::command("sh")
        .plain(Plain::Tagged)
        .args(["-c", shell])
        // Slower than the writer, so that reading everything would never end.
        .stderr(Stdio::lines(|_, _| sleep(Duration::from_millis(1))))
        .rpc("nothing")
        .on_error(drop)
        .start()
        .unwrap();
    let mut call = rpc.call("x").start();
    match call.wait_timeout(Duration::from_secs(30)) {
        Some(Err(CallError::Lost(error, _))) => {
            assert_eq!(error.kind(), ErrorKind::Died);
            assert_eq!(error.status().and_then(|status| status.code()), Some(3));
        }
        other => panic!("the call ended with {other:?}"),
    }
}
