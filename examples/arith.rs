//! Ordinary blocking functions, several simultaneously, on threads of one child: the third example
//! of `AnyEvent::Fork::RPC`. The first string of a request names the function.

use offspring::{BoxError, Caller, Strings, Worker};
use std::thread;
use std::time::Duration;

fn add(a: i64, b: i64) -> Option<i64> {
    a.checked_add(b)
}

fn mul(a: i64, b: i64) -> Option<i64> {
    a.checked_mul(b)
}

/// Blocks its own thread only.
fn slow_add(a: i64, b: i64) -> Option<i64> {
    thread::sleep(Duration::from_millis(500));
    a.checked_add(b)
}

/// Runs in the child, on one of its threads.
fn arith(request: Strings, _caller: &Caller) -> Result<String, BoxError> {
    let [name, a, b] = request.texts()?;
    let function = match name {
        "add" => add,
        "mul" => mul,
        "slow_add" => slow_add,
        _ => return Err(format!("there is no function `{name}`").into()),
    };
    let result = function(a.parse()?, b.parse()?);
    Ok(result.ok_or("the result is too large")?.to_string())
}

fn main() -> Result<(), BoxError> {
    let me = Worker::new().threaded("arith", arith).threads(4).run();

    let rpc = me.rpc("arith").start()?;
    let slow = rpc.call(["slow_add", "20", "22"]).start();
    println!("1 + 3 = {}", rpc.call(["add", "1", "3"]).wait()?);
    println!("3 * 2 = {}", rpc.call(["mul", "3", "2"]).wait()?);
    println!("3 ^ 2: {}", rpc.call(["pow", "3", "2"]).wait().unwrap_err());
    println!("20 + 22 = {}, slowly", slow.wait()?);
    rpc.finish()?;
    Ok(())
}
