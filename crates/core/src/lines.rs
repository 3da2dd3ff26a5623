//! Writes lines to a file descriptor that may block or fail: a pipe that is not read or is closed, or a full
//! disk.
//!
//! A separate thread writes the lines, so that no caller waits. Lines beyond the capacity are dropped and
//! counted.

use std::{
    collections::VecDeque,
    io::{self, ErrorKind, Write},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use prometheus::IntCounter;

/// The overhead of a waiting line in bytes.
const OVERHEAD: usize = 64;
/// The pause before a full non-blocking writer is tried again. There is no portable way to wait for it, and
/// it is rare: another process made the shared pipe non-blocking.
const PAUSE: Duration = Duration::from_millis(20);

/// A bounded queue of lines and the thread that writes them.
#[derive(Debug)]
pub struct Lines(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    capacity: usize,
    dropped: IntCounter,
    state: Mutex<State>,
    /// Signals work to the thread.
    more: Condvar,
    /// Signals that nothing waits and nothing is being written.
    idle: Condvar,
}

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Box<[u8]>>,
    /// Bytes that wait or are being written.
    bytes: usize,
    writing: bool,
    /// Lines that were dropped since this was last reported.
    unreported: u64,
    closed: bool,
}

impl Lines {
    /// Starts the thread `name`. `capacity` is in bytes. `dropped` counts the lines that were not written.
    /// `report` is called on the thread with their number when lines are written again and half of the
    /// capacity is free; it may push a line.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(
        name: &str,
        capacity: usize,
        dropped: IntCounter,
        to: impl Write + Send + 'static,
        report: impl Fn(u64) + Send + 'static,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            capacity,
            dropped,
            state: Mutex::default(),
            more: Condvar::new(),
            idle: Condvar::new(),
        });
        let writer = Arc::clone(&shared);
        thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || writer.run(to, &report))?;
        Ok(Self(shared))
    }

    /// Adds a line with its line break, without waiting. Returns `false` if the queue is full; the line is
    /// then dropped and counted. A quarter of the capacity is reserved for urgent lines.
    pub fn push(&self, line: &[u8], urgent: bool) -> bool {
        let capacity = if urgent {
            self.0.capacity
        } else {
            self.0.capacity / 4 * 3
        };
        let mut state = self.0.lock();
        let bytes = state.bytes.saturating_add(cost(line));
        if bytes > capacity {
            self.0.count(&mut state);
            return false;
        }
        state.bytes = bytes;
        state.waiting.push_back(line.into());
        drop(state);
        self.0.more.notify_one();
        true
    }

    /// Waits until everything is written, for at most `limit`. Returns how many lines still wait.
    #[must_use]
    pub fn flush(&self, limit: Duration) -> usize {
        let state = self.0.lock();
        let busy = |state: &mut State| state.writing || !state.waiting.is_empty();
        let (state, _) = self
            .0
            .idle
            .wait_timeout_while(state, limit, busy)
            .unwrap_or_else(PoisonError::into_inner);
        state
            .waiting
            .len()
            .saturating_add(usize::from(state.writing))
    }
}

impl Drop for Lines {
    /// Makes the thread write what waits and then end.
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.more.notify_one();
    }
}

