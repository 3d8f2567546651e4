//! Asking a model: a request made once, sent as often as wanted, its answer read.

use nobat_core::Result;
use nobat_core::tensor::Tensor;

use super::call::{Prepared, PreparedKind};
use super::description::ModelDescription;
use super::protocol::CallProtocol;
use super::reply::Reply;
use super::target::Target;
use super::{body, grpc, http};

impl Target {
    /// Makes a request of these inputs.
    ///
    /// # Errors
    /// `invalid_tensor` for what this protocol cannot carry, such as FP16 as JSON.
    pub fn prepare(&self, inputs: &[Tensor]) -> Result<Prepared> {
        Ok(match self.protocol {
            CallProtocol::Grpc => body::message(&self.settings, inputs).into(),
            CallProtocol::Job => Prepared { kind: PreparedKind::Job(body::call(self, inputs)?) },
            _ => body::call(self, inputs)?.into(),
        })
    }

    /// Sends a request and waits for its answer's last byte.
    pub async fn send(&self, prepared: &Prepared) -> Reply {
        match &prepared.kind {
            PreparedKind::Http(call) => http::send(self, call).await,
            PreparedKind::Job(call) => http::run_job(self, call).await,
            PreparedKind::Grpc(message) => grpc::infer(self, message).await,
        }
    }

    /// [`Target::prepare`], [`Target::send`] and [`Reply::outputs`] in one.
    ///
    /// # Errors
    /// In words: what the request lacked, or what the server answered instead.
    pub async fn predict(&self, inputs: &[Tensor], model: &ModelDescription) -> Result<Vec<Tensor>, String> {
        let prepared = self.prepare(inputs).map_err(|e| e.message)?;
        self.send(&prepared).await.outputs(model)
    }
}
