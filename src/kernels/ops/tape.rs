//! Back-propagation through the operations of this module alone.
//!
//! candle's autograd starts every gradient from zeros and adds to them with its own elementwise
//! operations; for large activations that costs more than the operations themselves. The tape moves a
//! first gradient in and adds only where a value is read twice.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};

use candle_core::{Result, Tensor, TensorId};

use super::gradient::Grad;
use super::{Input, Op, Wrapped, run};

thread_local! {
    static CURRENT: RefCell<Option<Tape>> = const { RefCell::new(None) };
}

/// What was computed from the leaves, in order.
#[derive(Default)]
pub struct Tape {
    entries: Vec<Entry>,
    /// Tensors that depend on a leaf, and the leaves.
    needing: HashSet<TensorId>,
}

impl std::fmt::Debug for Tape {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.debug_struct("Tape").field("entries", &self.entries.len()).finish_non_exhaustive()
    }
}

struct Entry {
    op: Box<dyn Backward>,
    inputs: Vec<Tensor>,
    out: Tensor,
}

/// The part of an operation that the tape needs.
trait Backward {
    fn backward(&self, inputs: &[Input], out: &Tensor, grad: Grad) -> Result<Vec<Option<Grad>>>;
}

impl<O: Op> Backward for O {
    fn backward(&self, inputs: &[Input], out: &Tensor, grad: Grad) -> Result<Vec<Option<Grad>>> {
        Op::backward_on_tape(self, inputs, out, grad)
    }
}

/// Gradients by tensor.
#[derive(Debug)]
pub struct Gradients {
    by_id: HashMap<TensorId, Tensor>,
}

impl Gradients {
    /// The gradient of a leaf; none if the output does not depend on it.
    #[must_use]
    pub fn get(&self, leaf: &Tensor) -> Option<&Tensor> {
        self.by_id.get(&leaf.id())
    }
}

impl Tape {
    /// Runs `compute` on this thread and records its operations, as far as they depend on `leaves`.
    ///
    /// # Errors
    /// As `compute`.
    pub fn record<R, E>(
        leaves: &[Tensor],
        compute: impl FnOnce() -> std::result::Result<R, E>,
    ) -> std::result::Result<(R, Self), E> {
        let tape = Self { entries: Vec::new(), needing: leaves.iter().map(Tensor::id).collect() };
        /// Ends the recording, also when `compute` panics.
        struct Recording;
        impl Drop for Recording {
            fn drop(&mut self) {
                CURRENT.take();
            }
        }
        CURRENT.set(Some(tape));
        let _recording = Recording;
        let result = compute()?;
        Ok((result, CURRENT.take().unwrap_or_default()))
    }

    /// While operations on this thread are recorded: has `leaf` be one of the leaves too.
    pub fn add_leaf(leaf: &Tensor) {
        CURRENT.with_borrow_mut(|tape| {
            if let Some(tape) = tape {
                tape.needing.insert(leaf.id());
            }
        });
    }

    /// Whether operations on this thread are being recorded.
    #[must_use]
    pub fn is_recording() -> bool {
        CURRENT.with_borrow(Option::is_some)
    }

    /// Gradients of the leaves, from the gradient `grad` of `out`.
    ///
    /// # Errors
    /// If an operation has no gradient.
    pub fn backward(self, out: &Tensor, grad: Tensor) -> Result<Gradients> {
        let mut by_id = HashMap::from([(out.id(), Grad::Whole(grad))]);
        for Entry { op, inputs, out } in self.entries.into_iter().rev() {
            let Some(grad) = by_id.remove(&out.id()) else { continue };
            let needs = |tensor: &Tensor| self.needing.contains(&tensor.id());
            let seen: Vec<Input> =
                inputs.iter().map(|tensor| Input { tensor, needs_grad: needs(tensor) }).collect();
            let grads = op.backward(&seen, &out, grad)?;
            for (input, grad) in inputs.iter().zip(grads) {
                let Some(grad) = grad.filter(|_| needs(input)) else { continue };
                let sum = match by_id.remove(&input.id()) {
                    Some(other) => other.plus(grad)?,
                    None => grad,
                };
                by_id.insert(input.id(), sum);
            }
        }
        let whole = |(id, grad): (TensorId, Grad)| Ok((id, grad.whole()?));
        Ok(Gradients { by_id: by_id.into_iter().map(whole).collect::<Result<_>>()? })
    }
}

/// Applies an operation and records it.
pub(super) fn apply<O: Op>(op: O, inputs: &[&Tensor]) -> Result<Tensor> {
    let inputs: Vec<Tensor> = inputs.iter().map(|&input| input.clone()).collect();
    let op = std::sync::Arc::new(op);
    let out = run(Wrapped(Shared(op.clone())), &inputs.iter().collect::<Vec<_>>())?;
    CURRENT.with_borrow_mut(|tape| {
        if let Some(tape) = tape
            && inputs.iter().any(|input| tape.needing.contains(&input.id()))
        {
            tape.needing.insert(out.id());
            tape.entries.push(Entry { op: Box::new(Shared(op)), inputs, out: out.clone() });
        }
    });
    Ok(out)
}

/// An operation that the tape and the forward pass share.
struct Shared<O>(std::sync::Arc<O>);

impl<O: Op> Op for Shared<O> {
    const NAME: &'static str = O::NAME;

    fn forward<T: crate::kernels::Element>(
        &self,
        inputs: &[super::View<T>],
    ) -> Result<(Vec<T>, candle_core::Shape)> {
        self.0.forward(inputs)
    }

    fn backward(&self, inputs: &[Input], out: &Tensor, grad: &Tensor) -> Result<Vec<Option<Tensor>>> {
        Op::backward(&*self.0, inputs, out, grad)
    }

    fn backward_on_tape(&self, inputs: &[Input], out: &Tensor, grad: Grad) -> Result<Vec<Option<Grad>>> {
        Op::backward_on_tape(&*self.0, inputs, out, grad)
    }
}