fn cost(line: &[u8]) -> usize {
    line.len().saturating_add(OVERHEAD)
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, state: &mut State) {
        state.unreported = state.unreported.saturating_add(1);
        self.dropped.inc();
    }

    fn run(&self, mut to: impl Write, report: &impl Fn(u64)) {
        // Whether the last line was cut off.
        let mut torn = false;
        while let Some(line) = self.next() {
            if torn {
                // If this fails, writing the line fails as well.
                torn = write_whole(&mut to, b"\n").is_err();
            }
            let written = write_whole(&mut to, &line);
            let mut state = self.lock();
            state.bytes = state.bytes.saturating_sub(cost(&line));
            match written {
                Ok(()) if state.bytes <= self.capacity / 2 => {
                    let unreported = std::mem::take(&mut state.unreported);
                    drop(state);
                    if unreported > 0 {
                        report(unreported);
                    }
                }
                Ok(()) => {}
                Err(some) => {
                    torn = torn || some;
                    self.count(&mut state);
                }
            }
        }
    }

    /// Returns the next line; `None` when the queue is closed.
    fn next(&self) -> Option<Box<[u8]>> {
        let mut state = self.lock();
        state.writing = false;
        loop {
            if let Some(line) = state.waiting.pop_front() {
                state.writing = true;
                return Some(line);
            }
            self.idle.notify_all();
            if state.closed {
                return None;
            }
            state = self
                .more
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Writes the whole line.
///
/// # Errors
/// Holds whether a part of it was written.
fn write_whole(to: &mut impl Write, mut rest: &[u8]) -> Result<(), bool> {
    let whole = rest.len();
    while !rest.is_empty() {
        match to.write(rest) {
            Ok(0) => return Err(rest.len() < whole),
            Ok(written) => rest = rest.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(PAUSE),
            Err(_) => return Err(rest.len() < whole),
        }
    }
    loop {
        match to.flush() {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(PAUSE),
            Err(_) => return Err(true),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead, BufReader, PipeReader, PipeWriter, Read, pipe},
        sync::mpsc,
    };

    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    fn counter() -> IntCounter {
        IntCounter::new("dropped", "dropped").unwrap()
    }

    fn to_pipe(capacity: usize) -> (Lines, PipeReader, IntCounter, mpsc::Receiver<u64>) {
        let (reader, writer) = pipe().unwrap();
        let (sender, reports) = mpsc::channel();
        let dropped = counter();
        let report = move |count| {
            let _ = sender.send(count);
        };
        let lines = Lines::start("test", capacity, dropped.clone(), writer, report).unwrap();
        (lines, reader, dropped, reports)
    }

    #[test]
    fn lines_are_written_in_order_and_a_flush_waits_for_them() {
        let (lines, mut reader, dropped, _hears) = to_pipe(1 << 20);
        for index in 0..100 {
            assert!(lines.push(format!("{index}\n").as_bytes(), false));
        }
        assert_eq!(lines.flush(LONG), 0);
        drop(lines);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        let expected: String = (0..100).map(|index| format!("{index}\n")).collect();
        assert_eq!(text, expected);
        assert_eq!(dropped.get(), 0);
    }

    #[test]
    fn a_blocked_pipe_blocks_no_caller_and_dropped_lines_are_counted_and_reported() {
        let (lines, reader, dropped, reports) = to_pipe(1 << 20);
        let line = [vec![b'x'; 1023], vec![b'\n']].concat();
        let pushed = (0..4096).filter(|_| lines.push(&line, false)).count();
        let lost = 4096 - pushed as u64;
        assert!(pushed > 512 && lost > 1024, "{pushed}");
        assert_eq!(dropped.get(), lost);
        assert!(lines.flush(Duration::ZERO) > 0);
        assert!(
            lines.push(b"urgent\n", true),
            "a quarter is reserved for urgent lines"
        );
        let reads = thread::spawn(move || BufReader::new(reader).lines().count());
        assert_eq!(reports.recv_timeout(LONG).unwrap(), lost);
        assert_eq!(lines.flush(LONG), 0);
        drop(lines);
        assert_eq!(reads.join().unwrap(), pushed + 1);
    }

    #[test]
    fn lines_for_a_closed_pipe_are_only_counted() {
        let (lines, reader, dropped, _hears) = to_pipe(1 << 20);
        drop(reader);
        for _ in 0..10 {
            assert!(lines.push(b"line\n", false));
        }
        assert_eq!(lines.flush(LONG), 0);
        assert_eq!(dropped.get(), 10);
    }

    #[test]
    fn a_line_that_was_cut_off_does_not_run_into_the_next() {
        struct Fails(usize, PipeWriter);
        impl Write for Fails {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0 += 1;
                match self.0 {
                    1 => self.1.write(&bytes[..2]),
                    2 => Err(ErrorKind::StorageFull.into()),
                    3 => Err(ErrorKind::WouldBlock.into()),
                    _ => self.1.write(bytes),
                }
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (mut reader, writer) = pipe().unwrap();
        let to = Fails(0, writer);
        let dropped = counter();
        let lines = Lines::start("test", 1 << 20, dropped.clone(), to, |_| {}).unwrap();
        assert!(lines.push(b"first\n", false));
        assert!(lines.push(b"second\n", false));
        drop(lines);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "fi\nsecond\n");
        assert_eq!(dropped.get(), 1);
    }
}
