//! What a host brings: threads, progress, log, cancelling, readers, writers.

mod common;

use std::io::{self, Write};
use std::ops::ControlFlow;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::Arc;
use std::thread;

use common::{adapter, K, Q};
use liblora::{
    Adapter, Builder, CancelToken, Context, Error, Info, OpenOptions, RankRule, ReadAt, Report,
    Status,
};

fn shared<T: Send + Sync>() {}
fn moved<T: Send>() {}

#[test]
fn threads() {
    shared::<Context>();
    shared::<CancelToken>();
    shared::<Adapter<'static>>();
    shared::<Report>();
    shared::<Error>();
    shared::<Info<'static>>();
    moved::<Builder<'static>>();

    let data = adapter();
    let context = Context::builder().threads(3).build().unwrap();
    let adapter = OpenOptions::new().memory(&context, &data).unwrap();
    thread::scope(|scope| {
        for i in 0..4 {
            let adapter = &adapter;
            scope.spawn(move || {
                for _ in 0..50 {
                    let strength = f64::from(i);
                    let change = adapter.find_module(Q).unwrap().delta::<f64>(strength).unwrap();
                    let one = [0.5, 1.0, 0.0, 1.5, 2.0, 1.0];
                    assert_eq!(change, one.map(|x| x * strength));
                    let (small, _) =
                        adapter.resize(RankRule::Fixed(1), &Default::default()).unwrap();
                    assert_eq!(small.clone().find_module(K).unwrap().rank, 1);
                }
            });
        }
    });
}

#[test]
fn a_handle_keeps_its_context() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counter = calls.clone();
    let context = Context::builder().progress(move |_, _, _| {
        counter.fetch_add(1, Ordering::Relaxed);
        ControlFlow::Continue(())
    });
    let context = context.build().unwrap();
    let data = adapter();
    let adapter = OpenOptions::new().memory(&context, &data).unwrap();
    drop(context);
    let (small, report) = adapter.resize(RankRule::Fixed(1), &Default::default()).unwrap();
    drop(adapter);
    assert!(calls.load(Ordering::Relaxed) > 0);
    assert!(small.context().memory_live() > 0);
    assert!(small.context().memory_peak() >= small.context().memory_live());
    drop(small);
    assert_eq!(report.layers().count(), 2);
    assert_eq!(Arc::strong_count(&calls), 2);
    drop(report);
    assert_eq!(Arc::strong_count(&calls), 1, "the function goes with the last handle");
}

#[test]
fn cancelling() {
    let data = adapter();
    let stops = Context::builder().progress(|stage, done, total| {
        assert!(!stage.is_empty() && done <= total);
        ControlFlow::Break(())
    });
    let adapter = OpenOptions::new().memory(&stops.build().unwrap(), &data).unwrap();
    let resize = |adapter: &Adapter| {
        adapter.resize(RankRule::Fixed(1), &Default::default()).err().map(|e| e.status)
    };
    assert_eq!(resize(&adapter), Some(Status::Cancelled));

    let token = CancelToken::new().unwrap();
    let context = Context::builder().cancel(&token).build().unwrap();
    let adapter = OpenOptions::new().memory(&context, &data).unwrap();
    let other = token.clone();
    thread::spawn(move || other.cancel()).join().unwrap();
    assert_eq!(resize(&adapter), Some(Status::Cancelled));
    token.reset();
    drop(token);
    assert_eq!(resize(&adapter), None);
}

#[test]
fn panics_pass_c() {
    let data = adapter();
    for threads in [1, 3] {
        let context = Context::builder().threads(threads).progress(|_, _, _| panic!("told you"));
        let context = context.log(|_, _| panic!("not this one")).build().unwrap();
        let adapter = OpenOptions::new().memory(&context, &data).unwrap();
        let resize = || adapter.resize(RankRule::Fixed(1), &Default::default()).is_ok();
        let payload = catch_unwind(AssertUnwindSafe(resize)).unwrap_err();
        assert_eq!(payload.downcast_ref(), Some(&"told you"));
        assert_eq!(adapter.find_module("absent").err().unwrap().status, Status::Key);
    }
}

#[test]
fn log_lines() {
    let lines = Arc::new(AtomicUsize::new(0));
    let counter = lines.clone();
    let context = Context::builder().log(move |_, line| {
        assert!(!line.contains('\n'));
        counter.fetch_add(1, Ordering::Relaxed);
    });
    let data = adapter();
    OpenOptions::new().memory(&context.build().unwrap(), &data).unwrap();
    assert!(lines.load(Ordering::Relaxed) > 0);
}

/// Data with a fault: reads beyond `limit` fail. Counts what is alive.
struct Archive<'a> {
    data: &'a [u8],
    limit: u64,
    alive: Arc<()>,
    reads: &'a AtomicU64,
}

impl ReadAt for Archive<'_> {
    fn size(&self) -> io::Result<u64> {
        Ok(self.data.len() as u64)
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<usize> {
        let (begin, end) = (offset as usize, offset as usize + out.len());
        assert_ne!(self.limit, u64::MAX, "a reader that panics");
        if end as u64 > self.limit {
            return Err(io::Error::from(io::ErrorKind::ConnectionReset));
        }
        let _ = &self.alive;
        self.reads.fetch_add(1, Ordering::Relaxed);
        out.copy_from_slice(&self.data[begin..end]);
        Ok(out.len())
    }
}

#[test]
fn readers() {
    let (data, alive, reads) = (adapter(), Arc::new(()), AtomicU64::new(0));
    let context = Context::builder().threads(2).build().unwrap();
    let archive = |limit| Archive { data: &data, limit, alive: alive.clone(), reads: &reads };
    let adapter = OpenOptions::new().reader(&context, archive(data.len() as u64)).unwrap();
    let whole = adapter.find_module(K).unwrap().delta::<f32>(1.0).unwrap();
    assert_eq!(whole, [3.0, 0.0, 0.0, 0.0, 1.0, 0.0]);
    assert!(reads.load(Ordering::Relaxed) > 0);
    let copy = Builder::from_adapter(&adapter).unwrap().finish().unwrap();
    drop(adapter);
    assert_eq!(Arc::strong_count(&alive), 2, "what was made from it reads too");
    drop(copy);
    assert_eq!(Arc::strong_count(&alive), 1);

    let error = OpenOptions::new().reader(&context, archive(20)).err().unwrap();
    assert_eq!(error.status, Status::Io);
    let open = || OpenOptions::new().reader(&context, archive(u64::MAX)).is_ok();
    assert!(catch_unwind(AssertUnwindSafe(open)).is_err());
    assert_eq!(Arc::strong_count(&alive), 1, "dropped on failure too");
}

/// Takes so many bytes, then fails.
struct Full(usize);

impl Write for Full {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let taken = data.len().min(self.0);
        self.0 -= taken;
        if taken == 0 {
            return Err(io::Error::new(io::ErrorKind::Other, "the tape is full"));
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn writers() {
    let data = adapter();
    let adapter = OpenOptions::new().memory(&Context::new().unwrap(), &data).unwrap();
    let mut out = Vec::new();
    adapter.save_to(&mut out).unwrap();
    assert_eq!(out, adapter.to_vec().unwrap());
    let error = adapter.save_to(Full(50)).unwrap_err();
    assert_eq!((error.status, &*error.message), (Status::Io, "the tape is full"));
}
