//! Segment files that are open for reading: each once, and a bounded number in all.

use super::commit_waiter::Waiters;
use super::segment;
use crate::ring;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::task::Poll;

/// Segment files open for reading at once. At the bound, one that is not being read is closed;
/// while all are being read, the next reader waits.
const OPEN_MAX: usize = 32;

/// The files of one folder.
#[derive(Default)]
pub(super) struct Readers {
    files: RefCell<BTreeMap<u32, State>>,
    /// A file is open, or is not being read any more.
    changed: Waiters,
}

enum State {
    /// A task opens it.
    Opening,
    Open(Rc<ring::File>),
}

impl State {
    fn is_in_use(&self) -> bool {
        match self {
            State::Opening => true,
            State::Open(file) => Rc::strong_count(file) > 1,
        }
    }
}

enum Found {
    Open(Rc<ring::File>),
    /// The caller opens it.
    Absent,
    Wait,
}

impl Readers {
    /// The file of `segment` in `folder`, for as long as the reader is kept.
    pub(super) async fn open(self: &Rc<Self>, folder: &Path, number: u32) -> io::Result<Reader> {
        let mut key = None;
        let found = poll_fn(|context| match self.find(number) {
            Found::Open(file) => Poll::Ready(Some(file)),
            Found::Absent => Poll::Ready(None),
            Found::Wait => self.changed.register(&mut key, context),
        });
        let file = match found.await {
            Some(file) => file,
            None => {
                let mut opening = Opening { readers: self, number, file: None };
                let file = Rc::new(ring::File::open(&segment::path(folder, number)).await?);
                opening.file = Some(Rc::clone(&file));
                file
            }
        };
        Ok(Reader { file, _done: Done(Rc::clone(self)) })
    }

    /// The file is given up: its name goes to another one.
    pub(super) fn close(&self, number: u32) {
        self.files.borrow_mut().remove(&number);
    }

    fn find(&self, number: u32) -> Found {
        let files = &mut *self.files.borrow_mut();
        match files.get(&number) {
            Some(State::Open(file)) => return Found::Open(Rc::clone(file)),
            Some(State::Opening) => return Found::Wait,
            None => {}
        }
        if files.len() >= OPEN_MAX {
            let idle = files.iter().find(|(_, state)| !state.is_in_use());
            let Some((&idle, _)) = idle else { return Found::Wait };
            files.remove(&idle);
        }
        files.insert(number, State::Opening);
        Found::Absent
    }
}

/// A file that is being opened. Whatever comes of that, others do not wait for it any longer.
struct Opening<'a> {
    readers: &'a Readers,
    number: u32,
    file: Option<Rc<ring::File>>,
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        let files = &mut *self.readers.files.borrow_mut();
        // Else it was given up meanwhile.
        if matches!(files.get(&self.number), Some(State::Opening)) {
            match self.file.take() {
                Some(file) => files.insert(self.number, State::Open(file)),
                None => files.remove(&self.number),
            };
        }
        self.readers.changed.wake();
    }
}

/// A segment file that is being read.
pub(super) struct Reader {
    file: Rc<ring::File>,
    // Dropped, and so woken, behind the file.
    _done: Done,
}

/// Says when a reader is done.
struct Done(Rc<Readers>);

impl Reader {
    /// Exactly `length` bytes from `offset`; `UnexpectedEof` when the file is shorter.
    pub(super) async fn read(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        self.file.read(offset, length).await
    }
}

impl Drop for Done {
    fn drop(&mut self) {
        self.0.changed.wake();
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::ring::simulation::disk::Disk;
    use crate::ring::simulation::{self, Simulation};
    use std::cell::Cell;
    use std::time::Duration;

    /// Runs it on a simulated disk with the segments 1 to `count`.
    fn on_a_disk(count: u32, body: impl AsyncFnOnce(Rc<Simulation>, Rc<Readers>) + 'static) {
        let simulation = Simulation::new(1, Disk::new(1), 0, 1000);
        let over = Rc::new(Cell::new(false));
        let (inside, done) = (Rc::clone(&simulation), Rc::clone(&over));
        simulation.enter(|| {
            simulation::spawn(async move {
                for number in 1..=count {
                    let path = segment::path(Path::new("/"), number);
                    ring::File::create(&path, 4096).await.unwrap();
                }
                body(inside, Rc::default()).await;
                done.set(true);
            });
        });
        while !over.get() {
            assert!(simulation.step(), "nothing happens any more");
        }
        simulation.end();
    }

    #[test]
    fn a_file_that_many_want_at_once_is_opened_once() {
        on_a_disk(1, async |simulation, readers| {
            let opened = simulation.disk.borrow().opened;
            let left = Rc::new(Cell::new(50));
            for _ in 0..50 {
                let (readers, left) = (Rc::clone(&readers), Rc::clone(&left));
                simulation::spawn(async move {
                    let reader = readers.open(Path::new("/"), 1).await.unwrap();
                    reader.read(0, 100).await.unwrap();
                    left.set(left.get() - 1);
                });
            }
            while left.get() > 0 {
                ring::sleep(Duration::from_millis(1)).await;
            }
            assert_eq!(simulation.disk.borrow().opened, opened + 1);
        });
    }

    #[test]
    fn readers_beyond_the_bound_wait_and_all_are_served() {
        let many = OPEN_MAX as u32 * 4;
        on_a_disk(many, async move |_, readers| {
            let (left, most) = (Rc::new(Cell::new(many)), Rc::new(Cell::new(0)));
            for number in 1..=many {
                let (readers, left, most) =
                    (Rc::clone(&readers), Rc::clone(&left), Rc::clone(&most));
                simulation::spawn(async move {
                    let reader = readers.open(Path::new("/"), number).await.unwrap();
                    most.set(most.get().max(readers.files.borrow().len()));
                    ring::sleep(Duration::from_millis(u64::from(number % 7))).await;
                    reader.read(0, 100).await.unwrap();
                    left.set(left.get() - 1);
                });
            }
            while left.get() > 0 {
                ring::sleep(Duration::from_millis(1)).await;
            }
            assert_eq!(most.get(), OPEN_MAX);
        });
    }

    #[test]
    fn a_file_that_cannot_be_opened_keeps_no_place_and_no_reader_waiting() {
        on_a_disk(1, async |_, readers| {
            for number in 2..100 {
                assert!(readers.open(Path::new("/"), number).await.is_err());
            }
            assert!(readers.files.borrow().is_empty());
            // One that gives up while it opens does not keep the next one waiting.
            let opening = readers.open(Path::new("/"), 1);
            let given_up = futures_lite::future::or(async { drop(opening.await) }, async {
                ring::yield_now().await;
            });
            given_up.await;
            readers.open(Path::new("/"), 1).await.unwrap();
        });
    }
}
