//! What errors say.

mod common;

use common::bounded;
use offspring::{BoxError, CallError, ErrorKind, Stdio, Worker};
use std::{fmt, io};

/// An error whose text does not include its source.
#[derive(Debug)]
struct Context(&'static str, BoxError);

impl fmt::Display for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Context {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.1)
    }
}

fn unreadable() -> BoxError {
    let denied = io::Error::other(Context("cannot open `x.conf`", "permission denied".into()));
    Context("cannot read the configuration", denied.into()).into()
}

const UNREADABLE: &str = "cannot read the configuration: cannot open `x.conf`: permission denied";

#[test]
fn sources_of_an_error_arrive() {
    let me = Worker::new()
        .function("function", |_, _| Err::<(), _>(unreadable()))
        .threaded("threaded", |_, _| Err::<(), _>(unreadable()))
        .deferred("deferred", |_, caller, _| caller.fail(unreadable()))
        .setup("setup", |_| Err(unreadable()))
        .run_in_test();
    bounded(move || {
        for function in ["function", "threaded", "deferred"] {
            let rpc = me.rpc(function).start().unwrap();
            let Err(CallError::Failed(error)) = rpc.call(()).wait() else {
                panic!("{function} fails");
            };
            assert_eq!(error.to_string(), UNREADABLE);
            rpc.finish().unwrap();
        }
        let process = me.clone().setup("setup", ()).stderr(Stdio::null());
        let rpc = process.rpc("function").on_error(drop).start().unwrap();
        let error = rpc.wait_ready().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Setup);
        assert!(error.to_string().contains(UNREADABLE), "{error}");
    });
}
