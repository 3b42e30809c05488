//! Ranks of an MPI job.

use std::sync::Mutex;
use std::time::Duration;

use mpi::Threading;
use mpi::datatype::PartitionMut;
use mpi::environment::Universe;
use mpi::topology::SimpleCommunicator;
use mpi::traits::{Communicator, CommunicatorCollectives, Destination, Source};

use super::Exchange;
use crate::{Error, Result};

/// This process in the job that `mpirun` or a scheduler started.
pub(super) struct Mpi {
    rank: usize,
    size: usize,
    /// One thread at a time may call MPI.
    world: Mutex<World>,
}

struct World {
    world: SimpleCommunicator,
    /// Ends MPI when it is dropped.
    _universe: Universe,
}

// SAFETY: a communicator is a handle of the MPI library, which was started for calls by one thread at a time from any
// thread (`Threading::Serialized`); the mutex around this makes them so.
unsafe impl Send for World {}

impl std::fmt::Debug for Mpi {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "rank {} of {}", self.rank, self.size)
    }
}

/// Time between two looks for a message.
const NAP: Duration = Duration::from_millis(5);

impl Mpi {
    pub(super) fn start() -> Result<Self> {
        let failed = |why: &str| Error::Ranks(format!("MPI cannot be started: {why}"));
        let (universe, threading) =
            mpi::initialize_with_threading(Threading::Serialized).ok_or_else(|| failed("it runs already"))?;
        if threading < Threading::Serialized {
            return Err(failed("the library is built without support for threads"));
        }
        let world = universe.world();
        let (rank, size) = (world.rank() as usize, world.size() as usize);
        Ok(Self { rank, size, world: Mutex::new(World { world, _universe: universe }) })
    }

    fn with<R>(&self, call: impl FnOnce(&SimpleCommunicator) -> R) -> R {
        let world = self.world.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        call(&world.world)
    }
}

impl Exchange for Mpi {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn all_gather(&self, own: &[f64], counts: &[usize]) -> Result<Vec<f64>> {
        let too_many = |_| Error::Ranks("too many numbers for one exchange".to_owned());
        let mut first = 0;
        let mut places = Vec::with_capacity(counts.len());
        let mut lengths = Vec::with_capacity(counts.len());
        for &count in counts {
            places.push(i32::try_from(first).map_err(too_many)?);
            lengths.push(i32::try_from(count).map_err(too_many)?);
            first += count;
        }
        let mut all = vec![0.0; first];
        self.with(|world| {
            let mut parts = PartitionMut::new(&mut all[..], lengths, places);
            world.all_gather_varcount_into(own, &mut parts);
        });
        Ok(all)
    }

    fn send(&self, message: &[u8]) -> Result<()> {
        self.with(|world| (1..self.size as i32).for_each(|rank| world.process_at_rank(rank).send(message)));
        Ok(())
    }

    fn receive(&self) -> Result<Vec<u8>> {
        loop {
            let message = self.with(|world| {
                let first = world.process_at_rank(0);
                first.immediate_probe().map(|_| first.receive_vec::<u8>().0)
            });
            match message {
                Some(message) => return Ok(message),
                None => std::thread::sleep(NAP),
            }
        }
    }

    fn abort(&self, code: i32) -> ! {
        let world = self.world.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        world.world.abort(code)
    }
}
