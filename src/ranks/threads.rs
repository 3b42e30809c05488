//! Ranks as threads of one process, for tests.

use std::sync::{Arc, Barrier, Mutex};

use super::Exchange;
use crate::Result;

/// What the ranks of a job share.
#[derive(Debug)]
struct Board {
    barrier: Barrier,
    posts: Mutex<Vec<Vec<f64>>>,
    messages: Mutex<Vec<Vec<u8>>>,
}

/// One of them.
#[derive(Debug)]
pub(crate) struct Thread {
    rank: usize,
    size: usize,
    board: Arc<Board>,
    n_received: Mutex<usize>,
}

/// What `body` returns on each of `size` ranks.
pub(crate) fn run<R: Send>(size: usize, body: impl Fn(Thread) -> R + Sync) -> Vec<R> {
    let board = Arc::new(Board {
        barrier: Barrier::new(size),
        posts: Mutex::new(vec![Vec::new(); size]),
        messages: Mutex::default(),
    });
    std::thread::scope(|scope| {
        let start = |rank| {
            let board = board.clone();
            let body = &body;
            scope.spawn(move || body(Thread { rank, size, board, n_received: Mutex::default() }))
        };
        let threads: Vec<_> = (0..size).map(start).collect();
        threads.into_iter().map(|thread| thread.join().expect("no rank panics")).collect()
    })
}

impl Exchange for Thread {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn all_gather(&self, own: &[f64], counts: &[usize]) -> Result<Vec<f64>> {
        assert_eq!(own.len(), counts[self.rank]);
        self.board.posts.lock().unwrap()[self.rank] = own.to_vec();
        self.board.barrier.wait();
        let all = self.board.posts.lock().unwrap().concat();
        self.board.barrier.wait();
        assert_eq!(all.len(), counts.iter().sum::<usize>());
        Ok(all)
    }

    fn send(&self, message: &[u8]) -> Result<()> {
        self.board.messages.lock().unwrap().push(message.to_vec());
        Ok(())
    }

    fn receive(&self) -> Result<Vec<u8>> {
        let mut n_received = self.n_received.lock().unwrap();
        loop {
            if let Some(message) = self.board.messages.lock().unwrap().get(*n_received) {
                *n_received += 1;
                return Ok(message.clone());
            }
            std::thread::yield_now();
        }
    }

    fn abort(&self, code: i32) -> ! {
        panic!("aborted with {code}")
    }
}
