//! The [`Transform`], the [`StepFunction`], and what goes in and out of them.

use std::any::Any;
use std::fmt;

use nobat_core::parameters::Parameters;
use nobat_core::signature::TensorSpec;
use nobat_core::task::Task;
use nobat_core::tensor::{Datatype, Tensor};
use nobat_core::{Error, Result};

/// What callers of a transformed model see in the place of its graph's tensors.
#[derive(Clone, Debug, PartialEq)]
pub struct CallerSignature {
    /// Inputs, rows on the first axis.
    pub inputs: Vec<TensorSpec>,
    /// Outputs, rows on the first axis.
    pub outputs: Vec<TensorSpec>,
    /// What it does.
    pub task: Task,
}

/// A transformation before and after the session of one model version.
///
/// Every method may be called from several threads at once. A panic costs the jobs at
/// hand an attempt and nothing else.
pub trait Transform: fmt::Debug + Send + Sync {
    /// What callers see.
    fn signature(&self) -> &CallerSignature;

    /// The largest cost that a row can have.
    fn max_cost(&self) -> u32;

    /// Bytes of a run's inputs and outputs for each unit of cost that its rows are padded to, where
    /// that is known; 0 where it is not, or next to nothing.
    fn bytes_per_cost(&self) -> u64 {
        0
    }

    /// Turns a job's inputs, by position in the signature and checked against it, into rows.
    ///
    /// # Errors
    /// The caller's mistake, which ends its job alone: `invalid_tensor` or
    /// `invalid_parameter`, naming the value and the remedy.
    fn prepare(&self, inputs: &[Option<Tensor>], parameters: &Parameters) -> Result<Prepared>;

    /// A made-up row of a cost of 1 to [`Transform::max_cost`], for measuring and warming up.
    fn example(&self, cost: u32) -> Row;

    /// The session's inputs for a run of these rows, in the order of the graph's inputs,
    /// padded to the costliest; not empty.
    ///
    /// # Errors
    /// `internal`: the rows are of another transformation.
    fn collate(&self, rows: &[&Row]) -> Result<Vec<Tensor>>;

    /// What each row came to, in their order; `outputs` are the graph's, in its order.
    ///
    /// # Errors
    /// `inference_failed` where the outputs do not have the shape that the graph promises.
    fn finish(&self, rows: &[&Row], outputs: &[SessionOutput<'_>]) -> Result<Vec<Finished>>;

    /// A job's outputs in the order of the signature, of what its rows came to, in the order
    /// in which [`Transform::prepare`] gave them.
    ///
    /// # Errors
    /// `internal`: the rows are of another job.
    fn answer(&self, job: &JobState, rows: Vec<Finished>) -> Result<Vec<Tensor>>;
}

/// A step of a chain that runs no model: whole tensors in, whole tensors out.
///
/// Pure, as a [`Transform`] is; may be called from several threads at once. The rows of what
/// it gives may be others than those of what it takes, or none.
pub trait StepFunction: fmt::Debug + Send + Sync {
    /// Computes the outputs of the inputs, both in the order of [`Function::specs`]; `None` where
    /// an optional input is not there.
    ///
    /// [`Function::specs`]: nobat_core::chain::Function::specs
    ///
    /// # Errors
    /// `invalid_tensor`: it cannot compute these, with the remedy.
    fn run(&self, inputs: &[Option<Tensor>]) -> Result<Vec<Tensor>>;
}

/// A job that is ready to run.
#[derive(Debug)]
pub struct Prepared {
    /// What is to run; none where the answer needs no session.
    pub rows: Vec<Row>,
    /// What [`Transform::answer`] needs beside the rows.
    pub job: JobState,
}

/// One row of a run.
#[derive(Debug)]
pub struct Row {
    /// What it costs to run, at least 1: of a text its tokens, of a picture its pixels. A
    /// run pays for its costliest row as many times as it has rows.
    pub cost: u32,
    state: State,
}

impl Row {
    /// A row of this cost; `state` is the transformation's own.
    pub fn new<T: fmt::Debug + Send + Sync + 'static>(cost: u32, state: T) -> Row {
        Row { cost: cost.max(1), state: State::new(state) }
    }

    /// What it was made with.
    ///
    /// # Errors
    /// `internal`: it was made with something of another type.
    pub fn state<T: 'static>(&self) -> Result<&T> {
        self.state.read()
    }
}

/// What a transformation keeps of a job between [`Transform::prepare`] and
/// [`Transform::answer`].
#[derive(Debug)]
pub struct JobState(State);

impl JobState {
    /// Keeps `state`.
    pub fn new<T: fmt::Debug + Send + Sync + 'static>(state: T) -> JobState {
        JobState(State::new(state))
    }

    /// What is kept.
    ///
    /// # Errors
    /// `internal`: it is of another type.
    pub fn state<T: 'static>(&self) -> Result<&T> {
        self.0.read()
    }
}

/// What one row came to.
#[derive(Debug)]
pub struct Finished {
    state: State,
    bytes: usize,
}

impl Finished {
    /// A row came to `state`, of next to no size.
    pub fn new<T: fmt::Debug + Send + Sync + 'static>(state: T) -> Finished {
        Finished { state: State::new(state), bytes: 0 }
    }

    /// The same, of so many bytes: what a job's rows came to is kept until the last of them has run, and
    /// bounded by this.
    #[must_use]
    pub fn of_bytes(self, bytes: usize) -> Finished {
        Finished { bytes, ..self }
    }

    /// Its size in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// What it came to.
    ///
    /// # Errors
    /// `internal`: it is of another type.
    pub fn take<T: 'static>(self) -> Result<T> {
        let State { value, kind } = self.state;
        value.downcast().map(|value| *value).map_err(|_| another(kind, std::any::type_name::<T>()))
    }
}

/// Something of a transformation's own type. The worker knows none of them.
struct State {
    value: Box<dyn Any + Send + Sync>,
    kind: &'static str,
}

impl State {
    fn new<T: Send + Sync + 'static>(value: T) -> State {
        State { value: Box::new(value), kind: std::any::type_name::<T>() }
    }

    fn read<T: 'static>(&self) -> Result<&T> {
        self.value.downcast_ref().ok_or_else(|| another(self.kind, std::any::type_name::<T>()))
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind)
    }
}

fn another(kind: &str, asked: &str) -> Error {
    Error::internal(format!("a transformation kept `{kind}` where it asks for `{asked}`"))
}

/// One output of a run, lent out of the runtime's memory.
#[derive(Clone, Copy, Debug)]
pub struct SessionOutput<'a> {
    /// Its elements' type; BYTES elements are length-framed.
    pub datatype: Datatype,
    /// Its dimensions, rows first.
    pub shape: &'a [i64],
    /// Little-endian, row-major.
    pub data: &'a [u8],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_comes_back_as_its_own_type_only() {
        let row = Row::new(0, vec![7u32]);
        assert_eq!((row.cost, row.state::<Vec<u32>>().expect("its own")), (1, &vec![7]));
        let refused = row.state::<String>().expect_err("another").message;
        assert!(refused.contains("Vec<u32>") && refused.contains("String"), "{refused}");
        assert_eq!(Finished::new(1.5f32).take::<f32>().expect("its own"), 1.5);
        assert!(Finished::new(1.5f32).take::<f64>().is_err());
        assert_eq!((Finished::new(7u8).bytes(), Finished::new(7u8).of_bytes(9).bytes()), (0, 9));
        assert_eq!(JobState::new(3u8).state::<u8>().expect("its own"), &3);
    }
}
